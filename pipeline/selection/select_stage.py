"""The select stage of a round: its index file, the rows that the round trains on."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import polars as pl

from attent_select.errors import ExistsError, InputError, MissingError
from attent_select.schedule.rounds import Round
from attent_select.schema import INDEX, NUM_UNITS, PROBABILITY, WEIGHT
from attent_select.selection.chunks import Chunks
from attent_select.selection.columns import COST
from attent_select.selection.select import num_samples_of
from catalogs import Corpus, IndexFile, storage
from catalogs.annotations.columns import has_units
from catalogs.losses import pools
from pipeline.candidates.draw import draw_candidates
from pipeline.config.sections import SelectionSection
from pipeline.runs.state import Run
from pipeline.selection import loss_tables
from pipeline.selection.annotation_digests import check_annotations
from pipeline.selection.choice import Budget, Draw, SelectionRequest, SubsetChoice, choose
from pipeline.selection.loss_tables import LossTable
from pipeline.selection.moving_quotas import decided_shares
from pipeline.selection.pool_table import pool_table

_log = logging.getLogger("attent.pipeline.selection.select_stage")


def select_stage(run: Run, round_: Round) -> IndexFile:
    """Select the rows of the round and write its index file, unless it is there.

    The index has as many rows, or units, as scheduled, or all eligible rows where those are fewer.

    Raises:
        InputError: no row is eligible.
        MissingError: the selection needs losses and the round was not scored.
    """
    url = run.layout.index(round_.number)
    if storage.info(url) is not None:
        return IndexFile.open(url, corpus=run.corpus)
    if round_.phase != "teach":
        rows, num_samples = _all_rows(run.corpus), run.corpus.num_samples
        if run.config.schedule.budget is not None:
            drawn = draw_candidates(run, round_)
            rows, num_samples = drawn.frame(), drawn.num_samples
        return _write(run, round_, rows, num_samples=num_samples, provenance={})
    in_units = _is_in_units(run, round_)
    table = _loss_table(run, round_, in_units=in_units)
    with loss_tables.polars_errors(table):
        choice = _choose(run, round_, table, in_units=in_units)
        selection = choice.selection
        return _write(
            run,
            round_,
            selection.frames(),
            num_samples=selection.num_samples,
            provenance=_provenance(run, round_, table, choice, in_units=in_units),
        )


def _is_in_units(run: Run, round_: Round) -> bool:
    """Whether the round's size is in units: as it was in the first teaching round."""
    if run.config.schedule.budget is not None:
        return round_.num_units is not None
    unit = run.config.selection.budget_unit
    if unit is None and run.config.schedule.ratio.kind != "adaptive":
        for each in run.rounds[: round_.number]:
            if each.phase == "teach" and run.is_selected(each.number):
                provenance = IndexFile.open(run.layout.index(each.number)).provenance
                return NUM_UNITS in provenance
        return run.needs_losses(round_) or has_units(run.config.run)
    return unit == "units"


def _loss_table(run: Run, round_: Round, *, in_units: bool) -> LossTable | None:
    """Return what the round is selected by; None where it reads no column."""
    columns = (*run.config.selection.columns, *((NUM_UNITS,) if in_units else ()))
    if run.config.pool is not None:
        table = pool_table(run, round_, columns)
        check_annotations(run, round_.number, table.annotations)
        return table
    if not columns:
        return None
    if not run.needs_losses(round_):
        return _table(run, round_, columns)
    if round_.number not in run.catalog.rounds():
        raise MissingError(
            f"round {round_.number} is selected by losses and was not scored: run "
            f"`attent score {run.config.run} --round {round_.number}`"
        )
    return _table(run, round_, columns)


def _table(run: Run, round_: Round, columns: Sequence[str]) -> LossTable:
    table = loss_tables.of_run(
        run.catalog, url=run.config.run, columns=columns, round_number=round_.number
    )
    check_annotations(run, round_.number, table.annotations)
    return table


