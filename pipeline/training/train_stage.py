"""The train stage of a round: fit on its index file, evaluate, publish the round's metrics."""

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from time import monotonic
from typing import Any

from attent_select.errors import InputError
from attent_select.schedule.rounds import Round
from attent_select.schema import NUM_UNITS
from attent_select.stats.randomness import stream_key
from catalogs import Corpus, IndexFile, storage
from catalogs.losses import pools
from catalogs.losses.fidelity import fidelity_in
from catalogs.losses.unusable import Unusable
from pipeline import metrics
from pipeline.progress import progress
from pipeline.runs.setup import Cluster
from pipeline.runs.state import Run
from pipeline.training import compact_shards
from pipeline.training.held_out import HeldOut, held_out_parts
from pipeline.training.round_notes import LearningRates, notes_of
from trainers import OrderSettings, RankShare, TeachingStream, checkpoint, ranks
from trainers.fitting import FitResult, fit
from trainers.streaming.sources import read_policy

_log = logging.getLogger("attent.pipeline.training.train_stage")

# What a finished round keeps of its stream's statistics.
_STREAM_STATS = (
    "bytes_read",
    "bytes_cached",
    "bytes_selected",
    "num_requests",
    "blocked_seconds",
    "num_skipped",
    "padding",
)


def train_stage(
    run: Run,
    round_: Round,
    index: IndexFile,
    *,
    cluster: Cluster | None = None,
    judges: Collection[str] | None = None,
) -> dict[str, float]:
    """Train the round on `index`, evaluate, and publish the round's metrics, which are returned.

    Every rank of a launcher calls it. Numbers that an earlier process measured and did not publish
    are left out. With a `cluster`, the rows may first be written as compact shards.
    Only the held-out parts named by `judges` are evaluated; default: all.

    Raises:
        InputError: the index has another number of samples than the round.
    """
    earlier = _scoring_metrics(run, round_)
    earlier |= metrics.read_selection(run.config.run, round_.number)
    with _compact_shards(run, round_, index, cluster=cluster) as compact:
        stream = _open_stream(run, round_, index, compact)
        held_out = held_out_parts(run.config)
        if judges is not None:
            held_out = {name: held_out[name] for name in judges}
        rates = LearningRates(first_step=round_.first_step, num_steps=round_.num_steps)
        measured = _train(run, round_, index, stream, held_out, earlier=earlier, rates=rates)
        numbers = {name: value for name, value in measured.items() if value is not None}
        unusable = _unusable(run, round_, stream, held_out)
        publish = partial(
            metrics.publish,
            run.config.run,
            round_.number,
            numbers,
            unusable=unusable,
            notes=notes_of(rates),
        )
        # The other ranks wait: what follows reads the metrics.
        ranks.in_turn(publish, then=lambda: None)
    return numbers


def _train(
    run: Run,
    round_: Round,
    index: IndexFile,
    stream: TeachingStream,
    held_out: Mapping[str, HeldOut],
    *,
    earlier: dict[str, float | None],
    rates: LearningRates,
) -> dict[str, float | None]:
    """Train, unless that is done, and return the round's numbers; None: not measured."""
    folder = run.layout.checkpoint(round_.number)
    is_trained = checkpoint.open(folder) is not None
    is_begun = is_trained or checkpoint.newest(folder) is not None
    started = monotonic()
    result = _fit(run, round_, stream, held_out, rates)
    evaluate_seconds = sum(part.seconds for part in held_out.values())
    elapsed = monotonic() - started - evaluate_seconds
    return {
        "ratio": round_.ratio,
        "num_samples": index.num_samples,
        "num_units": index.provenance.get(NUM_UNITS),
        "samples_seen": result.samples_seen,
        "units_seen": result.units_seen,
        "units_per_second": result.units_seen / result.seconds if result.seconds else None,
        "num_steps": result.num_steps,
        "train_loss": result.train_loss,
        **earlier,
        # A resumed round has the steps of all attempts, but only the last one's time around them.
        "train_seconds": result.seconds if is_trained else max(result.seconds, elapsed),
        "evaluate_seconds": None if is_trained else evaluate_seconds,
        **({} if is_begun else {name: getattr(stream.stats, name) for name in _STREAM_STATS}),
        **result.metrics,
    }


