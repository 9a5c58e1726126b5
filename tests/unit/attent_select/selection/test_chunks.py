"""A catalog in chunks: the answer does not depend on the cuts, and no count wraps at 2^32."""

import pickle
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, repeat
from typing import TypeVar

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from attent_select import Composition, Preview, plugins, select
from attent_select.selection import top_m
from attent_select.selection.chunks import Whole, map_in_threads
from attent_select.selection.eligibility import census
from attent_select.strategies.hard import Hard
from attent_select.strategies.soft import Soft

Result = TypeVar("Result")


@dataclass(frozen=True)
class Cuts:
    """A frame cut at `at`; what is done with a chunk goes through pickle, as on a cluster."""

    rows: pl.DataFrame
    at: tuple[int, ...]

    def frame(self) -> pl.LazyFrame:
        return self.rows.lazy()

    def only(self, columns: Sequence[str]) -> "Cuts":
        return Cuts(self.rows.select(columns), self.at)

    def run(self, work: Callable[[pl.LazyFrame], Result]) -> Iterator[Result]:
        shipped = pickle.loads(pickle.dumps(work))
        for first, end in pairwise([0, *sorted(self.at), len(self.rows)]):
            yield shipped(self.rows[first:end].lazy())


@dataclass(frozen=True)
class Repeated:
    """The same chunk scanned many times over."""

    rows: pl.DataFrame
    times: int

    def frame(self) -> pl.LazyFrame:
        return self.rows.lazy()

    def only(self, columns: Sequence[str]) -> "Repeated":
        return Repeated(self.rows.select(columns), self.times)

    def run(self, work: Callable[[pl.LazyFrame], Result]) -> Iterable[Result]:
        return repeat(work(self.rows.lazy()), self.times)


def losses(count: int, *, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    # Rounded, so that there are ties.
    values = rng.gamma(1.5, 1.0, count).round(1).astype(np.float32)
    rows = np.arange(count, dtype=np.uint32)
    return pl.DataFrame(
        {
            "shard_id": rows // 50,
            "row": rows % 50,
            "loss": values,
            "reference_loss": values[::-1],
            "functional_gradient": values / (values + 1),
            "measured_step": rows.astype(np.uint64) % 7,
            "source": [f"s{row % 3}" for row in rows],
        }
    )


COMPOSITIONS = (
    Composition(),
    Composition(explore=0.4, weights="inverse_probability"),
    Composition(by="source", quotas="equal", where="row <> 3", explore=0.2),
)


@pytest.mark.parametrize("strategy", plugins.plugin_names("attent_select.strategies"))
@settings(max_examples=10)
@given(
    at=st.lists(st.integers(0, 400), max_size=6),
    composition=st.sampled_from(COMPOSITIONS),
    num_samples=st.integers(1, 300),
)
def test_a_selection_is_the_same_wherever_the_rows_are_cut(
    strategy: str, at: list[int], composition: Composition, num_samples: int
) -> None:
    rows = losses(400)
    chosen = plugins.load_plugin("attent_select.strategies", strategy)()

    def selected(source: Cuts | pl.LazyFrame, preview: Preview | None) -> pl.DataFrame:
        found = select(
            source,
            strategy=chosen,
            num_samples=num_samples,
            seed=3,
            round_steps=(0, 4),
            composition=composition,
            preview=preview,
        )
        return pl.concat(found.frames())

    whole = selected(rows.lazy(), None)
    assert len(whole) == num_samples
    preview = Preview(len(rows), rows[::7].lazy())
    assert_frame_equal(selected(Cuts(rows, tuple(at)), None), whole, check_exact=True)
    assert_frame_equal(selected(Cuts(rows, tuple(at)), preview), whole, check_exact=True)


def test_counts_beyond_2_to_the_32_do_not_wrap() -> None:
    rows, times = losses(1_000_000), 5_000  # 5·10^9 rows
    above = int((rows["loss"] > 1.0).sum())
    keyed = rows.with_columns(pl.col("loss").cast(pl.Float64).alias(top_m.KEY))
    counted = top_m._count(Repeated(keyed, times), low=1.0, high=1.0)
    assert counted.num_rows == len(rows) * times > 2**32
    assert counted.above == above * times
    assert not counted.complete  # the tied rows are far too many to be collected

    scored = rows.with_columns(
        pl.lit(True).alias("__eligible"),
        pl.lit(2**31, dtype=pl.UInt64).alias("__cost"),
        pl.col("source").alias("__label"),
    )
    for with_strata in (False, True):
        chunks = Repeated(scored, times)
        found = census(chunks, with_losses=True, with_costs=True, with_strata=with_strata)
        assert found.losses is not None
        assert sum(found.eligible.values()) == found.num_eligible * 2**31 > 2**62
        assert found.losses.num_samples == found.num_eligible == found.total
        assert found.losses.mean == pytest.approx(rows["loss"].cast(pl.Float64).mean(), rel=1e-3)


@pytest.mark.parametrize("strategy", [Hard(), Soft()], ids=["hard", "soft"])
def test_a_catalog_beyond_2_to_the_32_rows_is_cut_at_the_right_key(strategy: Hard) -> None:
    """The same parts over and over, so that every row is there so many times."""
    rows, times = losses(1_000_000), 4_500
    half = 500_000 * times
    assert half > 2**31
    found = select(Repeated(rows, times), strategy=strategy, num_samples=half)
    assert found.total == found.eligible == len(rows) * times > 2**32
    once = select(rows.lazy(), strategy=strategy, num_samples=500_000)
    assert found.threshold == pytest.approx(once.threshold, rel=1e-12)


def test_threads_keep_the_order_and_stay_close_to_what_is_taken() -> None:
    begun: list[int] = []
    gate = threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        if item == 0:
            gate.wait(30)
        return item

    found = map_in_threads(work, iter(range(1000)), num_threads=3)
    gate.set()
    assert next(found) == 0
    assert max(begun) < 10  # three threads, three items ahead
    assert list(found) == list(range(1, 1000))


def test_what_was_not_begun_is_dropped_when_nobody_takes_more() -> None:
    begun: list[int] = []
    found = map_in_threads(begun.append, iter(range(1000)), num_threads=2)
    next(found)
    found.close()
    assert len(begun) < 10


def test_a_frame_without_rows_is_one_piece() -> None:
    empty = pl.LazyFrame(schema={"row": pl.UInt32})
    assert list(Whole(empty).run(lambda rows: rows.collect().shape)) == [(0, 1)]
