"""Resemblance to a target: mean log-ratio of hashed n-grams, target against corpus.

    value(x) = mean over the unigrams and bigrams g of x of  log p_target(b(g)) / p_corpus(b(g))

b hashes an n-gram into one of 2^bits buckets. This is the importance weight of DSIR (Xie,
Santurkar, Ma and Liang, "Data Selection for Language Models via Importance Resampling", NeurIPS
2023), divided by the number of n-grams, with another smoothing: p_target is (1 − λ) times the
target's distribution plus λ times p_corpus. With additive smoothing, a text that resembles neither
the target nor the corpus scores best. Here each n-gram that the target lacks counts log λ, the
smallest value possible.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
from annotated_types import Ge, Gt, Le, Lt

from attent_select.errors import InputError
from trainers.annotation import Examples, FitContext, Fitted, Measured, Samples
from trainers.inputs.ngrams import Ngrams
from trainers.inputs.text_batches import check_text, small_batches, texts_of
from trainers.inputs.token_ids import token_ids
from trainers.inputs.words import word_hashes

# Log-ratios are sums of integers, which are exact: this many to a nat.
_SCALE: Final = 1 << 16
# Occurrences that a bucket is given which the random part of the corpus does not have.
_UNSEEN: Final = 0.5


@dataclass(frozen=True)
class Ngram:
    """Settings of the kind.

    Attributes:
        text: column of the text.
        tokenizer: folder of a fast tokenizer, whose token ids replace words; adds `num_units`.
        bits: the n-grams are hashed into 2^bits buckets.
        smoothing: λ, share of the corpus's distribution in that of the target.
        pool_samples: random samples of the corpus whose n-grams are counted.
    """

    text: str = "text"
    tokenizer: str | None = None
    bits: Annotated[int, Ge(16), Le(20)] = 18
    smoothing: Annotated[float, Gt(0), Lt(1)] = 0.1
    pool_samples: Annotated[int, Ge(1000)] = 1 << 16

    needs_target = True

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.text,)

    @property
    def further_columns(self) -> tuple[str, ...]:
        return ("kind", "num_units") if self.tokenizer else ("kind",)

    def fit(self, context: FitContext) -> Fitted:
        """Count the n-grams of the target and of a random part of the corpus."""
        target = context.target
        if target is None:
            raise InputError("the kind ngram compares with a target: give --target URL…")
        check_text(target.samples[self.text], column=self.text, what="the target")
        corpus, num_samples = np.zeros(1 << self.bits, np.int64), 0
        has_text = False
        for batch in context.pool_sample(self.pool_samples):
            values = batch[self.text]
            has_text = has_text or any(isinstance(value, str) for value in values)
            corpus += self._counts(values)
            num_samples += len(values)
        if not has_text:
            check_text(values, column=self.text, what="the corpus")
        names, weights = self._weights(target, corpus)
        notes = {"kinds": names, "corpus_samples": num_samples, "corpus_ngrams": int(corpus.sum())}
        return Fitted({"weights": weights}, notes)

    def measure(self, samples: Samples, fitted: Fitted) -> Measured:
        """Return the mean log-ratio of each text, for the kind of reference that fits it best."""
        texts, statuses = texts_of(samples[self.text])
        weights: npt.NDArray[np.int32] = fitted.arrays["weights"]
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
        rows = self._rows(np.concatenate(scored), np.concatenate(counts), statuses)
        names: Sequence[str] = fitted.notes["kinds"]
        if names:
            kinds = pl.Series(names).gather(rows["best"])
            rows = rows.with_columns(kind=pl.when(pl.col("value").is_not_null()).then(kinds))
        return Measured(rows.drop("best"), tokenise_seconds)

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

    def _words(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        return word_hashes(texts) if self.tokenizer is None else token_ids(self.tokenizer, texts)

    def _counts(self, values: Sequence[Any]) -> npt.NDArray[np.int64]:
        """Count the n-grams of some samples by bucket."""
        counts = np.zeros(1 << self.bits, np.int64)
        for batch in small_batches(texts_of(values)[0]):
            counts += Ngrams.of(*self._words(batch), bits=self.bits).counts(1 << self.bits)
        return counts

    def _weights(
        self, target: Examples, corpus: npt.NDArray[np.int64]
    ) -> tuple[list[str], npt.NDArray[np.int32]]:
        """Return the kinds of reference and the weight of each bucket for each of them."""
        expected = corpus + _UNSEEN
        expected /= expected.sum()
        names, weights = [], []
        for name, values in _by_kind(target, self.text):
            counts = self._counts(values)
            if not (total := counts.sum()):
                raise InputError(f"the target has no words{f' of kind {name!r}' if name else ''}")
            ratio = (1 - self.smoothing) * (counts / total) / expected + self.smoothing
            names.append(name)
            weights.append(np.rint(np.log(ratio) * _SCALE).astype(np.int32))
        return [name for name in names if name], np.stack(weights)


def _by_kind(target: Examples, column: str) -> Iterator[tuple[str, list[Any]]]:
    """Yield the texts of each kind of reference; of a target without kinds, all under ''."""
    values = target.samples[column]
    if target.kinds is None:
        yield "", values
        return
    for kind in sorted(set(target.kinds)):
        yield kind, [v for v, own in zip(values, target.kinds, strict=True) if own == kind]
