"""Rows × model → losses: batches, the way out of running out of memory, statuses. No cluster here.

Scoring the samples of one span in one process. Batch composition depends only on the samples
and the settings, because a loss can differ in its last bits with the batch it was computed in.
"""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import Any, cast
from weakref import WeakSet

import polars as pl
import torch

from attent_select import schema
from attent_select.errors import InputError, SampleError
from catalogs.concurrency import ordered_map
from catalogs.shard_format import Sample
from trainers.scoring.batching import batches
from trainers.scoring.evaluation import eval_mode
from trainers.settings import ScoringSettings
from trainers.task import UNUSABLE, Batch, HasFunctionalGradient, Item, Task

# Samples that one thread prepares at a time, and batches collated ahead of the model.
_PIECE_SAMPLES = 64
_BATCHES_AHEAD = 4

SCORES: schema.Schema = {
    name: schema.LOSSES[name] for name in ("row", "loss", "num_units", "status")
}
# The column that is there only where it is asked for.
_GRADIENT: schema.Schema = {schema.FUNCTIONAL_GRADIENT: pl.Float32}

# Why the model has no loss for a sample.
_REASONS = {
    "unreadable": UNUSABLE,
    "nonfinite": "its loss is not finite",
    "oom": "memory ran out with it alone",
}

# Row, loss, units, status, functional gradient.
_Result = tuple[int, float | None, int, str, float | None]


@dataclass
class ScoringNotes:
    """What happened beside the losses; filled while scoring.

    `num_splits` counts batches that were halved because memory ran out: their losses may differ in
    the last bits from those of another machine. `fitting_units` is half of the smallest of these
    (its halves were scored, or halved again); None without any. `num_truncated` counts samples cut
    to the task's limit. `busy_seconds` is the time that the model did not wait for a batch.
    `failure_example` is the row of a sample without a loss, and why: one of them.
    """

    num_splits: int = 0
    fitting_units: int | None = None
    num_truncated: int = 0
    busy_seconds: float = 0.0
    failure_example: tuple[int, str] | None = None


def best_device() -> torch.device:
    """The accelerator of this process if it has one, else the CPU."""
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
    """The loss of each `(row, sample)`, in eval mode, in float32 nats.

    Args:
        task: prepares, collates and gives the loss.
        model: moved to the best device and left there.
        samples: unique rows; read in a thread of its own, ahead of the model.
        settings: how batches are made.
        num_threads: that prepare samples; makes no difference to the result.
        notes: filled, where given.
        on_scored: called with rows that have their result, from any thread.

    Returns:
        The columns of `scores_schema(settings)`, sorted by row. A sample that cannot be used has a
        status and a null loss.

    Raises:
        InputError: the device has no bfloat16, or the task no functional gradient.
    """
    settings = settings or ScoringSettings()
    _make_ready(model, settings)
    scoring = _Scoring(
        task,
        model=model,
        settings=settings,
        notes=notes or ScoringNotes(),
        on_scored=on_scored or (lambda _: None),
    )
    prepared = ordered_map(
        scoring.prepare,
        _pieces(samples),
        num_threads=num_threads,
        budget=2 * settings.window_samples,
        cost=len,
    )
    collated = ordered_map(
        scoring.collate,
        _planned(prepared, settings),
        num_threads=1,
        budget=_BATCHES_AHEAD,
        cost=lambda _: 1,
    )
    with eval_mode(model) as to_device, closing(collated):
        for rows, items, batch in collated:
            scoring.score(rows, items, to_device(batch))
        scoring.settle()
    scores = pl.DataFrame(scoring.results, schema=SCORES | _GRADIENT, orient="row")
    return scores.select(*scores_schema(settings)).sort(schema.ROW)


def scores_schema(settings: ScoringSettings) -> schema.Schema:
    """The columns of the scores that `settings` ask for."""
    return SCORES | (_GRADIENT if settings.functional_gradient else {})


def check_gradient(task: Any) -> None:
    """Raises `InputError` for a task that cannot measure ‖∂ℓ/∂f‖."""
    if not isinstance(task, HasFunctionalGradient):
        raise InputError(
            f"scoring.functional_gradient: the task {type(task).__name__} has no functional "
            "gradient: give it a method `loss_and_gradient`, or leave the key out"
        )


