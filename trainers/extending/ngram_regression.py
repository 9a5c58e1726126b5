"""Ridge regression of a value on the hashed n-grams of a text, to extend values from a sample.

    value(x) ≈ b + mean over the unigrams and bigrams g of x of w[h(g)]

w minimises the squared errors plus λ‖w‖². b is the mean of the values, h hashes the n-grams of
words into 2^16 buckets, and λ is 5 % of the mean squared norm of a text's shares of n-grams.
The normal equations are solved by conjugate gradients (Hestenes and Stiefel, "Methods of Conjugate
Gradients for Solving Linear Systems", 1952) in one thread, so that equal values give equal bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.errors import InputError
from trainers.annotation import Fitted, Measured, Samples
from trainers.inputs.ngrams import Ngrams
from trainers.inputs.text_batches import small_batches, texts_of
from trainers.inputs.words import word_hashes

Floats = npt.NDArray[np.float64]

_BITS: Final = 16
_RIDGE: Final = 0.05
_MOST_STEPS: Final = 200
_TOLERANCE: Final = 1e-6
# Weights are stored as integers, whose sums are exact: the largest has this many bits.
_WEIGHT_BITS: Final = 30


@dataclass(frozen=True)
class NgramRegression:
    """Predicts a value from the text of some columns; text and plain values are joined."""

    columns: tuple[str, ...]

    most_samples = 1 << 15

    def fit(self, samples: Samples, values: Floats) -> Fitted:
        """Fit to measured values, float64[samples], none of which is NaN.

        Raises:
            InputError: a column has no text.
        """
        self._check(samples)
        shares, kept = _shares_of(self._texts(samples)[0])
        if not kept.any():
            raise InputError("the extension predicts from n-grams of text, but no sample has words")
        mean = float(values[kept].mean())
        weights = _solve(shares, values[kept] - mean)
        scale = 2.0 ** (_WEIGHT_BITS - np.frexp(np.abs(weights).max(initial=1e-300))[1])
        return Fitted(
            {"weights": np.rint(weights * scale).astype(np.int32)},
            {"mean": mean, "scale": float(scale)},
        )

    def measure(self, samples: Samples, fitted: Fitted) -> Measured:
        """Predict float32[samples]; a text without words has the status `empty`."""
        texts, statuses = self._texts(samples)
        sums, counts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for batch in small_batches(texts):
            ngrams = Ngrams.of(*word_hashes(batch), bits=_BITS)
            sums.append(ngrams.sums(fitted.arrays["weights"]))
            counts.append(ngrams.num_ngrams)
        num_ngrams = np.concatenate(counts)
        means = np.concatenate(sums) / np.maximum(num_ngrams, 1) / fitted.notes["scale"]
        values = pl.Series("value", (fitted.notes["mean"] + means).astype(np.float32))
        rows = pl.DataFrame([values, pl.Series("status", statuses, dtype=pl.String)])
        has_words = pl.Series(num_ngrams > 0)
        return Measured(
            rows.with_columns(
                value=pl.when(has_words).then(pl.col("value")),
                status=pl.when(~has_words & (pl.col("status") == "ok"))
                .then(pl.lit("empty"))
                .otherwise(pl.col("status")),
            )
        )

    def close(self) -> None:
        """Do nothing: no memory is kept."""

    def _texts(self, samples: Samples) -> tuple[list[str], list[str]]:
        columns = [samples[name] for name in self.columns]
        if len(columns) == 1:
            joined: Sequence[Any] = [_plain(value) for value in columns[0]]
        else:
            rows = zip(*columns, strict=True)
            joined = ["\n".join(str(v) for v in row if v is not None) for row in rows]
        return texts_of(joined)

    def _check(self, samples: Samples) -> None:
        for name in self.columns:
            types = {type(value).__name__ for value in samples[name]} - {"NoneType"}
            if not types & {"str", "list", "dict"}:
                raise InputError(
                    f"the extension predicts from n-grams of text, but the column {name!r} has"
                    f" {', '.join(sorted(types)) or 'no values'}: --extend hidden predicts from"
                    " the hidden states of a model; or measure all samples, without --sample"
                )


class _Shares(NamedTuple):
    """Share of each bucket among the n-grams of each text, those that are not 0, by text."""

    texts: npt.NDArray[np.int64]
    buckets: npt.NDArray[np.int64]
    shares: Floats
    starts: npt.NDArray[np.int64]

    def times(self, weights: Floats) -> Floats:
        """Return the predictions, float64[texts]."""
        sums: Floats = np.add.reduceat(self.shares * weights[self.buckets], self.starts)
        return sums

    def transposed_times(self, errors: Floats) -> Floats:
        """Return float64[buckets]."""
        weighted = self.shares * errors[self.texts]
        return np.bincount(self.buckets, weighted, minlength=1 << _BITS).astype(np.float64)


def _shares_of(texts: Sequence[str]) -> tuple[_Shares, npt.NDArray[np.bool_]]:
    """Return the shares of the texts that have words, and which these are."""
    keys, counts, num_ngrams, first = [], [], [], 0
    for batch in small_batches(texts):
        words, starts = word_hashes(batch)
        ngrams = Ngrams.of(words, starts, bits=_BITS)
        of_word = np.repeat(np.arange(first, first + len(batch)), ngrams.num_words)
        is_pair = of_word[:-1] == of_word[1:]
        text = np.concatenate([of_word, of_word[:-1][is_pair]])
        bucket = np.concatenate([ngrams.unigrams, ngrams.bigrams[is_pair]]).astype(np.int64)
        key, count = np.unique(text << _BITS | bucket, return_counts=True)
        keys.append(key)
        counts.append(count)
        num_ngrams.append(ngrams.num_ngrams)
        first += len(batch)
    totals, key = np.concatenate(num_ngrams), np.concatenate(keys)
    text, kept = key >> _BITS, totals > 0
    shares = np.concatenate(counts) / totals[text]
    number = np.cumsum(kept)[text] - 1
    starts = np.flatnonzero(np.diff(number, prepend=-1))
    return _Shares(number, key & ((1 << _BITS) - 1), shares, starts), kept


def _solve(shares: _Shares, values: Floats) -> Floats:
    """Solve (XᵀX + λ) w = Xᵀ y, X float64[texts, buckets] being the shares."""
    ridge = _RIDGE * float((shares.shares**2).sum()) / len(values)
    weights = np.zeros(1 << _BITS)
    residual = shares.transposed_times(values)
    direction, size = residual.copy(), float(residual @ residual)
    limit = size * _TOLERANCE**2
    for _ in range(_MOST_STEPS):
        if size <= limit:
            break
        image = shares.transposed_times(shares.times(direction)) + ridge * direction
        step = size / float(direction @ image)
        weights += step * direction
        residual -= step * image
        size, previous = float(residual @ residual), size
        direction = residual + (size / previous) * direction
    return weights


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, list | dict) else value
