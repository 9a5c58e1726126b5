"""Selection outside of a run's rounds (`attent select`): losses → an index file."""

import resource
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any

import polars as pl

from attent_select.errors import ExistsError, InputError, TooFewError
from attent_select.schema import LEARNER_COLUMNS, LOSS, NUM_UNITS, ROW, SHARD_ID
from attent_select.selection.chunks import FrameChunks
from attent_select.selection.select import Selection
from attent_select.strategy import expression_of
from catalogs import Corpus, IndexFile, storage
from catalogs.index import UnsortedError, digest_of
from catalogs.tables.joined import AnyScan
from pipeline.cluster.scan import ClusterScan, frames_by_storage, scan_at
from pipeline.config.sections import SelectionSection
from pipeline.progress import progress, status
from pipeline.selection import loss_tables
from pipeline.selection.choice import (
    Budget,
    Draw,
    SelectionRequest,
    SubsetChoice,
    choose,
    loss_share_by_samples,
)
from pipeline.selection.loss_tables import LossTable, polars_errors
from pipeline.selection.own_losses import OwnColumns
from pipeline.selection.selection_options import SelectionOptions


@dataclass(frozen=True)
class SelectResult:
    """The result of `attent select`.

    Attributes:
        selected: rows selected.
        total: rows of the losses.
        eligible: rows that could be selected.
        threshold: the smallest key that the strategy took; for blocks, a block's.
        digest: of the sorted (shard_id, row).
        seconds: for everything.
        peak_rss_bytes: the most memory that the process has held.
        index: URL of the index; None for a dry run.
        excluded: number of rows that are not eligible by reason: `null`, `nonfinite`, a status
            (where losses count), and `condition` (`where`, a guard, or a missing number).
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
class OwnFiles:
    """Options about files of other programs.

    Attributes:
        sample_id: column with the ids of the samples; the index has them, too.
        loss: column with the losses.
        corpus: run or corpus whose samples they are; its column `sample_id` is matched, unless the
            files have shard_id and row.
    """

    sample_id: str | None = None
    loss: str | None = None
    corpus: str | None = None

    def opened_corpus(self) -> Corpus | None:
        return None if self.corpus is None else Corpus.open(self.corpus)


_NOT_OWN = OwnFiles()


def select_losses(
    losses: str,
    *,
    out: str | None,
    budget: Budget,
    options: SelectionOptions | None = None,
    seed: int = 0,
    round_number: int | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
    scheduler: str | None = None,
    own: OwnFiles = _NOT_OWN,
) -> SelectResult:
    """Write the teaching subset of `losses` as the index file `out`.

    Args:
        losses: URL of a run (its newest losses count), or a URL, folder or glob of Parquet files
            with shard_id, row and loss.
        out: URL of the index file; None only in a dry run.
        budget: how much to select.
        options: the strategy and its composition; default: `soft`.
        seed: of the random draw.
        round_number: changes the random draw (default: 0); for a run, selects from that round's
            losses.
        dry_run: compute everything, write nothing.
        overwrite: replace an existing `out`.
        scheduler: address of a Dask scheduler whose workers read the losses, or `local`; without
            one, this process reads them in threads.
        own: what the columns of other programs' files are, and which corpus they are about.

    Raises:
        InputError: losses, settings or budget are wrong.
        ExistsError: `out` exists.
    """
    started = monotonic()
    _check_arguments(out, budget, dry_run=dry_run, overwrite=overwrite)
    section = (options or SelectionOptions()).section()
    with status("looking for the losses"):
        columns = _needed_columns(section, budget)
        own_columns = OwnColumns(own.sample_id, own.loss, own.opened_corpus())
        table = loss_tables.find(
            losses, columns=columns, round_number=round_number, own=own_columns
        )
        _check_not_input(out, table)
        table.check_columns(columns)
        steps = table.round_steps(section.strategy.columns)
    draw = Draw(seed, round_number or 0, steps)
    target = None if dry_run else out
    assert not isinstance(table.rows, ClusterScan)
    with _scan_at(table.rows, scheduler=scheduler) as rows, polars_errors(table):
        table = replace(table, rows=rows)
        request = SelectionRequest(rows, section, budget, draw, table.corpus, table.preview)
        result = _select(table, request, out=target, overwrite=overwrite)
    return replace(result, seconds=monotonic() - started)


def _select(
    table: LossTable, request: SelectionRequest, *, out: str | None, overwrite: bool
) -> SelectResult:
    with status("finding the threshold"):
        choice = _choose(table, request)
    with status("looking for duplicate samples"):
        table.check_unique()
    digest = _write(
        out,
        table,
        choice.selection,
        provenance=table.provenance | _provenance(request, choice),
        overwrite=overwrite,
        is_remote=isinstance(table.rows, ClusterScan),
    )
    with status("counting excluded rows"):
        return replace(_result(table, request, choice), digest=digest, index=out)


def peak_rss_bytes() -> int:
    """Return the most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would also count what the parent held before exec
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _check_arguments(out: str | None, budget: Budget, *, dry_run: bool, overwrite: bool) -> None:
    budgets = [budget.ratio, budget.num_samples, budget.num_units]
    if sum(each is not None for each in budgets) != 1:
        raise InputError("give one of --ratio, --num-samples and --num-units")
    if out is None:
        if not dry_run:
            raise InputError("--out is missing: the index file to write (or give --dry-run)")
        return
    if storage.is_local(out) and Path(storage.normalise(out)).is_dir():
        raise InputError(f"--out {out} is a folder: name a file in it")
    if not overwrite and storage.info(out) is not None:
        raise ExistsError(f"{out} already exists: choose another --out, or give --overwrite")


