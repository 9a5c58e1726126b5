"""One selection as the section `selection` says it: single samples, or whole blocks of them.

What `attent select` and the rounds of a run share.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from attent_select.errors import InputError, TooFewError
from attent_select.selection.blocks import (
    Granularity,
    RowGroupBlocks,
    select_blocks,
    share_by_samples,
)
from attent_select.selection.chunks import Chunks
from attent_select.selection.select import Preview, Selection, select
from catalogs import Corpus
from pipeline.config.sections import SelectionSection


@dataclass(frozen=True)
class Budget:
    """How much to select: one of the three. `at_most`: all that is eligible, where that is less."""

    num_samples: int | None = None
    ratio: float | None = None
    num_units: int | None = None
    at_most: bool = False

    def reduced(self, eligible: int) -> "Budget":
        """The same kind of budget, as large as what is eligible."""
        if self.num_units is not None:
            return Budget(num_units=eligible)
        return Budget(num_samples=eligible)


@dataclass(frozen=True)
class Draw:
    """What randomness and ages depend on; see `select`."""

    seed: int
    round_number: int
    round_steps: Sequence[int] = ()


@dataclass(frozen=True)
class Chosen:
    """A selection. Of whole blocks also the share of all loss that it holds, where losses count."""

    selection: Selection
    loss_share: float | None = None


def choose(
    losses: pl.LazyFrame | Chunks,
    how: SelectionSection[Any],
    *,
    budget: Budget,
    draw: Draw,
    corpus: Corpus | None,
    preview: Preview | None = None,
) -> Chosen:
    """The teaching subset of `losses`.

    Raises:
        InputError: as `select`; or `granularity: row_group` without a corpus that has row groups.
        TooFewError: fewer rows are eligible than asked for, or none.
    """
    try:
        return _choose(losses, how, budget=budget, draw=draw, corpus=corpus, preview=preview)
    except TooFewError as error:
        if not (budget.at_most and error.eligible):
            raise
        budget = budget.reduced(error.eligible)
    return _choose(losses, how, budget=budget, draw=draw, corpus=corpus, preview=preview)


def loss_share_by_samples(
    losses: pl.LazyFrame | Chunks,
    how: SelectionSection[Any],
    *,
    num_samples: int,
    draw: Draw,
    preview: Preview | None,
) -> float | None:
    """What as many single samples would hold of the loss: what blocks are compared with."""
    return share_by_samples(
        losses,
        strategy=how.strategy,
        num_samples=num_samples,
        seed=draw.seed,
        round_number=draw.round_number,
        round_steps=draw.round_steps,
        composition=replace(how.composition, weights="none"),
        preview=preview,
    )


def _choose(
    losses: pl.LazyFrame | Chunks,
    how: SelectionSection[Any],
    *,
    budget: Budget,
    draw: Draw,
    corpus: Corpus | None,
    preview: Preview | None,
) -> Chosen:
    asked: dict[str, Any] = {
        "strategy": how.strategy,
        "num_samples": budget.num_samples,
        "ratio": budget.ratio,
        "num_units": budget.num_units,
        "seed": draw.seed,
        "round_number": draw.round_number,
        "round_steps": draw.round_steps,
        "composition": how.composition,
    }
    if how.granularity == "sample":
        selection = select(
            losses,
            **asked,
            preview=preview,
        )
        return Chosen(selection)
    found = select_blocks(
        losses,
        granularity=_blocks(how.granularity, corpus),
        **asked,
    )
    return Chosen(found.selection, found.loss_share)


def _blocks(granularity: str | int, corpus: Corpus | None) -> Granularity:
    if isinstance(granularity, int):
        return granularity
    if granularity == "shard":
        return "shard"
    if corpus is None:
        raise InputError(
            "granularity: only a run knows the row groups of its corpus; choose rows per block "
            "(such as 1024) or `shard`"
        )
    return RowGroupBlocks(corpus.row_groups())
