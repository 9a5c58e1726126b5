"""Resemblance to a target: mean log-ratio of hashed n-grams, target against corpus.

    value(x) = mean over the unigrams and bigrams g of x of  log p_target(b(g)) / p_corpus(b(g))

b hashes an n-gram into one of 2^bits buckets. This is the importance weight of DSIR (Xie,
Santurkar, Ma and Liang, "Data Selection for Language Models via Importance Resampling", NeurIPS
2023), divided by the number of n-grams, with another smoothing: p_target is (1 − λ) times the
target's distribution plus λ times p_corpus. With additive smoothing, a text that resembles neither
the target nor the corpus scores best. Here each n-gram that the target lacks counts log λ, the
smallest value possible.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Gt, Le, Lt

from attent_select.errors import InputError
from trainers.annotation import Examples, FitContext, Fitted, Measured, Samples
from trainers.inputs.text_batches import check_text
from trainers.inputs.text_ngrams import TextNgrams, as_integers

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
    smoothing: Annotated[float, Gt(0), Lt(1)] = 0.3
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
        target = context.target_of("ngram")
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
        weights: npt.NDArray[np.int32] = fitted.arrays["weights"]
        return self._ngrams.means(samples[self.text], weights, names=fitted.notes["kinds"])

    @property
    def _ngrams(self) -> TextNgrams:
        return TextNgrams(self.tokenizer, self.bits)

    def _counts(self, values: Sequence[Any]) -> npt.NDArray[np.int64]:
        """Count the n-grams of some samples by bucket."""
        counts = np.zeros(1 << self.bits, np.int64)
        for ngrams in self._ngrams.batches(values):
            counts += ngrams.counts(1 << self.bits)
        return counts

    def _weights(
        self, target: Examples, corpus: npt.NDArray[np.int64]
    ) -> tuple[list[str], npt.NDArray[np.int32]]:
        """Return the kinds of reference and the weight of each bucket for each of them."""
        expected = corpus + _UNSEEN
        expected /= expected.sum()
        names, weights = [], []
        for name, samples in target.by_kind():
            counts = self._counts(samples[self.text])
            if not (total := counts.sum()):
                raise InputError(f"the target has no words{f' of kind {name!r}' if name else ''}")
            ratio = (1 - self.smoothing) * (counts / total) / expected + self.smoothing
            names.append(name)
            weights.append(as_integers(np.log(ratio)))
        return [name for name in names if name], np.stack(weights)
