"""The rounds of a run: score → select → train, each piece skipped when its file is there.

Here: the state machine over files. Not here: the stages' own work (`scoring.py`, `attent_select`,
`trainers/fit.py`) or the commands (`stages.py`). Every piece publishes the one file that makes it
count last: the snapshot, the index, the checkpoint's marker, the round's metrics. So a run may be
killed at any moment; running it again finishes what was begun.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING, Any

import polars as pl

from attent_select.errors import ExistsError, InputError, MissingError
from attent_select.randomness import stream_key
from attent_select.schedules import Round, plan
from attent_select.schema import INDEX, PROBABILITY, WEIGHT
from attent_select.teaching import Preview, Selection, select
from catalogs import Corpus, IndexFile, LossCatalog, storage
from catalogs.layout import Layout, join
from pipeline import config as configs
from pipeline import metrics
from pipeline.cluster import Client
from pipeline.console import progress, say
from pipeline.evaluation import HeldOut
from pipeline.ingest import ingest, ingested
from pipeline.scoring import ScoreResult, score_round
from pipeline.settings import RunConfig

if TYPE_CHECKING:
    from trainers import TeachingStream
    from trainers.fit import FitResult

# Gives the cluster's client, starting the cluster if need be: most of a run goes without one.
Cluster = Callable[[], Client]


@dataclass(frozen=True)
class Run:
    """A run that is ready to go: frozen, ingested, planned, with its first checkpoint.

    Attributes:
        config: how it was frozen.
        corpus: what it learns from.
        rounds: the plan, in which the rounds selected so far have the sizes that they turned out to
            have.
        total_steps: optimizer steps of the plan as it was made: the learning rate's horizon.
    """

    config: RunConfig
    corpus: Corpus
    rounds: tuple[Round, ...]
    total_steps: int

    @property
    def layout(self) -> Layout:
        return Layout(self.config.run)

    @property
    def catalog(self) -> LossCatalog:
        return LossCatalog(self.config.run, carry=self.config.scoring.carry_schema)

    def round(self, number: int | None) -> Round:
        """The round with that number; without one, the first that is not finished.

        Raises:
            InputError: the plan has no such round, or all are finished.
        """
        if number is None:
            unfinished = (r for r in self.rounds if metrics.read(self.config.run, r.number) is None)
            if (found := next(unfinished, None)) is None:
                raise InputError(f"{self.config.run}: all {len(self.rounds)} rounds are finished")
            return found
        if not number < len(self.rounds):
            raise InputError(f"--round {number}: the plan has rounds 0 to {len(self.rounds) - 1}")
        return self.rounds[number]

    def after_selecting(self, number: int, index: IndexFile) -> "Run":
        """With the round as long as its index makes it; the rounds after it begin earlier."""
        planned = self.rounds[number]
        # Any other size than all that was eligible is not ours: `train_stage` refuses it.
        if not index.num_samples == index.provenance.get("eligible", -1) < planned.num_samples:
            return self
        batches = math.ceil(index.num_samples / self.config.training.batch_size)
        short = replace(planned, num_samples=index.num_samples, num_steps=planned.epochs * batches)
        saved = planned.num_steps - short.num_steps
        later = (replace(r, first_step=r.first_step - saved) for r in self.rounds[number + 1 :])
        return replace(self, rounds=(*self.rounds[:number], short, *later))

    def needs_losses(self, round_: Round) -> bool:
        """Whether the round's subset is chosen by what the loss catalog says."""
        return round_.phase == "teach" and self.config.selection.needs_losses

    def start_checkpoint(self, round_: Round) -> str:
        """What the round starts from, and is scored with."""
        if round_.number == 0:
            return self.layout.initial_checkpoint
        return self.layout.checkpoint(round_.number - 1)


def prepare(config: RunConfig, *, cluster: Cluster) -> Run:
    """Freezes the configuration, ingests the corpora and saves the initial model, where not done.

    Raises:
        InputError: the run was started with other settings, or a corpus cannot be used.
    """
    configs.check_frozen(config)
    _ingest(config, cluster=cluster)
    corpus = Corpus.open(config.run)
    _check_columns(corpus, config)
    rounds = plan(
        config.schedule, num_samples=corpus.num_samples, batch_size=config.training.batch_size
    )
    _start(config)
    return _selected_so_far(Run(config, corpus, rounds, sum(each.num_steps for each in rounds)))


def score_stage(
    run: Run, round_: Round, *, cluster: Cluster, checkpoint: str | None = None
) -> ScoreResult:
    """The losses of all samples with `checkpoint`: by default what the round starts from."""
    return score_round(
        run.config,
        client=cluster(),
        round_number=round_.number,
        checkpoint=checkpoint or run.start_checkpoint(round_),
    )


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
        return _write_index(run, url, _all_rows(run.corpus), provenance=provenance)
    selection = _selection(run, round_)
    provenance |= {
        "selection": run.config.selection.model_dump(mode="json"),
        "eligible": selection.eligible,
        "threshold": selection.threshold,
    }
    if run.needs_losses(round_):
        provenance["losses"] = run.catalog.provenance(round_.number)["checkpoint_digest"]
    return _write_index(run, url, selection.rows, provenance=provenance)


