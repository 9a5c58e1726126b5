"""Prospects: what an enrichment promises, and when it promises nothing."""

import numpy as np
import pytest

from pipeline.annotation.enrichment import enrichment_of
from pipeline.annotation.prospects import Prospect


def prospect(corpus: np.ndarray, judging: np.ndarray) -> Prospect:
    found = Prospect.of(enrichment_of(corpus, judging))
    assert found is not None
    return found


def pool(rng: np.random.Generator, *, wanted: float, num_rows: int = 20_000) -> np.ndarray:
    """Draw the values of a corpus, a share `wanted` of them from where the examples are."""
    is_wanted = rng.random(num_rows) < wanted
    return np.where(is_wanted, rng.normal(4, 1, num_rows), rng.normal(0, 1, num_rows))


@pytest.mark.parametrize("wanted", [0.01, 0.05, 0.15, 0.5])
def test_the_resembling_share_is_that_of_the_wanted_rows(wanted: float) -> None:
    rng = np.random.default_rng(0)
    found = prospect(pool(rng, wanted=wanted), rng.normal(4, 1, 500))
    assert found.resembling_share == pytest.approx(wanted, rel=0.25)


def test_a_corpus_of_examples_alone_promises_nothing() -> None:
    rng = np.random.default_rng(0)
    found = prospect(rng.normal(size=20_000), rng.normal(size=400))
    assert found.resembling_share is not None
    assert found.resembling_share > 0.8
    assert not found.pays
    assert "will not pay" in str(found)


def test_uniform_training_visits_the_wanted_samples_as_often_with_k_times_the_samples() -> None:
    rng = np.random.default_rng(0)
    wanted, share, explore = 0.1, 0.2, 0.125
    is_wanted = np.arange(20_000) < wanted * 20_000
    corpus = rng.normal(4 * is_wanted, 1)
    found = prospect(corpus, rng.normal(4, 1, 1000))
    assert found.pays
    # Count the visits of wanted samples: of 4000 of the selection, and of 4000 uniform ones.
    top = np.argsort(-corpus)[: int(share * len(corpus))]
    by_key = 4000 * (1 - explore)
    visits = by_key * is_wanted[top].mean() + (4000 - by_key) * wanted
    assert visits / (4000 * wanted) == pytest.approx(found.times_uniform, rel=0.05)
    assert found.times_low <= found.times_uniform <= found.times_high
    assert found.times_high <= (1 - explore) / share + explore


def test_the_recall_of_each_kind_of_reference_is_said() -> None:
    corpus, judging = np.arange(100.0), np.array([99.0, 98.0, 97.0, 1.0])
    found = Prospect.of(enrichment_of(corpus, judging, kinds=["code", "code", "prose", "prose"]))
    assert found is not None
    assert found.recall_by_kind == {"code": 1.0, "prose": 0.5}
    assert "has 75% of the held-out examples (code 100%, prose 50%), enrichment" in str(found)


def test_few_wanted_rows_are_said_to_be_few() -> None:
    rng = np.random.default_rng(0)
    assert "of the corpus looks like" in str(
        prospect(pool(rng, wanted=0.01), rng.normal(4, 1, 500))
    )
    assert "looks like" not in str(prospect(pool(rng, wanted=0.2), rng.normal(4, 1, 500)))


def test_without_a_target_there_is_no_prospect() -> None:
    assert Prospect.of({}) is None