def _fit(
    run: Run,
    round_: Round,
    stream: TeachingStream,
    held_out: Mapping[str, HeldOut],
    rates: LearningRates,
) -> FitResult:
    config, catalog = run.config, run.catalog
    with progress(f"training {round_.number}", total=round_.num_steps, unit="steps") as advance:
        return fit(
            stream,
            task=config.task.task,
            models=config.task.task.models(config.model),
            start=run.start_checkpoint(round_),
            out=run.layout.checkpoint(round_.number),
            settings=config.training,
            first_step=round_.first_step,
            total_steps=run.total_steps,
            on_schedule=run.on_schedule(round_),
            seed=config.seed,
            on_losses=lambda step, rows: catalog.write_observed(
                round_.number, f"{step:010d}", rows
            ),
            evaluation=held_out.get(""),
            further_evaluations={name: part for name, part in held_out.items() if name},
            on_step=lambda _: advance(1),
            on_learning_rate=rates.add,
        )


def _open_stream(
    run: Run, round_: Round, index: IndexFile, compact: Corpus | None
) -> TeachingStream:
    training = run.config.training
    stream = TeachingStream(
        index,
        run.corpus,
        run.config.task.task,
        order=OrderSettings(
            seed=stream_key(run.config.seed, round_.number),
            batch_size=training.batch_size,
            epochs=round_.epochs,
        ),
        share=RankShare.of_process(
            micro_batch_size=training.micro_batch_size,
            micro_batch_units=training.micro_batch_units,
        ),
        settings=run.config.streaming,
        compact=compact,
        max_failed_share=run.config.scoring.max_failed_share,
    )
    if stream.num_steps != round_.num_steps:
        raise InputError(
            f"{index.url} selects {index.num_samples} samples, round {round_.number} of the "
            f"schedule has {round_.num_samples}: delete the index, or select that many samples"
        )
    return stream


@contextmanager
def _compact_shards(
    run: Run, round_: Round, index: IndexFile, *, cluster: Cluster | None
) -> Iterator[Corpus | None]:
    """Yield the round's rows as compact shards, if that is configured and pays; delete them after.

    With several ranks, shards that exist are read and none are written.
    """
    columns = run.config.task.task.columns
    folder = compact_shards.folder_of(run.config.run, round_.number, index, columns=columns)
    is_alone = ranks.world_size() == 1
    corpus = compact_shards.open_compact(folder)
    if corpus is None and cluster is not None and is_alone and _pays(run, round_, index):
        try:
            corpus = compact_shards.materialise(
                index, run.corpus, columns=columns, folder=folder, client=cluster()
            )
        except InputError as error:
            if run.config.streaming.materialise == "always":
                raise
            _log.warning(f"round {round_.number}: no compact shards are written: {error}")
    yield corpus
    if corpus is not None and is_alone:
        storage.delete_folder(folder)


def _pays(run: Run, round_: Round, index: IndexFile) -> bool:
    """Whether compact shards are configured, or are estimated to save enough time."""
    settings, shards = run.config.streaming, run.corpus.shards
    if settings.materialise != "auto" or round_.epochs == 1:
        return settings.materialise == "always"
    with storage.use_read_policy(read_policy(settings)):
        estimate = compact_shards.estimate(index, run.corpus, columns=run.config.task.task.columns)
    num_threads = settings.num_read_threads(is_local=storage.is_local(shards[0].uri))
    return estimate.pays(epochs=round_.epochs, connections=max(num_threads, 1))


def _unusable(
    run: Run, round_: Round, stream: TeachingStream, held_out: Mapping[str, HeldOut]
) -> dict[str, Unusable]:
    """Return the samples that scoring, training (on all ranks) and evaluation could not use."""
    evaluation = Unusable()
    for part in held_out.values():
        evaluation.update(part.unusable)
    training = Unusable()
    for of_rank in ranks.gather(stream.stats.unusable):
        training.update(of_rank)
    return {
        "scoring": Unusable.of(_scored_by(run, round_).get("unusable", {})),
        "training": training,
        "evaluation": evaluation,
    }


def _scoring_metrics(run: Run, round_: Round) -> dict[str, float | None]:
    provenance = _scored_by(run, round_)
    if not provenance:
        return {"score_seconds": 0.0}
    fidelity = fidelity_in(provenance)
    numbers: dict[str, float | None] = {
        "score_seconds": provenance["seconds"],
        "samples_scored": provenance.get("scored"),
    }
    if fidelity is not None:
        numbers |= {
            "score_rank_correlation": fidelity.rank_correlation,
            "score_cost_share": fidelity.cost_share,
        }
    return numbers


def _scored_by(run: Run, round_: Round) -> dict[str, Any]:
    """Return the provenance of the losses of a round; nothing if it was not scored."""
    if round_.number in run.catalog.rounds():
        return run.catalog.provenance(round_.number)
    if run.config.pool is not None and round_.number in pools.pool_rounds(run.config.run):
        return pools.pool_provenance(run.catalog, round_.number)
    return {}
