"""Hashed n-grams of texts, and means of weights over them: what filters of text compute."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from trainers.annotation import Examples, Measured
from trainers.inputs.ngrams import Ngrams
from trainers.inputs.text_batches import small_batches, texts_of
from trainers.inputs.token_ids import token_ids
from trainers.inputs.words import word_hashes

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
        rows = self._rows(scores, np.concatenate(counts), statuses)
        if names:
            kinds = pl.Series(names).gather(rows["best"])
            rows = rows.with_columns(kind=pl.when(pl.col("value").is_not_null()).then(kinds))
        return Measured(rows.drop("best"), tokenise_seconds)

    def _words(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        return word_hashes(texts) if self.tokenizer is None else token_ids(self.tokenizer, texts)

    def _rows(
        self, scores: npt.NDArray[np.float64], counts: npt.NDArray[np.int64], statuses: list[str]
    ) -> pl.DataFrame:
        best = scores.argmax(axis=1)
        values = scores[np.arange(len(scores)), best].astype(np.float32)
        status = pl.Series("status", statuses)
        # A text of spaces and nothing else.
        status = pl.Series(np.where((counts == 0) & (status == "ok").to_numpy(), "empty", status))
        units = {"num_units": pl.Series(counts, dtype=pl.UInt32)} if self.tokenizer else {}
        rows = pl.DataFrame(
            {"value": values, "best": best, "status": status.cast(pl.String)} | units
        )
        return rows.with_columns(value=pl.when(status == "ok").then(pl.col("value")))


def as_integers(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    """Return weights as integers, in units of 2^-16."""
    return np.rint(weights * _SCALE).astype(np.int32)


def by_kind(target: Examples, column: str) -> Iterator[tuple[str, list[Any]]]:
    """Yield the texts of each kind of reference; of a target without kinds, all under ''."""
    values = target.samples[column]
    if target.kinds is None:
        yield "", values
        return
    for kind in sorted(set(target.kinds)):
        yield kind, [v for v, own in zip(values, target.kinds, strict=True) if own == kind]
