"""Compact shards: the same training from fewer bytes, each written once despite kills."""

from pathlib import Path

import pytest
import torch
from digits import TASK, samples, stream_of, write_corpus, write_index

from attent_select.errors import InputError
from catalogs import Corpus, IndexFile, storage
from catalogs.layout import Layout
from pipeline.cluster import Client
from pipeline.training import compact_shards


@pytest.fixture(params=["parquet", "webdataset", "lance"])
def corpus(request: pytest.FixtureRequest, tmp_path: Path) -> Corpus:
    return write_corpus(tmp_path / "corpus", samples(300), num_shards=5, kind=request.param)


@pytest.fixture
def index(tmp_path: Path, corpus: Corpus) -> IndexFile:
    return write_index(tmp_path / "index.parquet", corpus, every=7)


def compacted(index: IndexFile, corpus: Corpus, folder: Path, client: Client) -> Corpus:
    return compact_shards.materialise(
        index, corpus, columns=TASK.columns, folder=str(folder), client=client
    )


def test_batches_from_compact_shards_are_the_same_without_the_corpus(
    tmp_path: Path,
    corpus: Corpus,
    index: IndexFile,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compact_shards, "_SHARD_BYTES", 2000)
    compact = compacted(index, corpus, tmp_path / "compact", client)
    assert len(compact.shards) > 1
    scattered = stream_of(index, corpus, epochs=2)
    dense = stream_of(index, corpus, epochs=2, compact=compact)
    assert dense.order_digest() == scattered.order_digest()
    assert dense.state_at(2) == scattered.state_at(2)
    expected = list(scattered)
    for shard in corpus.shards:
        Path(shard.uri).unlink()
    for one, other in zip(expected, dense, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_shards_written_before_a_kill_are_not_written_again(
    tmp_path: Path,
    corpus: Corpus,
    index: IndexFile,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compact_shards, "_SHARD_BYTES", 1)
    first = compacted(index, corpus, tmp_path / "compact", client)
    assert len(first.shards) == 5
    # The state after a kill before the last shard: no manifest.
    Path(Layout(str(tmp_path / "compact")).corpus.manifest).unlink()
    lost, *kept = (Path(shard.uri) for shard in first.shards)
    data = lost.read_bytes()
    lost.unlink()
    before = [path.stat().st_ino for path in kept]
    assert compact_shards.open_compact(str(tmp_path / "compact")) is None
    second = compacted(index, corpus, tmp_path / "compact", client)
    assert [path.stat().st_ino for path in kept] == before
    assert lost.read_bytes() == data
    assert [shard.num_samples for shard in second.shards] == [s.num_samples for s in first.shards]
    again = lost.stat().st_ino
    compacted(index, corpus, tmp_path / "compact", client)
    assert lost.stat().st_ino == again


def test_compact_shards_of_another_index_are_refused(
    tmp_path: Path, corpus: Corpus, index: IndexFile, client: Client
) -> None:
    compact = compacted(index, corpus, tmp_path / "compact", client)
    other = write_index(tmp_path / "other.parquet", corpus, every=2)
    with pytest.raises(InputError, match="made for another index"):
        stream_of(other, corpus, compact=compact)


def test_scattered_rows_are_estimated_to_cost_more_than_compact_ones(
    corpus: Corpus, tmp_path: Path
) -> None:
    cost = storage.ReadCost(latency_seconds=100.0, bytes_per_second=1e5)
    with storage.use_read_policy(storage.ReadPolicy(cost=cost)):
        few, all_ = (
            compact_shards.estimate(
                write_index(tmp_path / f"{every}.parquet", corpus, every=every),
                corpus,
                columns=TASK.columns,
            )
            for every in (10, 1)
        )
    assert few.scattered_seconds > 2 * few.compact_seconds
    assert all_.scattered_seconds >= few.scattered_seconds
    assert few.pays(epochs=50, connections=1)
    assert not few.pays(epochs=1, connections=1)
    assert not few.pays(epochs=50, connections=10_000)
    assert few.saved_seconds(epochs=1, connections=1) < 0
