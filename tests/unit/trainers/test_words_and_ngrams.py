"""Words and n-grams of many texts at once give what looking at each text alone gives."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.inputs.ngrams import Ngrams
from trainers.inputs.words import word_hashes

TEXTS = st.lists(st.text(alphabet="ab_C 0.,\n\té日本語", max_size=12), max_size=6)
WORDS = re.compile(r"[日本語][a-z0-9_é]*|[a-z0-9_é]+|[.,]")


def words(text: str) -> list[str]:
    """Split a text as the documentation of `words` says, one word after the other."""
    return WORDS.findall(text.lower())


@given(TEXTS)
def test_equal_words_have_equal_hashes_and_other_words_have_others(texts: list[str]) -> None:
    hashes, starts = word_hashes(texts)
    expected = [word for text in texts for word in words(text)]
    assert np.diff(starts).tolist() == [len(words(text)) for text in texts]
    by_word = dict(zip(expected, hashes.tolist(), strict=True))
    assert [by_word[word] for word in expected] == hashes.tolist()
    assert len(set(by_word.values())) == len(by_word)


def test_a_hash_does_not_depend_on_what_is_around_the_word() -> None:
    alone, _ = word_hashes(["needle"])
    within, _ = word_hashes(["x" * 300_000, "a Needle."])
    assert within[2] == alone[0]


def test_hashes_are_those_of_earlier_versions() -> None:
    hashes, starts = word_hashes(["The cat, the CAT", "", "日本 a_b"])
    assert starts.tolist() == [0, 5, 5, 8]
    assert hashes[0] == hashes[3] == 1154367937029627590
    assert hashes[1] == hashes[4] == 3955185070296211677


@given(TEXTS)
def test_counts_and_sums_are_those_of_each_text_alone(texts: list[str]) -> None:
    together = Ngrams.of(*word_hashes(texts), bits=16)
    alone = [Ngrams.of(*word_hashes([text]), bits=16) for text in texts]
    weights = np.random.default_rng(0).integers(-1000, 1000, 1 << 16).astype(np.int32)
    assert together.sums(weights).tolist() == [int(each.sums(weights)[0]) for each in alone]
    assert together.num_ngrams.tolist() == [int(each.num_ngrams[0]) for each in alone]
    counts = sum((each.counts(1 << 16) for each in alone), np.zeros(1 << 16, np.int64))
    assert (together.counts(1 << 16) == counts).all()
    assert counts.sum() == together.num_ngrams.sum()
    for each in alone:
        assert (each.counts(1 << 16) * weights).sum() == each.sums(weights).sum()


@pytest.mark.parametrize("order", [["a b", "b a"], ["a", "b"]])
def test_bigrams_know_the_order_of_words_and_unigrams_do_not(order: list[str]) -> None:
    first, second = (Ngrams.of(*word_hashes([text]), bits=20) for text in order)
    same_words = sorted(first.unigrams.tolist()) == sorted(second.unigrams.tolist())
    assert same_words == (order == ["a b", "b a"])
    assert first.bigrams.tolist() != second.bigrams.tolist() or not len(first.bigrams)
