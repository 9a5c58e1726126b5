"""Score rows: batching, OOM recovery, per-sample status.

Scores the samples of one span in one process. Batch composition depends only on the samples and the
settings, because a loss can differ in its last bits with the batch it was computed in.
"""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from itertools import islice, repeat
from threading import Lock
from time import perf_counter
from typing import Any, cast
from weakref import WeakSet

import polars as pl
import torch

from attent_select import schema
from attent_select.errors import InputError, SampleError
from catalogs.concurrency import ordered_map
from catalogs.losses.unusable import Example, Unusable
from catalogs.shard_format import Sample
from trainers.filling import computed_units, cost
from trainers.scoring.batching import batches
from trainers.scoring.evaluation import eval_mode
from trainers.settings import ScoringSettings
from trainers.task import (
    UNUSABLE,
    Batch,
    HasFunctionalGradient,
    HasItemShares,
    HasModelShares,
    HasScoreColumns,
    Item,
    Task,
    packs,
    pads,
    prepare_each,
)

# Samples that one thread prepares at a time, and batches collated ahead of the model.
_CHUNK_SAMPLES = 64
_BATCHES_AHEAD = 4

SCORES: schema.Schema = {
    name: schema.LOSSES[name] for name in ("row", "loss", "num_units", "status")
}

# Why the model has no loss for a sample.
_REASONS = {
    "unreadable": UNUSABLE,
    "nonfinite": "its loss is not finite",
    "oom": "memory ran out with this sample alone",
}

# Row, loss, units, status, and the columns beside the losses.
_Result = tuple[int, float | None, int, str, *tuple[float | None, ...]]


@dataclass
class ScoringNotes:
    """Observations while scoring, besides the losses.

    `num_splits` counts batches halved after running out of memory: their losses may differ in the
    last bits from those of another machine. `fitting_units` is half the units of the smallest such
    batch, None without one. `num_truncated` counts samples cut to the task's limit. `input_units`
    are the units (tokens) of all batches, whether they count in a loss or not, and `padded_units`
    the same with padding. `busy_seconds` is the time that the model did not wait for a batch.
    `unusable` are the samples without a loss; their examples have rows, and no shard.
    """

    num_splits: int = 0
    fitting_units: int | None = None
    num_truncated: int = 0
    input_units: int = 0
    padded_units: int = 0
    busy_seconds: float = 0.0
    unusable: Unusable = field(default_factory=Unusable)


