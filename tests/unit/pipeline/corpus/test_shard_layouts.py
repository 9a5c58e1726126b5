"""What each layout of shards reads for a share of the rows, and which one a share asks for."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogs import storage
from catalogs.formats.parquet import Parquet
from catalogs.formats.webdataset import Webdataset
from catalogs.shard_format import ShardFormat
from catalogs.storage import ReadCost
from catalogs.testing import ingest
from pipeline.corpus.shard_layouts import Corpus, advise, current_amplification, layout_reads

LOCAL = ReadCost(latency_seconds=16e-6, bytes_per_second=1e9)
REMOTE = ReadCost(latency_seconds=0.025, bytes_per_second=40e6)


def local(sample_bytes: float) -> Corpus:
    return Corpus(sample_bytes, 10_000, LOCAL, is_local=True)


def remote(sample_bytes: float) -> Corpus:
    return Corpus(sample_bytes, 10_000, REMOTE, is_local=False)


def amplification(corpus: Corpus, share: float) -> dict[str, float]:
    reads = layout_reads(corpus, share=share)
    return {each.name: each.amplification for each in reads}


def test_row_groups_read_what_the_law_of_random_rows_says() -> None:
    share = 0.01
    read = amplification(local(200_000), share)
    for group_rows in (10, 41):
        expected = (1 - (1 - share) ** group_rows) / share
        assert read[f"parquet in row groups of {group_rows}"] == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    ("corpus", "share", "layout"),
    [
        (local(20_000), 0.01, "lance"),
        (remote(20_000), 0.01, "lance"),
        (remote(20_000), 0.1, "lance"),
        (remote(200_000), 0.5, "lance"),
        # Nearly every group has a selected row, and requests cost more than the bytes.
        (remote(20_000), 1.0, "parquet in row groups of 419"),
        (local(320), 0.1, "parquet in row groups of 1,024"),
        (remote(320), 0.01, "parquet in row groups of 1,024"),
    ],
)
def test_a_share_of_samples_of_a_size_asks_for_a_layout(
    corpus: Corpus, share: float, layout: str
) -> None:
    assert f"asks for {layout} (attent ingest --convert" in advise(corpus, share=share)
    best = amplification(corpus, share)[layout]
    assert "is as good as any" in advise(corpus, share=share, current=1.2 * best)
    assert "asks for" in advise(corpus, share=share, current=2 * best)


def test_no_row_group_is_larger_than_a_shard() -> None:
    corpus = Corpus(320, 1000, LOCAL, is_local=True)
    assert "parquet in row groups of 1,000" in amplification(corpus, 0.1)


@pytest.mark.parametrize(("name", "is_best"), [("lance", True), ("webdataset", False)])
def test_a_corpus_in_the_best_layout_is_left_as_it_is(name: str, *, is_best: bool) -> None:
    corpus = remote(20_000)
    current = current_amplification(corpus, share=0.1, shard_format=name, group_rows=1)
    assert current == amplification(corpus, 0.1)[name]
    assert ("is as good as any" in advise(corpus, share=0.1, current=current)) is is_best
    assert current_amplification(corpus, share=0.1, shard_format="mds", group_rows=1) is None


def test_whole_shards_as_row_groups_read_all_of_them() -> None:
    corpus = local(20_000)
    for group_rows, expected in ((10_000, 10), (1, 1)):
        current = current_amplification(
            corpus, share=0.1, shard_format="parquet", group_rows=group_rows
        )
        assert current == pytest.approx(expected)


@given(
    sample_bytes=st.floats(1, 1e7),
    shard_samples=st.integers(1, 20_000),
    share=st.floats(1e-6, 1),
    is_local=st.booleans(),
)
def test_no_layout_reads_less_than_the_samples(
    sample_bytes: float, shard_samples: int, share: float, *, is_local: bool
) -> None:
    cost = LOCAL if is_local else REMOTE
    corpus = Corpus(sample_bytes, shard_samples, cost, is_local=is_local)
    for each in layout_reads(corpus, share=share):
        assert each.amplification >= 0.4  # sizes are rounded to bytes
        assert each.seconds > 0
    assert "(attent ingest --convert" in advise(corpus, share=share)


def formats() -> list[tuple[str, ShardFormat]]:
    return [("parquet in row groups of 419", Parquet()), ("webdataset", Webdataset())]


@pytest.mark.parametrize(("layout", "shard_format"), formats())
def test_the_reads_are_those_that_the_format_plans(
    tmp_path: Path, layout: str, shard_format: ShardFormat
) -> None:
    noise = random.Random(0)
    samples = [{"bin": noise.randbytes(20_000), "cls": row} for row in range(2000)]
    shard = ingest(shard_format, tmp_path / f"shard{shard_format.suffixes[0]}", samples)
    rows = sorted(noise.sample(range(2000), 20))
    with storage.use_read_policy(storage.ReadPolicy(cost=LOCAL)):
        plan = shard_format.plan(shard, rows=rows, columns=["bin", "cls"])
    corpus = Corpus(20_000, 2000, LOCAL, is_local=True)
    expected = amplification(corpus, 0.01)[layout]
    assert plan.num_bytes / (20 * 20_000) == pytest.approx(expected, rel=0.25)
