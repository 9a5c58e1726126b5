"""The choice of a teaching subset by the section `selection`: single samples or whole blocks.

Used by `attent select` and by the rounds of a run.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from attent_select.errors import InputError, TooFewError
from attent_select.selection.block_table import Granularity, RowGroupBlocks
from attent_select.selection.blocks import select_blocks, share_by_samples
from attent_select.selection.chunks import Chunks
from attent_select.selection.select import Preview, Selection, select
from attent_select.sql_expression import number
from attent_select.strategy import expression_of
from catalogs import Corpus
from pipeline.config.sections import SelectionSection

_log = logging.getLogger("attent.pipeline.selection.choice")


@dataclass(frozen=True)
class Budget:
    """How much to select: exactly one of samples, a ratio of all rows, or units.

    `at_most`: take everything that is eligible where that is less.
    """

    num_samples: int | None = None
    ratio: float | None = None
    num_units: int | None = None
    at_most: bool = False

    def limited_to(self, eligible: int) -> "Budget":
        """Return a budget of the same kind that takes everything eligible."""
        if self.num_units is not None:
            return Budget(num_units=eligible)
        return Budget(num_samples=eligible)


@dataclass(frozen=True)
class Draw:
    """What random numbers and the ages of losses depend on; see `select`."""

    seed: int
    round_number: int
    round_steps: Sequence[int] = ()


@dataclass(frozen=True)
class SelectionRequest:
    """What to select from, how, and how much.

    Attributes:
        losses: one row per sample.
        section: strategy, granularity and composition.
        budget: how much.
        draw: seed and round.
        corpus: of the losses, where it is known; needed for `granularity: row_group`.
        preview: some of the rows, which make the selection faster.
    """

    losses: pl.LazyFrame | Chunks
    section: SelectionSection[Any]
    budget: Budget
    draw: Draw
    corpus: Corpus | None = None
    preview: Preview | None = None


@dataclass(frozen=True)
class SubsetChoice:
    """A selection, and for whole blocks the share of all loss that it holds, where losses count."""

    selection: Selection
    loss_share: float | None = None


def choose(request: SelectionRequest) -> SubsetChoice:
    """Choose the teaching subset.

    Raises:
        InputError: what `select` raises, or `granularity: row_group` without a corpus.
        TooFewError: fewer rows are eligible than the budget takes, or none.
    """
    _warn_if_constant(request)
    try:
        return _choose(request)
    except TooFewError as error:
        if not (request.budget.at_most and error.eligible):
            raise
        budget = request.budget.limited_to(error.eligible)
    return _choose(replace(request, budget=budget))


def loss_share_by_samples(request: SelectionRequest, *, num_samples: int) -> float | None:
    """Return the share of all loss that `num_samples` single samples hold, to compare blocks with.

    The request's own budget and granularity do not count.
    """
    return share_by_samples(
        request.losses,
        strategy=request.section.strategy,
        num_samples=num_samples,
        seed=request.draw.seed,
        round_number=request.draw.round_number,
        round_steps=request.draw.round_steps,
        composition=replace(request.section.composition, weights="none"),
        preview=request.preview,
    )


def _choose(request: SelectionRequest) -> SubsetChoice:
    section, budget, draw = request.section, request.budget, request.draw
    arguments: dict[str, Any] = {
        "strategy": section.strategy,
        "num_samples": budget.num_samples,
        "ratio": budget.ratio,
        "num_units": budget.num_units,
        "seed": draw.seed,
        "round_number": draw.round_number,
        "round_steps": draw.round_steps,
        "composition": section.composition,
    }
    if section.granularity == "sample":
        return SubsetChoice(select(request.losses, **arguments, preview=request.preview))
    granularity = _granularity(section.granularity, request.corpus)
    blocks = select_blocks(request.losses, granularity=granularity, **arguments)
    return SubsetChoice(blocks.selection, blocks.loss_share)


def _warn_if_constant(request: SelectionRequest) -> None:
    """Warn if a key without noise has the same value in all rows of the preview."""
    strategy, preview = request.section.strategy, request.preview
    text = expression_of(strategy)
    if text is None or preview is None or getattr(strategy, "noise", "none") != "none":
        return
    key = number(text, preview.rows.collect_schema(), what="key")
    finite = preview.rows.select(value=key).filter(pl.col("value").is_finite())
    value = pl.col("value")
    ends = (value.min().alias("low"), value.max().alias("high"), value.count().alias("count"))
    low, high, count = finite.select(ends).collect().row(0)
    if count > 1 and low == high:
        _log.warning(
            f"key: {text!r} is {low:g} in all of {count:,} rows that were looked at: of rows with"
            " equal keys the first ones of the corpus are selected; choose another key, or"
            " strategy uniform"
        )


def _granularity(granularity: str | int, corpus: Corpus | None) -> Granularity:
    if isinstance(granularity, int):
        return granularity
    if granularity == "shard":
        return "shard"
    if corpus is None:
        raise InputError(
            "granularity: row_group needs a run, whose corpus has row groups; choose rows per "
            "block (such as 1024) or `shard`"
        )
    return RowGroupBlocks(corpus.row_groups())
