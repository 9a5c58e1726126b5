"""The kind `near_duplicates`: what it links, against brute force, and what it refuses."""

import io
import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attent_select.errors import InputError
from trainers.annotation import FitContext, Samples
from trainers.annotations.near_duplicates import NearDuplicates
from trainers.inputs.near_hashes import text_bands

WORDS = [f"word{n}" for n in range(2000)]


def linked_pairs(values: list[Any]) -> set[tuple[int, int]]:
    """The pairs of samples that share a link."""
    kind = NearDuplicates("content")

    def pool_sample(num_rows: int) -> Iterator[Samples]:
        yield {"content": values}

    fitted = kind.fit(FitContext(target=None, pool_sample=pool_sample))
    rows = kind.measure({"content": values}, fitted).rows
    links = [name for name in rows.columns if name.startswith("link_")]
    hashes = list(zip(*(rows[name].to_list() for name in links), strict=True))
    pairs = itertools.combinations(range(len(values)), 2)
    return {
        (a, b)
        for a, b in pairs
        if any(x == y and x is not None for x, y in zip(hashes[a], hashes[b], strict=True))
    }


def documents() -> list[str]:
    """40 random texts, each with copies in which up to 3 % of the words are replaced."""
    rng, texts = random.Random(0), []
    for number in range(40):
        words = rng.choices(WORDS, k=rng.randint(60, 300))
        for copy in range(4):
            changed = [rng.choice(WORDS) if rng.random() < 0.01 * copy else w for w in words]
            texts.append(" ".join(changed).upper() if copy == number % 4 else " ".join(changed))
    return texts


def similarity(one: str, other: str) -> float:
    """Jaccard similarity of the runs of five words."""
    sets = []
    for text in (one, other):
        words = text.lower().split()
        sets.append({tuple(words[n : n + 5]) for n in range(len(words) - 4)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_near_duplicates_of_texts_are_those_that_brute_force_finds() -> None:
    texts = documents()
    linked = linked_pairs(texts)
    pairs = list(itertools.combinations(range(len(texts)), 2))
    similarities = {(a, b): similarity(texts[a], texts[b]) for a, b in pairs}
    similar = {pair for pair, value in similarities.items() if value >= 0.8}
    assert len(similar) >= 40
    assert len(similar & linked) / len(similar) >= 0.95, "recall"
    assert sum(similarities[pair] >= 0.5 for pair in linked) / len(linked) >= 0.95, "precision"
    # The probability in the docstring of the hashes, for the pairs in between.
    medium = [pair for pair, value in similarities.items() if 0.4 < value < 0.8]
    expected = sum(1 - (1 - similarities[pair] ** 8) ** 14 for pair in medium)
    assert len(medium) >= 40
    assert sum(pair in linked for pair in medium) == pytest.approx(expected, rel=0.25)


def test_hashes_of_a_text_do_not_depend_on_the_texts_beside_it() -> None:
    texts = ["a b c", "", "one two three four five six seven", "d", " . ", "e f g h i"]
    together, has_words = text_bands(texts)
    assert has_words.tolist() == [True, False, True, True, True, True]
    for text, bands in zip(texts, together, strict=True):
        np.testing.assert_array_equal(text_bands([text])[0][0], bands)
    assert len({tuple(bands) for bands in together}) == len(texts)


def picture(seed: int, *, size: int = 96, encoding: str = "PNG") -> bytes:
    """A smooth random picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6), np.uint8)
    image = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, encoding)
    return file.getvalue()


def test_resized_and_recompressed_images_are_linked_and_others_are_not() -> None:
    images = []
    for seed in range(30):
        images += [picture(seed), picture(seed, encoding="JPEG"), picture(seed, size=160)]
    linked = linked_pairs(images)
    same = {(3 * n + a, 3 * n + b) for n in range(30) for a, b in ((0, 1), (0, 2), (1, 2))}
    assert len(linked & same) / len(same) >= 0.95, "recall"
    assert linked <= same, "precision"


def test_images_without_structure_are_linked_only_if_their_pixels_are_equal() -> None:
    def plain(shade: int) -> bytes:
        file = io.BytesIO()
        Image.new("L", (32, 32), shade).save(file, "PNG")
        return file.getvalue()

    assert linked_pairs([plain(3), plain(200), plain(3)]) == {(0, 2)}


def test_samples_without_content_have_a_status_and_no_link() -> None:
    assert linked_pairs(["a b c", None, "a b c", None, " ", " "]) == {(0, 2)}
    assert linked_pairs([picture(1), b"not an image", b"not an image", picture(1)]) == {(0, 3)}


@pytest.mark.parametrize("values", [[1, 2], [None], ["a", b"b"]])
def test_what_is_neither_text_nor_images_is_refused(values: list[Any]) -> None:
    with pytest.raises(InputError, match="expected text or"):
        linked_pairs(values)