def best_device() -> torch.device:
    """Return the accelerator of this process if it has one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def score_rows(
    task: Task,
    model: torch.nn.Module,
    samples: Iterable[tuple[int, Sample]],
    *,
    settings: ScoringSettings | None = None,
    num_threads: int = 2,
    notes: ScoringNotes | None = None,
    on_scored: Callable[[Sequence[int]], None] | None = None,
) -> pl.DataFrame:
    """Return the loss of each `(row, sample)`, in eval mode, in float32 nats.

    Args:
        task: prepares, collates and gives the loss.
        model: moved to the best device and left there.
        samples: unique rows; read in a separate thread, ahead of the model.
        settings: how batches are made.
        num_threads: threads that prepare samples; the result does not depend on it.
        notes: filled while scoring.
        on_scored: called with rows that have their result, from any thread.

    Returns:
        The columns of `scores_schema(task, settings)`, sorted by row. A sample that cannot be used
        has a status and a null loss.

    Raises:
        InputError: the device does not support bfloat16, or the task the functional gradient, or
            the task or the model a share of a sample.
    """
    settings = settings or ScoringSettings()
    _place_model(model, settings)
    scoring = _Scoring(
        task,
        model=model,
        settings=settings,
        notes=notes or ScoringNotes(),
        on_scored=on_scored or (lambda _: None),
    )
    prepared = ordered_map(
        scoring.prepare,
        _chunks(samples),
        num_threads=num_threads,
        budget=2 * settings.window_samples,
        cost=len,
    )
    collated = ordered_map(
        scoring.collate,
        _batches(prepared, settings, is_packed=packs(task)),
        num_threads=1,
        budget=_BATCHES_AHEAD,
        cost=lambda _: 1,
    )
    on_share = _on_share(task, model, settings)
    with eval_mode(model) as to_device, closing(collated), on_share:
        for rows, items, batch in collated:
            scoring.score(rows, items, to_device(batch))
        scoring.finish_pending()
    columns = scores_schema(task, settings)
    return pl.DataFrame(scoring.results, schema=columns, orient="row").sort(schema.ROW)


def scores_schema(task: Task, settings: ScoringSettings) -> schema.Schema:
    """Return the columns of the scores of a task with these settings."""
    return SCORES | settings.carry_schema(task)


def check_gradient(task: Any) -> None:
    """Check that a task can measure ‖∂ℓ/∂f‖.

    Raises:
        InputError: it cannot.
    """
    if not isinstance(task, HasFunctionalGradient):
        raise InputError(
            f"scoring.functional_gradient: the task {type(task).__name__} has no functional "
            "gradient: implement `loss_and_gradient`, or remove the key"
        )


def check_units_share(task: Any, *, model: dict[str, Any] | None = None) -> None:
    """Check that a task, and a model with the settings `model`, can measure a share of a sample.

    Raises:
        InputError: they cannot.
    """
    if not isinstance(task, HasItemShares | HasModelShares):
        raise InputError(
            f"scoring.units_share: the task {type(task).__name__} needs whole samples: implement "
            "`share_of`, or remove the key"
        )
    if model is None or not isinstance(task, HasModelShares):
        return
    models: Any = task.models(model)  # type: ignore[attr-defined]  # of a task
    if hasattr(models, "without_weights"):
        with task.on_share(models.without_weights(), share=1.0):
            pass


def _on_share(
    task: Task, model: torch.nn.Module, settings: ScoringSettings
) -> AbstractContextManager[None]:
    """Return the context in which the model takes the share of a sample that is configured."""
    if settings.units_share is None:
        return nullcontext()
    check_units_share(task)
    if not isinstance(task, HasModelShares):
        return nullcontext()
    return task.on_share(model, share=settings.units_share)


class _Scoring:
    """Scoring of one span, and its results so far."""

    def __init__(
        self,
        task: Task,
        *,
        model: torch.nn.Module,
        settings: ScoringSettings,
        notes: ScoringNotes,
        on_scored: Callable[[Sequence[int]], None],
    ) -> None:
        self._task, self._model, self._notes = task, model, notes
        self._device = next(model.parameters()).device
        self._bfloat16 = settings.dtype == "bfloat16"
        self._measure = _measure_of(task, settings)
        self._no_further: tuple[None, ...] = (None,) * len(settings.carry_schema(task))
        self._on_scored = on_scored
        self._share = settings.units_share
        # Rows, counted units and losses of the previous batch, which may still be computed.
        self._pending: tuple[list[int], list[int | None], tuple[torch.Tensor, ...]] | None = None
        self.results: list[_Result] = []
        self._lock = Lock()

    def prepare(self, chunk: Sequence[tuple[int, Sample]]) -> list[tuple[int, Item]]:
        """Prepare the samples that can be used; store the status of the others."""
        usable = []
        samples = [sample for _, sample in chunk]
        prepared = prepare_each(self._task, samples, repeat(None))
        for (row, _), item in zip(chunk, prepared, strict=True):
            if isinstance(item, SampleError):
                self._store((row, None, 0, item.status, *self._no_further), reason=str(item))
                self._on_scored([row])
            else:
                usable.append((row, self._share_of(item)))
        return usable

    def _share_of(self, item: Item) -> Item:
        if self._share is None or not isinstance(self._task, HasItemShares):
            return item
        return self._task.share_of(item, share=self._share)

    def collate(self, entries: Sequence[tuple[int, Item]]) -> tuple[list[int], list[Item], Batch]:
        rows, items = [row for row, _ in entries], [item for _, item in entries]
        batch = self._task.collate(items)
        if self._device.type == "cuda":  # copies from pinned memory overlap with compute
            batch = {name: value.pin_memory() for name, value in batch.items()}
        return rows, items, batch

    def score(self, rows: list[int], items: list[Item], batch: Batch) -> None:
        """Start scoring one batch; halve it as often as memory runs out."""
        started = perf_counter()
        losses = self._losses(batch)
        self.finish_pending()  # after `_losses`, so that the device already has the next batch
        if losses is not None:
            self._note(items, batch)
            self._pending = (rows, [item.get("num_counted") for item in items], losses)
        self._notes.busy_seconds += perf_counter() - started
        if losses is None:
            self._split(rows, items)

    def _note(self, items: list[Item], batch: Batch) -> None:
        notes, lengths = self._notes, [item["num_units"] for item in items]
        notes.input_units += sum(lengths)
        notes.padded_units += computed_units(
            lengths, is_packed=packs(self._task), pads=pads(self._task, self._model)
        )
        if "truncated" in batch:
            notes.num_truncated += int(batch["truncated"].sum())

    def finish_pending(self) -> None:
        """Wait for the losses of the previous batch, and store them."""
        if self._pending is None:
            return
        rows, counted, measured = self._pending
        self._pending = None
        columns = (column.tolist() for column in measured)
        for row, num_counted, loss, units, *further in zip(rows, counted, *columns, strict=True):
            # Of a part of a sample, the units of the whole.
            num_units = units if num_counted is None or not units else num_counted
            result = _result(row, loss, num_units, *further)
            self._store(result, reason=_REASONS.get(result[3]))
        self._on_scored(rows)

    def _store(self, result: _Result, *, reason: str | None) -> None:
        """Store a result, and the reason if it has no loss."""
        self.results.append(result)
        if reason is not None:
            with self._lock:  # threads prepare samples
                self._notes.unusable.add(Example("", result[0], result[3], reason))

    def _split(self, rows: list[int], items: list[Item]) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(rows) == 1:
            self._store((rows[0], None, 0, "oom", *self._no_further), reason=_REASONS["oom"])
            self._on_scored(rows)
            return
        self._notes.num_splits += 1
        lengths = [item["num_units"] for item in items]
        half_units = cost(lengths, is_packed=packs(self._task)) // 2
        self._notes.fitting_units = min(half_units, self._notes.fitting_units or half_units)
        middle = len(rows) // 2
        for half in (slice(None, middle), slice(middle, None)):
            collated = self._task.collate(items[half])
            on_device = {name: value.to(self._device) for name, value in collated.items()}
            self.score(rows[half], items[half], on_device)

    def _losses(self, batch: Batch) -> tuple[torch.Tensor, ...] | None:
        """Return the losses, or None when memory ran out. A separate function, because a handled
        exception keeps the tensors of its frame.
        """
        # No cache of cast weights: a forward pass uses each once, and the cache is a second model.
        autocast = torch.autocast(
            self._device.type, dtype=torch.bfloat16, enabled=self._bfloat16, cache_enabled=False
        )
        try:
            with autocast:
                return self._measure(self._model, batch)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
        return None


_compiled: "WeakSet[torch.nn.Module]" = WeakSet()


def _place_model(model: torch.nn.Module, settings: ScoringSettings) -> None:
    """Move the model to the best device, and compile it if configured."""
    device = best_device()
    _check_dtype(settings.dtype, device)
    model.to(device)
    if settings.compile and model not in _compiled:
        _compiled.add(model)
        backbone: Any = getattr(model, "base_model", model)
        backbone.compile(dynamic=True)  # lengths differ from batch to batch


def _check_dtype(dtype: str | None, device: torch.device) -> None:
    if dtype == "bfloat16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise InputError(
            f"{torch.cuda.get_device_name(device)} does not support bfloat16: set scoring.dtype to "
            "float32"
        )


def _measure_of(task: Task, settings: ScoringSettings) -> Callable[..., tuple[torch.Tensor, ...]]:
    """Return what measures the losses, and the columns of `carry_schema` after them."""
    measure = task.loss_and_scores if isinstance(task, HasScoreColumns) else task.per_sample_loss
    if not settings.functional_gradient:
        return measure
    check_gradient(task)
    with_gradient = cast(HasFunctionalGradient, task).loss_and_gradient
    if not isinstance(task, HasScoreColumns):
        return with_gradient
    return lambda *inputs: (*with_gradient(*inputs), *measure(*inputs)[2:])


def _result(row: int, loss: float, units: int, *further: float) -> _Result:
    if not units:
        return row, None, 0, "unreadable", *(None for _ in further)
    if not all(map(math.isfinite, (loss, *further))):
        return row, None, units, "nonfinite", *(None for _ in further)
    return row, loss, units, schema.OK, *further


def _is_out_of_memory(error: Exception) -> bool:
    # For the CPU, torch has no separate exception class.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "can't allocate memory" in str(error)
    )


def _chunks(samples: Iterable[tuple[int, Sample]]) -> Iterator[list[tuple[int, Sample]]]:
    """Yield chunks for one thread at a time, large enough for cheap hand-overs."""
    iterator = iter(samples)
    while chunk := list(islice(iterator, _CHUNK_SAMPLES)):
        yield chunk


def _batches(
    prepared: Generator[list[tuple[int, Item]], None, None],
    settings: ScoringSettings,
    *,
    is_packed: bool,
) -> Iterator[list[tuple[int, Item]]]:
    """Yield batches; close `prepared` at the end."""
    with closing(prepared):
        yield from batches(prepared, settings, is_packed=is_packed)
