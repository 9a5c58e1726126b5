"""Similarity to a target: cosine of a model's mean hidden states, of a sample and of the examples.

    value(x) = mean of the k largest  cos(v(x), v(e))  over the examples e of the target

v are the mean hidden states of `trainers/scoring/hidden_states.py`. With one kind of reference and
k = 1, the order is that of RDS+ without its round robin over the examples. With `reduce: centroid`
the value is cos(v(x), c), where c is the mean of v(e) / ‖v(e)‖.

Source: Ivison, Zhang, Brahman, Koh and Dasigi, "Large-Scale Data Selection for Instruction Tuning"
(2025).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch

from attent_select.schema import NUM_UNITS
from trainers.annotation import FitContext, Fitted, Measured, Samples, best_of_kinds
from trainers.scoring.hidden_states import HiddenStates
from trainers.scoring.saved_model import resolved_section
from trainers.settings.bounds import Dtype, Positive, check_fields

# Random samples of the corpus that show whether the model fits.
_TRIED: Final = 256
_EXAMPLES: Final = "examples"
_SIZES: Final = "sizes"


@dataclass(frozen=True)
class Similarity:
    """Settings of the kind. `num_units` is stored beside the value.

    Attributes:
        model: a saved model: a folder, a URL or a name on the hub.
        task: a section `task` of a configuration, or the name of a task; of `causal_lm` the text
            is in the column `text` unless the section names another. Columns of labels are not
            read.
        tokenizer: of the task, where it uses one; default: the model's.
        reduce: `top_k`: the mean cosine of the k most similar examples; `centroid`: the cosine of
            the mean of all examples.
        k: number of examples of `top_k`.
        batch_units: most units of a forward pass, padding included.
        dtype: autocast of the forward pass; means and cosines are computed in float32 or more.
    """

    model: str
    task: str | dict[str, Any] = field(default="causal_lm", hash=False)
    tokenizer: str | None = None
    reduce: Literal["top_k", "centroid"] = "top_k"
    k: Positive = 1
    batch_units: Positive = 16_384
    dtype: Dtype = "float32"

    needs_target = True
    further_columns = ("kind", NUM_UNITS)

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "task", resolved_section(self.task, self.hidden.saved.task))

    @property
    def columns(self) -> tuple[str, ...]:
        return self.hidden.columns

    @cached_property
    def hidden(self) -> HiddenStates:
        return HiddenStates.of(
            self.model,
            self.task,
            tokenizer=self.tokenizer,
            batch_units=self.batch_units,
            dtype=self.dtype,
        )

    def file_digests(self) -> Mapping[str, str]:
        """Return the digests of the model and of its tokenizer or processor."""
        return self.hidden.saved.digests()

    def fit(self, context: FitContext) -> Fitted:
        """Compute the hidden states of the examples; those that cannot be used are left out.

        The record has their digest as `examples`.
        """
        target = context.target_of("similarity")
        self.hidden.check(context.read_pool(_TRIED))
        digests = dict(self.file_digests())
        names: list[str] = []
        parts: list[npt.NDArray[np.float64]] = []
        for name, samples in target.by_kind():
            whose = f"the target{f' of kind {name!r}' if name else ''}"
            vectors = _unit(self.hidden.vectors(samples, digests, what=whose)[0])
            names.append(name)
            parts.append(
                _unit(vectors.mean(axis=0)[None]) if self.reduce == "centroid" else vectors
            )
        self.hidden.saved.close()
        examples = np.concatenate(parts).astype(np.float32)
        digest = hashlib.sha256(examples.tobytes()).hexdigest()[:32]
        return Fitted(
            {_EXAMPLES: examples, _SIZES: np.array([len(part) for part in parts])},
            {"kinds": [name for name in names if name], "task": repr(self.hidden.saved.task)},
            {**digests, "examples": digest},
        )

    def measure(self, samples: Samples, fitted: Fitted) -> Measured:
        """Return the similarity of each sample to the kind of reference that fits it best."""
        digests = {name: fitted.digests[name] for name in fitted.digests if name != "examples"}
        sizes: list[int] = fitted.arrays[_SIZES].tolist()
        examples = torch.from_numpy(fitted.arrays[_EXAMPLES]).double()

        def similarities(vectors: torch.Tensor) -> torch.Tensor:
            lengths = vectors.double().norm(dim=1, keepdim=True)
            cosines = vectors.double() / lengths @ examples.T.to(vectors.device)
            parts = [part.topk(min(self.k, part.shape[1])) for part in cosines.split(sizes, dim=1)]
            return torch.stack([part.values.mean(dim=1) for part in parts], dim=1)

        mapped = self.hidden.map(samples, digests, similarities)
        rows = best_of_kinds(mapped.values, names=fitted.notes["kinds"], statuses=mapped.statuses)
        return Measured(rows.with_columns(mapped.num_units.alias(NUM_UNITS)))


def _unit(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return vectors of length 1; one of length 0 stays 0."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: npt.NDArray[np.float64] = vectors / np.where(lengths > 0, lengths, 1.0)
    return unit
