"""Resemblance to a target by a linear classifier, as quality filters use.

    value(x) = β + mean over the unigrams and bigrams g of x of  w[b(g)]

the log-odds that x is an example of the target and not a random sample of the corpus. β and w are
those of a logistic regression with an L2 penalty, in which both classes have equal weight. DCLM (Li
et al., "DataComp-LM: In Search of the Next Generation of Training Sets for Language Models",
NeurIPS 2024) selects by such a classifier, that of fastText (Joulin, Grave, Bojanowski and Mikolov,
"Bag of Tricks for Efficient Text Classification", EACL 2017).

With `features: hidden` the value is β + ⟨w, v(x)⟩, where v are the mean hidden states of a model
(`trainers/scoring/hidden_states.py`), standardised by those of the corpus before the regression.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Gt, Le

from attent_select.errors import InputError
from attent_select.extras import missing_extras_named
from attent_select.schema import NUM_UNITS
from trainers.annotation import (
    HELD_OUT,
    Examples,
    FitContext,
    Fitted,
    Measured,
    Samples,
    best_of_kinds,
    part_of,
)
from trainers.inputs.text_batches import check_text
from trainers.inputs.text_ngrams import TextNgrams, as_integers
from trainers.settings.bounds import Dtype, Positive

if TYPE_CHECKING:
    from trainers.scoring.hidden_states import HiddenStates

# Random samples of the corpus are neighbours in blocks of 16: every eighth block is held out.
_BLOCK: Final = 16
_BLOCKS: Final = 8
# Share of an n-gram in a text → feature: the penalty then suits texts of a few hundred words.
_FACTOR: Final = 20.0
# Random samples of the corpus that show whether a model fits.
_TRIED: Final = 256


@dataclass(frozen=True)
class Classifier:
    """Settings of the kind.

    Attributes:
        text: column of the text.
        tokenizer: folder of a fast tokenizer, whose token ids replace words; adds `num_units`.
            With hidden states, that of the task; default: the model's.
        bits: the n-grams are hashed into 2^bits buckets.
        pool_samples: random samples of the corpus to distinguish the target from.
        strength: inverse of the penalty on the weights (`C` of scikit-learn).
        features: hashed n-grams of a text, or mean hidden states of a model, in any modality.
        model: of the hidden states: a folder, a URL or a name on the hub.
        task: of the model: a section `task` of a configuration, or the name of a task; of
            `causal_lm` the text is in the column `text` unless the section names another.
        batch_units: most units of a forward pass, padding included.
        dtype: autocast of the forward pass.
    """

    text: str = "text"
    tokenizer: str | None = None
    bits: Annotated[int, Ge(16), Le(20)] = 18
    pool_samples: Annotated[int, Ge(1000)] = 1 << 14
    strength: Annotated[float, Gt(0)] = 0.1
    features: Literal["ngram", "hidden"] = "ngram"
    model: str | None = None
    task: str | dict[str, Any] = field(default="causal_lm", hash=False)
    batch_units: Positive = 16_384
    dtype: Dtype = "float32"

    needs_target = True

    def __post_init__(self) -> None:
        if self.features == "ngram" and self.model is not None:
            raise InputError("n-grams need no model: set features to hidden, or leave out model")
        if self.hidden is not None:
            from trainers.scoring.saved_model import resolved_section

            object.__setattr__(self, "task", resolved_section(self.task, self.hidden.saved.task))

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.text,) if self.hidden is None else self.hidden.columns

    @property
    def further_columns(self) -> tuple[str, ...]:
        has_units = self.tokenizer is not None or self.hidden is not None
        return ("kind", NUM_UNITS) if has_units else ("kind",)

    @cached_property
    def hidden(self) -> "HiddenStates | None":
        """The hidden states that are the features; None with n-grams."""
        if self.features == "ngram":
            return None
        if self.model is None:
            raise InputError("features are hidden states of a model: give --model PATH")
        from trainers.scoring.hidden_states import HiddenStates

        task = {"name": "causal_lm", "text": self.text} if self.task == "causal_lm" else self.task
        return HiddenStates.of(
            self.model,
            task,
            tokenizer=self.tokenizer,
            batch_units=self.batch_units,
            dtype=self.dtype,
        )

    def file_digests(self) -> Mapping[str, str]:
        """Return the digests of the model and of its tokenizer or processor; none of n-grams."""
        return {} if self.hidden is None else self.hidden.saved.digests()

    def fit(self, context: FitContext) -> Fitted:
        """Fit a classifier for each kind of reference; the values of held-out samples are kept."""
        target = context.target_of("classifier")
        pool = context.read_pool(self.pool_samples)
        self._check(target.samples, pool)
        num_samples = len(next(iter(pool.values())))
        is_held_out = (np.arange(num_samples) // _BLOCK) % _BLOCKS == _BLOCKS - 1
        fitted = self._fit(target, part_of(pool, ~is_held_out))
        if is_held_out.any():
            held_out = self.measure(part_of(pool, is_held_out), fitted).rows["value"]
            arrays = {**fitted.arrays, HELD_OUT: held_out.drop_nulls().to_numpy()}
            fitted = Fitted(arrays, fitted.notes, fitted.digests)
        if self.hidden is not None:
            self.hidden.saved.close()
        return fitted

    def measure(self, samples: Samples, fitted: Fitted) -> Measured:
        """Return the log-odds of each sample, for the kind of reference that fits it best."""
        weights, offsets = fitted.arrays["weights"], fitted.arrays["offsets"]
        names = fitted.notes["kinds"]
        if self.hidden is None:
            texts = samples[self.text]
            return self._ngrams.means(texts, weights, names=names, offsets=offsets)
        mapped = self.hidden.map_linear(samples, fitted.digests, weights=weights, offsets=offsets)
        rows = best_of_kinds(mapped.values, names=names, statuses=mapped.statuses)
        return Measured(rows.with_columns(mapped.num_units.alias(NUM_UNITS)))

    def _check(self, target: Samples, pool: Samples) -> None:
        """Raise `InputError` unless both have text, or the model fits the corpus."""
        if self.hidden is not None:
            self.hidden.check({name: values[:_TRIED] for name, values in pool.items()})
            return
        try:
            check_text(target[self.text], column=self.text, what="the target")
            check_text(pool[self.text], column=self.text, what="the corpus")
        except InputError as error:
            raise InputError(
                f"{error}, or compare hidden states: --set features=hidden --model PATH"
            ) from error

    def _fit(self, target: Examples, corpus: Samples) -> Fitted:
        digests = dict(self.file_digests())
        background = self._features(corpus, digests, what="the corpus")
        scale, shift = (_FACTOR, None) if self.hidden is None else _scale_of(background)
        background = _standardise(background, scale, shift)
        names: list[str] = []
        weights: list[npt.NDArray[np.float64]] = []
        offsets: list[float] = []
        for name, samples in target.by_kind():
            whose = f"the target{f' of kind {name!r}' if name else ''}"
            examples = _standardise(self._features(samples, digests, what=whose), scale, shift)
            own_weights, offset = _logistic_regression(examples, background, strength=self.strength)
            names.append(name)
            weights.append(own_weights * scale)
            offsets.append(offset if shift is None else offset - float(weights[-1] @ shift))
        stacked = np.stack(weights)
        arrays: dict[str, npt.NDArray[Any]] = {
            "weights": as_integers(stacked) if self.hidden is None else stacked,
            "offsets": np.array(offsets, np.float64),
        }
        return Fitted(arrays, {"kinds": [name for name in names if name]}, digests)

    @property
    def _ngrams(self) -> TextNgrams:
        return TextNgrams(self.tokenizer, self.bits)

    def _features(self, samples: Samples, digests: Mapping[str, str], *, what: str) -> Any:
        """Return the features of samples, one row each: sparse n-grams, or dense hidden states."""
        if self.hidden is not None:
            return self.hidden.vectors(samples, digests, what=what)[0]
        shares = self._ngrams.shares(samples[self.text])
        if not shares.nnz:
            raise InputError(f"{what} has no words")
        return shares


def _scale_of(
    corpus: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return scale and shift of each feature: x → scale · (x − shift) has mean 0 and variance 1."""
    deviations = corpus.std(axis=0)
    return 1.0 / np.where(deviations > 0, deviations, 1.0), corpus.mean(axis=0)


def _standardise(features: Any, scale: Any, shift: npt.NDArray[np.float64] | None) -> Any:
    """Return scale · (features − shift), or without a shift scale · features."""
    return features * scale if shift is None else (features - shift) * scale


def _logistic_regression(
    examples: Any, corpus: Any, *, strength: float
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
    is_sparse = sparse.issparse(corpus)
    stack = partial(sparse.vstack, format="csr") if is_sparse else np.vstack
    model.fit(stack([examples, corpus]), labels)
    return model.coef_[0], float(model.intercept_[0])