def _choose(run: Run, round_: Round, table: LossTable | None, *, in_units: bool) -> SubsetChoice:
    """Choose as many rows or units as scheduled, or as many as are eligible."""
    budget = Budget(num_samples=round_.num_samples, at_most=True)
    if in_units:
        assert table is not None
        total = _sum_of(NUM_UNITS, table.rows)
        num_units = round_.num_units or num_samples_of(round_.ratio, total=total)
        budget = Budget(num_units=num_units, at_most=True)
    steps = [each.first_step for each in run.rounds[: round_.number + 1]]
    section = _section(run, round_)
    if table is not None and (shares := decided_shares(run, round_, table.rows)) is not None:
        section = _with_quotas(section, shares)
    choice = choose(
        SelectionRequest(
            losses=run.corpus.rows() if table is None else table.rows,
            section=section,
            budget=budget,
            draw=Draw(run.config.seed, round_.number, steps),
            corpus=run.corpus,
            preview=None if table is None else table.preview,
        )
    )
    selection = choice.selection
    if in_units:
        _log.info(
            f"round {round_.number}: {selection.num_samples:,} samples hold {budget.num_units:,} "
            f"of {total:,} units"
        )
        if not selection.num_samples:
            raise InputError(
                f"round {round_.number}: no sample fits into {budget.num_units:,} units: raise "
                "schedule.ratio or schedule.budget, or count samples instead"
            )
    elif selection.num_samples < round_.num_samples:
        _log.warning(
            f"round {round_.number}: {round_.num_samples:,} samples are scheduled, only "
            f"{selection.num_samples:,} are eligible; it trains on these"
        )
    return choice


def _measured_by(run: Run, round_: Round) -> dict[str, Any]:
    if run.config.pool is not None:
        return pools.pool_provenance(run.catalog, round_.number)
    return run.catalog.provenance(round_.number)


def _section(run: Run, round_: Round) -> SelectionSection[Any]:
    """Return the configured section with the share of exploration that was decided."""
    section: SelectionSection[Any] = run.config.selection
    decision = run.decisions.get(round_.number)
    if decision is None:
        return section
    composition = replace(section.composition, explore=decision.explore)
    return section.model_copy(update={"composition": composition})


def _with_quotas(
    section: SelectionSection[Any], shares: Mapping[str, float]
) -> SelectionSection[Any]:
    composition = replace(section.composition, quotas=shares)
    return section.model_copy(update={"composition": composition})


def _sum_of(column: str, rows: Chunks) -> int:
    """Return the sum of a column of integers."""
    return sum(rows.only([column]).run(_sum_of_chunk))


def _sum_of_chunk(rows: pl.LazyFrame) -> int:
    return int(rows.select(pl.all().cast(pl.UInt64).sum()).collect().item() or 0)


def _provenance(
    run: Run, round_: Round, table: LossTable | None, choice: SubsetChoice, *, in_units: bool
) -> dict[str, Any]:
    provenance: dict[str, Any] = {}
    if table is not None:
        provenance["annotations"] = dict(table.annotations)
    if table is not None and run.needs_losses(round_):
        provenance["losses"] = _measured_by(run, round_)["checkpoint_digest"]
    selection = choice.selection
    if in_units:
        # Of blocks the rows are not known here, only their number.
        rows = selection.catalog_rows
        provenance[NUM_UNITS] = None if rows is None else _sum_of(COST, rows)
    is_short = selection.num_samples < round_.num_samples
    return provenance | {
        "selection": _section(run, round_).model_dump(mode="json"),
        # With quotas, not all eligible rows can be taken.
        "eligible": selection.num_samples if is_short else selection.eligible,
        "threshold": selection.threshold,
        "loss_share": choice.loss_share,
    }


def _write(
    run: Run,
    round_: Round,
    rows: pl.LazyFrame | Iterable[pl.DataFrame],
    *,
    num_samples: int,
    provenance: dict[str, Any],
) -> IndexFile:
    """Write the index, or open the one that another process of this run wrote meanwhile.

    Both have the same rows, as the configuration is frozen.
    """
    url = run.layout.index(round_.number)
    about = {
        "corpus_id": run.corpus.corpus_id,
        "num_shards": len(run.corpus.shards),
        "num_samples": run.corpus.num_samples,
        "round": asdict(round_),
        "seed": run.config.seed,
    }
    try:
        return IndexFile.write(url, rows, provenance=about | provenance, num_samples=num_samples)
    except ExistsError:
        return IndexFile.open(url, corpus=run.corpus)


def _all_rows(corpus: Corpus) -> pl.LazyFrame:
    return corpus.rows().with_columns(
        pl.lit(1.0, dtype=INDEX[name]).alias(name) for name in (WEIGHT, PROBABILITY)
    )
