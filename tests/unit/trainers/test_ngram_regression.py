"""Ridge regression on hashed n-grams, against the dense solution."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from attent_select.errors import InputError
from trainers.extending.ngram_regression import NgramRegression
from trainers.inputs.ngrams import Ngrams
from trainers.inputs.words import word_hashes

WORDS = ["river", "mill", "boat", "return", "values", "self", "import", "the", "old", "x"]
RIDGE, BITS = 0.05, 16


def random_texts(number: int, *, seed: int) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, generator.integers(3, 30))) for _ in range(number)]


def shares(texts: list[str]) -> np.ndarray:
    """Share of each bucket among the n-grams of each text, one text at a time."""
    dense = np.zeros((len(texts), 1 << BITS))
    for number, text in enumerate(texts):
        ngrams = Ngrams.of(*word_hashes([text]), bits=BITS)
        counts = Counter([*ngrams.unigrams.tolist(), *ngrams.bigrams.tolist()])
        for bucket, count in counts.items():
            dense[number, bucket] = count / counts.total()
    return dense


def test_it_is_the_ridge_solution_of_the_normal_equations() -> None:
    texts, others = random_texts(60, seed=1), random_texts(20, seed=2)
    values = np.array([text.count("river") - 0.1 * text.count("x") for text in texts], float)
    regression = NgramRegression(("text",))
    fitted = regression.fit({"text": texts}, values)
    x = shares(texts)
    ridge = RIDGE * (x**2).sum() / len(x)
    dual = np.linalg.solve(x @ x.T + ridge * np.eye(len(x)), values - values.mean())
    expected = values.mean() + shares(others) @ (x.T @ dual)
    predicted = regression.measure({"text": others}, fitted).rows["value"].to_numpy()
    assert np.allclose(predicted, expected, rtol=1e-4, atol=1e-4)


def test_a_prediction_does_not_depend_on_the_batch_and_is_null_without_words() -> None:
    texts: list[Any] = [*random_texts(20, seed=3), None, " ", "...", 5]
    regression = NgramRegression(("text",))
    fitted = regression.fit({"text": texts[:20]}, np.arange(20.0))
    together = regression.measure({"text": texts}, fitted).rows
    for number, text in enumerate(texts):
        alone = regression.measure({"text": [text]}, fitted).rows
        assert alone.row(0) == together.row(number)
    statuses = together["status"].to_list()
    assert statuses[:20] + statuses[20:22] == ["ok"] * 20 + ["empty"] * 2
    assert statuses[23] == "unreadable"
    assert together["value"].is_null().to_list() == [status != "ok" for status in statuses]


def test_columns_are_joined_and_bytes_are_refused() -> None:
    regression = NgramRegression(("prompt", "messages"))
    texts = random_texts(30, seed=4)
    samples = {"prompt": texts, "messages": [[{"content": "boat"}]] * 30}
    fitted = regression.fit(samples, np.arange(30.0))
    assert regression.measure(samples, fitted).rows["status"].to_list() == ["ok"] * 30
    with pytest.raises(InputError, match="the column 'image' has bytes: --extend hidden"):
        NgramRegression(("image",)).fit({"image": [b"png"]}, np.zeros(1))
