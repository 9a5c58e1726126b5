"""Hidden states as features: similarity, classifiers and extensions, against plain torch."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digits import TASK, VIT, samples
from hypothesis import given
from hypothesis import strategies as st
from saved_models import save_language_model
from transformers import AutoModelForCausalLM, AutoModelForImageClassification, AutoTokenizer

from attent_select.errors import InputError
from trainers.annotation import (
    HELD_OUT,
    AnnotationKind,
    Examples,
    FitContext,
    Fitted,
    Samples,
    best_of_kinds,
)
from trainers.annotations.classifier import Classifier
from trainers.annotations.loss import Loss
from trainers.annotations.similarity import Similarity
from trainers.extending.hidden_regression import HiddenRegression
from trainers.scoring.hidden_states import HiddenStates

CORPUS = [
    "The old man walked to the market and bought bread.",
    "x = [int(y) for y in z]",
    "a",
    "def main(args): return [int(x) for x in args if x != '']",
    "She had never seen the sea, but she knew the sound of the waves at night, and the wind.",
]
TARGET = ["The river ran slowly past the old mill.", "In the morning the children went to school."]
IMAGES = {"name": "image_classification", "image_size": 8, "num_channels": 1}


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
    kind: AnnotationKind, corpus: Samples, target: Samples, kinds: tuple[str, ...] | None = None
) -> Fitted:
    def pool_sample(num_rows: int) -> Iterator[Samples]:
        yield corpus

    examples = Examples(target, len(next(iter(target.values()))), kinds)
    return kind.fit(FitContext(examples, pool_sample))


def text_vectors(folder: Path, texts: list[str]) -> np.ndarray[Any, Any]:
    """Position-weighted means of the last hidden states, one text at a time, float64."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    reference = AutoModelForCausalLM.from_pretrained(folder).eval()
    vectors = []
    for text in texts:
        ids = tokenizer(f"{text}{tokenizer.eos_token}", return_tensors="pt").input_ids
        with torch.no_grad():
            hidden = reference(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
        weights = np.arange(1, len(hidden) + 1)
        vectors.append(weights @ hidden.double().numpy() / weights.sum())
    return np.stack(vectors)


def image_vectors(folder: Path, digits: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
    """Means over the positions of the last hidden states, float64."""
    reference = AutoModelForImageClassification.from_pretrained(folder).eval()
    pixels = TASK.collate([TASK.prepare(digit, generator=None) for digit in digits])["pixel_values"]
    with torch.no_grad():
        hidden = reference.vit(pixels).last_hidden_state
    return hidden.double().mean(dim=1).numpy()


def cosines(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (left, right)]
    return unit[0] @ unit[1].T


def images_of(digits: list[dict[str, Any]]) -> Samples:
    return {"image": [digit["image"] for digit in digits]}


@pytest.mark.parametrize("k", [1, 2, 9])
def test_top_k_is_the_mean_cosine_of_the_most_similar_examples(model: Path, k: int) -> None:
    kind = Similarity(str(model), k=k)
    fitted = fit(kind, {"text": CORPUS}, {"text": TARGET})
    rows = kind.measure({"text": CORPUS}, fitted).rows
    expected = cosines(text_vectors(model, CORPUS), text_vectors(model, TARGET))
    expected = np.sort(expected, axis=1)[:, ::-1][:, :k].mean(axis=1)
    assert rows["value"].to_list() == pytest.approx(expected.tolist(), rel=1e-5)
    loss = Loss(str(model))
    units = loss.measure({"text": CORPUS}, fit(loss, {"text": CORPUS}, {"text": TARGET})).rows
    assert rows["num_units"].to_list() == units["num_units"].to_list()


def test_a_centroid_is_the_mean_direction_of_each_kind_of_reference(model: Path) -> None:
    references = [*TARGET, CORPUS[1], CORPUS[3]]
    kinds = ("prose", "prose", "code", "code")
    kind = Similarity(str(model), reduce="centroid")
    fitted = fit(kind, {"text": CORPUS}, {"text": references}, kinds)
    rows = kind.measure({"text": CORPUS}, fitted).rows
    vectors = text_vectors(model, references)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    centroids = np.stack([unit[2:].mean(axis=0), unit[:2].mean(axis=0)])
    expected = cosines(text_vectors(model, CORPUS), centroids)
    assert rows["value"].to_list() == pytest.approx(expected.max(axis=1).tolist(), rel=1e-5)
    names = [("code", "prose")[best] for best in expected.argmax(axis=1)]
    assert rows["kind"].to_list() == names


def test_images_need_no_labels(vit: Path) -> None:
    digits = samples(24)
    kind = Similarity(str(vit), IMAGES)
    assert kind.columns == ("image",)
    fitted = fit(kind, images_of(digits[:16]), images_of(digits[16:]))
    rows = kind.measure(images_of(digits[:16]), fitted).rows
    expected = cosines(image_vectors(vit, digits[:16]), image_vectors(vit, digits[16:]))
    assert rows["value"].to_list() == pytest.approx(expected.max(axis=1).tolist(), rel=1e-5)
    assert rows["num_units"].to_list() == [1] * 16


def test_settings_of_the_batch_change_values_in_their_last_bits_only(model: Path) -> None:
    values = []
    for batch_units in (16, 16_384):
        kind = Similarity(str(model), batch_units=batch_units)
        fitted = fit(kind, {"text": CORPUS}, {"text": TARGET})
        values.append(kind.measure({"text": CORPUS}, fitted).rows["value"].to_list())
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_poison_samples_have_a_status_and_examples_without_states_are_left_out(
    model: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    weights = AutoModelForCausalLM.from_pretrained(broken)
    (token,) = AutoTokenizer.from_pretrained(broken)("~").input_ids
    with torch.no_grad():
        weights.get_input_embeddings().weight[token] = torch.nan
    weights.save_pretrained(broken)
    texts = [CORPUS[0], None, "", b"bytes", "not a ~ number", CORPUS[1]]
    kind = Similarity(str(broken))
    fitted = fit(kind, {"text": texts}, {"text": [*TARGET, "~", None]})
    rows = kind.measure({"text": texts}, fitted).rows
    statuses = ["ok", "empty", "empty", "unreadable", "nonfinite", "ok"]
    assert rows["status"].to_list() == statuses
    assert rows["value"].is_null().to_list() == [status != "ok" for status in statuses]
    clean = fit(kind, {"text": texts}, {"text": TARGET})
    np.testing.assert_array_equal(fitted.arrays["examples"], clean.arrays["examples"])


def test_the_record_has_digests_of_the_model_and_of_the_examples(
    model: Path, tmp_path: Path
) -> None:
    shutil.copytree(model, tmp_path / "model")
    kind = Similarity(str(tmp_path / "model"))
    fitted = fit(kind, {"text": CORPUS}, {"text": TARGET})
    other = fit(kind, {"text": CORPUS}, {"text": TARGET[:1]})
    assert fitted.digests.keys() == {"model", "tokenizer", "examples"}
    assert fitted.digests["examples"] != other.digests["examples"]
    assert kind.file_digests() == Similarity(str(model)).file_digests()
    trained = AutoModelForCausalLM.from_pretrained(model)
    torch.nn.init.ones_(trained.lm_head.weight)
    trained.save_pretrained(tmp_path / "model")
    kind.hidden.saved.close()
    with pytest.raises(InputError, match=r"the files of the model of .* differ from those"):
        kind.measure({"text": CORPUS}, fitted)


def test_misfits_are_refused_before_any_span(model: Path, vit: Path, tmp_path: Path) -> None:
    text: Samples = {"text": CORPUS}
    bytes_: Samples = {"text": [b"\x89PNG"] * 3}
    digits = images_of(samples(3))
    broken = AutoModelForCausalLM.from_pretrained(model)
    torch.nn.init.constant_(broken.model.norm.weight, torch.nan)
    shutil.copytree(model, tmp_path / "nan")
    broken.save_pretrained(tmp_path / "nan")
    large = Similarity(str(vit), IMAGES | {"image_size": 16})
    cases: list[tuple[AnnotationKind, Samples, Samples, str]] = [
        (Similarity("/nothing"), text, text, r"there is no such folder"),
        (
            Similarity(str(vit), tokenizer=str(model)),
            text,
            text,
            r"model type 'vit' does not fit the task",
        ),
        (Similarity(str(model), IMAGES), digits, digits, r"model type 'llama' does not fit"),
        (large, digits, digits, r"does not take images of 1 × 16 × 16"),
        (Similarity(str(model)), bytes_, text, r"the task cannot use any of 3 random samples"),
        (
            Similarity(str(model)),
            text,
            bytes_,
            r"the target has no mean hidden state, because .* text",
        ),
        (
            Similarity(str(tmp_path / "nan")),
            text,
            text,
            r"none of 5 samples has a mean hidden state: its mean hidden state is not finite",
        ),
        (
            Classifier(features="hidden", model=str(model)),
            text,
            bytes_,
            r"the target has no mean hidden state, because",
        ),
        (Classifier(), text, bytes_, r"expected text: .* or compare hidden states: --set features"),
    ]
    for kind, corpus, target, message in cases:
        with pytest.raises(InputError, match=message):
            fit(kind, corpus, target)
    with pytest.raises(InputError, match=r"the kind similarity compares with a target"):
        Similarity(str(model)).fit(FitContext(None, lambda _: iter([text])))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Similarity("m", reduce="mean"), r"reduce is 'mean': expected one of top_k"),  # type: ignore[arg-type]
        (lambda: Similarity("m", k=0), r"k is 0: expected at least 1"),
        (lambda: Similarity("m", "diffusion"), r"the task Diffusion has no hidden states"),
        (lambda: Classifier(features="hidden"), r"hidden states of a model: give --model PATH"),
        (lambda: Classifier(model="m"), r"set features to hidden, or leave out model"),
    ],
)
def test_settings_are_checked(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def decision_function(
    examples: np.ndarray[Any, Any], corpus: np.ndarray[Any, Any], unseen: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """scikit-learn's own pipeline with the default strength of the kind."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(corpus)
    classifier = LogisticRegression(
        solver="liblinear", C=0.1, class_weight="balanced", random_state=0
    ).fit(
        scaler.transform(np.concatenate([examples, corpus])),
        [1] * len(examples) + [0] * len(corpus),
    )
    values: np.ndarray[Any, Any] = classifier.decision_function(scaler.transform(unseen))
    return values


def test_a_classifier_of_texts_gives_the_log_odds_of_scikit_learn(model: Path) -> None:
    kind = Classifier(features="hidden", model=str(model))
    rows = kind.measure({"text": CORPUS}, fit(kind, {"text": CORPUS}, {"text": TARGET})).rows
    vectors = text_vectors(model, CORPUS)
    expected = decision_function(text_vectors(model, TARGET), vectors, vectors)
    np.testing.assert_allclose(rows["value"].to_numpy(), expected, rtol=1e-3, atol=1e-4)


def test_a_classifier_of_images_keeps_the_values_of_held_out_samples(vit: Path) -> None:
    digits = samples(160)
    wanted, pool = [d for d in digits if d["label"] < 2], [d for d in digits if d["label"] >= 2]
    kind = Classifier(features="hidden", model=str(vit), task=IMAGES)
    fitted = fit(kind, images_of(pool), images_of(wanted))
    fitted_to = [d for number, d in enumerate(pool) if not 112 <= number < 128]
    held_out = pool[112:128]
    expected = decision_function(
        image_vectors(vit, wanted), image_vectors(vit, fitted_to), image_vectors(vit, held_out)
    )
    np.testing.assert_allclose(fitted.arrays[HELD_OUT], expected, rtol=1e-3, atol=1e-4)
    rows = kind.measure(images_of(wanted), fitted).rows
    assert rows["value"].mean() > fitted.arrays[HELD_OUT].mean()  # type: ignore[operator]
    assert kind.further_columns == ("kind", "num_units")


def test_an_extension_predicts_as_a_ridge_regression_with_leave_one_out_error(vit: Path) -> None:
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    digits = samples(60)
    values = np.array([digit["label"] for digit in digits], np.float64)
    hidden = HiddenStates.of(str(vit), IMAGES, tokenizer=None, batch_units=16_384, dtype="float32")
    regression = HiddenRegression(hidden)
    fitted = regression.fit(images_of(digits[:40]), values[:40])
    rows = regression.measure(images_of(digits), fitted).rows
    scaler = StandardScaler().fit(image_vectors(vit, digits[:40]))
    penalties = [40 * 10.0**power for power in np.arange(-5.0, 1.5, 0.5)]
    expected = RidgeCV(alphas=penalties).fit(
        scaler.transform(image_vectors(vit, digits[:40])), values[:40]
    )
    vectors = scaler.transform(image_vectors(vit, digits))
    np.testing.assert_allclose(rows["value"].to_numpy(), expected.predict(vectors), rtol=2e-3)
    assert regression.file_digests() == fitted.digests


FLOATS = st.floats(-4, 4, width=32) | st.just(float("nan"))


@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=8))
def test_the_best_kind_of_reference_has_the_largest_finite_score(
    scores: list[tuple[float, float]],
) -> None:
    array = np.array(scores, np.float64)
    rows = best_of_kinds(array, names=("a", "b"), statuses=["ok"] * len(scores))
    for row, pair in zip(rows.iter_rows(named=True), scores, strict=True):
        finite = [score for score in pair if np.isfinite(score)]
        assert row["value"] == (max(finite) if finite else None)
        assert row["status"] == ("ok" if finite else "nonfinite")
        assert row["kind"] == (("a", "b")[int(np.nanargmax(pair))] if finite else None)
