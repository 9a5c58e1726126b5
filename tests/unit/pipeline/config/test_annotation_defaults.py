"""Annotations of a run: the defaults that they take from it, and names in messages."""

from typing import Any

import pytest

from attent_select.errors import InputError
from pipeline.annotation.command import load_kind as load_kind_from_settings
from pipeline.config.annotation_kinds import kind_of, load_kind, with_run_defaults
from pipeline.config.extension_settings import Extension, extend_model_of, extension_in

TEXT = {"name": "causal_lm", "text": "body", "tokenizer": "/models/own"}
IMAGES = {"name": "image_classification", "image_size": 8, "label": "digit"}


@pytest.mark.parametrize(
    ("entry", "task", "expected"),
    [
        ({"kind": "loss"}, IMAGES, {"model": "/m", "task": IMAGES}),
        ({"kind": "similarity"}, TEXT, {"model": "/m", "task": TEXT}),
        ({"kind": "similarity", "model": "/m"}, TEXT, {"task": TEXT}),
        ({"kind": "loss", "task": "causal_lm"}, TEXT, {"model": "/m"}),
        ({"kind": "loss", "model": "/x"}, TEXT, {"task": {"name": "causal_lm", "text": "body"}}),
        ({"kind": "classifier", "features": "hidden"}, TEXT, {"model": "/m", "task": TEXT}),
        ({"kind": "classifier"}, TEXT, {}),
        ({"kind": "ngram"}, TEXT, {}),
        ({"kind": "length"}, TEXT, {"tokenizer": "/models/own"}),
        ({"kind": "losss"}, TEXT, {}),
    ],
)
def test_an_annotation_takes_the_model_and_the_task_of_its_run(
    entry: dict[str, Any], task: dict[str, Any], expected: dict[str, Any]
) -> None:
    completed = with_run_defaults({"a": entry}, task=task, model="/m")
    assert completed == {"a": {**entry, **expected}}
    assert with_run_defaults(completed, task=task, model="/m") == completed


def test_a_model_without_saved_weights_is_no_default() -> None:
    entry = with_run_defaults({"a": {"kind": "loss"}}, task=IMAGES, model=None)["a"]
    with pytest.raises(InputError, match=r"annotation kind loss: model: is missing"):
        kind_of(entry)


def test_settings_of_a_kind_are_the_same_in_short_and_in_full() -> None:
    short = load_kind("loss", {"model": "/m"})
    full: dict[str, Any] = {"name": "causal_lm", "text": "text", "tokenizer": "/m"}
    assert short == load_kind("loss", {"model": "/m", "task": full})
    assert short != load_kind("loss", {"model": "/m", "task": {**full, "text": "body"}})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fit": {"epochs": 0}}, r"loss: fit\.epochs: expected"),
        ({"fit": {"epochs": True}}, r"loss: .*fit\.epochs: expected a whole number"),
        ({"fit": {"epoch": 1}}, r"loss: fit\.epoch: unknown key, did you mean 'epochs'"),
        ({"fitt": {"epochs": 1}}, r"loss: fitt: unknown key, did you mean 'fit'"),
        ({"fitting": {"epochs": 1}}, r"loss: fitting: unknown key, did you mean 'fit'"),
    ],
)
def test_errors_have_the_names_that_users_write(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        load_kind("loss", {"model": "/m", **settings})
    assert "fitting." not in str(error.value)


def test_the_model_of_an_extension_is_not_a_setting_of_the_kind() -> None:
    settings = ["model=/m", "extend_model=/small", "k=2"]
    expected = Extension(sample=0.1, extend="hidden", extend_model="/small")
    assert extend_model_of(settings) == "/small"
    assert load_kind_from_settings("similarity", settings) == load_kind_from_settings(
        "similarity", ["model=/m", "k=2"]
    )
    entry = {"kind": "loss", "sample": 0.1, "extend": "hidden", "extend_model": "/small"}
    assert extension_in(entry) == expected
    with pytest.raises(InputError, match=r"extend_model is the model of --extend hidden"):
        extension_in({**entry, "extend": "ngram"})
