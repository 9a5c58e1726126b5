"""The model of growth: what grows with what, its constants, and the page that is made from it."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from attent_select.errors import InputError
from pipeline.doctor import scale_constants as per
from pipeline.doctor.prices import Prices
from pipeline.doctor.scale import (
    annotate_cost,
    ingest_cost,
    score_cost,
    select_cost,
    start_requests,
    train_cost,
)
from pipeline.doctor.stage_cost import CorpusSize, Machines, StageCost

ROOT = Path(__file__).parents[4]
RESULTS = ROOT / "benchmarks" / "results"
sys.path.append(str(ROOT / "benchmarks"))

import scale_page  # noqa: E402

PRICES, MACHINES = Prices(), Machines()
CORPORA = st.builds(
    CorpusSize,
    num_shards=st.integers(1, 10**6),
    num_samples=st.integers(10**6, 10**11),
    sample_bytes=st.sampled_from([200.0, 2000.0, 100_000.0]),
    group_rows=st.sampled_from([1, 1024]),
    has_members=st.booleans(),
)
MORE = st.floats(1.0, 10.0)


def costs(corpus: CorpusSize) -> list[StageCost]:
    selected = corpus.num_samples // 10
    return [
        ingest_cost(corpus),
        annotate_cost(corpus, MACHINES),
        score_cost(corpus, MACHINES),
        select_cost(corpus, rows=corpus.num_samples, selected=selected),
        train_cost(corpus, MACHINES, selected=selected),
    ]


def assert_grows(few: StageCost, many: StageCost) -> None:
    for name in ("read_bytes", "written_bytes", "driver_bytes", "worker_seconds"):
        assert getattr(many, name) >= getattr(few, name) * (1 - 1e-9), (few.name, name)
    for name in ("reads", "writes", "deletes"):
        low, high = getattr(few.requests, name), getattr(many.requests, name)
        # A draw of a tenth of the rows is rounded to whole samples.
        assert high >= low * (1 - 1e-6) - 1, (few.name, name)


@given(CORPORA, MORE)
def test_more_samples_in_the_same_shards_take_no_less(corpus: CorpusSize, more: float) -> None:
    larger = replace(corpus, num_samples=int(corpus.num_samples * more))
    for few, many in zip(costs(corpus), costs(larger), strict=True):
        assert_grows(few, many)


@given(CORPORA, MORE)
def test_the_same_samples_in_more_shards_take_no_less(corpus: CorpusSize, more: float) -> None:
    cut = replace(corpus, num_shards=int(corpus.num_shards * more))
    # Small shards are read as a whole, which saves their footers.
    assume(cut.is_small_sharded == corpus.is_small_sharded)
    for few, many in zip(costs(corpus)[:4], costs(cut)[:4], strict=True):
        assert_grows(few, many)


@given(CORPORA, st.integers(1, 10**4), st.integers(1, 10**4))
def test_more_workers_are_never_slower_and_ask_only_for_what_each_needs_to_begin(
    corpus: CorpusSize, workers: int, added: int
) -> None:
    for cost in costs(corpus):
        slow, fast = (cost.seconds(count, PRICES) for count in (workers, workers + added))
        assert fast <= slow
        few, many = (start_requests(cost, workers=count) for count in (workers, workers + added))
        assert 0 <= many.reads - few.reads <= 3 * added
        assert (many.writes, many.deletes) == (few.writes, few.deletes)


def test_workers_without_a_task_ask_for_nothing() -> None:
    cost = score_cost(CorpusSize(3, 300, 10.0), MACHINES)
    assert start_requests(cost, workers=3) == start_requests(cost, workers=1000)


def test_a_pool_costs_the_same_for_a_hundred_times_the_samples() -> None:
    def reads(num_samples: int) -> float:
        cost = score_cost(
            CorpusSize(10**5, num_samples, 2000.0), MACHINES, scored=30_000, read_bytes=1e9
        )
        return cost.requests.reads

    assert reads(10**11) == pytest.approx(reads(10**9), rel=0.01)


def test_prices_are_set_by_name() -> None:
    prices = PRICES.with_values(["worker_hour=2.5", "writes_per_second=100"])
    assert (prices.worker_hour, prices.writes_per_second) == (2.5, 100.0)
    cost = ingest_cost(CorpusSize(1000, 10**6, 2000.0))
    assert cost.dollars(1, prices) > cost.dollars(1, PRICES)
    for wrong in (
        "hour=1",
        "worker_hour",
        "worker_hour=-1",
        "worker_hour=nan",
        "reads_per_second=0",
    ):
        with pytest.raises(InputError, match="--price"):
            PRICES.with_values([wrong])


def result(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


@pytest.mark.parametrize(
    ("constant", "part", "key"),
    [
        ("INGEST_SHARD_BYTES", "ingest", "memory_bytes_per_shard"),
        ("INGEST_SHARD_SECONDS", "ingest", "seconds_per_shard"),
        ("MANIFEST_BYTES", "ingest", "manifest_bytes_per_shard"),
        ("MANIFEST_SHARD_BYTES", "manifest", "memory_bytes_per_shard"),
        ("MANIFEST_SHARD_SECONDS", "manifest", "seconds_per_shard"),
        ("SPAN_BYTES", "plan", "memory_bytes_per_span"),
        ("PLAN_SPAN_SECONDS", "plan", "seconds_per_span"),
        ("PLAN_BYTES", "plan", "plan_bytes_per_span"),
        ("SNAPSHOT_SHARD_BYTES", "snapshot", "memory_bytes_per_shard"),
        ("SNAPSHOT_SHARD_SECONDS", "snapshot", "seconds_per_shard"),
        ("READ_SNAPSHOT_SHARD_SECONDS", "snapshot", "read_seconds_per_shard"),
        ("SNAPSHOT_BYTES", "snapshot", "snapshot_bytes_per_shard"),
        ("SPAN_ROW_SECONDS", "parts", "span_seconds_per_row"),
        ("SPAN_ROW_BYTES", "parts", "span_bytes_per_row"),
        ("MERGE_ROW_SECONDS", "parts", "compact_seconds_per_row"),
        ("MERGE_ROW_BYTES", "parts", "compact_memory_bytes_per_row"),
        ("PART_ROW_BYTES", "parts", "part_bytes_per_row"),
        ("CLOSING_ROW_SECONDS", "parts", "closing_seconds_per_row"),
        ("INDEX_ROW_BYTES", "index", "index_bytes_per_row"),
        ("RANK_ROW_BYTES", "index", "rank_memory_bytes_per_row"),
        ("RANK_ROW_SECONDS", "index", "open_seconds_per_row"),
        ("CANDIDATE_BYTES", "candidates", "memory_bytes_per_row"),
        ("CANDIDATE_SECONDS", "candidates", "seconds_per_row"),
        ("INSPECT_SECONDS", "inspection", "seconds_per_shard"),
    ],
)
def test_a_constant_is_the_one_that_was_measured(constant: str, part: str, key: str) -> None:
    assert getattr(per, constant) == pytest.approx(result("scale")[part][key], rel=0.03)


def test_the_other_constants_are_those_of_their_results() -> None:
    window = result("scoring_spans")["spans"]["window"]
    base = window["driver_rss_mib"] - window["driver_rss_growth_mib"]
    assert pytest.approx(base, rel=0.01) == per.DRIVER_BYTES / per.MIB
    cpu_ms = window["driver_cpu_ms_per_span"]
    assert pytest.approx(cpu_ms, rel=0.01) == 1000 * per.TASK_SECONDS
    pools = result("pools")["results"]
    assert pytest.approx(pools[0]["worker_peak_mib"], rel=0.01) == per.WORKER_BYTES / per.MIB
    rate = result("annotations")["rates"]["megabytes_per_second"]["hashing"]
    assert pytest.approx(rate) == per.HASHED_BYTES_PER_SECOND / 1e6
    results = result("selection_1e9")["results"]
    soft = next(each for each in results if each["method"] == "ours: soft")
    assert pytest.approx(soft["seconds"], rel=0.01) == 1e9 * per.SELECT_ROW_SECONDS
    assert soft["peak_rss_mib"] == per.SELECT_BYTES / per.MIB


def test_the_tables_of_the_page_are_those_of_the_model() -> None:
    # After a change of the model: python benchmarks/scale_page.py
    page = scale_page.PAGE.read_text(encoding="utf-8")
    assert scale_page.with_tables(page) == page
