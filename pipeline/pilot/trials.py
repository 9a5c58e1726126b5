"""The small runs of a pilot, done one after the other; each leaves a file with what it showed.

Publishing that file is what makes a run finished; its folder is then deleted. A pilot that was
killed continues inside the run that it was in.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from catalogs import storage
from catalogs.layout import join
from pipeline.config import run_config
from pipeline.loop import run_rounds
from pipeline.pilot.plan import SCORING, Trial
from pipeline.pilot.verdict import Outcome
from pipeline.progress import progress
from pipeline.runs.lease import hold_lease
from pipeline.runs.setup import Cluster
from pipeline.stages import make_ready

_SECONDS = ("score_seconds", "select_seconds", "train_seconds")


# Name and seed of a run → what it showed.
Results = Mapping[tuple[str, int], Mapping[str, float]]


def run_trials(trials: Sequence[Trial], *, folder: str, cluster: Cluster) -> Results:
    """Return what each run showed: `loss`, `cost` in units trained on with scoring counted, and
    `seconds`.
    """
    results = {}
    with progress("pilot", total=len(trials), unit="runs") as advance:
        for trial in trials:
            results[trial.name, trial.seed] = _result(trial, folder=folder, cluster=cluster)
            advance(1)
    return results


def outcomes_of(results: Results, name: str) -> dict[int, Outcome]:
    """Return the outcomes of the runs of that name by seed."""
    return {
        seed: Outcome(result["cost"], result["loss"])
        for (each, seed), result in results.items()
        if each == name
    }


def _result(trial: Trial, *, folder: str, cluster: Cluster) -> dict[str, float]:
    name = f"{trial.name}-{trial.seed}"
    url, run = join(folder, "results", f"{name}.json"), join(folder, "runs", name)
    if storage.info(url) is None:
        values = _train({**trial.values, "run": run}, cluster=cluster)
        storage.publish(url, json.dumps(values).encode())
    storage.delete_folder(run)
    result: dict[str, float] = json.loads(storage.read(url))
    return result


def _train(values: Mapping[str, Any], *, cluster: Cluster) -> dict[str, float]:
    config = run_config.parse(values, source="a run of the pilot")
    with hold_lease(config.run):
        run = make_ready(config, cluster=cluster)
        judge = "" if config.target is None else "target"
        rounds = [metrics for _, metrics in run_rounds(run, cluster=cluster, judged_by=judge)]

    def total(name: str) -> float:
        return sum(metrics.get(name) or 0.0 for metrics in rounds)

    scored = total("samples_scored") / total("samples_seen")
    return {
        "loss": rounds[-1]["eval_loss" if config.target is None else "target_loss"],
        "cost": total("units_seen") * (1 + SCORING * scored),
        "seconds": sum(map(total, _SECONDS)),
    }
