"""The rounds of a run: score → select → train, each piece skipped when its file is there.

The state machine over files. Every piece publishes the one file that makes it count last: the
snapshot, the index, the checkpoint's marker, the round's metrics. So a run may be killed at any
moment; running it again finishes what was begun.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import polars as pl

from attent_select.errors import ExistsError, InputError, MissingError
from attent_select.schedule.rounds import Round
from attent_select.schema import INDEX, PROBABILITY, WEIGHT
from attent_select.stats.randomness import stream_key
from catalogs import Corpus, IndexFile, storage
from catalogs.layout import Layout
from pipeline import metrics
from pipeline.config.sections import RunConfig, SelectionSection
from pipeline.console import progress, say
from pipeline.runs.state import Cluster, Run, decided, prepare
from pipeline.scoring.full import ScoreResult, score_round
from pipeline.scoring.partial import rescore_round
from pipeline.selection import loss_tables
from pipeline.selection.choice import Budget, Chosen, Draw, choose
from pipeline.selection.loss_tables import LossTable
from pipeline.training.held_out import HeldOut

if TYPE_CHECKING:
    from trainers import TeachingStream
    from trainers.fitting import FitResult

__all__ = [
    "Cluster",
    "Run",
    "all_rounds",
    "decided",
    "prepare",
    "score_stage",
    "select_stage",
    "train_stage",
]


def score_stage(
    run: Run, round_: Round, *, cluster: Cluster, checkpoint: str | None = None
) -> ScoreResult:
    """The losses of all samples with `checkpoint`: by default what the round starts from.

    As many are measured as was decided, all where nothing was.
    """
    where = {
        "client": cluster(),
        "round_number": round_.number,
        "checkpoint": checkpoint or run.start_checkpoint(round_),
    }
    decision = run.decisions.get(round_.number)
    share = 1.0 if decision is None else decision.rescore
    if share == 1 or (share == 0 and not run.needs_losses(round_)):
        return score_round(run.config, **where)
    taught = [r.ratio for r in run.rounds[: round_.number] if r.phase == "teach"]
    ratio = taught[-1] if taught else round_.ratio
    return rescore_round(run.config, share=share, ratio=ratio, **where)


def select_stage(run: Run, round_: Round) -> IndexFile:
    """The index file of the round, written unless it is there.

    It has as many rows as planned, or all that are eligible where those are fewer.

    Raises:
        InputError: no row is eligible.
        MissingError: the round is chosen by losses and was not scored.
    """
    url = run.layout.index(round_.number)
    if storage.info(url) is not None:
        return IndexFile.open(url, corpus=run.corpus)
    provenance: dict[str, Any] = {
        "corpus_id": run.corpus.corpus_id,
        "num_shards": len(run.corpus.shards),
        "num_samples": run.corpus.num_samples,
        "round": asdict(round_),
        "seed": run.config.seed,
    }
    if round_.phase != "teach":
        count = run.corpus.num_samples
        return _write_index(
            run, url, _all_rows(run.corpus), num_samples=count, provenance=provenance
        )
    table = _losses(run, round_)
    if table is not None:
        provenance["losses"] = run.catalog.provenance(round_.number)["checkpoint_digest"]
    with loss_tables.problems_named(table):
        chosen = _chosen(run, round_, table)
        selection = chosen.selection
        is_short = selection.num_samples < round_.num_samples
        provenance |= {
            "selection": _section(run, round_).model_dump(mode="json"),
            # With quotas fewer than all that are eligible can be had.
            "eligible": selection.num_samples if is_short else selection.eligible,
            "threshold": selection.threshold,
            "loss_share": chosen.loss_share,
        }
        return _write_index(
            run,
            url,
            selection.frames(),
            num_samples=selection.num_samples,
            provenance=provenance,
        )


def train_stage(run: Run, round_: Round, *, cluster: Cluster | None = None) -> dict[str, float]:
    """Trains the round on its index, evaluates, and publishes the round's metrics (returned).

    Every rank of a launcher calls it; the first one selects. What an earlier process measured and
    could not publish is left out. With a `cluster` the rows may be written as compact shards first.
    """
    from trainers import ranks

    if (finished := metrics.read(run.config.run, round_.number)) is not None:
        return finished
    is_selected = storage.info(run.layout.index(round_.number)) is not None
    started = monotonic()
    index = ranks.in_turn(partial(select_stage, run, round_))
    select_seconds = None if is_selected else monotonic() - started
    run = run.after_selecting(round_.number, index)
    round_ = run.rounds[round_.number]
    with _compact(run, round_, index, cluster=cluster) as compact:
        return _trained(run, round_, index, compact, select_seconds=select_seconds)


def _trained(
    run: Run,
    round_: Round,
    index: IndexFile,
    compact: Corpus | None,
    *,
    select_seconds: float | None,
) -> dict[str, float]:
    from trainers import checkpoint

    stream = _stream(run, round_, index, compact)
    held_out = _held_out(run.config)
    is_trained = checkpoint.open(run.layout.checkpoint(round_.number)) is not None
    is_begun = is_trained or checkpoint.newest(run.layout.checkpoint(round_.number)) is not None
    started = monotonic()
    result = _fit(run, round_, stream, held_out)
    evaluate_seconds = held_out.seconds if held_out is not None else 0.0
    around = monotonic() - started - evaluate_seconds
    measured = {
        "ratio": round_.ratio,
        "num_samples": index.num_samples,
        "samples_seen": result.samples_seen,
        "num_steps": result.num_steps,
        "train_loss": result.train_loss,
        **_scoring(run, round_),
        "select_seconds": select_seconds,
        # A resumed round counts the steps of all attempts, but the time around them of the last.
        "train_seconds": result.seconds if is_trained else max(result.seconds, around),
        "evaluate_seconds": None if is_trained else evaluate_seconds,
        **({} if is_begun else _reading(stream)),
        **result.metrics,
    }
    values = {name: value for name, value in measured.items() if value is not None}
    if stream.share.rank == 0:
        metrics.publish(run.config.run, round_.number, values)
    return values


def all_rounds(run: Run, *, cluster: Cluster) -> Iterator[tuple[Round, dict[str, float]]]:
    """Does every round that is not finished; yields each with its metrics as soon as it is.

    Every rank of a launcher calls it: the first one decides, scores and selects, all of them train.
    """
    from trainers import ranks

    number = 0
    while number < len(run.rounds):
        run = ranks.in_turn(
            partial(_scored, run, number, cluster=cluster),
            then=partial(prepare, run.config, cluster=cluster),
        )
        round_ = run.rounds[number]
        values = train_stage(run, round_, cluster=cluster)
        run = run.after_selecting(number, select_stage(run, round_))
        yield run.rounds[number], values
        number += 1


def _scored(run: Run, number: int, *, cluster: Cluster) -> Run:
    """The run with its round as decided; its losses are measured, if it needs them still."""
    run = decided(run, number)
    round_ = run.rounds[number]
    if metrics.read(run.config.run, round_.number) is None:
        is_selected = storage.info(run.layout.index(round_.number)) is not None
        if run.needs_losses(round_) and not is_selected:
            score_stage(run, round_, cluster=cluster)
    return run


def _write_index(
    run: Run,
    url: str,
    rows: pl.LazyFrame | Iterable[pl.DataFrame],
    *,
    num_samples: int,
    provenance: dict[str, Any],
) -> IndexFile:
    """Writes the index, or opens the one that another process of this run wrote meanwhile: the
    same rows, as the configuration is frozen.
    """
    try:
        return IndexFile.write(url, rows, provenance=provenance, num_samples=num_samples)
    except ExistsError:
        return IndexFile.open(url, corpus=run.corpus)


def _chosen(run: Run, round_: Round, table: LossTable | None) -> Chosen:
    """As many rows as planned, or as many as there are."""
    chosen = choose(
        table.rows if table is not None else run.corpus.rows(),
        _section(run, round_),
        budget=Budget(num_samples=round_.num_samples, at_most=True),
        draw=Draw(
            run.config.seed,
            round_.number,
            [each.first_step for each in run.rounds[: round_.number + 1]],
        ),
        corpus=run.corpus,
        preview=table.preview if table is not None else None,
    )
    if chosen.selection.num_samples < round_.num_samples:
        say(
            f"round {round_.number}: {round_.num_samples:,} samples are planned, only "
            f"{chosen.selection.num_samples:,} are eligible; it trains on these"
        )
    return chosen


def _section(run: Run, round_: Round) -> SelectionSection[Any]:
    """The configuration's, with the share to draw at random that was decided."""
    section: SelectionSection[Any] = run.config.selection
    decision = run.decisions.get(round_.number)
    if decision is None:
        return section
    composition = replace(section.composition, explore=decision.explore)
    return section.model_copy(update={"composition": composition})


