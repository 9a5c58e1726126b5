"""The state of a run: its configuration, corpus and round schedule, and how far it has come."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from attent_select.errors import InputError
from attent_select.schedule.adaptive import Decision, plan_adaptive_rounds
from attent_select.schedule.rounds import Round, plan_rounds
from attent_select.schema import NUM_UNITS
from catalogs import Corpus, IndexFile, LossCatalog, storage
from catalogs.annotations.columns import loss_columns
from catalogs.layout import Layout
from pipeline import metrics
from pipeline.adaptive import decision_log
from pipeline.adaptive.round_decision import RunHistory, needs_decision, publish_decision
from pipeline.config import run_config
from pipeline.config.sections import RunConfig
from pipeline.descriptions import describe_decision
from pipeline.runs.first_quotas import check_quotas, ensure_first_quotas
from pipeline.runs.label_classes import with_corpus_classes, with_frozen_classes
from pipeline.runs.mean_units import mean_units_of
from pipeline.runs.setup import (
    Cluster,
    SaveInitial,
    check_columns,
    check_units,
    ingest_corpora,
    save_initial,
)

_log = logging.getLogger("attent.pipeline.runs.state")


@dataclass(frozen=True)
class Run:
    """A run that is ready: frozen, ingested, scheduled, with its first checkpoint.

    Attributes:
        config: the frozen configuration.
        corpus: the samples to learn from.
        rounds: the round schedule; decided and selected rounds have their final sizes.
        total_steps: optimizer steps of the original schedule, with budgets in samples: the learning
            rate's horizon.
        decisions: by round number, for rounds that the schedule alone does not determine.
        mean_units: units of a sample on average, where the schedule counts units.
    """

    config: RunConfig
    corpus: Corpus
    rounds: tuple[Round, ...]
    total_steps: int
    decisions: Mapping[int, Decision] = field(default_factory=dict)
    mean_units: float | None = None

    @property
    def layout(self) -> Layout:
        return Layout(self.config.run)

    @property
    def catalog(self) -> LossCatalog:
        return LossCatalog(self.config.run, carry=self.config.carry_schema)

    def round(self, number: int | None) -> Round:
        """Return the round with that number; without one, the first that is not finished.

        Raises:
            InputError: the schedule has no such round, or all rounds are finished.
        """
        if number is None:
            number = next((r.number for r in self.rounds if not self.is_finished(r.number)), None)
            if number is None:
                raise InputError(f"{self.config.run}: all {len(self.rounds)} rounds are finished")
        if not number < len(self.rounds):
            raise InputError(
                f"--round {number}: the schedule has rounds 0 to {len(self.rounds) - 1}"
            )
        return self.rounds[number]

    def is_selected(self, number: int) -> bool:
        """Whether the round has its index file."""
        return storage.info(self.layout.index(number)) is not None

    def is_finished(self, number: int) -> bool:
        """Whether the round has its metrics, which are published last."""
        return metrics.read(self.config.run, number) is not None

    def needs_losses(self, round_: Round) -> bool:
        """Whether the round is selected by a column that the corpus has no annotation for."""
        if round_.phase != "teach":
            return False
        return bool(loss_columns(self.config.run, self.config.selection.columns))

    def start_checkpoint(self, round_: Round) -> str:
        """Return the URL of the checkpoint that the round is scored with and starts from."""
        if round_.number == 0:
            return self.layout.initial_checkpoint
        return self.layout.checkpoint(round_.number - 1)

    def on_schedule(self, round_: Round) -> tuple[int, int]:
        """Return the steps between which the round moves on the learning rate's schedule.

        They follow from epochs and ratios alone. The learning rate decays fully, whatever number of
        steps a round takes.
        """
        if not self.config.schedule.decides_sizes:
            round_ = self._planned[round_.number]
        return round_.first_step, round_.first_step + round_.num_steps

    @property
    def _planned(self) -> tuple[Round, ...]:
        return plan_rounds(
            self.config.schedule,
            num_samples=self.corpus.num_samples,
            batch_size=self.config.training.batch_size,
            mean_units=self.mean_units,
        )

    def after_selecting(self, number: int, index: IndexFile) -> "Run":
        """Give the round the size of its index; later rounds then start earlier or later.

        The size follows from an index with a budget in units, of all eligible rows, or of an
        earlier version of the corpus; any other size than the scheduled one is an error in
        training.
        """
        scheduled = self.rounds[number]
        eligible = index.provenance.get("eligible", -1)
        is_short = index.num_samples == eligible < scheduled.num_samples
        num_shards = self.corpus.num_shards_of(index.provenance.get("corpus_id"))
        is_earlier = num_shards not in (None, len(self.corpus.shards))
        if not is_short and not is_earlier and NUM_UNITS not in index.provenance:
            return self
        batches = math.ceil(index.num_samples / self.config.training.batch_size)
        return self._with_round(
            replace(scheduled, num_samples=index.num_samples, num_steps=scheduled.epochs * batches)
        )

    def after_deciding(self, decision: Decision) -> "Run":
        """Replace the round by the decided one."""
        made = {**self.decisions, decision.round.number: decision}
        return replace(self._with_round(decision.round), decisions=made)

    def _with_round(self, round_: Round) -> "Run":
        """Replace a round; the rounds after it move, or in an adaptive run spend what is left."""
        done = (*self.rounds[: round_.number], round_)
        if self.config.schedule.decides_sizes:
            rounds = plan_adaptive_rounds(
                self.config.schedule,
                done,
                num_samples=self.corpus.num_samples,
                batch_size=self.config.training.batch_size,
            )
            return replace(self, rounds=rounds)
        saved = self.rounds[round_.number].num_steps - round_.num_steps
        rest = self.rounds[round_.number + 1 :]
        later = (replace(each, first_step=each.first_step - saved) for each in rest)
        return replace(self, rounds=(*done, *later))


def prepare(
    config: RunConfig,
    *,
    cluster: Cluster,
    save_initial: SaveInitial = save_initial,
) -> Run:
    """Ingest the corpora, save the initial model and freeze the configuration, where not done.

    Raises:
        InputError: the run was started with other settings, or a corpus cannot be used.
    """
    config = with_frozen_classes(config)
    run_config.check_frozen(config)
    ingest_corpora(config, cluster=cluster)
    corpus = Corpus.open(config.run)
    check_columns(corpus, config)
    config = with_corpus_classes(config, cluster=cluster)
    check_units(config)
    check_quotas(config)
    ensure_first_quotas(config)
    pool = config.schedule.pool
    if "row_group" in (config.selection.granularity, pool and pool.block_rows):
        corpus.check_row_groups()
    mean_units = mean_units_of(config)
    rounds = plan_rounds(
        config.schedule,
        num_samples=corpus.num_samples,
        batch_size=config.training.batch_size,
        mean_units=mean_units,
    )
    save_initial(config)
    total_steps = sum(each.num_steps for each in rounds)
    return _with_progress(Run(config, corpus, rounds, total_steps, mean_units=mean_units))


def ensure_decision(run: Run, number: int, *, fraction: float | None = None) -> Run:
    """Decide a round that the schedule alone does not determine, unless it is decided.

    Args:
        run: its earlier rounds are trained.
        number: of the round.
        fraction: share of the corpus to score again, instead of a decided one.

    Raises:
        InputError: another share was decided, or no earlier losses can be kept.
    """
    round_ = run.rounds[number]
    if fraction is not None and run.config.pool is not None:
        raise InputError(
            "--fraction: a round with a pool scores its candidates, neither more nor less: omit it;"
            " schedule.pool.multiple says how many there are"
        )
    if (decision := run.decisions.get(number)) is not None:
        if fraction not in (None, decision.rescore):
            raise InputError(
                f"round {number}: --fraction {fraction} differs from the decided share "
                f"{decision.rescore:.4g} ({decision.reasons['rescore']}); omit --fraction"
            )
        return run
    if fraction is None and not needs_decision(run.config, round_):
        return run
    history = RunHistory(run.config, run.corpus, run.rounds[:number], run.decisions)
    decision = publish_decision(history, round_, fraction=fraction)
    level = logging.DEBUG if decision.is_planned else logging.INFO
    _log.log(level, describe_decision(decision))
    return run.after_deciding(decision)


def _with_progress(run: Run) -> Run:
    """Apply the decisions and the indexes that the run already has."""
    decisions = decision_log.read_all(run.config.run)
    index_urls = {item.url for item in storage.list_objects(run.layout.indexes)}
    number = 0
    while number < len(run.rounds):
        if number in decisions:
            run = run.after_deciding(decisions[number])
        if (url := run.layout.index(number)) in index_urls:
            run = run.after_selecting(number, IndexFile.open(url, corpus=run.corpus))
        number += 1
    return run
