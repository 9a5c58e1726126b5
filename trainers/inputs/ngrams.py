"""Buckets of hashed unigrams and bigrams, and sums over the n-grams of each text. All integers."""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from attent_select.stats.randomness import numpy_bits, stream_key

Integers = npt.NDArray[np.int64]

_UNIGRAM: Final = stream_key(0, 1)
_BIGRAM: Final = stream_key(0, 2)
_FACTOR: Final = np.uint64(0x9FB21C651E98DF25)


class Ngrams(NamedTuple):
    """The n-grams of texts: the bucket of each word, and of each word with the next one.

    `starts` has the number of the first word of each text, and the number of all words.
    """

    unigrams: npt.NDArray[np.uint64]
    bigrams: npt.NDArray[np.uint64]
    starts: Integers

    @classmethod
    def of(cls, words: npt.NDArray[np.uint64], starts: Integers, *, bits: int) -> "Ngrams":
        """Hash words (hashes or token ids) into 2^bits buckets."""
        shift = np.uint64(64 - bits)
        pairs = words[:-1] * _FACTOR + words[1:]
        return cls(
            numpy_bits(_UNIGRAM, words) >> shift, numpy_bits(_BIGRAM, pairs) >> shift, starts
        )

    @property
    def num_words(self) -> Integers:
        """Words of each text."""
        return np.diff(self.starts)

    @property
    def num_ngrams(self) -> Integers:
        """Unigrams and bigrams of each text."""
        return self.num_words + np.maximum(self.num_words - 1, 0)

    def counts(self, num_buckets: int) -> Integers:
        """Count the n-grams of all texts by bucket."""
        bigrams = self.bigrams[self._is_within_text()]
        unigrams = np.bincount(self.unigrams.view(np.int64), minlength=num_buckets)
        return unigrams + np.bincount(bigrams.view(np.int64), minlength=num_buckets)

    def by_text(self) -> tuple[Integers, Integers]:
        """Return the text and the bucket of each n-gram, in no particular order."""
        texts = np.repeat(np.arange(len(self.num_words)), self.num_words)
        kept = self._is_within_text()
        buckets = np.concatenate([self.unigrams, self.bigrams[kept]]).view(np.int64)
        return np.concatenate([texts, texts[: len(kept)][kept]]), buckets

    def sums(self, weights: npt.NDArray[np.int32]) -> Integers:
        """Sum the weight of each n-gram's bucket over each text: exact, in any order."""
        # `take` by signed numbers gathers twice as fast as indexing.
        unigrams = _running(weights.take(self.unigrams.view(np.int64)))
        bigrams = _running(weights.take(self.bigrams.view(np.int64)))
        first, end = self.starts[:-1], self.starts[1:]
        last_pair = np.maximum(end - 1, first)
        limit = len(self.bigrams)
        return (unigrams[end] - unigrams[first]) + (
            bigrams[np.minimum(last_pair, limit)] - bigrams[np.minimum(first, limit)]
        )

    def _is_within_text(self) -> npt.NDArray[np.bool_]:
        """Return whether each pair of words is a bigram: both are words of the same text."""
        kept = np.ones(len(self.bigrams), bool)
        edges = self.starts[1:-1]
        kept[edges[(edges > 0) & (edges <= len(kept))] - 1] = False
        return kept


def _running(values: npt.NDArray[np.int32]) -> Integers:
    sums = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=sums[1:])
    return sums