class _Scoring:
    """The work on one span, and its results so far."""

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
        self._on_scored = on_scored
        # The measures of the batch before, which the device may still be computing.
        self._pending: tuple[list[int], tuple[torch.Tensor, ...]] | None = None
        self.results: list[_Result] = []

    def prepare(self, piece: Sequence[tuple[int, Sample]]) -> list[tuple[int, Item]]:
        """The samples that can be used; the others are results already."""
        usable = []
        for row, sample in piece:
            try:
                usable.append((row, self._task.prepare(sample, generator=None)))
            except SampleError as error:
                self._keep((row, None, 0, error.status, None), why=str(error))
                self._on_scored([row])
        return usable

    def collate(self, planned: Sequence[tuple[int, Item]]) -> tuple[list[int], list[Item], Batch]:
        rows, items = [row for row, _ in planned], [item for _, item in planned]
        batch = self._task.collate(items)
        if self._device.type == "cuda":  # copies from pinned memory overlap with compute
            batch = {name: value.pin_memory() for name, value in batch.items()}
        return rows, items, batch

    def score(self, rows: list[int], items: list[Item], batch: Batch) -> None:
        """Add the results of one batch; halves it as often as memory runs out."""
        started = perf_counter()
        losses = self._losses(batch)
        self.settle()  # only now: the device has the next batch to work on
        if losses is not None:
            if "truncated" in batch:
                self._notes.num_truncated += int(batch["truncated"].sum())
            self._pending = (rows, losses)
        self._notes.busy_seconds += perf_counter() - started
        if losses is None:
            self._split(rows, items)

    def settle(self) -> None:
        """Waits for the losses of the batch before, and keeps them."""
        if self._pending is None:
            return
        rows, measured = self._pending
        self._pending = None
        values = zip(rows, *(one.tolist() for one in measured), strict=True)
        for of_row in values:
            result = _result(*of_row)
            self._keep(result, why=_REASONS.get(result[3]))
        self._on_scored(rows)

    def _keep(self, result: _Result, *, why: str | None) -> None:
        """A result, and why it has no loss."""
        self.results.append(result)
        if why is not None and self._notes.failure_example is None:
            self._notes.failure_example = (result[0], why)

    def _split(self, rows: list[int], items: list[Item]) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(rows) == 1:
            self._keep((rows[0], None, 0, "oom", None), why=_REASONS["oom"])
            self._on_scored(rows)
            return
        self._notes.num_splits += 1
        half_units = len(rows) * max(item["num_units"] for item in items) // 2
        self._notes.fitting_units = min(half_units, self._notes.fitting_units or half_units)
        middle = len(rows) // 2
        for half in (slice(None, middle), slice(middle, None)):
            collated = self._task.collate(items[half])
            on_device = {name: value.to(self._device) for name, value in collated.items()}
            self.score(rows[half], items[half], on_device)

    def _losses(self, batch: Batch) -> tuple[torch.Tensor, ...] | None:
        """None when memory ran out. A function of its own: until an exception is handled it holds
        the attempt's tensors.
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


def _make_ready(model: torch.nn.Module, settings: ScoringSettings) -> None:
    """On the best device, and compiled if wanted."""
    device = best_device()
    _check_dtype(settings.dtype, device)
    model.to(device)
    if settings.compile and model not in _compiled:
        _compiled.add(model)
        backbone: Any = getattr(model, "base_model", model)
        backbone.compile(dynamic=True)  # lengths differ from batch to batch


def _check_dtype(dtype: str, device: torch.device) -> None:
    if dtype == "bfloat16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise InputError(
            f"{torch.cuda.get_device_name(device)} has no bfloat16: set scoring.dtype to float32"
        )


def _measure_of(task: Task, settings: ScoringSettings) -> Callable[..., tuple[torch.Tensor, ...]]:
    if not settings.functional_gradient:
        return task.per_sample_loss
    check_gradient(task)
    return cast(HasFunctionalGradient, task).loss_and_gradient


def _result(row: int, loss: float, units: int, gradient: float | None = None) -> _Result:
    if not units:
        return row, None, 0, "unreadable", None
    if not math.isfinite(loss):
        return row, None, units, "nonfinite", None
    return row, loss, units, schema.OK, gradient


def _is_out_of_memory(error: Exception) -> bool:
    # On the CPU torch has no exception of its own for it.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "can't allocate memory" in str(error)
    )


def _pieces(samples: Iterable[tuple[int, Sample]]) -> Iterator[list[tuple[int, Sample]]]:
    """Work for one thread at a time: large enough that tiny images do not drown in hand-overs."""
    iterator = iter(samples)
    while piece := list(islice(iterator, _PIECE_SAMPLES)):
        yield piece


def _planned(
    prepared: Generator[list[tuple[int, Item]], None, None], settings: ScoringSettings
) -> Iterator[list[tuple[int, Item]]]:
    """The batches: longest first among the samples of a window."""
    with closing(prepared):
        yield from batches(prepared, settings)
