"""The demo's data: real, deterministic, held out apart."""

import io

from PIL import Image

from pipeline.demo.data import digits, docstrings


def test_digits_are_small_grey_images_split_the_same_way_every_time() -> None:
    training, held_out = digits(seed=0)
    assert (len(training), len(held_out)) == (1438, 359)
    assert digits(seed=0) == (training, held_out)
    assert digits(seed=1)[0] != training
    image = Image.open(io.BytesIO(training[0]["image"]))
    assert (image.size, image.mode) == ((8, 8), "L")
    assert {sample["label"] for sample in held_out} == set(range(10))


def test_docstrings_pair_a_qualified_signature_with_its_text() -> None:
    training, held_out = docstrings(seed=0, limit=500)
    assert (len(training), len(held_out)) == (400, 100)
    prompts = [sample["prompt"] for sample in training]
    assert all("." in prompt.partition("(")[0] and "(" in prompt for prompt in prompts)
    assert all(sample["response"].strip() for sample in training)
