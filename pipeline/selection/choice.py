"""The choice of a teaching subset by the section `selection`: single samples or whole blocks.

Used by `attent select` and by the rounds of a run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from attent_select.errors import InputError, TooFewError
from attent_select.selection.block_table import Granularity, RowGroupBlocks
from attent_select.selection.blocks import select_blocks, share_by_samples
from attent_select.selection.chunks import Chunks
from attent_select.selection.select import Preview, Selection, select
from catalogs import Corpus
from pipeline.config.sections import SelectionSection


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
