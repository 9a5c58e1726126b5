"""One arm with one seed: an ordinary run with wall and processor time of each stage.

Runs the stages of `pipeline.loop` in this process, and evaluates the model after each round, which
is not counted.
"""

import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, process_time
from typing import Any, Protocol

import polars as pl

from attent_select.plugins import load_plugin
from learning_arms.pace import Pace
from pipeline.cluster import Client
from pipeline.config import run_config
from pipeline.loop import select_and_train
from pipeline.runs.state import Run, ensure_decision, prepare
from pipeline.scoring.score_stage import score_stage
from pipeline.selection.select_stage import select_stage

STAGES = ("score", "select", "train")


@dataclass
class Clock:
    """Wall and processor seconds per stage, of this process and the workers."""

    client: Client
    wall: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    cpu: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def counting(self, stage: str) -> Iterator[None]:
        started, cpu_started = monotonic(), self._cpu_seconds()
        yield
        self.wall[stage] += monotonic() - started
        self.cpu[stage] += self._cpu_seconds() - cpu_started

    def _cpu_seconds(self) -> float:
        return process_time() + sum(self.client.run(process_time).values())


class Judge(Protocol):
    """Evaluates a model."""

    def metrics(self, model: Any) -> dict[str, float]: ...


@dataclass(frozen=True)
class HeldOutSet:
    """Batches on which every arm is evaluated, collated once."""

    task: Any
    batches: list[Any]

    def metrics(self, model: Any) -> dict[str, float]:
        return dict(self.task.evaluate(model, self.batches))


def held_out(path: str, sections: Mapping[str, Any], *, rows: int | None = None) -> HeldOutSet:
    """Batches of a Parquet file's rows, prepared by the task of `sections`."""
    from trainers.scoring.evaluation import held_out_batches
    from trainers.settings import ScoringSettings

    settings = dict(sections["task"])
    task = load_plugin("trainers.tasks", settings.pop("name"))(**settings)
    scoring = ScoringSettings(**sections.get("scoring", {}))
    samples = pl.read_parquet(path, columns=list(task.columns)).head(rows or 1 << 30)
    batches = held_out_batches(task, samples.iter_rows(named=True), settings=scoring)
    return HeldOutSet(task, list(batches))


def run_trial(
    settings: Mapping[str, Any],
    *,
    client: Client,
    curve: Judge | None,
    final: Sequence[Judge],
) -> dict[str, Any]:
    """Run `settings` and return costs and metrics; the run itself is removed.

    Args:
        settings: a configuration without `evaluation`.
        client: client of a cluster with one warm worker.
        curve: evaluation after every round.
        final: evaluation at the end.
    """
    config = run_config.parse(settings)
    folder = Path(config.run)
    shutil.rmtree(folder, ignore_errors=True)
    run = prepare(config, cluster=lambda: client)
    clock, points = Clock(client), []
    samples_seen = units_seen = samples_scored = 0.0
    read_seconds, number = 0.0, 0
    model, pace = None, Pace()
    while number < len(run.rounds):
        pace.measure()
        run, values = _round(run, number, clock=clock, client=client)
        pace.measure()
        samples_seen += values["samples_seen"]
        units_seen += values["units_seen"]
        samples_scored += values.get("samples_scored", 0.0)
        read_seconds += values.get("blocked_seconds", 0.0)
        model = _model(run, number)
        point = {"cpu_seconds": sum(clock.cpu.values()), "samples_seen": samples_seen}
        point |= {"ratio": run.rounds[number].ratio, "train_loss": values["train_loss"]}
        points.append(point | (curve.metrics(model) if curve is not None else {}))
        number += 1
    shutil.rmtree(folder)
    return {
        "samples_seen": samples_seen,
        "units_seen": units_seen,
        "samples_scored": samples_scored,
        "cpu_seconds": {stage: clock.cpu[stage] for stage in STAGES},
        "wall_seconds": {stage: clock.wall[stage] for stage in STAGES} | {"read": read_seconds},
        "pace_seconds": pace.seconds,
        "rounds": points,
        "final": {name: value for one in final for name, value in one.metrics(model).items()},
    }


def _round(run: Run, number: int, *, clock: Clock, client: Client) -> tuple[Run, dict[str, float]]:
    """Run one round like `pipeline.loop.run_rounds`, with a clock."""
    with clock.counting("select"):
        run = ensure_decision(run, number)
    if run.needs_losses(run.rounds[number]):
        with clock.counting("score"):
            score_stage(run, run.rounds[number], cluster=lambda: client)
    with clock.counting("select"):
        select_stage(run, run.rounds[number])
    with clock.counting("train"):
        return select_and_train(run, number)


def _model(run: Run, number: int) -> Any:
    from trainers import checkpoint

    saved = checkpoint.open(run.layout.checkpoint(number))
    assert saved is not None
    return saved.load(run.config.task.task.models(run.config.model))