def _check_not_input(out: str | None, table: LossTable) -> None:
    if out is not None and storage.normalise(out) in table.files:
        raise InputError(f"--out {out} is one of the files with the losses: choose another")


def _needed_columns(section: SelectionSection[Any], budget: Budget) -> list[str]:
    """Return the columns that the selection reads."""
    units = [NUM_UNITS] if budget.num_units is not None else []
    return list(dict.fromkeys([*section.columns, *units]))


def _scan_at(
    rows: AnyScan | FrameChunks, *, scheduler: str | None
) -> AbstractContextManager[AnyScan | FrameChunks | ClusterScan]:
    if isinstance(rows, FrameChunks):  # row ids: there is nothing to read
        return nullcontext(rows)
    return scan_at(rows, scheduler=scheduler)


def _choose(table: LossTable, request: SelectionRequest) -> SubsetChoice:
    try:
        choice = choose(request)
    except TooFewError as error:
        if error.eligible:
            raise InputError(f"{table.url}: {error}, or give --at-most to take all") from error
        raise _none_eligible(table, request) from error
    if not choice.selection.eligible:
        raise _none_eligible(table, request)
    if not choice.selection.num_samples:
        raise InputError(
            f"{table.url}: no sample fits into {request.budget.num_units} units: raise --num-units"
        )
    return choice


def _none_eligible(table: LossTable, request: SelectionRequest) -> InputError:
    section = request.section
    if not set(LEARNER_COLUMNS).intersection(section.columns):
        expression = expression_of(section.strategy)
        key = "" if expression is None else f", with a finite value of the key {expression!r}"
        return InputError(
            f"{table.url}: no row is eligible: expected rows that fulfil `where`{key}; relax the"
            " condition, or choose another key"
        )
    counts = ", ".join(f"{count} {reason}" for reason, count in table.without_loss().items())
    return InputError(
        f"{table.url}: no row is eligible (rows without a finite loss: {counts or 'none'}): "
        "expected rows with a loss that fulfil `where`; score first, or relax the condition"
    )


def _provenance(request: SelectionRequest, choice: SubsetChoice) -> dict[str, Any]:
    """Return what the index records about the selection, as the rounds of a run do."""
    return {
        "selection": request.section.model_dump(mode="json"),
        "seed": request.draw.seed,
        "round": request.draw.round_number,
        "eligible": choice.selection.eligible,
        "threshold": choice.selection.threshold,
        "loss_share": choice.loss_share,
    }


def _write(
    out: str | None,
    table: LossTable,
    selection: Selection,
    *,
    provenance: dict[str, Any],
    overwrite: bool,
    is_remote: bool,
) -> str:
    """Write the index, or without `out` only read its rows; return the digest."""

    def write(rows: pl.LazyFrame | Iterable[pl.DataFrame]) -> str:
        title = "reading" if out is None else "writing"
        count = selection.num_samples
        with progress(title, total=count, unit="rows") as advance:
            if out is None:
                return digest_of(rows, num_samples=count, on_rows=advance)
            index = IndexFile.write(
                out,
                rows,
                provenance=provenance,
                num_samples=count,
                overwrite=overwrite,
                on_rows=advance,
            )
            return index.digest

    if table.own.sample_id is not None:
        return write([table.with_ids(selection.rows)])
    try:
        if not is_remote:
            return write(selection.frames())
        # Workers write the rows beside the index; in a dry run they are streamed through.
        return write(frames_by_storage(selection, beside=out) if out else selection.rows)
    except UnsortedError:
        # Foreign files may not be in (shard, row) order; sorting holds the subset in memory.
        return write(selection.rows.sort(SHARD_ID, ROW))


def _result(table: LossTable, request: SelectionRequest, choice: SubsetChoice) -> SelectResult:
    selection, by_samples = choice.selection, None
    if choice.loss_share is not None:
        by_samples = loss_share_by_samples(request, num_samples=selection.num_samples)
    return SelectResult(
        selected=selection.num_samples,
        total=selection.total,
        eligible=selection.eligible,
        threshold=selection.threshold,
        excluded=_count_excluded(table, request, selection),
        loss_share=choice.loss_share,
        loss_share_by_samples=by_samples,
        peak_rss_bytes=peak_rss_bytes(),
    )


def _count_excluded(
    table: LossTable, request: SelectionRequest, selection: Selection
) -> dict[str, int]:
    missing = selection.total - selection.eligible
    has_loss = LOSS in request.section.strategy.columns
    reasons = table.without_loss() if missing and has_loss else {}
    rest = missing - sum(reasons.values())
    return reasons | ({"condition": rest} if rest else {})