def _losses(run: Run, round_: Round) -> LossTable | None:
    """What the round is chosen by, if it is chosen by losses."""
    if not run.needs_losses(round_):
        return None
    if round_.number not in run.catalog.rounds():
        raise MissingError(
            f"round {round_.number} is chosen by losses and was not scored: run "
            f"`attent score {run.config.run} --round {round_.number}`"
        )
    return loss_tables.of_run(run.catalog, url=run.config.run, round_number=round_.number)


def _all_rows(corpus: Corpus) -> pl.LazyFrame:
    return corpus.rows().with_columns(
        pl.lit(1.0, dtype=INDEX[name]).alias(name) for name in (WEIGHT, PROBABILITY)
    )


@contextmanager
def _compact(
    run: Run, round_: Round, index: IndexFile, *, cluster: Cluster | None
) -> Iterator[Corpus | None]:
    """The round's rows as compact shards while it trains, if that is configured and pays."""
    from pipeline.training import compact_shards
    from trainers import ranks

    columns = run.config.task.task.columns
    folder = compact_shards.folder_of(run.config.run, round_.number, index, columns=columns)
    # Several ranks would write them several times: they read what is there.
    is_alone = ranks.world_size() == 1
    found = compact_shards.opened(folder)
    if found is None and cluster is not None and is_alone and _is_to_be_compact(run, round_, index):
        try:
            found = compact_shards.materialise(
                index, run.corpus, columns=columns, folder=folder, client=cluster()
            )
        except InputError as error:
            if run.config.streaming.materialise == "always":
                raise
            say(f"round {round_.number}: its samples are read where they are: {error}")
    yield found
    if found is not None and is_alone:
        storage.delete_folder(folder)


