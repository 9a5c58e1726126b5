"""Enrichment: recall of the judging examples against the share of the corpus above the cut."""

import numpy as np
import pytest

from pipeline.annotation.enrichment import SHARES, at_top_share, enrichment_of

CORPUS = np.arange(1000.0)


def test_examples_at_the_top_reach_the_ceiling() -> None:
    found = enrichment_of(CORPUS, np.full(50, 2000.0))
    assert [entry["enrichment"] for entry in found["shares"]] == [1 / share for share in SHARES]
    assert all(entry["low"] == entry["ceiling"] == entry["high"] for entry in found["shares"])


def test_examples_like_the_corpus_are_not_enriched() -> None:
    entry = at_top_share(enrichment_of(CORPUS, CORPUS[::5]))
    assert entry is not None
    assert entry["enrichment"] == pytest.approx(1)
    assert entry["low"] < 1 < entry["high"]


def test_equal_values_are_not_an_enrichment() -> None:
    for entry in enrichment_of(np.zeros(100), np.zeros(10))["shares"]:
        assert entry["enrichment"] == 1


def test_samples_without_a_value_are_below_every_cut() -> None:
    corpus = np.where(CORPUS < 900, np.nan, CORPUS)
    found = enrichment_of(corpus, np.array([950.0, np.nan]))
    assert found["shares"][1]["recall"] == 0.5
    assert found["shares"][3]["recall"] == 0.5, "not above minus infinity"


def test_recall_is_counted_for_each_kind_of_reference() -> None:
    found = enrichment_of(CORPUS, np.array([2000.0, 0.0, 2000.0]), kinds=["a", "b", "a"])
    assert found["shares"][0]["recall_by_kind"] == {"a": 1.0, "b": 0.0}


def test_the_auc_is_the_share_of_pairs_in_which_the_example_is_larger() -> None:
    rng = np.random.default_rng(0)
    judging, corpus = rng.integers(3, 9, 20).astype(float), rng.integers(0, 7, 30).astype(float)
    corpus[:3] = np.nan
    pairs = [
        1.0 if np.isnan(other) or own > other else 0.5 if own == other else 0.0
        for own in judging
        for other in corpus
    ]
    found = enrichment_of(np.zeros(9), judging, held_out=corpus)
    assert found["auc"] == pytest.approx(np.mean(pairs))
    assert enrichment_of(np.zeros(100), np.zeros(10))["auc"] == 0.5