def train_stage(run: Run, round_: Round) -> dict[str, float]:
    """Trains the round on its index, evaluates, and publishes the round's metrics (returned).

    What an earlier process measured and could not publish is left out.
    """
    from trainers import checkpoint

    if (finished := metrics.read(run.config.run, round_.number)) is not None:
        return finished
    is_selected = storage.info(run.layout.index(round_.number)) is not None
    started = monotonic()
    index = select_stage(run, round_)
    select_seconds = None if is_selected else monotonic() - started
    run = run.after_selecting(round_.number, index)
    round_ = run.rounds[round_.number]
    stream = _stream(run, round_, index)
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
        "score_seconds": _score_seconds(run, round_),
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
    """Does every round that is not finished; yields each with its metrics as soon as it is."""
    for number in range(len(run.rounds)):
        round_ = run.rounds[number]
        if metrics.read(run.config.run, round_.number) is None:
            is_selected = storage.info(run.layout.index(round_.number)) is not None
            if run.needs_losses(round_) and not is_selected:
                score_stage(run, round_, cluster=cluster)
        values = train_stage(run, round_)
        run = run.after_selecting(number, select_stage(run, round_))
        yield run.rounds[number], values


def _write_index(
    run: Run, url: str, rows: pl.LazyFrame, *, provenance: dict[str, Any]
) -> IndexFile:
    """Writes the index, or opens the one that another process of this run wrote meanwhile: the
    same rows, as the configuration is frozen.
    """
    try:
        return IndexFile.write(url, rows, provenance=provenance)
    except ExistsError:
        return IndexFile.open(url, corpus=run.corpus)


def _selected_so_far(run: Run) -> Run:
    there = {found.url for found in storage.list_objects(run.layout.indexes)}
    for number in range(len(run.rounds)):
        if (url := run.layout.index(number)) in there:
            run = run.after_selecting(number, IndexFile.open(url, corpus=run.corpus))
    return run


def _selection(run: Run, round_: Round) -> Selection:
    """As many rows as planned, or as many as there are."""
    planned = round_.num_samples
    preview = run.catalog.preview(round_.number) if run.needs_losses(round_) else None
    try:
        return _select(run, round_, num_samples=planned, preview=preview)
    except InputError:
        # The plan counts all rows. Those that can be selected are only counted when they did not
        # suffice: that is one more pass over the losses.
        eligible = _select(run, round_, num_samples=0, preview=None).eligible
        if not 0 < eligible < planned:
            raise
    say(
        f"round {round_.number}: {planned:,} samples are planned, only {eligible:,} are eligible; "
        "it trains on these"
    )
    return _select(run, round_, num_samples=eligible, preview=preview)


def _select(run: Run, round_: Round, *, num_samples: int, preview: Preview | None) -> Selection:
    return select(
        _candidates(run, round_),
        strategy=run.config.selection.settings,
        num_samples=num_samples,
        seed=run.config.seed,
        round_number=round_.number,
        round_steps=[each.first_step for each in run.rounds[: round_.number + 1]],
        composition=run.config.selection.composition,
        preview=preview,
    )


def _candidates(run: Run, round_: Round) -> pl.LazyFrame:
    if not run.needs_losses(round_):
        return run.corpus.rows()
    if round_.number not in run.catalog.rounds():
        raise MissingError(
            f"round {round_.number} is chosen by losses and was not scored: run "
            f"`attent score {run.config.run} --round {round_.number}`"
        )
    return run.catalog.latest(round_.number)


def _all_rows(corpus: Corpus) -> pl.LazyFrame:
    return corpus.rows().with_columns(
        pl.lit(1.0, dtype=INDEX[name]).alias(name) for name in (WEIGHT, PROBABILITY)
    )


def _reading(stream: "TeachingStream") -> dict[str, float]:
    stats = stream.stats
    names = ("bytes_read", "bytes_selected", "num_requests", "blocked_seconds", "num_skipped")
    return {name: getattr(stats, name) for name in names}


def _stream(run: Run, round_: Round, index: IndexFile) -> "TeachingStream":
    from trainers import TeachingStream

    training = run.config.training
    stream = TeachingStream(
        index,
        run.corpus,
        run.config.task.settings,
        seed=stream_key(run.config.seed, round_.number),
        batch_size=training.batch_size,
        micro_batch_size=training.micro_batch_size,
        epochs=round_.epochs,
        # Of the launcher (torchrun), where there is one.
        rank=int(os.environ.get("RANK", "0")),
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
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
    from trainers.fit import fit

    config, catalog = run.config, run.catalog
    with progress(f"training {round_.number}", total=round_.num_steps, unit="steps") as advance:
        return fit(
            stream,
            task=config.task.settings,
            models=config.task.settings.models(config.model),
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
    return HeldOut(config.task.settings, corpus, config.scoring)


def _score_seconds(run: Run, round_: Round) -> float:
    if round_.number not in run.catalog.rounds():
        return 0.0
    return float(run.catalog.provenance(round_.number)["seconds"])


def _check_columns(corpus: Corpus, config: RunConfig) -> None:
    for section, columns in (
        ("task", config.task.settings.columns),
        ("scoring.carry", config.scoring.carry),
    ):
        if missing := [name for name in columns if name not in corpus.columns]:
            raise InputError(
                f"{section}: the corpus has no column {', '.join(missing)}; it has "
                f"{', '.join(corpus.columns)}"
            )


def _start(config: RunConfig) -> None:
    """Saves the initial model, then freezes: what cannot be built can still be corrected."""
    from trainers import checkpoint

    layout = Layout(config.run)
    if storage.info(layout.config) is None:
        # Whatever is there belongs to settings that were never frozen.
        storage.delete(join(layout.initial_checkpoint, checkpoint.MARKER))
    models = config.task.settings.models(config.model)
    checkpoint.save_initial(models, seed=config.seed, url=layout.initial_checkpoint)
    configs.freeze(config)


def _ingest(config: RunConfig, *, cluster: Cluster) -> None:
    corpora = [(config.corpus, config.run)]
    if config.evaluation is not None:
        corpora.append((config.evaluation, Layout(config.run).held_out))
    for section, run in corpora:
        if ingested(storage.expand(section.shards), run=run) is None:
            ingest(section.shards, run=run, client=cluster())
