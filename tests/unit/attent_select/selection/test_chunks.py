"""Chunks of a catalog: the selection does not depend on them, and no count wraps at 2^32."""

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
from attent_select.selection.chunks import FrameChunks, Place, map_in_threads
from attent_select.selection.columns import ELIGIBLE, KEY
from attent_select.selection.counting import count_rows
from attent_select.strategies.hard import Hard
from attent_select.strategies.soft import Soft

Result = TypeVar("Result")


@dataclass(frozen=True)
class PickledChunks:
    """A frame divided at `boundaries`; the work is pickled, as on a cluster."""

    rows: pl.DataFrame
    boundaries: tuple[int, ...]

    def frame(self) -> pl.LazyFrame:
        return self.rows.lazy()

    def only(self, columns: Sequence[str]) -> "PickledChunks":
        return PickledChunks(self.rows.select(columns), self.boundaries)

    def run(self, work: Callable[[pl.LazyFrame], Result]) -> Iterator[Result]:
        unpickled = pickle.loads(pickle.dumps(work))
        for first, end in pairwise([0, *sorted(self.boundaries), len(self.rows)]):
            yield unpickled(self.rows[first:end].lazy())


class KnownPlaces(PickledChunks):
    """Chunks that know the positions of their rows; another division for each pass."""

    def only(self, columns: Sequence[str]) -> "KnownPlaces":
        return KnownPlaces(self.rows.select(columns), self.boundaries[1:])

    def run_placed(self, work: Callable[[pl.LazyFrame, Place], Result]) -> Iterator[Result]:
        for first, end in pairwise([0, *sorted(self.boundaries)[::2], len(self.rows)]):
            yield work(self.rows[first:end].lazy(), Place(range(first, end)))


@dataclass(frozen=True)
class RepeatedChunk:
    """The same chunk many times."""

    rows: pl.DataFrame
    times: int

    def frame(self) -> pl.LazyFrame:
        return self.rows.lazy()

    def only(self, columns: Sequence[str]) -> "RepeatedChunk":
        return RepeatedChunk(self.rows.select(columns), self.times)

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
@settings(max_examples=settings.default.max_examples // 7)  # 4 in `make test`
@given(
    boundaries=st.lists(st.integers(0, 400), max_size=6),
    composition=st.sampled_from(COMPOSITIONS),
    num_samples=st.integers(1, 300),
)
def test_a_selection_is_the_same_for_any_chunks(
    strategy: str, boundaries: list[int], composition: Composition, num_samples: int
) -> None:
    rows = losses(400)
    plugin = plugins.load_plugin("attent_select.strategies", strategy)()

    def selected_rows(
        source: PickledChunks | pl.LazyFrame, preview: Preview | None
    ) -> pl.DataFrame:
        selection = select(
            source,
            strategy=plugin,
            num_samples=num_samples,
            seed=3,
            round_steps=(0, 4),
            composition=composition,
            preview=preview,
        )
        return pl.concat(selection.frames())

    whole = selected_rows(rows.lazy(), None)
    assert len(whole) == num_samples
    preview = Preview(len(rows), rows[::7].lazy())
    assert_frame_equal(
        selected_rows(PickledChunks(rows, tuple(boundaries)), None), whole, check_exact=True
    )
    for chunks in (PickledChunks, KnownPlaces):
        assert_frame_equal(
            selected_rows(chunks(rows, tuple(boundaries)), preview), whole, check_exact=True
        )


def test_counts_beyond_2_to_the_32_do_not_wrap() -> None:
    rows, times = losses(1_000_000), 5_000  # 5·10^9 rows
    above = int((rows["loss"] > 1.0).sum())
    keyed = rows.with_columns(
        pl.col("loss").cast(pl.Float64).alias(KEY), pl.lit(True).alias(ELIGIBLE)
    )
    counts = top_m._count_bracket(RepeatedChunk(keyed, times), low=1.0, high=1.0)
    assert counts.num_rows == len(rows) * times > 2**32
    assert counts.num_above == above * times
    assert not counts.is_complete  # there are far too many ties to collect

    scored = rows.with_columns(
        pl.lit(True).alias("__eligible"),
        pl.lit(2**31, dtype=pl.UInt64).alias("__cost"),
        pl.col("source").alias("__label"),
    )
    for with_strata in (False, True):
        chunks = RepeatedChunk(scored, times)
        row_counts = count_rows(chunks, with_losses=True, with_costs=True, with_strata=with_strata)
        assert row_counts.losses is not None
        assert sum(row_counts.available.values()) == row_counts.num_eligible * 2**31 > 2**62
        assert row_counts.losses.num_samples == row_counts.num_eligible == row_counts.total
        assert row_counts.losses.mean == pytest.approx(
            rows["loss"].cast(pl.Float64).mean(), rel=1e-3
        )


@pytest.mark.parametrize("strategy", [Hard(), Soft()], ids=["hard", "soft"])
def test_the_threshold_of_more_than_2_to_the_32_rows_is_right(strategy: Hard) -> None:
    """The same chunk repeated, so that every row occurs 4500 times."""
    rows, times = losses(1_000_000), 4_500
    half = 500_000 * times
    assert half > 2**31
    selection = select(RepeatedChunk(rows, times), strategy=strategy, num_samples=half)
    assert selection.total == selection.eligible == len(rows) * times > 2**32
    once = select(rows.lazy(), strategy=strategy, num_samples=500_000)
    assert selection.threshold == pytest.approx(once.threshold, rel=1e-12)


def test_threads_keep_the_order_and_a_bounded_look_ahead() -> None:
    started: list[int] = []
    gate = threading.Event()

    def work(item: int) -> int:
        started.append(item)
        if item == 0:
            gate.wait(30)
        return item

    results = map_in_threads(work, iter(range(1000)), num_threads=3)
    gate.set()
    assert next(results) == 0
    assert max(started) < 10  # three threads, three items ahead
    assert list(results) == list(range(1, 1000))


def test_closing_the_generator_drops_pending_items() -> None:
    started: list[int] = []
    results = map_in_threads(started.append, iter(range(1000)), num_threads=2)
    next(results)
    results.close()
    assert len(started) < 10


def test_an_empty_frame_is_one_empty_chunk() -> None:
    empty = pl.LazyFrame(schema={"row": pl.UInt32})
    assert list(FrameChunks(empty).run(lambda rows: rows.collect().shape)) == [(0, 1)]
