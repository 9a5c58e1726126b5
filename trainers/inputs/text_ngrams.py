"""Hashed n-grams of texts, and means of weights over them: what filters of text compute."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.extras import missing_extras_named
from trainers.annotation import Measured, best_of_kinds
from trainers.inputs.ngrams import Ngrams
from trainers.inputs.text_batches import OK, small_batches, texts_of
from trainers.inputs.token_ids import token_ids
from trainers.inputs.words import word_hashes

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

# Sums of integers are exact, in any order: this many to a unit of a weight.
_SCALE: Final = 1 << 16


@dataclass(frozen=True)
class TextNgrams:
    """How texts become n-grams: of words, or of the token ids of a tokenizer."""

    tokenizer: str | None
    bits: int

    def batches(self, values: Sequence[Any]) -> Iterator[Ngrams]:
        """Yield the n-grams of consecutive values; what is not text has none."""
        for batch in small_batches(texts_of(values)[0]):
            yield Ngrams.of(*self._words(batch), bits=self.bits)

    def shares(self, values: Sequence[Any]) -> "csr_matrix":
        """Return the share of each bucket in the n-grams of each text, float64[values, 2^bits]."""
        with missing_extras_named():
            from scipy import sparse

        rows = []
        for ngrams in self.batches(values):
            texts, buckets = ngrams.by_text()
            shares = 1.0 / np.maximum(ngrams.num_ngrams, 1)
            shape = (len(ngrams.num_ngrams), 1 << self.bits)
            # Equal (text, bucket) pairs are added.
            rows.append(sparse.csr_matrix((shares[texts], (texts, buckets)), shape=shape))
        return sparse.vstack(rows, format="csr")

    def means(
        self,
        values: Sequence[Any],
        weights: npt.NDArray[np.int32],
        *,
        names: Sequence[str] = (),
        offsets: npt.NDArray[np.float64] | None = None,
    ) -> Measured:
        """Return the mean weight of the n-grams of each text, plus an offset.

        Args:
            values: of the column of text; what is not text gets a status.
            weights: for each kind of reference, the weight of each bucket, from `as_integers`.
            names: the kinds of reference: the value is that of the best one, named in `kind`.
            offsets: of each kind of reference. Default: zero.
        """
        texts, statuses = texts_of(values)
        scored: list[npt.NDArray[np.float64]] = []
        counts, tokenise_seconds = [], 0.0
        for batch in small_batches(texts):
            started = perf_counter()
            words, starts = self._words(batch)
            tokenise_seconds += perf_counter() - started if self.tokenizer else 0.0
            ngrams = Ngrams.of(words, starts, bits=self.bits)
            sums = np.stack([ngrams.sums(kind) for kind in weights], axis=1)
            scored.append(sums / np.maximum(ngrams.num_ngrams, 1)[:, None] / _SCALE)
            counts.append(ngrams.num_words)
        scores = np.concatenate(scored)
        if offsets is not None:
            scores += offsets
        num_words = np.concatenate(counts)
        pairs = zip(statuses, num_words.tolist(), strict=True)
        # A text of spaces and nothing else is empty, too.
        statuses = ["empty" if status == OK and not words else status for status, words in pairs]
        rows = best_of_kinds(scores, names=names, statuses=statuses)
        if self.tokenizer:
            rows = rows.with_columns(num_units=pl.Series(num_words, dtype=pl.UInt32))
        return Measured(rows, tokenise_seconds)

    def _words(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        return word_hashes(texts) if self.tokenizer is None else token_ids(self.tokenizer, texts)


def as_integers(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    """Return weights as integers, in units of 2^-16."""
    return np.rint(weights * _SCALE).astype(np.int32)
