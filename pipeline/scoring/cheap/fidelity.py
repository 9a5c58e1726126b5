"""Fidelity of cheap losses: how well they rank samples, against whole losses of the same rows.

A few hundred random rows of a round are measured both ways, by one worker. The result is stored
with the losses.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl

from attent_select.schema import LOSS, OK, ROW, SHARD_ID, STATUS
from attent_select.stats.agreement import correlation_interval, rank_correlation
from attent_select.stats.randomness import sample_uniform
from catalogs.losses.fidelity import LEAST_CORRELATION, Fidelity
from catalogs.shard_format import Sample
from catalogs.shards import read_shard
from pipeline.scoring.span_task import Measurement, SpanTask
from pipeline.scoring.worker import model_of, task_of

# (function, tasks, on_death) → (task, result) of each task.
RunTasks = Callable[..., Iterator[tuple[Any, Any]]]

NUM_ROWS: Final = 256
# Span files that rows are drawn from, evenly spaced.
_NUM_SPANS: Final = 32
# Deaths of a worker after which nothing is compared: whole samples may not fit where parts do.
_MAX_DEATHS: Final = 3

_log = logging.getLogger("attent.pipeline.scoring.cheap.fidelity")


@dataclass(frozen=True)
class Comparison:
    """Measure rows of shards by the cheap method and by the whole one."""

    measurement: Measurement
    rows: pl.DataFrame

    def __str__(self) -> str:
        return "the comparison of cheap with whole losses"


def measure_fidelity(
    measurement: Measurement, tasks: Sequence[SpanTask], *, key: int, run: RunTasks
) -> Fidelity | None:
    """Compare the losses that `tasks` have measured with whole ones; None for whole losses.

    Args:
        measurement: of the tasks.
        tasks: they are done.
        key: of the random draw of rows.
        run: runs tasks on the workers, as `pipeline.cluster.run_tasks` does.
    """
    if not measurement.settings.is_cheap or not tasks:
        return None
    deaths: list[Any] = []

    def count_death(task: Comparison) -> None:
        deaths.append(task)
        if len(deaths) >= _MAX_DEATHS:
            raise _WorkersDiedError

    comparison = Comparison(measurement, _random_rows(measurement, tasks, key=key))
    try:
        fidelity: Fidelity
        ((_, fidelity),) = run(compare, [comparison], on_death=count_death)
    except _WorkersDiedError:
        _log.warning("cheap losses were not compared with whole ones: each worker that tried died")
        return None
    _report(fidelity)
    return fidelity


def compare(task: Comparison) -> Fidelity:
    """Measure the rows of a comparison on a worker."""
    samples, measurement = _read(task), task.measurement
    whole, whole_seconds = _losses(measurement.at_full_cost, samples)
    cheap, cheap_seconds = _losses(measurement, samples)
    correlation = rank_correlation(cheap, whole)
    low, high = None, None
    if correlation is not None:
        low, high = correlation_interval(correlation, count=len(samples))
    return Fidelity(correlation, low, high, cheap_seconds / max(whole_seconds, 1e-9), len(samples))


class _WorkersDiedError(Exception):
    pass


def _random_rows(measurement: Measurement, tasks: Sequence[SpanTask], *, key: int) -> pl.DataFrame:
    """Return ids of random rows that have a loss, in order: always the same ones."""
    digests = [task.digest for task in tasks[:: -(-len(tasks) // _NUM_SPANS)]]
    rows = measurement.catalog.span_losses(digests).filter(pl.col(STATUS) == OK)
    drawn = rows.select(SHARD_ID, ROW, random=sample_uniform(key)).collect()
    return drawn.bottom_k(NUM_ROWS, by="random").select(SHARD_ID, ROW).sort(SHARD_ID, ROW)


def _read(task: Comparison) -> list[Sample]:
    measurement = task.measurement
    corpus, columns = measurement.catalog.corpus, tuple(measurement.task.columns)
    samples: list[Sample] = []
    for shard in task.rows.partition_by(SHARD_ID, maintain_order=True):
        stored = corpus.shard(shard[SHARD_ID][0])
        samples += read_shard(stored, rows=shard[ROW].to_list(), columns=columns).samples
    return samples


def _losses(measurement: Measurement, samples: list[Sample]) -> tuple[np.ndarray[Any, Any], float]:
    """Return the losses in the order of the samples, and the seconds of the model."""
    import torch

    from trainers.scoring.scorer import ScoringNotes, score_rows

    torch.set_num_threads(measurement.settings.torch_threads)
    notes = ScoringNotes()
    task, settings = task_of(measurement), measurement.settings
    model = model_of(measurement)
    score_rows(task, model, enumerate(samples[:8]), settings=settings)  # warm-up
    scores = score_rows(task, model, enumerate(samples), settings=settings, notes=notes)
    return scores[LOSS].fill_null(float("nan")).to_numpy(), notes.busy_seconds


def _report(fidelity: Fidelity) -> None:
    correlation = fidelity.rank_correlation
    if correlation is not None and correlation < LEAST_CORRELATION:
        _log.warning(
            f"{fidelity}: below {LEAST_CORRELATION}, cheap losses select other samples; raise "
            "scoring.units_share, set scoring.dtype to float32, or choose another scoring.proxy"
        )
    else:
        _log.info(str(fidelity))
