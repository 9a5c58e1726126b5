"""The score stage of a round: the losses that its selection needs."""

from attent_select.schedule.rounds import Round
from pipeline.candidates.draw import draw_candidates
from pipeline.runs.setup import Cluster
from pipeline.runs.state import Run
from pipeline.scoring.driver import ScoreResult, ScoringJob, ScoringMethod, score_round
from pipeline.scoring.full_scoring import FullScoring
from pipeline.scoring.partial_rescoring import PartialRescoring
from pipeline.scoring.pool_scoring import score_pool


def score_stage(
    run: Run, round_: Round, *, cluster: Cluster, checkpoint: str | None = None
) -> ScoreResult:
    """Score the round with the weights at the URL `checkpoint`, by default those it starts from.

    With a pool, only the candidates of the round are scored.

    Raises what `score_round` and `draw_candidates` raise.
    """
    job = ScoringJob(
        run.config, cluster(), round_.number, checkpoint or run.start_checkpoint(round_)
    )
    if run.config.pool is not None:
        return score_pool(job, draw_candidates(run, round_))
    return score_round(job, _method(run, round_, job))


def _method(run: Run, round_: Round, job: ScoringJob) -> ScoringMethod:
    """Return how much is measured: what was decided for the round, else everything."""
    decision = run.decisions.get(round_.number)
    share = 1.0 if decision is None else decision.rescore
    if share == 1 or (share == 0 and not run.needs_losses(round_)):
        return FullScoring(job)
    taught = [each.ratio for each in run.rounds[: round_.number] if each.phase == "teach"]
    return PartialRescoring(job, share, ratio=taught[-1] if taught else round_.ratio)
