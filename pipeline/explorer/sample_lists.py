"""Lists of samples: hardest, easiest, most forgotten, nearest to the cut, random, candidates."""

import functools
import itertools
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl

from attent_select import sql_expression
from attent_select.errors import InputError
from attent_select.schema import LOSS, ROW, SHARD_ID, STATUS, sample_key
from attent_select.stats.randomness import Purpose, sample_uniform, stream_key
from catalogs import IndexFile
from catalogs.layout import Layout
from pipeline.config.run_config import frozen_section
from pipeline.explorer.filters import Filter
from pipeline.explorer.source import Rows, Source, run_chunks

ORDERS: Final = ("hardest", "easiest", "forgotten", "cut", "labels", "random", "column")
MAX_SAMPLES: Final = 200
# Samples whose labels are compared with what a model predicts.
MAX_CANDIDATES: Final = 10_000
# Rows of one answer in a search for candidates: some seconds.
_CANDIDATE_ROWS: Final = 20_000_000
# Rounds of which the losses are compared, evenly spaced.
_COMPARED_ROUNDS: Final = 12
_VALUE, _SCORE, _KEY = "value", "__score", "__key"


@dataclass(frozen=True)
class Order:
    """An order of samples: the largest `score` come first; `value` is what they are shown with."""

    columns: tuple[str, ...]
    score: pl.Expr
    value: pl.Expr
    title: str


def list_samples(
    source: Source,
    order: str,
    *,
    where: Filter,
    count: int = 24,
    seed: int = 0,
    column: str | None = None,
) -> dict[str, Any]:
    """Return the first samples in an order, each with shard_id, row, value and what else is known.

    Args:
        source: the samples.
        order: one of `ORDERS`.
        where: which samples match.
        count: most samples.
        seed: of the random order.
        column: for the order `column`, the one whose largest values come first.

    Raises:
        InputError: there is no such order, or its columns are missing.
    """
    if not 0 < count <= MAX_SAMPLES:
        raise InputError(f"expected 1 to {MAX_SAMPLES} samples, got {count}")
    made = _order(source, order, seed=seed, column=column)
    shown = [name for name in (LOSS, STATUS) if name in source.kinds]
    rows = source.read([*made.columns, *where.columns, *shown])
    first, facts = _run(rows, made, where.expression(source), count, shown)
    samples = first.drop(_SCORE, _KEY).to_dicts()
    return rows.facts | facts | {"title": made.title, "samples": samples}


def list_candidates(
    source: Source, *, where: Filter, count: int, first_shard: int = 0
) -> dict[str, Any]:
    """Return the samples of the next shards whose losses stay largest, as [shard_id, row, loss].

    Together the answers are about all rows: `next_shard` is where the next one begins, None after
    the last.

    Raises:
        InputError: the samples have no losses, or the filter is not valid.
    """
    if not 0 < count <= MAX_CANDIDATES:
        raise InputError(f"expected 1 to {MAX_CANDIDATES} candidates, got {count}")
    made = _order(source, "labels", seed=0, column=None)
    shards = _next_shards(source, first_shard)
    rows = source.read([*made.columns, *where.columns], shards=shards)
    first, facts = _run(rows, made, where.expression(source), count, [])
    ends = bool(source.pool_rounds) or shards.stop >= len(source.corpus.shards)
    return facts | {
        "rows": rows.num_rows,
        "total": rows.total,
        "rounds": [len(made.columns), len(source.rounds) or 1],
        "next_shard": None if ends else shards.stop,
        "samples": first.select(SHARD_ID, ROW, _VALUE).rows(),
    }


def _next_shards(source: Source, first_shard: int) -> range:
    """Return the shards of the next answer: one, or as many as have about 20 million rows."""
    ends = np.cumsum(source.corpus.shard_rows)
    before = int(ends[first_shard - 1]) if 0 < first_shard <= len(ends) else 0
    stop = int(np.searchsorted(ends, before + _CANDIDATE_ROWS, side="right"))
    return range(max(0, first_shard), max(stop, first_shard + 1))


