"""Finished runs → what a verdict compares, with a look at whether they can be compared at all.

Reading configurations and metrics.
"""

from collections.abc import Sequence

import polars as pl

from attent_select.errors import InputError, MissingError
from attent_select.schedule.rounds import plan_rounds
from catalogs import Corpus
from pipeline import metrics
from pipeline.config import run_config
from pipeline.config.sections import RunConfig
from pipeline.reports.verdict import NOT_SHOWN, Outcome, Verdict, judge

# What must be the same in runs that are compared; everything else is what they are compared for.
_SHARED = ("task", "model", "training", "evaluation")
# Of a language model `accuracy` is that of single tokens: the loss says more.
_PREFERRED = ("accuracy", "mean_iou")
_HIGHER = (*_PREFERRED, "exact_match", "pixel_accuracy", "delta1")
_COSTS = ("score_seconds", "select_seconds", "train_seconds")


def verdict(
    run: str,
    *,
    repeats: Sequence[str] = (),
    all_data: Sequence[str] = (),
    same_cost: Sequence[str] = (),
    quality: str | None = None,
) -> Verdict:
    """The verdict on a run and its repeats, against runs on all data.

    Args:
        run: the run.
        repeats: of the same settings, with other seeds.
        all_data: runs in which every round takes all data; paired by seed.
        same_cost: the same for fewer epochs, at about the cost of `run`.
        quality: the metric of the evaluation; `accuracy` (of a classifier) or `mean_iou` where
            there is one, else `eval_loss`.

    Raises:
        MissingError: a run that is compared with is not finished, or one has no such metric.
        InputError: the runs cannot be compared; names what differs.
    """
    first = run_config.load(run)
    table = metrics.table(run)
    name = quality or _quality(table)
    if (gap := _gap(first, table)) is not None:
        return Verdict(False, f"{NOT_SHOWN}: {gap}", name)
    for other in (*repeats, *all_data, *same_cost):
        _check_comparable(first, run_config.load(other), is_repeat=other in repeats)
    for other in (*all_data, *same_cost):
        _check_takes_all(other)
    if not all_data and not same_cost and name not in table.columns:
        return judge(
            [],
            quality=name,
            higher_is_better=False,
            estimated_seconds_saved=_estimate(first, table),
        )
    groups = [
        [_outcome(each, name) for each in group]
        for group in ((run, *repeats), tuple(all_data), tuple(same_cost))
    ]
    for group in groups:
        _check_seeds(group)
    return judge(
        groups[0],
        all_data=groups[1],
        same_cost=groups[2],
        quality=name.replace("_", " "),
        higher_is_better=name in _HIGHER,
        estimated_seconds_saved=_estimate(first, table) if not all_data else None,
    )


def _gap(config: RunConfig, table: pl.DataFrame) -> str | None:
    """Why the run's seconds are not those of all of it; None where they are."""
    rounds = plan_rounds(
        config.schedule,
        num_samples=Corpus.open(config.run).num_samples,
        batch_size=config.training.batch_size,
    )
    is_adaptive = config.schedule.ratio.kind == "adaptive"
    steps = sum(each.num_steps for each in rounds)
    done = table["num_steps"].sum() if is_adaptive and len(table) else 0
    if done < steps if is_adaptive else len(table) < len(rounds):
        return f"it is not finished ({len(table)} of {len(rounds)} rounds); run `attent run` first"
    for name in _COSTS:
        if name not in table.columns or table[name].null_count():
            return f"{name} of a round were lost with a process that was killed"
    return None


def _outcome(run: str, quality: str) -> Outcome:
    config, table = run_config.load(run), metrics.table(run)
    if (gap := _gap(config, table)) is not None:
        raise MissingError(f"{run} cannot be compared: {gap}")
    if quality not in table.columns:
        there = sorted({"eval_loss", "perplexity", *_HIGHER} & set(table.columns))
        raise MissingError(
            f"{run} has no metric {quality}: set evaluation.shards in every run, or name another "
            f"one with --quality; it has {', '.join(there) or 'none'}"
        )
    return Outcome(config.seed, _seconds(table), float(table[quality][-1]))


def _seconds(table: pl.DataFrame) -> float:
    return float(sum(table[name].sum() for name in _COSTS if name in table.columns))


def _quality(table: pl.DataFrame) -> str:
    if "perplexity" in table.columns:
        return "eval_loss"
    return next((name for name in _PREFERRED if name in table.columns), "eval_loss")


def _estimate(config: RunConfig, table: pl.DataFrame) -> float:
    """Seconds that as many epochs on all data would take more."""
    per_sample = table["train_seconds"].sum() / table["samples_seen"].sum()
    num_samples = Corpus.open(config.run).num_samples
    return float(per_sample * num_samples * config.schedule.epochs - _seconds(table))


def _check_comparable(one: RunConfig, other: RunConfig, *, is_repeat: bool) -> None:
    ours, theirs = one.resolved(), other.resolved()
    names = (*_SHARED, "selection", "schedule", "scoring") if is_repeat else _SHARED
    if differing := [name for name in names if ours[name] != theirs[name]]:
        raise InputError(
            f"{other.run} cannot be compared with {one.run}: they differ in {differing[0]}: "
            f"{theirs[differing[0]]} and {ours[differing[0]]}"
        )
    corpora = [Corpus.open(each.run).corpus_id for each in (one, other)]
    if corpora[0] != corpora[1]:
        raise InputError(
            f"{other.run} cannot be compared with {one.run}: it learns from corpus {corpora[1]}, "
            f"not {corpora[0]}"
        )


def _check_takes_all(run: str) -> None:
    table = metrics.table(run)
    if len(table) and table["ratio"].min() < 1:
        raise InputError(
            f"{run} trains on {table['ratio'].min():.0%} of the data in a round: expected a run on "
            "all data (schedule.ratio: {start: 1.0})"
        )


def _check_seeds(group: Sequence[Outcome]) -> None:
    seeds = [one.seed for one in group]
    if twice := [seed for seed in seeds if seeds.count(seed) > 1]:
        raise InputError(f"two runs that are to be repeats have seed {twice[0]}: give each its own")
