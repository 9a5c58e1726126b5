"""From losses to an index file, outside of a run's rounds: `attent select`.

The command's own checks, the order of things, and its answer.
"""

import dataclasses
import json
import resource
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any

import polars as pl
import yaml

from attent_select.errors import ExistsError, InputError, TooFewError
from attent_select.plugins import load_plugin
from attent_select.schema import LOSS, NUM_UNITS, ROW, SHARD_ID, VISITS
from attent_select.selection.select import Selection
from catalogs import IndexFile, storage
from catalogs.index import UnsortedError, digest_of
from pipeline.cluster.scan import ClusterScan, frames_by_storage, where_it_runs
from pipeline.config.sections import SelectionSection
from pipeline.config.validation import check
from pipeline.console import progress, stage
from pipeline.selection import loss_tables
from pipeline.selection.choice import Budget, Chosen, Draw, choose, loss_share_by_samples
from pipeline.selection.loss_tables import LossTable, problems_named

# What a section `selection` has beside the settings, and `--set` must not replace.
_SECTION_KEYS = ("strategy", "settings", "composition")


@dataclass(frozen=True)
class SelectResult:
    """What was selected.

    Attributes:
        selected: rows.
        total: rows of the losses.
        eligible: rows that could be selected.
        threshold: the smallest key that the strategy took; of blocks, a block's.
        digest: of the sorted (shard_id, row).
        seconds: in all.
        peak_rss_bytes: the most memory that the process has held.
        index: URL of the index; None of a dry run.
        excluded: why rows are not eligible, and how many: `null`, `nonfinite`, a status (where
            losses count), and `condition` (`where`, a guard, or a number missing elsewhere).
        loss_share: with a granularity, the share of all loss that the subset holds; and
        loss_share_by_samples: the share that as many single samples would hold.
    """

    selected: int
    total: int
    eligible: int
    threshold: float | None
    peak_rss_bytes: int
    digest: str = ""
    seconds: float = 0.0
    index: str | None = None
    excluded: dict[str, int] = field(default_factory=dict)
    loss_share: float | None = None
    loss_share_by_samples: float | None = None


@dataclass(frozen=True)
class Selecting:
    """The section `selection` of a configuration as a command line says it.

    Attributes:
        strategy: a plug-in's name.
        settings: `key=value` for each key of the section that is not the default.
        where: a polars SQL condition that eligible rows fulfil.
        by: a column whose values are strata; each gets its quota of the budget.
        granularity: `sample`, `row_group`, `shard` or rows per block.
    """

    strategy: str = "soft"
    settings: Sequence[str] = ()
    where: str | None = None
    by: str | None = None
    granularity: str | None = None

    def section(self) -> SelectionSection[Any]:
        """The checked section. Raises `InputError` for what cannot stand there."""
        name = self.strategy
        values: dict[str, Any] = {"strategy": name}
        values |= dict(_setting(text) for text in self.settings)
        given = {"where": self.where, "by": self.by, "granularity": self.granularity}
        values |= {key: value for key, value in given.items() if value is not None}
        if isinstance(rows := values.get("granularity"), str) and rows.isdecimal():
            values["granularity"] = int(rows)
        plugin = load_plugin("attent_select.strategies", name)
        is_settings = isinstance(plugin, type) and dataclasses.is_dataclass(plugin)
        if not is_settings or not hasattr(plugin, "probability"):
            raise InputError(
                f"--strategy {name}: expected a strategy's class, see docs/extending.md"
            )
        return check(SelectionSection[plugin], values, source="selection")


def select_losses(
    losses: str,
    *,
    out: str | None,
    budget: Budget,
    how: Selecting = Selecting(),
    seed: int = 0,
    round_number: int | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
    scheduler: str | None = None,
) -> SelectResult:
    """Writes the teaching subset of `losses` as the index file `out`.

    Args:
        losses: URL of a run (its newest losses count), or a URL, folder or glob of Parquet files
            with shard_id, row and loss.
        out: URL of the index file; None only in a dry run.
        budget: how much to select.
        how: the strategy and what it is composed with.
        seed: of the random draw.
        round_number: each round draws anew (default: as round 0); of a run the losses as of this
            round count.
        dry_run: computes everything, writes nothing.
        overwrite: `out` may be there already.
        scheduler: address of a Dask scheduler whose workers read the losses, or `local`; without
            one this process does, in threads.

    Raises:
        InputError: losses, settings or budget are wrong.
        ExistsError: `out` is there already.
    """
    started = monotonic()
    _check_arguments(out, budget, dry_run=dry_run, overwrite=overwrite)
    section = how.section()
    with stage("looking for the losses"):
        table = loss_tables.find(losses, round_number=round_number)
        _check_apart(out, table)
        table.check_columns(_needed(section, budget))
        steps = table.round_steps(section.strategy.columns)
    draw = Draw(seed, round_number or 0, steps)
    target = None if dry_run else out
    with where_it_runs(table.rows, scheduler=scheduler) as rows, problems_named(table):
        table = replace(table, rows=rows)
        with stage("finding the cut"):
            chosen = _chosen(table, section, budget=budget, draw=draw)
        with stage("looking for samples that are there twice"):
            table.check_unique()
        notes = table.provenance | _notes(section, chosen, draw=draw)
        is_far = isinstance(rows, ClusterScan)
        digest = _write(target, chosen.selection, notes=notes, overwrite=overwrite, is_far=is_far)
        with stage("counting what is left out"):
            result = _result(table, section, chosen, draw=draw)
    return replace(result, digest=digest, index=target, seconds=monotonic() - started)


