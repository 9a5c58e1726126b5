"""MLflow: a run of the experiment, at the store that MLFLOW_TRACKING_URI names."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run
from mlflow.exceptions import MlflowException

from pipeline.tracking.tracker import PROJECT, TrackedRound, TrackedRun, TrackerError

# Limits of a store on one request, and on the text of a parameter.
_METRICS, _PARAMS, _CHARACTERS = 1000, 100, 500
_ID = "attent_select.run_id"


class Mlflow:
    """The store and the experiment that MLflow's environment variables name."""

    def check(self) -> None:
        """Check the URI of the store. A server that is down now may be up after the round."""
        with _errors():
            MlflowClient()

    def send(self, run: TrackedRun, rounds: Sequence[TrackedRound]) -> None:
        """Log the metrics of rounds; a SQL store ignores those that it has."""
        metrics = [metric for round_ in rounds for metric in _metrics(round_)]
        with _errors():
            client = MlflowClient()
            run_id = _run(client, run).info.run_id
            for first in range(0, len(metrics), _METRICS):
                client.log_batch(run_id, metrics=metrics[first : first + _METRICS])


def _metrics(round_: TrackedRound) -> Iterator[Metric]:
    time = round(round_.finished.timestamp() * 1000)
    for step, values in round_.rows.items():
        yield from (Metric(name, value, time, step) for name, value in values.items())


def _experiment(client: MlflowClient) -> str:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    known = client.get_experiment_by_name(name)
    return str(client.create_experiment(name) if known is None else known.experiment_id)


def _run(client: MlflowClient, run: TrackedRun) -> Run:
    """Return the run with our id as its tag, which is made with the settings as parameters."""
    experiment = _experiment(client)
    if known := client.search_runs([experiment], f"tags.`{_ID}` = '{run.id}'"):
        return known[0]
    created = client.create_run(experiment, run_name=run.name, tags={_ID: run.id, "url": run.url})
    params = [Param(name, str(value)[:_CHARACTERS]) for name, value in run.settings.items()]
    for first in range(0, len(params), _PARAMS):
        client.log_batch(created.info.run_id, params=params[first : first + _PARAMS])
    return created


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        raise TrackerError(f"mlflow: {error}; MLFLOW_TRACKING_URI names the store") from error
