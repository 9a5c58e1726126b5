"""A run: what it is made of, its plan, and how far it has come.

The plan as decisions and selections have left it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from attent_select.errors import InputError
from attent_select.schedule.adaptive import Decision, plan_adaptive_rounds
from attent_select.schedule.rounds import Round, plan_rounds
from catalogs import Corpus, IndexFile, LossCatalog, storage
from catalogs.layout import Layout
from pipeline import metrics
from pipeline.adaptive import decision_log, round_decision
from pipeline.config import run_config
from pipeline.config.sections import RunConfig
from pipeline.console import describe_decision, say
from pipeline.runs.setup import Cluster, SaveInitial, check_columns, ingest_corpora, save_initial


@dataclass(frozen=True)
class Run:
    """A run that is ready to go: frozen, ingested, planned, with its first checkpoint.

    Attributes:
        config: how it was frozen.
        corpus: what it learns from.
        rounds: the plan, in which the rounds decided and selected so far have the sizes that they
            turned out to have.
        total_steps: optimizer steps of the plan as it was made: the learning rate's horizon.
        decisions: of the rounds that were not left to the plan alone.
    """

    config: RunConfig
    corpus: Corpus
    rounds: tuple[Round, ...]
    total_steps: int
    decisions: Mapping[int, Decision] = field(default_factory=dict)

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
        return self._with(
            replace(planned, num_samples=index.num_samples, num_steps=planned.epochs * batches)
        )

    def after_deciding(self, decision: Decision) -> "Run":
        """With the round as it was decided."""
        decisions = {**self.decisions, decision.round.number: decision}
        return replace(self._with(decision.round), decisions=decisions)

    def _with(self, round_: Round) -> "Run":
        """With that round; of an adaptive run the rounds after it spend what is left."""
        so_far = (*self.rounds[: round_.number], round_)
        if self.config.schedule.ratio.kind == "adaptive":
            rounds = plan_adaptive_rounds(
                self.config.schedule,
                so_far,
                num_samples=self.corpus.num_samples,
                batch_size=self.config.training.batch_size,
            )
            return replace(self, rounds=rounds)
        saved = self.rounds[round_.number].num_steps - round_.num_steps
        rest = self.rounds[round_.number + 1 :]
        later = (replace(r, first_step=r.first_step - saved) for r in rest)
        return replace(self, rounds=(*so_far, *later))

    def needs_losses(self, round_: Round) -> bool:
        """Whether the round's subset is chosen by what the loss catalog says."""
        return round_.phase == "teach" and self.config.selection.needs_losses

    def start_checkpoint(self, round_: Round) -> str:
        """What the round starts from, and is scored with."""
        if round_.number == 0:
            return self.layout.initial_checkpoint
        return self.layout.checkpoint(round_.number - 1)


def prepare(
    config: RunConfig,
    *,
    cluster: Cluster,
    save_initial: SaveInitial = save_initial,
) -> Run:
    """Ingests the corpora, saves the initial model and freezes the configuration, where not done.

    Raises:
        InputError: the run was started with other settings, or a corpus cannot be used.
    """
    run_config.check_frozen(config)
    ingest_corpora(config, cluster=cluster)
    corpus = Corpus.open(config.run)
    check_columns(corpus, config)
    if config.selection.granularity == "row_group":
        corpus.check_row_groups()
    rounds = plan_rounds(
        config.schedule, num_samples=corpus.num_samples, batch_size=config.training.batch_size
    )
    save_initial(config)
    return _so_far(Run(config, corpus, rounds, sum(each.num_steps for each in rounds)))


def decided(run: Run, number: int, *, fraction: float | None = None) -> Run:
    """The run with its round as decided; the decision is made and written down unless it is there.

    Args:
        run: whose earlier rounds are trained.
        number: of the round.
        fraction: the share of the corpus to score again, instead of what would be decided.

    Raises:
        InputError: another share was decided, or nothing was scored that could be kept.
    """
    round_ = run.rounds[number]
    if (there := run.decisions.get(number)) is not None:
        if fraction not in (None, there.rescore):
            raise InputError(
                f"round {number}: --fraction {fraction}: it was decided to score the share "
                f"{there.rescore:.4g} again ({there.reasons['rescore']}); leave it out"
            )
        return run
    if fraction is None and not round_decision.is_decided(run.config, round_):
        return run
    decision = round_decision.make(
        run.config,
        round_,
        before=run.rounds[:number],
        corpus=run.corpus,
        made=run.decisions,
        fraction=fraction,
    )
    say(describe_decision(decision))
    return run.after_deciding(decision)


def _so_far(run: Run) -> Run:
    """With the rounds as they were decided and selected."""
    made = decision_log.read_all(run.config.run)
    there = {found.url for found in storage.list_objects(run.layout.indexes)}
    number = 0
    while number < len(run.rounds):
        if number in made:
            run = run.after_deciding(made[number])
        if (url := run.layout.index(number)) in there:
            run = run.after_selecting(number, IndexFile.open(url, corpus=run.corpus))
        number += 1
    return run
