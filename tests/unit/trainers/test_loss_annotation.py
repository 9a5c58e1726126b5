"""The kind `loss`: values as scoring measures them, and models that do not fit."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from digits import TASK, VIT, samples
from saved_models import save_language_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from attent_select.errors import InputError
from trainers.annotation import FitContext, Fitted, Samples
from trainers.annotations.loss import Loss

TEXTS = ["The old man walked to the market.", None, "x = [int(y) for y in z]", "", 3, "a"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    models = TASK.models(VIT)
    models.save(models.build(0), folder)
    return folder


def fit(kind: Loss, samples: Samples) -> Fitted:
    def pool_sample(num_rows: int) -> Iterator[Samples]:
        yield samples

    return kind.fit(FitContext(target=None, pool_sample=pool_sample))


def test_the_value_is_the_mean_cross_entropy_after_the_first_token(model: Path) -> None:
    kind = Loss(str(model))
    rows = kind.measure({"text": TEXTS}, fit(kind, {"text": TEXTS})).rows
    assert rows["status"].to_list() == ["ok", "empty", "ok", "empty", "unreadable", "ok"]
    tokenizer = AutoTokenizer.from_pretrained(model)
    reference = AutoModelForCausalLM.from_pretrained(model).eval()
    for number in (0, 2, 5):
        ids = tokenizer(f"{TEXTS[number]}{tokenizer.eos_token}", return_tensors="pt").input_ids
        with torch.no_grad():
            expected = reference(input_ids=ids, labels=ids).loss.item()
        assert rows["value"][number] == pytest.approx(expected, rel=1e-5)
        assert rows["num_units"][number] == ids.shape[1] - 1


def test_a_loss_of_images_is_that_of_the_classifier(vit: Path) -> None:
    task = {"name": "image_classification", "image_size": 8, "num_channels": 1}
    kind, digits = Loss(str(vit), task), samples(5)
    columns: Samples = {name: [digit[name] for digit in digits] for name in ("image", "label")}
    rows = kind.measure(columns, fit(kind, columns)).rows
    batch = TASK.collate([TASK.prepare(digit, generator=None) for digit in digits])
    with torch.no_grad():
        losses, _ = TASK.per_sample_loss(TASK.models(VIT).load(vit).eval(), batch)
    assert rows["value"].to_list() == pytest.approx(losses.tolist(), rel=1e-5)


def test_the_digest_names_the_weights(model: Path, tmp_path: Path) -> None:
    changed = tmp_path / "model"
    shutil.copytree(model, changed)
    same = fit(Loss(str(changed)), {"text": TEXTS})
    assert same.digests == fit(Loss(str(model)), {"text": TEXTS}).digests
    trained = AutoModelForCausalLM.from_pretrained(changed)
    torch.nn.init.ones_(trained.lm_head.weight)
    trained.save_pretrained(changed)
    fitted = fit(Loss(str(changed)), {"text": TEXTS})
    assert fitted.digests["model"] != same.digests["model"]
    assert fitted.digests["tokenizer"] == same.digests["tokenizer"]
    with pytest.raises(InputError, match=r"the files of the model of .* differ from those"):
        Loss(str(changed)).measure({"text": TEXTS}, same)


def test_a_model_without_finite_losses_is_refused(model: Path, tmp_path: Path) -> None:
    broken = AutoModelForCausalLM.from_pretrained(model)
    torch.nn.init.constant_(broken.lm_head.weight, torch.nan)
    shutil.copytree(model, tmp_path / "model")
    broken.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="none of 3 samples has a loss: its loss is not finite"):
        fit(Loss(str(tmp_path / "model")), {"text": TEXTS})


def test_misfits_are_refused_before_any_span(model: Path, vit: Path, tmp_path: Path) -> None:
    images = {"name": "image_classification", "image_size": 8, "num_channels": 1}
    large = images | {"image_size": 16}
    smaller = save_language_model(tmp_path / "small", vocab_size=280)
    digit = samples(1)[0]
    pixels: Samples = {"image": [digit["image"]], "label": [digit["label"]]}
    text: Samples = {"text": TEXTS}
    cases: list[tuple[Loss, Samples, str]] = [
        (Loss("/nothing"), text, "there is no such folder"),
        (Loss(str(vit), tokenizer=str(model)), text, "model type 'vit' does not fit the task"),
        (Loss(str(model), images), pixels, "model type 'llama' does not fit the task"),
        (Loss(str(vit), large), pixels, "does not take images of 1 × 16 × 16"),
        (Loss(str(smaller), tokenizer=str(model)), text, "the tokenizer has 300 tokens, the model"),
        (Loss(str(model)), {"text": [b"bytes"]}, "the task cannot use any of 1 random samples"),
        (
            Loss(str(vit), images),
            pixels | {"label": [99]},
            "none of 1 samples has a loss: nothing in it counts for this model",
        ),
        (Loss(str(model), {"name": "causal_lm", "max_length": 4096}), text, "has 512 positions"),
    ]
    for kind, columns, message in cases:
        with pytest.raises(InputError, match=message):
            fit(kind, columns)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "causal"}, "unknown plug-in 'causal'"),
        ({"task": {"name": "causal_lm", "txt": "t"}}, "task.txt: unknown key, did you mean 'text'"),
        ({"task": {"name": "causal_lm", "max_length": "x"}}, "causal_lm cannot be made of"),
        ({"task": "image_classification", "tokenizer": "t"}, "leave out --tokenizer"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"batch_units": 0}, "batch_units is 0"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Loss("model", **settings)
