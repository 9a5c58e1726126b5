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
from trainers.annotation import Examples, FitContext, Fitted, Samples
from trainers.annotations.loss import Loss
from trainers.fitting.example_fit import ExampleFit

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


def fit(
    kind: Loss, samples: Samples, *, target: Samples | None = None, folder: Path | str = ""
) -> Fitted:
    def pool_sample(num_rows: int) -> Iterator[Samples]:
        yield samples

    examples = None if target is None else Examples(target, len(next(iter(target.values()))))
    return kind.fit(FitContext(examples, pool_sample, folder=str(folder)))


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


LIKE_TARGET: Samples = {"text": ["abcabcabcabc " * 3, "abcabc abcabcabc " * 2]}
OTHER: Samples = {"text": ["Größe: 3 µm — naïve façade 漢字", "Return the identity."]}
TARGET: Samples = {"text": [f"{'abcabcabc ' * number}{number}" for number in range(3, 23)] + [None]}


def test_a_model_fitted_to_the_target_has_smaller_losses_on_what_resembles_it(
    model: Path, tmp_path: Path
) -> None:
    how = ExampleFit(epochs=4, learning_rate=1e-2, batch_size=4)
    prior, conditional = Loss(str(model)), Loss(str(model), fitting=how)
    assert (prior.needs_target, conditional.needs_target) == (False, True)
    before = fit(prior, OTHER)
    after = fit(conditional, OTHER, target=TARGET, folder=tmp_path / "fitted")
    reductions = [
        (prior.measure(s, before).rows["value"] - conditional.measure(s, after).rows["value"]).min()
        for s in (LIKE_TARGET, OTHER)
    ]
    assert reductions[0] > 1 > reductions[1]
    assert after.digests["model"] == before.digests["model"], "the one that it started from"
    folder = tmp_path / "fitted" / after.digests["fit"]
    assert after.digests["fitted"] != before.digests["model"]
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "checkpoint.json"}, "no optimizer"
    changed = (folder / "model.safetensors").stat().st_mtime_ns
    assert fit(conditional, OTHER, target=TARGET, folder=tmp_path / "fitted") == after
    assert (folder / "model.safetensors").stat().st_mtime_ns == changed, "fitted once"
    elsewhere = fit(conditional, OTHER, target=TARGET, folder=tmp_path / "elsewhere")
    assert elsewhere.digests == after.digests, "fitting again gives the same weights"


def test_a_classifier_is_fitted_to_images(vit: Path, tmp_path: Path) -> None:
    task = {"name": "image_classification", "image_size": 8, "num_channels": 1}
    kind = Loss(str(vit), task, fitting=ExampleFit(epochs=2, batch_size=8, learning_rate=1e-2))
    digits = samples(40)
    columns: Samples = {name: [digit[name] for digit in digits] for name in ("image", "label")}
    fitted = fit(kind, columns, target=columns, folder=tmp_path)
    prior = Loss(str(vit), task)
    losses = [
        each.measure(columns, f).rows["value"].mean()
        for each, f in ((kind, fitted), (prior, fit(prior, columns)))
    ]
    assert losses[0] < losses[1]  # type: ignore[operator]


@pytest.mark.parametrize(
    ("target", "how", "message"),
    [
        ({"text": [b"image"] * 9}, {}, "can use 0 of 9 examples of the target, because "),
        ({"text": ["a b c", "d e f"]}, {}, "can use 2 of 2 examples of the target: expected at"),
        (TARGET, {"learning_rate": 1e30, "epochs": 2}, "diverged"),
    ],
)
def test_a_target_that_a_model_cannot_be_fitted_to_is_refused(
    model: Path, tmp_path: Path, target: Samples, how: dict[str, Any], message: str
) -> None:
    kind = Loss(str(model), fitting=ExampleFit(**how))
    with pytest.raises(InputError, match=message):
        fit(kind, OTHER, target=target, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
