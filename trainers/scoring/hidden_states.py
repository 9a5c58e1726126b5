"""Mean hidden states of a saved model: features of samples in any modality that a task can read.

    v(x) = Σ wᵢ hᵢ(x) / Σ wᵢ

hᵢ are the hidden states after the last layer of the model (and its norm). Of text wᵢ = i, the
position, because a later token of a causal model has seen more of the text; of images wᵢ = 1.

Source: Muennighoff, "SGPT: GPT Sentence Embeddings for Semantic Search" (2022), as used by RDS+:
Ivison, Zhang, Brahman, Koh and Dasigi, "Large-Scale Data Selection for Instruction Tuning" (2025).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from attent_select.errors import InputError, SampleError
from attent_select.schema import NUM_UNITS, OK, STATUS
from catalogs.shard_format import Sample, samples_of
from trainers.annotation import Samples
from trainers.scoring.saved_model import SavedModel, task_of
from trainers.scoring.scorer import score_rows
from trainers.settings import ScoringSettings
from trainers.task import Batch, HasModelInputs, Item

# Keys of an item and of a batch beside the model's inputs.
_ROW: Final = "hidden_states.row"
_UNITS: Final = "hidden_states.units"
# Samples that are asked why they cannot be used.
_SHOWN: Final = 8
_WHAT: Final = "mean hidden state"

# Vectors float32[batch, width] → float[batch, numbers].
Reduce = Callable[[torch.Tensor], torch.Tensor]


def _identity(vectors: torch.Tensor) -> torch.Tensor:
    return vectors


class Mapped(NamedTuple):
    """What `reduce` returned for each sample: float32 or float64[samples, numbers].

    Rows are NaN where `statuses` has not `ok`. `num_units` u32 are the units that the task counts.
    """

    values: npt.NDArray[Any]
    statuses: list[str]
    num_units: pl.Series

    @property
    def is_ok(self) -> npt.NDArray[np.bool_]:
        """Whether each sample has values."""
        return np.array([status == OK for status in self.statuses], bool)


@dataclass(frozen=True)
class HiddenStates:
    """Mean hidden states of a saved model under a task, in batches made by `settings`."""

    saved: SavedModel
    settings: ScoringSettings

    @classmethod
    def of(
        cls,
        model: str,
        task: str | Mapping[str, Any],
        *,
        tokenizer: str | None,
        batch_units: int,
        dtype: Any,
    ) -> "HiddenStates":
        """Return those of a model under a section `task`.

        Raises:
            InputError: a setting is wrong, or the task has no inputs for hidden states.
        """
        saved = SavedModel(model, task_of(task, model=model, tokenizer=tokenizer))
        if not isinstance(saved.task, HasModelInputs):
            raise InputError(
                f"the task {type(saved.task).__name__} has no hidden states: its loss needs what it"
                " draws at random. Set a task for text, or one that predicts from whole images"
            )
        return cls(saved, ScoringSettings(batch_units=batch_units, dtype=dtype))

    def of_model(self, model: str) -> "HiddenStates":
        """Return those of another saved model under the same task, with its own tokenizer."""
        task: Any = self.saved.task
        if getattr(task, "tokenizer", None) is not None and "://" not in model:
            task = dataclasses.replace(task, tokenizer=model)
        return HiddenStates(SavedModel(model, task), self.settings)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a sample that are read: labels are not."""
        return self._task.input_columns

    def check(self, samples: Samples) -> None:
        """Load the model and measure some samples of a corpus.

        Raises:
            InputError: the model does not fit the task or the samples.
        """
        task = _MeanStates(self._task)
        rows = [{**sample, _ROW: row} for row, sample in enumerate(_rows_of(samples))]
        self.saved.check(rows, self.settings, task=task, measured=_WHAT)

    def map(
        self, samples: Samples, digests: Mapping[str, str], reduce: Reduce = _identity
    ) -> Mapped:
        """Return `reduce` of the vectors float32[batch, width], a batch of samples at a time.

        A batch depends on the samples and the settings alone, so that equal samples give equal
        bits. A sample whose numbers are not finite has the status `nonfinite`.

        Args:
            samples: columns with one value for each sample.
            digests: of the model's files, as `self.saved.digests()` returned them.
            reduce: applied on the device of the model.

        Raises:
            InputError: the files here have other digests.
        """
        torch.set_num_threads(self.settings.torch_threads)
        task: Any = _MeanStates(self._task, reduce)
        rows = [{**sample, _ROW: row} for row, sample in enumerate(_rows_of(samples))]
        model = self.saved.open(digests)
        scores = score_rows(task, model, enumerate(rows), settings=self.settings)
        values: npt.NDArray[Any] = task.values_of(len(rows))
        statuses = scores[STATUS].to_list()
        values[[status != OK for status in statuses]] = np.nan
        return Mapped(values, statuses, scores[NUM_UNITS])

    def map_linear(
        self,
        samples: Samples,
        digests: Mapping[str, str],
        *,
        weights: npt.NDArray[np.float64],
        offsets: npt.NDArray[np.float64],
    ) -> Mapped:
        """Return offsets + weights · v of each sample, float64[samples, rows of weights]."""
        matrix, constant = torch.from_numpy(weights.T.copy()), torch.from_numpy(offsets.copy())

        def reduce(vectors: torch.Tensor) -> torch.Tensor:
            return vectors.double() @ matrix.to(vectors.device) + constant.to(vectors.device)

        return self.map(samples, digests, reduce)

    def vectors(
        self, samples: Samples, digests: Mapping[str, str], *, what: str
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Return the vectors of the samples that have one, float64[…, width], and which these are.

        Raises:
            InputError: no sample has one; names `what` the samples are.
        """
        mapped = self.map(samples, digests)
        if not mapped.is_ok.any():
            items = self._task.prepare_inputs(_rows_of(samples)[:_SHOWN])
            errors = [f", because {item}" for item in items if isinstance(item, SampleError)]
            raise InputError(
                f"{self.saved}: {what} has no {_WHAT}{errors[0] if errors else ''}: check the"
                " columns of the task"
            )
        return mapped.values[mapped.is_ok].astype(np.float64), mapped.is_ok

    @cached_property
    def _task(self) -> HasModelInputs:
        return cast(HasModelInputs, self.saved.task)


class _MeanStates:
    """A task for scoring whose `loss` says whether the reduced vectors are finite.

    So vectors are computed with the batches, threads and OOM recovery of losses.
    """

    columns = ()

    def __init__(self, task: HasModelInputs, reduce: Reduce = _identity) -> None:
        self._task, self._reduce = task, reduce
        self._values: list[tuple[npt.NDArray[np.int64], npt.NDArray[Any]]] = []

    def prepare_all(self, samples: Sequence[Sample]) -> list[Item | SampleError]:
        items = self._task.prepare_inputs(samples)
        return [
            item if isinstance(item, SampleError) else {**item, _ROW: sample[_ROW]}
            for sample, item in zip(samples, items, strict=True)
        ]

    def collate(self, items: Sequence[Item]) -> Batch:
        inputs, num_units = self._task.collate_inputs(items)
        rows = torch.tensor([item[_ROW] for item in items], dtype=torch.int64)
        return {**inputs, _ROW: rows, _UNITS: num_units}

    def per_sample_loss(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the reduced vectors; return 0 or NaN, and 1 unit at least."""
        inputs = {name: batch[name] for name in batch if name not in (_ROW, _UNITS)}
        reduced = self._reduce(mean_state(model, inputs))
        self._values.append((batch[_ROW].cpu().numpy(), reduced.cpu().numpy()))
        return (reduced * 0.0).sum(dim=1), batch[_UNITS].clamp(min=1)

    def values_of(self, num_rows: int) -> npt.NDArray[Any]:
        """Return the stored values of all rows, NaN for rows without one."""
        if not self._values:
            return np.full((num_rows, 1), np.nan, np.float32)
        _, first = self._values[0]
        values = np.full((num_rows, first.shape[1]), np.nan, first.dtype)
        for rows, reduced in self._values:
            values[rows] = reduced
        return values


def mean_state(model: Any, inputs: Batch) -> torch.Tensor:
    """Return the weighted mean of the last hidden states, float32[batch, width].

    Args:
        model: of transformers, with or without a head.
        inputs: of its forward pass.

    Raises:
        InputError: the model without its head returns no hidden states.
    """
    backbone = getattr(model, "base_model", model)
    more_inputs = {"use_cache": False} if "input_ids" in inputs else {}
    hidden = getattr(backbone(**inputs, **more_inputs), "last_hidden_state", None)
    if hidden is None:
        raise InputError(f"{type(backbone).__name__} returns no hidden states")
    if hidden.ndim == 4:  # a map [batch, width, rows, columns]
        hidden = hidden.flatten(2).transpose(1, 2)
    if "attention_mask" not in inputs:
        return cast(torch.Tensor, hidden.float().mean(dim=1))
    is_token = inputs["attention_mask"]
    weights = (is_token.cumsum(dim=1) * is_token).float()
    sums = (hidden.float() * weights[..., None]).sum(dim=1)
    return cast(torch.Tensor, sums / weights.sum(dim=1, keepdim=True))


def _rows_of(samples: Samples) -> list[Sample]:
    return samples_of(samples, num_samples=len(next(iter(samples.values()))))
