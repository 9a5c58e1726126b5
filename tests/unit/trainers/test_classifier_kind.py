"""The kind `classifier`: its log-odds, what it stores, and what it refuses."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from attent_select.errors import InputError
from trainers.annotation import HELD_OUT, Examples, FitContext, Samples
from trainers.annotations.classifier import Classifier
from trainers.inputs.text_ngrams import TextNgrams

ENGLISH = [
    "The river ran slowly past the old mill, and the children watched the boats.",
    "She had never seen the sea, but she knew the sound of the waves at night.",
    "In the morning the old man walked to the market and bought bread and fish.",
]
CODE = [
    "def main(args): return [int(x) for x in args if x != '']",
    "for (int i = 0; i < n; ++i) { sum += values[i]; }",
    "#include <vector>\nstd::vector<int> values(n); return values.size();",
]


def context(corpus: list[Any], target: Examples) -> FitContext:
    def pool_sample(num_rows: int) -> Iterator[Samples]:
        yield {"text": corpus}

    return FitContext(target=target, pool_sample=pool_sample)


def test_the_value_is_the_log_odds_of_the_classifier() -> None:
    """Against scikit-learn's own decision function on features that are counted here."""
    from sklearn.linear_model import LogisticRegression

    kind = Classifier(strength=3.0)
    corpus = [*CODE * 4, ENGLISH[0]]
    fitted = kind.fit(context(corpus, Examples({"text": ENGLISH}, 3)))

    def features(text: str) -> np.ndarray[Any, Any]:
        (ngrams,) = TextNgrams(None, 18).batches([text])
        return 20.0 * ngrams.counts(1 << 18) / ngrams.num_ngrams[0]

    texts = [*ENGLISH, *corpus]
    model = LogisticRegression(
        solver="liblinear", C=3.0, class_weight="balanced", random_state=0
    ).fit(np.stack([features(text) for text in texts]), [1] * 3 + [0] * len(corpus))
    unseen = ["The old man watched the sea.", "for x in values: return"]
    values = kind.measure({"text": unseen}, fitted).rows["value"].to_list()
    expected = model.decision_function(np.stack([features(text) for text in unseen]))
    np.testing.assert_allclose(values, expected, atol=1e-3)
    assert values[0] > 0 > values[1]


def test_each_text_has_the_log_odds_of_the_kind_of_reference_that_fits_it_best() -> None:
    kind = Classifier()
    references = Examples({"text": [*ENGLISH, *CODE]}, 6, ("prose",) * 3 + ("code",) * 3)
    fitted = kind.fit(context(["Konnte Datei nicht öffnen"] * 9, references))
    rows = kind.measure({"text": [ENGLISH[0], CODE[0], None]}, fitted).rows
    assert rows["kind"].to_list() == ["prose", "code", None]
    assert rows["status"].to_list() == ["ok", "ok", "empty"]


def test_every_eighth_block_of_the_random_samples_is_held_out_for_the_auc() -> None:
    corpus = [f"{text} {number}" for number in range(128) for text in CODE[:1]]
    target = Examples({"text": ENGLISH}, 3)
    kind = Classifier()
    fitted = kind.fit(context(corpus, target))
    held_out = kind.measure({"text": corpus[112:]}, fitted).rows["value"].to_list()
    assert fitted.arrays[HELD_OUT].tolist() == held_out
    changed = [*corpus[:112], *ENGLISH]
    weights = kind.fit(context(changed, target)).arrays["weights"]
    np.testing.assert_array_equal(weights, fitted.arrays["weights"])


def test_a_target_of_another_modality_is_refused() -> None:
    images = Examples({"text": [b"\x89PNG", b"\x89PNG"]}, 2)
    with pytest.raises(InputError, match="'text' of the target has values of type bytes, expected"):
        Classifier().fit(context(CODE, images))
    with pytest.raises(InputError, match="'text' of the corpus has values of type bytes"):
        Classifier().fit(context([b"\x89PNG"], Examples({"text": ENGLISH}, 3)))
    with pytest.raises(InputError, match="the target has no words"):
        Classifier().fit(context(CODE, Examples({"text": [" "]}, 1)))
