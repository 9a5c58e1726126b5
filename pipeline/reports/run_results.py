"""Results of finished runs, read from their configurations and metrics, for a verdict."""

from collections.abc import Sequence

import polars as pl

from attent_select.errors import InputError, MissingError
from attent_select.schedule.rounds import plan_rounds
from catalogs import Corpus
from pipeline import metrics
from pipeline.config.run_config import load_frozen
from pipeline.config.sections import RunConfig
from pipeline.reports.verdict import NOT_SHOWN, RunResult, Verdict, judge
from pipeline.runs.mean_units import mean_units_of

# Sections that must be equal in runs that are compared; the other sections may differ.
_EQUAL_SECTIONS = ("task", "model", "training", "evaluation")
# The accuracy of a language model is that of single tokens: its loss says more.
_PREFERRED_METRICS = ("accuracy", "mean_iou")
_HIGHER_IS_BETTER = (*_PREFERRED_METRICS, "exact_match", "pixel_accuracy", "delta1")
_COSTS = ("score_seconds", "select_seconds", "train_seconds")
_IS_CONTROL = (
    "this run trains on all data in every round. Runs that select are compared with it: "
    "`attent report OTHER --all-data RUN`."
)


def verdict_on(
    run: str,
    *,
    repeats: Sequence[str] = (),
    all_data: Sequence[str] = (),
    same_cost: Sequence[str] = (),
    quality: str | None = None,
) -> Verdict:
    """Return the verdict on a run and its repeats, compared with runs on all data.

    Args:
        run: the run.
        repeats: runs with the same settings and other seeds.
        all_data: runs that train on all data in every round; paired by seed.
        same_cost: the same for fewer epochs, at about the cost of `run`.
        quality: the metric of the evaluation; default: `accuracy` (of a classifier) or `mean_iou`
            where there is one, else `eval_loss`.

    Raises:
        MissingError: a run that is compared with is not finished, or a run has no such metric.
        InputError: the runs cannot be compared.
    """
    config, table = load_frozen(run), metrics.table(run)
    name = quality or _default_metric(table)
    if (gap := _gap(config, table)) is not None:
        return Verdict(False, f"{NOT_SHOWN}: {gap}.", name)
    if not (repeats or all_data or same_cost) and _has_all_samples(config, table):
        return Verdict(False, f"{NOT_SHOWN}: {_IS_CONTROL}", name)
    for other in (*repeats, *all_data, *same_cost):
        _check_comparable(config, load_frozen(other), is_repeat=other in repeats)
    for other in (*all_data, *same_cost):
        _check_trains_on_all(other)
    if not all_data and not same_cost and name not in table.columns:
        groups: list[list[RunResult]] = [[], [], []]
    else:
        groups = [
            [_result(each, name) for each in group]
            for group in ((run, *repeats), all_data, same_cost)
        ]
    for group in groups:
        _check_seeds(group)
    return judge(
        groups[0],
        all_data=groups[1],
        same_cost=groups[2],
        quality=name.replace("_", " "),
        higher_is_better=name in _HIGHER_IS_BETTER,
        estimated_seconds_saved=None if all_data else _estimated_saving(config, table),
    )


def _gap(config: RunConfig, table: pl.DataFrame) -> str | None:
    """Return why the run's seconds are not known in full, or None if they are."""
    rounds = plan_rounds(
        config.schedule,
        num_samples=Corpus.open(config.run).num_samples,
        batch_size=config.training.batch_size,
        mean_units=mean_units_of(config),
    )
    if config.schedule.decides_sizes:
        total = sum(each.num_steps for each in rounds)
        is_finished = _sum(table, "num_steps") >= total
    else:
        is_finished = len(table) >= len(rounds)
    if not is_finished:
        done = f"{len(table)} of {len(rounds)} rounds"
        return f"the run is not finished ({done}); run `attent run` first"
    for name in _COSTS:
        if name not in table.columns or table[name].null_count():
            stage = name.removesuffix("_seconds")
            return (
                f"a process was interrupted, and the seconds of its stage `{stage}` were lost; to "
                "measure them, run it again from scratch: `attent run CONFIG --set run=OTHER`"
            )
    return None


def _result(run: str, quality: str) -> RunResult:
    config, table = load_frozen(run), metrics.table(run)
    if (gap := _gap(config, table)) is not None:
        raise MissingError(f"{run} cannot be compared: {gap}")
    if quality not in table.columns:
        present = sorted({"eval_loss", "perplexity", *_HIGHER_IS_BETTER} & set(table.columns))
        raise MissingError(
            f"{run} has no metric {quality}: set evaluation.shards in every run, or choose another "
            f"metric with --quality; it has {', '.join(present) or 'none'}"
        )
    return RunResult(config.seed, _seconds(table), float(table[quality][-1]))


def _seconds(table: pl.DataFrame) -> float:
    return sum(_sum(table, name) for name in _COSTS)


def _sum(table: pl.DataFrame, column: str) -> float:
    return float(table[column].sum()) if column in table.columns else 0.0


def _default_metric(table: pl.DataFrame) -> str:
    if "perplexity" in table.columns:
        return "eval_loss"
    return next((name for name in _PREFERRED_METRICS if name in table.columns), "eval_loss")


def _estimated_saving(config: RunConfig, table: pl.DataFrame) -> float | None:
    """Return how many seconds longer the same number of epochs on all data would take.

    None with a budget, which is there because all data take too long.
    """
    if config.schedule.budget is not None:
        return None
    per_sample = _sum(table, "train_seconds") / _sum(table, "samples_seen")
    num_samples = Corpus.open(config.run).num_samples
    return per_sample * num_samples * config.schedule.epochs - _seconds(table)


def _check_comparable(one: RunConfig, other: RunConfig, *, is_repeat: bool) -> None:
    ours, theirs = one.to_plain_values(), other.to_plain_values()
    names = (*_EQUAL_SECTIONS, *(("selection", "schedule", "scoring") if is_repeat else ()))
    for name in names:
        if ours[name] != theirs[name]:
            raise InputError(
                f"{other.run} cannot be compared with {one.run}: they differ in {name}: "
                f"{theirs[name]} and {ours[name]}"
            )
    corpora = [Corpus.open(each.run).corpus_id for each in (one, other)]
    if corpora[0] != corpora[1]:
        raise InputError(
            f"{other.run} cannot be compared with {one.run}: its corpus is {corpora[1]}, not "
            f"{corpora[0]}"
        )


def _has_all_samples(config: RunConfig, table: pl.DataFrame) -> bool:
    """Whether every round trained on all samples of the corpus."""
    fewest = table["num_samples"].min() if "num_samples" in table.columns else None
    return fewest == Corpus.open(config.run).num_samples


def _check_trains_on_all(run: str) -> None:
    smallest = min(metrics.table(run)["ratio"].to_list(), default=1.0)
    if smallest < 1:
        raise InputError(
            f"{run} trains on {smallest:.0%} of the data in a round: expected a run on all data "
            "(schedule.ratio: {start: 1.0})"
        )


def _check_seeds(group: Sequence[RunResult]) -> None:
    seeds = [one.seed for one in group]
    if duplicates := [seed for seed in seeds if seeds.count(seed) > 1]:
        raise InputError(f"two repeats of a run have seed {duplicates[0]}: each needs its own seed")
