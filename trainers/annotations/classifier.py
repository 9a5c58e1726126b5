"""Resemblance to a target by a linear classifier on hashed n-grams, as quality filters use.

    value(x) = β + mean over the unigrams and bigrams g of x of  w[b(g)]

the log-odds that x is an example of the target and not a random sample of the corpus. β and w are
those of a logistic regression with an L2 penalty, in which both classes have equal weight. DCLM (Li
et al., "DataComp-LM: In Search of the Next Generation of Training Sets for Language Models",
NeurIPS 2024) selects by such a classifier, that of fastText (Joulin, Grave, Bojanowski and Mikolov,
"Bag of Tricks for Efficient Text Classification", EACL 2017).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Gt, Le

from attent_select.errors import InputError
from attent_select.extras import missing_extras_named
from trainers.annotation import HELD_OUT, FitContext, Fitted, Measured, Samples
from trainers.inputs.ngrams import Ngrams
from trainers.inputs.text_batches import check_text
from trainers.inputs.text_ngrams import TextNgrams, as_integers, by_kind

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

# Random samples of the corpus are neighbours in blocks of 16: every eighth block is held out.
_BLOCK: Final = 16
_BLOCKS: Final = 8
# Share of an n-gram in a text → feature: the penalty then suits texts of a few hundred words.
_FACTOR: Final = 20.0


@dataclass(frozen=True)
class Classifier:
    """Settings of the kind.

    Attributes:
        text: column of the text.
        tokenizer: folder of a fast tokenizer, whose token ids replace words; adds `num_units`.
        bits: the n-grams are hashed into 2^bits buckets.
        pool_samples: random samples of the corpus to distinguish the target from.
        strength: inverse of the penalty on the weights (`C` of scikit-learn).
    """

    text: str = "text"
    tokenizer: str | None = None
    bits: Annotated[int, Ge(16), Le(20)] = 18
    pool_samples: Annotated[int, Ge(1000)] = 1 << 14
    strength: Annotated[float, Gt(0)] = 0.1

    needs_target = True

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.text,)

    @property
    def further_columns(self) -> tuple[str, ...]:
        return ("kind", "num_units") if self.tokenizer else ("kind",)

    def fit(self, context: FitContext) -> Fitted:
        """Fit a classifier for each kind of reference; the values of held-out samples are kept."""
        target = context.target
        if target is None:
            raise InputError("the kind classifier compares with a target: give --target URL…")
        check_text(target.samples[self.text], column=self.text, what="the target")
        values = [v for batch in context.pool_sample(self.pool_samples) for v in batch[self.text]]
        check_text(values, column=self.text, what="the corpus")
        is_held_out = (np.arange(len(values)) // _BLOCK) % _BLOCKS == _BLOCKS - 1
        corpus = self._features([v for v, out in zip(values, is_held_out, strict=True) if not out])
        names: list[str] = []
        weights: list[npt.NDArray[np.int32]] = []
        offsets: list[float] = []
        for name, texts in by_kind(target, self.text):
            examples = self._features(texts)
            if not examples.nnz or not corpus.nnz:
                whose = f"the target{f' of kind {name!r}' if name else ''}"
                raise InputError(f"{'the corpus' if examples.nnz else whose} has no words")
            own_weights, offset = _logistic_regression(examples, corpus, strength=self.strength)
            names.append(name)
            weights.append(as_integers(own_weights * _FACTOR))
            offsets.append(offset)
        arrays: dict[str, npt.NDArray[Any]] = {
            "weights": np.stack(weights),
            "offsets": np.array(offsets, np.float64),
        }
        fitted = Fitted(arrays, {"kinds": [name for name in names if name]})
        held_out = [v for v, out in zip(values, is_held_out, strict=True) if out]
        if not held_out:
            return fitted
        scores = self.measure({self.text: held_out}, fitted).rows["value"].drop_nulls().to_numpy()
        return Fitted({**arrays, HELD_OUT: scores}, fitted.notes)

    def measure(self, samples: Samples, fitted: Fitted) -> Measured:
        """Return the log-odds of each text, for the kind of reference that fits it best."""
        return self._ngrams.means(
            samples[self.text],
            fitted.arrays["weights"],
            names=fitted.notes["kinds"],
            offsets=fitted.arrays["offsets"],
        )

    @property
    def _ngrams(self) -> TextNgrams:
        return TextNgrams(self.tokenizer, self.bits)

    def _features(self, values: Sequence[Any]) -> "csr_matrix":
        """Return the share of each bucket in the n-grams of each text, times a factor."""
        with missing_extras_named():
            from scipy import sparse

        rows = [_shares(ngrams, 1 << self.bits) for ngrams in self._ngrams.batches(values)]
        return sparse.vstack(rows, format="csr") * _FACTOR


def _shares(ngrams: Ngrams, num_buckets: int) -> "csr_matrix":
    """Return the share of each bucket in the n-grams of each text."""
    from scipy import sparse

    texts, buckets = ngrams.by_text()
    shares = 1.0 / np.maximum(ngrams.num_ngrams, 1)
    shape = (len(ngrams.num_ngrams), num_buckets)
    # Equal (text, bucket) pairs are added.
    return sparse.csr_matrix((shares[texts], (texts, buckets)), shape=shape)


def _logistic_regression(
    examples: "csr_matrix", corpus: "csr_matrix", *, strength: float
) -> tuple[npt.NDArray[np.float64], float]:
    """Return weights and offset of the log-odds of `examples` against `corpus`."""
    with missing_extras_named():
        from scipy import sparse
        from sklearn.linear_model import LogisticRegression

    # liblinear computes in one thread, always in the same order.
    model = LogisticRegression(
        solver="liblinear", C=strength, class_weight="balanced", random_state=0
    )
    labels = np.repeat([1, 0], [examples.shape[0], corpus.shape[0]])
    model.fit(sparse.vstack([examples, corpus], format="csr"), labels)
    return model.coef_[0], float(model.intercept_[0])