def peak_rss_bytes() -> int:
    """The most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would also count what the parent held before exec
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _check_arguments(out: str | None, budget: Budget, *, dry_run: bool, overwrite: bool) -> None:
    given = [budget.ratio, budget.num_samples, budget.num_units]
    if sum(one is not None for one in given) != 1:
        raise InputError("give one of --ratio, --num-samples and --num-units")
    if out is None:
        if not dry_run:
            raise InputError("--out is missing: the index file to write (or give --dry-run)")
        return
    if storage.is_local(out) and Path(storage.normalise(out)).is_dir():
        raise InputError(f"--out {out} is a folder: name a file in it")
    if not overwrite and storage.info(out) is not None:
        raise ExistsError(f"{out} is there already: choose another --out, or give --overwrite")


def _check_apart(out: str | None, table: LossTable) -> None:
    if out is not None and storage.normalise(out) in table.files:
        raise InputError(f"--out {out} is one of the files that the losses are in: choose another")


def _needed(how: SelectionSection[Any], budget: Budget) -> list[str]:
    """The columns that losses must have (`where` is checked as a whole)."""
    needed = [*how.strategy.columns]
    needed += [how.composition.by] if how.composition.by is not None else []
    needed += [VISITS, LOSS] if how.composition.max_visits is not None else []
    return [*needed, NUM_UNITS] if budget.num_units is not None else needed


def _chosen(table: LossTable, how: SelectionSection[Any], *, budget: Budget, draw: Draw) -> Chosen:
    try:
        chosen = choose(
            table.rows, how, budget=budget, draw=draw, corpus=table.corpus, preview=table.preview
        )
    except TooFewError as error:
        if error.eligible:
            raise InputError(f"{table.url}: {error}, or give --at-most to take all") from error
        raise _nothing(table) from error
    if not chosen.selection.eligible:
        raise _nothing(table)
    if not chosen.selection.num_samples:
        raise InputError(
            f"{table.url}: nothing fits into {budget.num_units} units: ask for more --num-units"
        )
    return chosen


def _nothing(table: LossTable) -> InputError:
    counts = ", ".join(f"{count} {reason}" for reason, count in table.without_loss().items())
    return InputError(
        f"{table.url}: no row is eligible (rows without a finite loss: {counts or 'none'}): "
        "expected rows with a loss that fulfil `where`; score first, or ask for others"
    )


def _notes(how: SelectionSection[Any], chosen: Chosen, *, draw: Draw) -> dict[str, Any]:
    """What the index says of how it was chosen, as those of a run's rounds do."""
    return {
        "selection": how.model_dump(mode="json"),
        "seed": draw.seed,
        "round": draw.round_number,
        "eligible": chosen.selection.eligible,
        "threshold": chosen.selection.threshold,
        "loss_share": chosen.loss_share,
    }


def _write(
    out: str | None, selection: Selection, *, notes: dict[str, Any], overwrite: bool, is_far: bool
) -> str:
    """Writes the index, or without `out` only goes through its rows. The digest either way."""

    def write(rows: pl.LazyFrame | Iterable[pl.DataFrame]) -> str:
        title = "going through" if out is None else "writing"
        count = selection.num_samples
        with progress(title, total=count, unit="rows") as advance:
            if out is None:
                return digest_of(rows, num_samples=count, on_rows=advance)
            index = IndexFile.write(
                out,
                rows,
                provenance=notes,
                num_samples=count,
                overwrite=overwrite,
                on_rows=advance,
            )
            return index.digest

    try:
        if not is_far:
            return write(selection.frames())
        # Workers leave the rows beside the index; without one this process goes through them.
        return write(frames_by_storage(selection, beside=out) if out else selection.rows)
    except UnsortedError:
        # Others' files need not be in (shard, row) order; sorting holds the subset in memory.
        return write(selection.rows.sort(SHARD_ID, ROW))


def _result(
    table: LossTable, how: SelectionSection[Any], chosen: Chosen, *, draw: Draw
) -> SelectResult:
    selection = chosen.selection
    by_samples = None
    if chosen.loss_share is not None:
        count = selection.num_samples
        by_samples = loss_share_by_samples(
            table.rows, how, num_samples=count, draw=draw, preview=table.preview
        )
    return SelectResult(
        selected=selection.num_samples,
        total=selection.total,
        eligible=selection.eligible,
        threshold=selection.threshold,
        excluded=_excluded(table, how, selection),
        loss_share=chosen.loss_share,
        loss_share_by_samples=by_samples,
        peak_rss_bytes=peak_rss_bytes(),
    )


def _excluded(table: LossTable, how: SelectionSection[Any], selection: Selection) -> dict[str, int]:
    missing = selection.total - selection.eligible
    reasons = table.without_loss() if missing and LOSS in how.strategy.columns else {}
    rest = missing - sum(reasons.values())
    return reasons | ({"condition": rest} if rest else {})


def _setting(setting: str) -> tuple[str, Any]:
    key, equals, text = setting.partition("=")
    if not equals:
        raise InputError(f"--set {setting}: expected key=value, such as temperature=0.5")
    if key in _SECTION_KEYS:
        raise InputError(f"--set {setting}: {key} is not a setting of a strategy")
    return key, _yaml_value(text, setting=setting)


def _yaml_value(text: str, *, setting: str) -> Any:
    try:
        value = yaml.safe_load(text)
        json.dumps(value, default=str)  # an anchor may hold itself
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"--set {setting}: the value is not YAML: {reason}") from error
    return value