def _is_to_be_compact(run: Run, round_: Round, index: IndexFile) -> bool:
    from pipeline.training import compact_shards
    from pipeline.training.teaching_stream import connections_of, read_policy

    settings, shards = run.config.streaming, run.corpus.shards
    if settings.materialise != "auto" or round_.epochs == 1:
        return settings.materialise == "always"
    with storage.use_read_policy(read_policy(settings)):
        estimate = compact_shards.estimate(index, run.corpus, columns=run.config.task.task.columns)
    connections = connections_of(settings, url=shards[0].uri)
    return estimate.pays(epochs=round_.epochs, connections=connections)


def _reading(stream: "TeachingStream") -> dict[str, float]:
    stats = stream.stats
    names = (
        "bytes_read",
        "bytes_cached",
        "bytes_selected",
        "num_requests",
        "blocked_seconds",
        "num_skipped",
    )
    return {name: getattr(stats, name) for name in names}


def _stream(run: Run, round_: Round, index: IndexFile, compact: Corpus | None) -> "TeachingStream":
    from pipeline.training.teaching_stream import Place, open_stream
    from trainers import ranks

    training = run.config.training
    stream = open_stream(
        index,
        run.corpus,
        run.config.task.task,
        place=Place(
            seed=stream_key(run.config.seed, round_.number),
            batch_size=training.batch_size,
            micro_batch_size=training.micro_batch_size,
            epochs=round_.epochs,
            rank=ranks.rank(),
            world_size=ranks.world_size(),
        ),
        settings=run.config.streaming,
        compact=compact,
        max_skipped_share=run.config.scoring.max_failed_share,
    )
    if stream.num_steps != round_.num_steps:
        raise InputError(
            f"{index.url} selects {index.num_samples} samples, the plan of round {round_.number} "
            f"has {round_.num_samples}: delete the index, or select as many as planned"
        )
    return stream


def _fit(
    run: Run, round_: Round, stream: "TeachingStream", held_out: HeldOut | None
) -> "FitResult":
    from trainers.fitting import fit

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
            seed=config.seed,
            on_losses=lambda step, rows: catalog.write_observed(
                round_.number, f"{step:010d}", rows
            ),
            evaluation=held_out,
            on_step=lambda _: advance(1),
        )


def _held_out(config: RunConfig) -> HeldOut | None:
    if config.evaluation is None:
        return None
    corpus = Corpus.open(Layout(config.run).held_out)
    return HeldOut(config.task.task, corpus, config.scoring)


def _scoring(run: Run, round_: Round) -> dict[str, float | None]:
    if round_.number not in run.catalog.rounds():
        return {"score_seconds": 0.0}
    measured = run.catalog.provenance(round_.number)
    return {"score_seconds": measured["seconds"], "samples_scored": measured.get("scored")}
