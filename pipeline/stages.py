"""The Python functions behind `attent ingest`, `score`, `train` and `run`.

A run's name or configuration → a cluster where one is needed → the stage's result. Not here:
the stages' work (`loop.py`).
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Any

from attent_select.schedule.rounds import Round
from catalogs import storage
from catalogs.layout import Layout
from pipeline import loop as rounds
from pipeline.cluster import Client, cluster_at, connect, connect_when_needed
from pipeline.config import credentials, run_config
from pipeline.config.sections import RunConfig
from pipeline.console import describe_round, say
from pipeline.corpus.conversion import convert as convert_samples
from pipeline.corpus.ingest import IngestResult, ingest
from pipeline.loop import Cluster, Run
from pipeline.runs import lease, setup_process
from pipeline.runs.setup import SaveInitial, save_initial
from pipeline.scoring.full import ScoreResult

_COUNTS = ("num_", "bytes_", "samples_")


def score(
    source: str | RunConfig,
    *,
    round_number: int | None = None,
    fraction: float | None = None,
    client: Client | None = None,
    scheduler: str | None = None,
    overrides: Sequence[str] = (),
) -> ScoreResult:
    """Measures the losses of the corpus with the weights that a round starts from.

    Args:
        source: a run, a CONFIG.yaml (which creates the run if need be), or a checked configuration.
        round_number: default: the first round that is not finished.
        fraction: the share of the corpus to measure, in [0, 1]; the other losses are those of the
            last scored round, or observed since. Default: what `schedule.rescore` says.
        client: of a cluster to use; without one the configuration's is started.
        scheduler: instead of the configuration's `cluster.scheduler`.
        overrides: `dotted.key=value`, each replacing a key of the configuration.

    Raises:
        InputError: the configuration is wrong, or the round before was not trained.
        ClusterError: the cluster was lost; calling again goes on.
    """
    with (
        _configured(source, scheduler=scheduler, overrides=overrides) as (config, save_initial),
        lease.held(config.run),
        _cluster(config, client) as cluster,
    ):
        run = rounds.prepare(config, cluster=cluster, save_initial=save_initial)
        run = rounds.decided(run, run.round(round_number).number, fraction=fraction)
        return rounds.score_stage(run, run.round(round_number), cluster=cluster)


def train(
    source: str | RunConfig,
    *,
    round_number: int | None = None,
    client: Client | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Trains one round (default: the first unfinished) on its index, which is selected if need be.
    Every rank of a launcher (torchrun) calls it.

    Returns `rounds` (one, as `run` describes it) and `checkpoint`, its URL.

    Raises:
        MissingError: the round is chosen by losses and was not scored.
    """
    from trainers import ranks

    config = _config(source, scheduler=None, overrides=overrides)
    with lease.held(config.run), _cluster(config, client) as cluster:
        prepare = partial(rounds.prepare, config, cluster=cluster)

        def decided() -> Run:
            run = prepare()
            return rounds.decided(run, run.round(round_number).number)

        ready = ranks.in_turn(decided, then=prepare)
        round_ = ready.round(round_number)
        return _result(
            ready, [_describe(round_, rounds.train_stage(ready, round_, cluster=cluster))]
        )


def run(
    source: str | RunConfig,
    *,
    client: Client | None = None,
    scheduler: str | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Does every round of a run that is not finished. Call it again to go on after a kill. Every
    rank of a launcher (torchrun) calls it: the first one scores and selects, all of them train.

    Takes what `score` takes. Returns `rounds`, each with `round`, `phase`, `ratio`,
    `samples_seen`, `train_loss` (nats), the metrics of the evaluation and `seconds` per stage,
    their `total` without the evaluation; and `checkpoint`, the URL of the last. A number that was
    lost with a killed process is left out.
    """
    from trainers import ranks

    config = _config(source, scheduler=scheduler, overrides=overrides)
    with lease.held(config.run), _cluster(config, client) as cluster:
        ready = ranks.in_turn(partial(rounds.prepare, config, cluster=cluster))
        finished = []
        for round_, values in rounds.all_rounds(ready, cluster=cluster):
            finished.append(_describe(round_, values))
            say(describe_round(finished[-1]))
        return _result(ready, finished)


def ingest_shards(
    shards: Sequence[str],
    *,
    out: str,
    convert: str | None = None,
    shard_samples: int = 10_000,
    scheduler: str | None = None,
) -> IngestResult:
    """Ingests shards into the run `out`, on a cluster of its own or on the one at `scheduler`.

    With `convert` (the name of a shard format) `shards` are Parquet files, JSON Lines or a folder
    of images, and new shards of `shard_samples` samples are written to `out`/corpus/shards first.

    Raises:
        InputError: a URL holds a credential, there is no such scheduler, or what `ingest` raises.
    """
    credentials.check_urls([*shards, out], what="ingest")
    started, cluster = monotonic(), cluster_at(scheduler or "local")
    run = storage.normalise(out)
    shards = [storage.normalise(url) for url in shards]
    if convert is not None:
        folder = Layout(run).converted_shards
        shards = convert_samples(
            shards, to=folder, shard_format=convert, shard_samples=shard_samples
        )
    storage.expand(shards)  # before a cluster is started for nothing
    with connect(cluster) as client:
        result = ingest(shards, run=run, client=client)
    return replace(result, seconds=monotonic() - started)


def _config(
    source: str | RunConfig, *, scheduler: str | None, overrides: Sequence[str]
) -> RunConfig:
    if not isinstance(source, str):
        return source
    return run_config.load(source, overrides=_overrides(overrides, scheduler=scheduler))


def _overrides(overrides: Sequence[str], *, scheduler: str | None) -> Sequence[str]:
    return overrides if scheduler is None else [*overrides, f"cluster.scheduler={scheduler}"]


@contextmanager
def _configured(
    source: str | RunConfig, *, scheduler: str | None, overrides: Sequence[str]
) -> Iterator[tuple[RunConfig, SaveInitial]]:
    """The configuration and what saves its initial model: for those who only score, both apart,
    unless that would save nothing, as this process has torch already.
    """
    if isinstance(source, str) and "torch" not in sys.modules:
        overrides = _overrides(overrides, scheduler=scheduler)
        with setup_process.checked(source, overrides=overrides) as found:
            yield found
    else:
        yield _config(source, scheduler=scheduler, overrides=overrides), save_initial


@contextmanager
def _cluster(config: RunConfig, client: Client | None) -> Iterator[Cluster]:
    if client is not None:
        yield lambda: client
        return
    with connect_when_needed(config.cluster) as cluster:
        yield cluster


def _result(run: Run, finished: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "run": run.config.run,
        "rounds": finished,
        "checkpoint": run.layout.checkpoint(finished[-1]["round"]),
    }


def _describe(round_: Round, values: Mapping[str, float]) -> dict[str, Any]:
    stages = [f"{stage}_seconds" for stage in ("score", "select", "train", "evaluate")]
    seconds = {name.removesuffix("_seconds"): values[name] for name in stages if name in values}
    # What learning costs: every way of choosing samples is evaluated alike.
    total = sum(value for stage, value in seconds.items() if stage != "evaluate")
    rest = {
        name: int(value) if name.startswith(_COUNTS) else value
        for name, value in values.items()
        if name not in stages
    }
    return {
        "round": round_.number,
        "phase": round_.phase,
        **rest,
        "seconds": seconds | {"total": total},
    }
