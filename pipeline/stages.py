"""The Python functions behind `attent ingest`, `score`, `train` and `run`.

Each opens what its stage needs (configuration, lease, cluster) and describes the result.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import Any

from attent_select.errors import InputError
from attent_select.schedule.rounds import Round
from catalogs import storage
from catalogs.layout import CorpusLayout, Layout, join
from catalogs.shard_search import find_shards
from catalogs.shards import format_of
from pipeline import metrics
from pipeline.annotation.for_run import make_annotations
from pipeline.annotation.judging import choose_judging
from pipeline.cluster import Client, cluster_at, connect_when_needed
from pipeline.config import credentials, run_config, trust
from pipeline.config.sections import RunConfig
from pipeline.corpus.append import append_shards, check_appendable
from pipeline.corpus.conversion import Conversion
from pipeline.corpus.conversion import convert as convert_samples
from pipeline.corpus.ingest import IngestResult, ingest
from pipeline.descriptions import describe_round
from pipeline.loop import run_rounds, select_and_train
from pipeline.runs.first_quotas import check_quotas
from pipeline.runs.label_classes import with_frozen_classes
from pipeline.runs.lease import hold_lease
from pipeline.runs.setup import Cluster, SaveInitial, ingest_corpora, save_initial
from pipeline.runs.setup_process import setup_in_subprocess
from pipeline.runs.state import Run, ensure_decision, prepare
from pipeline.scoring.driver import ScoreResult
from pipeline.scoring.score_stage import score_stage
from pipeline.selection import annotation_digests
from pipeline.tracking.sending import load_trackers, send_rounds

_log = logging.getLogger("attent.pipeline.stages")

_COUNTS = ("num_", "bytes_", "samples_")
_STAGES = ("score", "select", "train", "evaluate")


def score(
    source: str | RunConfig,
    *,
    round_number: int | None = None,
    fraction: float | None = None,
    client: Client | None = None,
    scheduler: str | None = None,
    overrides: Sequence[str] = (),
    trust_run: bool = False,
) -> ScoreResult:
    """Measure the losses of the corpus with the weights that a round starts from.

    Args:
        source: a run, a CONFIG.yaml (which creates the run), or a checked configuration.
        round_number: default: the first round that is not finished.
        fraction: share of the corpus to measure, in [0, 1]; the other losses are those of the last
            scored round, or observed since. Default: what `schedule.rescore` says.
        client: of a running cluster; without one, the configured cluster is started.
        scheduler: replaces the configured `cluster.scheduler`.
        overrides: `dotted.key=value`, each replaces a key of the configuration.
        trust_run: use the code and the cluster that the run.yaml of a run names.

    Raises:
        InputError: the configuration is wrong, or the round before was not trained.
        ClusterError: the cluster was lost; call again to resume.
    """
    origin = Origin(source, run_config.with_scheduler(overrides, scheduler), trust_run=trust_run)
    with (
        _light_config(origin) as (config, save_initial),
        hold_lease(config.run),
        open_cluster(config, client, origin) as cluster,
    ):
        run = make_ready(config, cluster=cluster, save_initial=save_initial)
        run = ensure_decision(run, run.round(round_number).number, fraction=fraction)
        return score_stage(run, run.round(round_number), cluster=cluster)


def train(
    source: str | RunConfig,
    *,
    round_number: int | None = None,
    client: Client | None = None,
    overrides: Sequence[str] = (),
    trust_run: bool = False,
) -> dict[str, Any]:
    """Train one round (default: the first unfinished one); write its index if it is missing.

    Every rank of a launcher (torchrun) calls it. Takes what `score` takes. Returns `rounds` (one,
    as `run` describes it) and `checkpoint`, its URL.

    Raises:
        MissingError: the selection needs losses and the round was not scored.
        InputError: the configuration is wrong, or a tracker cannot be used.
    """
    from trainers import ranks

    origin = Origin(source, overrides, trust_run=trust_run)
    config = origin.load()
    _check_trainable(config)
    trackers = load_trackers(config.tracking) if ranks.rank() == 0 else {}
    with hold_lease(config.run), open_cluster(config, client, origin) as cluster:
        load = partial(prepare, config, cluster=cluster)

        def decide() -> Run:
            run = make_ready(config, cluster=cluster)
            return ensure_decision(run, run.round(round_number).number)

        run = ranks.in_turn(decide, then=load)
        number = run.round(round_number).number
        run, values = select_and_train(run, number, cluster=cluster)
        send_rounds(config.run, trackers)
        return _result(run, [_describe(run, run.rounds[number], values)])


def run(
    source: str | RunConfig,
    *,
    client: Client | None = None,
    scheduler: str | None = None,
    overrides: Sequence[str] = (),
    accept_annotations: bool = False,
    trust_run: bool = False,
) -> dict[str, Any]:
    """Finish every round of a run. Call it again to resume after an interruption.

    Every rank of a launcher (torchrun) calls it: the first one scores and selects, all of them
    train. Takes what `score` takes, and `accept_annotations`: select the rounds to come by
    annotations that were replaced since the last round.

    Returns:
        `rounds`, each with `round`, `phase`, `ratio`, `samples_seen`, `train_loss` (nats), the
        metrics of the evaluation, `seconds` per stage, their `total` without the evaluation, and
        `unusable`, the samples that a stage could not use: `counts` by status and `examples` of
        each cause; and `checkpoint`, the URL of the last one. A number that was lost with a killed
        process is missing.
    """
    from trainers import ranks

    origin = Origin(source, run_config.with_scheduler(overrides, scheduler), trust_run=trust_run)
    config = origin.load()
    _check_trainable(config)
    trackers = load_trackers(config.tracking) if ranks.rank() == 0 else {}
    with hold_lease(config.run), open_cluster(config, client, origin) as cluster:
        ready = ranks.in_turn(partial(make_ready, config, cluster=cluster))
        if accept_annotations and ranks.rank() == 0:
            annotation_digests.accept_annotations(config.run)
        finished = []
        for round_, values in run_rounds(ready, cluster=cluster):
            finished.append(_describe(ready, round_, values))
            _log.info(describe_round(finished[-1]))
            send_rounds(config.run, trackers)
        return _result(ready, finished)


def ingest_shards(
    shards: Sequence[str],
    *,
    out: str,
    convert: str | None = None,
    shard_samples: int = 10_000,
    row_group_samples: int | None = None,
    drop: Sequence[str] = (),
    types: Sequence[str] = (),
    skip_damaged: bool = False,
    append: bool = False,
    name: str | None = None,
    scheduler: str | None = None,
) -> IngestResult:
    """Ingest shards into the corpus `out`, on a new local cluster or on the one at `scheduler`.

    With `convert` (the name of a shard format), `shards` are Parquet, JSON or tar files or a folder
    of images; new shards are first written to `out`/shards, as `Conversion` says: without the
    columns `drop`, with the `types` (`NAME=TYPE`) instead of those of the values. With
    `skip_damaged`, shards that cannot be read are left out and named in the result. With `append`,
    they are added to the corpus `out` or that of the run `out`, of a mixture to its part `name`.

    Raises:
        InputError: a URL holds a credential, there is no such scheduler, or what `ingest` raises.
    """
    _check_ingest(shards, out, name=name, append=append)
    started, settings = monotonic(), cluster_at(scheduler or "local")
    corpus = storage.normalise(out)
    shards = [storage.normalise(url) for url in shards]
    with contextlib.ExitStack() as stack:
        if append:
            known = check_appendable(corpus, name=name)
            stack.enter_context(hold_lease(corpus))
        cluster = stack.enter_context(connect_when_needed(settings))
        if convert is not None:
            conversion = Conversion(
                convert, shard_samples, row_group_samples, drop=tuple(drop), schema=tuple(types)
            )
            folder = CorpusLayout(corpus).converted_shards
            if append:  # beside those of earlier calls
                folder = join(folder, f"from-{len(known.shards):06d}")
            shards = convert_samples(shards, to=folder, settings=conversion, cluster=cluster)
        result = _ingest_or_append(
            shards,
            corpus,
            client=cluster,
            skip_damaged=skip_damaged,
            name=name,
            append=append,
        )
    return replace(result, seconds=monotonic() - started)


def _check_ingest(shards: Sequence[str], out: str, *, name: str | None, append: bool) -> None:
    credentials.check_urls([*shards, out], what="ingest")
    if not all(shards):
        raise InputError("the URL of the shards is empty: expected files, a folder or a glob")
    if name is not None and not append:
        raise InputError(f"--name {name} is the part that --append adds to: give both, or neither")


def _ingest_or_append(
    shards: Sequence[str],
    folder: str,
    *,
    client: Cluster,
    skip_damaged: bool,
    name: str | None,
    append: bool,
) -> IngestResult:
    for stored in find_shards(shards):  # fails before a cluster is started
        format_of(stored.url)
    if append:
        return append_shards(
            shards, folder=folder, client=client(), skip_damaged=skip_damaged, name=name
        )
    return ingest(shards, folder=folder, client=client(), skip_damaged=skip_damaged)


def make_ready(
    config: RunConfig, *, cluster: Cluster, save_initial: SaveInitial = save_initial
) -> Run:
    """Prepare the run. Its annotations are made before its settings are frozen."""
    config = with_frozen_classes(config)
    run_config.check_frozen(config)
    ingest_corpora(config, cluster=cluster)
    check_quotas(config)  # before annotations that may take hours, if the strata are known
    make_annotations(config, cluster=cluster)
    choose_judging(config)
    return prepare(config, cluster=cluster, save_initial=save_initial)


def _check_trainable(config: RunConfig) -> None:
    """Check, before a run is created, that its task and this process can train.

    Raises:
        InputError: they cannot.
    """
    from trainers import ranks
    from trainers.task import check_training

    check_training(config.task.task)
    if storage.info(Layout(config.run).config) is None:
        ranks.check_sharding(config.training)


@dataclass(frozen=True)
class Origin:
    """What the caller of a stage gave: a checked configuration, or where to load it from."""

    source: str | RunConfig
    overrides: Sequence[str]
    trust_run: bool

    def load(self) -> RunConfig:
        if not isinstance(self.source, str):
            return self.source
        return run_config.load(self.source, overrides=self.overrides, trust_run=self.trust_run)

    def check_cluster(self) -> None:
        """Raise `InputError` if the cluster was chosen by a run that is not trusted."""
        if isinstance(self.source, str) and not self.trust_run:
            trust.check_run(self.source, ("cluster",), overrides=self.overrides)


@contextmanager
def _light_config(origin: Origin) -> Iterator[tuple[RunConfig, SaveInitial]]:
    """Yield the configuration and the function that saves its initial model, without torch.

    A subprocess does both; a process that has imported torch already does them itself.
    """
    if isinstance(origin.source, str) and "torch" not in sys.modules:
        with setup_in_subprocess(
            origin.source, overrides=origin.overrides, trust_run=origin.trust_run
        ) as setup:
            yield setup
    else:
        yield origin.load(), save_initial


@contextmanager
def open_cluster(config: RunConfig, client: Client | None, origin: Origin) -> Iterator[Cluster]:
    """Yield the client's cluster, or one that starts when it is needed."""
    if client is not None:
        yield lambda: client
        return
    with connect_when_needed(config.cluster, check=origin.check_cluster) as cluster:
        yield cluster


def _result(run: Run, finished: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "run": run.config.run,
        "rounds": finished,
        "checkpoint": run.layout.checkpoint(finished[-1]["round"]),
    }


def _describe(run: Run, round_: Round, values: Mapping[str, float]) -> dict[str, Any]:
    seconds = {
        stage: values[f"{stage}_seconds"] for stage in _STAGES if f"{stage}_seconds" in values
    }
    # The evaluation costs the same however samples are selected.
    total = sum(value for stage, value in seconds.items() if stage != "evaluate")
    rest = {
        name: int(value) if name.startswith(_COUNTS) else value
        for name, value in values.items()
        if name.removesuffix("_seconds") not in _STAGES
    }
    return {
        "round": round_.number,
        "phase": round_.phase,
        **rest,
        "seconds": seconds | {"total": total},
        "unusable": {
            stage: samples.to_dict()
            for stage, samples in metrics.read_unusable(run.config.run, round_.number).items()
        },
    }