def _run(
    rows: Rows, order: Order, condition: pl.Expr | None, count: int, shown: list[str]
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return the first rows in an order, and how many match, and how many of them have a value."""
    work = functools.partial(_first, order, condition, count, shown)
    first: pl.DataFrame | None = None
    matching = ranked = 0
    for top, num_matching, num_ranked in run_chunks(rows, work):
        first = top if first is None else _largest(pl.concat([first, top]), count)
        matching, ranked = matching + num_matching, ranked + num_ranked
    assert first is not None
    return first, {"matching": matching, "ranked": ranked}


def available_orders(source: Source) -> list[str]:
    """Return the orders for which the source has the columns."""
    if LOSS not in source.kinds:
        return ["random", "column"]
    several = ["forgotten"] if len(source.rounds) > 1 else []
    cut = ["cut"] if source.indexes else []
    return ["hardest", "easiest", *several, *cut, "labels", "random", "column"]


def _first(
    order: Order, condition: pl.Expr | None, count: int, shown: list[str], rows: pl.DataFrame
) -> tuple[pl.DataFrame, int, int]:
    if condition is not None:
        rows = rows.filter(condition)
    scored = rows.select(
        SHARD_ID,
        ROW,
        *shown,
        order.value.alias(_VALUE),
        order.score.cast(pl.Float64).alias(_SCORE),
        sample_key().alias(_KEY),
    )
    ranked = scored.filter(pl.col(_SCORE).is_finite())
    return _largest(ranked, count), len(rows), len(ranked)


def _largest(rows: pl.DataFrame, count: int) -> pl.DataFrame:
    # Ties in the order of the corpus, whatever the chunks are.
    if len(rows) > 4 * count:
        edge = rows[_SCORE].top_k(count).min()
        rows = rows.filter(pl.col(_SCORE) >= edge)
    return rows.sort(_SCORE, _KEY, descending=[True, False]).head(count)


def _order(source: Source, order: str, *, seed: int, column: str | None) -> Order:
    if order not in ORDERS:
        raise InputError(f"order {order!r}: expected one of {', '.join(ORDERS)}")
    if order == "random":
        draw = sample_uniform(stream_key(seed, Purpose.SPLIT))
        value = pl.col(LOSS) if LOSS in source.kinds else pl.lit(None, pl.Float64)
        return Order((LOSS,) if LOSS in source.kinds else (), draw, value, "random samples")
    if order == "column":
        if column is None or column not in source.columns:
            raise InputError(f"column {column!r}: expected one of {', '.join(source.columns)}")
        if source.columns[column].kind != "number":
            raise InputError(f"{column} is not a number: choose another column")
        return Order((column,), pl.col(column), pl.col(column), f"largest {column}")
    if LOSS not in source.kinds:
        raise InputError(f"{source.url} has no losses: run `attent score`, or choose random")
    return _by_loss(source, order)


def _by_loss(source: Source, order: str) -> Order:
    loss = pl.col(LOSS)
    if order == "hardest":
        return Order((LOSS,), loss, loss, "largest newest loss")
    if order == "easiest":
        return Order((LOSS,), -loss, loss, "smallest newest loss")
    if order == "labels":
        names = _columns_to_compare(source)
        smallest = pl.min_horizontal(names)
        rounds = f"of {len(names)} rounds" if len(names) > 1 else "of one round"
        return Order(
            tuple(names), smallest, smallest, f"loss that stays large: the smallest {rounds}"
        )
    if order == "forgotten":
        names = _columns_to_compare(source)
        if len(names) < 2:
            raise InputError("only one round has losses: nothing can have been forgotten")
        rises = [pl.col(b) - pl.col(a) for a, b in itertools.pairwise(names)]
        rise = pl.max_horizontal(rises)
        return Order(tuple(names), rise, rise, "largest rise of the loss between two rounds")
    value, cut, title = cut_of(source)
    columns = tuple(dict.fromkeys(value.meta.root_names()))
    return Order(columns, -(value - cut).abs(), value, title)


def _columns_to_compare(source: Source) -> list[str]:
    """Return the columns with the losses of at most twelve rounds, oldest first."""
    names = source.round_columns() or [LOSS]
    step = max(1, -(-len(names) // _COMPARED_ROUNDS))
    return names[::-1][::step][::-1]


def cut_of(source: Source) -> tuple[pl.Expr, float, str]:
    """Return the value that the newest index was cut by, its threshold, and a title.

    A draw with noise has no cut: it is that of the same share of the largest losses.

    Raises:
        InputError: the run has no index.
    """
    if not source.indexes:
        raise InputError(f"{source.url} has no index: select first")
    number = source.indexes[-1]
    index = IndexFile.open(Layout(source.url).index(number), corpus=source.corpus)
    section = index.provenance.get("selection") or frozen_section(source.url, "selection")
    threshold = index.provenance.get("threshold")
    name = section.get("strategy", "hard")
    if isinstance(threshold, int | float) and name in ("hard", "key"):
        text = LOSS if name == "hard" else str(section.get("key", LOSS))
        if section.get("noise", "none") == "none":
            value = sql_expression.number(text, source.kinds, what="key")
            return value, float(threshold), f"{text} nearest to the cut of round {number}"
    share = index.num_samples / max(1, source.corpus.num_samples)
    losses = source.preview([LOSS])[LOSS].drop_nulls()
    cut = losses.quantile(max(0.0, 1.0 - share)) if len(losses) else 0.0
    title = f"loss nearest to the top {share:.0%} (round {number} drew at random: {name})"
    return pl.col(LOSS), float(cut or 0.0), title
