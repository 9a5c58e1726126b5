"""The method: score → select → train, round after round.

Each stage publishes the one file that makes it count last: the snapshot, the index, the marker of
the checkpoint, the metrics of the round. A stage whose file exists is skipped, so a run that was
killed at any moment finishes what was begun when it is run again.
"""

from collections.abc import Collection, Iterator
from functools import partial
from time import monotonic

from attent_select.schedule.rounds import Round
from catalogs import IndexFile
from pipeline import metrics
from pipeline.runs.setup import Cluster
from pipeline.runs.state import Run, ensure_decision, prepare
from pipeline.scoring.score_stage import score_stage
from pipeline.selection.select_stage import select_stage


def run_rounds(
    run: Run, *, cluster: Cluster, judged_by: str | None = None
) -> Iterator[tuple[Round, dict[str, float]]]:
    """Finish every round of the run; yield each one with its metrics.

    Every rank of a launcher calls it: the first one decides, scores and selects, all of them train.

    Args:
        run: the run.
        cluster: opens the cluster.
        judged_by: the only held-out part (see `held_out_parts`) to evaluate, after the last round;
            default: all of them after every round.
    """
    from trainers import ranks

    number = 0
    while number < len(run.rounds):
        run = ranks.in_turn(
            partial(decide_and_score, run, number, cluster=cluster),
            then=partial(prepare, run.config, cluster=cluster),
        )
        is_last = number == len(run.rounds) - 1
        judges = None if judged_by is None else [judged_by] if is_last else []
        run, values = select_and_train(run, number, cluster=cluster, judges=judges)
        yield run.rounds[number], values
        number += 1


def decide_and_score(run: Run, number: int, *, cluster: Cluster) -> Run:
    """Decide what the schedule left open, and measure the losses that the selection needs."""
    run = ensure_decision(run, number)
    round_ = run.rounds[number]
    if run.needs_losses(round_) and not run.is_finished(number) and not run.is_selected(number):
        score_stage(run, round_, cluster=cluster)
    return run


def select_and_train(
    run: Run,
    number: int,
    *,
    cluster: Cluster | None = None,
    judges: Collection[str] | None = None,
) -> tuple[Run, dict[str, float]]:
    """Select the teaching subset and train on it; return the run after that and the metrics.

    Only the held-out parts named by `judges` are evaluated; default: all.

    Raises:
        MissingError: the selection needs losses and the round was not scored.
    """
    from pipeline.training.train_stage import train_stage
    from trainers import ranks

    index = ranks.in_turn(partial(_select, run, run.rounds[number]))
    run = run.after_selecting(number, index)
    finished = metrics.read(run.config.run, number)
    if finished is not None:
        return run, finished
    values = train_stage(run, run.rounds[number], index, cluster=cluster, judges=judges)
    return run, values


def _select(run: Run, round_: Round) -> IndexFile:
    """Select the rows of the round, and publish the seconds that it took."""
    is_selected, started = run.is_selected(round_.number), monotonic()
    index = select_stage(run, round_)
    if not is_selected:
        seconds = {"select_seconds": monotonic() - started}
        metrics.publish_selection(run.config.run, round_.number, seconds)
    return index
