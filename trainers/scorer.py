"""Rows × model → losses: batches, the way out of running out of memory, statuses. No cluster here.

Here: scoring the samples of one span in one process. Not here: which rows, where the losses go, and
anything of Dask (`pipeline`). Batch composition depends only on the samples and the settings,
because a loss can differ in its last bits with the batch it was computed in.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import polars as pl
import torch

from attent_select import schema
from attent_select.errors import InputError, SampleError
from catalogs.shard_format import Sample
from trainers.evaluation import evaluating
from trainers.readahead import ordered_map
from trainers.settings import DTYPES
from trainers.task import Batch, Item, Task

# Samples that one thread prepares at a time, and batches collated ahead of the model.
_PIECE_SAMPLES = 64
_BATCHES_AHEAD = 4

SCORES = {name: schema.LOSSES[name] for name in ("row", "loss", "num_units", "status")}


@dataclass(frozen=True)
class ScoringSettings:
    """How rows are put into batches, and in what arithmetic.

    A batch holds at most `max_batch_samples` samples, and at most `batch_units` units, padding
    included: samples × the cost of the longest (tokens; 1 for an image). Samples are put into
    batches longest first among `window_samples` consecutive ones. All of these are part of what a
    loss was measured with; `num_threads` (that prepare samples) is not.
    """

    batch_units: int = 16384
    max_batch_samples: int = 256
    window_samples: int = 1024
    dtype: str = "float32"
    num_threads: int = 2

    def __post_init__(self) -> None:
        for name in ("batch_units", "max_batch_samples", "window_samples", "num_threads"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: expected at least 1")
        if self.dtype not in DTYPES:
            raise InputError(f"dtype is {self.dtype!r}: expected one of {', '.join(DTYPES)}")


@dataclass(frozen=True)
class Scores:
    """`rows` has the columns of `SCORES`, sorted by row.

    `num_splits` counts batches that were halved because memory ran out: their losses may differ in
    the last bits from those of another machine. `num_truncated` counts samples cut to the task's
    limit.
    """

    rows: pl.DataFrame
    num_splits: int
    num_truncated: int


def best_device() -> torch.device:
    """The accelerator of this process if it has one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def score_rows(
    task: Task,
    *,
    model: torch.nn.Module,
    samples: Iterable[tuple[int, Sample]],
    settings: ScoringSettings | None = None,
) -> Scores:
    """The loss of each `(row, sample)`, in eval mode, in float32 nats.

    The model is moved to the best device and left there. Reading `samples`, preparing and collating
    them happen in threads, ahead of the model. A sample that cannot be used gets a status and a
    null loss. Rows are unique; the answer is sorted by row.
    """
    settings = settings or ScoringSettings()
    model.to(best_device())
    scoring = _Scoring(task, model=model, settings=settings)
    prepared = ordered_map(
        scoring.prepare,
        _pieces(samples),
        num_threads=settings.num_threads,
        budget=2 * settings.window_samples,
        cost=len,
    )
    batches = ordered_map(
        scoring.collate,
        _planned(prepared, settings),
        num_threads=1,
        budget=_BATCHES_AHEAD,
        cost=lambda _: 1,
    )
    with evaluating(model) as to_device:
        for rows, items, batch in batches:
            scoring.score(rows, items, to_device(batch))
    table = pl.DataFrame(scoring.results, schema=SCORES, orient="row").sort(schema.ROW)
    return Scores(table, num_splits=scoring.num_splits, num_truncated=scoring.num_truncated)


class _Scoring:
    """The work on one span, and its results so far."""

    def __init__(self, task: Task, *, model: torch.nn.Module, settings: ScoringSettings) -> None:
        self._task, self._model = task, model
        self._bfloat16 = settings.dtype == "bfloat16"
        self.results: list[tuple[int, float | None, int, str]] = []
        self.num_splits = 0
        self.num_truncated = 0

    def prepare(self, piece: Sequence[tuple[int, Sample]]) -> list[tuple[int, Item]]:
        """The samples that can be used; the others are results already."""
        usable = []
        for row, sample in piece:
            try:
                usable.append((row, self._task.prepare(sample, generator=None)))
            except SampleError as error:
                self.results.append((row, None, 0, error.status))
        return usable

    def collate(self, planned: Sequence[tuple[int, Item]]) -> tuple[list[int], list[Item], Batch]:
        rows, items = [row for row, _ in planned], [item for _, item in planned]
        return rows, items, self._task.collate(items)

    def score(self, rows: list[int], items: list[Item], batch: Batch) -> None:
        """Add the results of one batch; halves it as often as memory runs out."""
        try:
            losses = self._losses(batch)
        except (torch.OutOfMemoryError, MemoryError):
            losses = None  # left first: the exception holds the failed attempt's tensors
        if losses is not None:
            self.num_truncated += int(batch["truncated"].sum()) if "truncated" in batch else 0
            self.results += [
                (row, loss, units, schema.OK)
                if math.isfinite(loss)
                else (row, None, units, "nonfinite")
                for row, (loss, units) in zip(rows, losses, strict=True)
            ]
            return
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(rows) == 1:
            self.results.append((rows[0], None, 0, "oom"))
            return
        self.num_splits += 1
        device = next(self._model.parameters()).device
        middle = len(rows) // 2
        for half in (slice(None, middle), slice(middle, None)):
            collated = self._task.collate(items[half])
            on_device = {name: value.to(device) for name, value in collated.items()}
            self.score(rows[half], items[half], on_device)

    def _losses(self, batch: Batch) -> list[tuple[float, int]]:
        device = next(self._model.parameters()).device
        autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=self._bfloat16)
        with autocast:
            losses, num_units = self._task.per_sample_loss(self._model, batch)
        return list(zip(losses.float().tolist(), num_units.tolist(), strict=True))


def _pieces(samples: Iterable[tuple[int, Sample]]) -> Iterator[list[tuple[int, Sample]]]:
    """Work for one thread at a time: large enough that tiny images do not drown in hand-overs."""
    iterator = iter(samples)
    while piece := list(islice(iterator, _PIECE_SAMPLES)):
        yield piece


def _planned(
    prepared: Iterator[list[tuple[int, Item]]], settings: ScoringSettings
) -> Iterator[list[tuple[int, Item]]]:
    """The batches: longest first among the samples of a window."""
    try:
        window: list[tuple[int, Item]] = []
        for piece in prepared:
            window += piece
            while len(window) >= settings.window_samples:
                yield from _batches(window[: settings.window_samples], settings)
                window = window[settings.window_samples :]
        yield from _batches(window, settings)
    finally:
        prepared.close()  # type: ignore[attr-defined]  # a generator: stops its threads now


def _batches(
    window: list[tuple[int, Item]], settings: ScoringSettings
) -> Iterator[list[tuple[int, Item]]]:
    longest_first = sorted(window, key=lambda entry: (-entry[1]["num_units"], entry[0]))
    batch: list[tuple[int, Item]] = []
    for entry in longest_first:
        # The first is the longest: all others are padded to it.
        padded_units = (len(batch) + 1) * (batch or [entry])[0][1]["num_units"]
        if batch and (
            padded_units > settings.batch_units or len(batch) == settings.max_batch_samples
        ):
            yield batch
            batch = []
        batch.append(entry)
    if batch:
        yield batch
