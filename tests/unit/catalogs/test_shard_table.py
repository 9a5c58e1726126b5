"""Shards of an opened manifest."""

import pickle
from collections.abc import Sequence
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from catalogs import Corpus
from catalogs.layout import CorpusLayout
from catalogs.shard_format import Shard
from catalogs.shard_table import ShardTable, manifest_of_shards

LAYOUT = CorpusLayout("/corpus")


def shards_of(counts: Sequence[int]) -> tuple[Shard, ...]:
    kinds = ("parquet", "webdataset")
    return tuple(
        Shard(n, f"/d/{n}", kinds[n % 2], count, 10, f"e{n}", LAYOUT.members(n) if n % 2 else None)
        for n, count in enumerate(counts)
    )


@given(
    st.lists(st.integers(1, 1 << 31), max_size=30),
    st.slices(30),
)
def test_a_table_is_the_sequence_of_its_shards(counts: list[int], part: slice) -> None:
    shards = shards_of(counts)
    table = ShardTable(manifest_of_shards(shards), LAYOUT, frozenset({"webdataset"}))
    assert table == shards
    assert table != shards_of([*counts, 1])
    assert len(table) == len(shards)
    assert [table[n] for n in range(-len(shards), len(shards))] == [*shards, *shards]
    assert table[part] == shards[part]
    assert pickle.loads(pickle.dumps(table)) == shards
    assert hash(table) == hash(shards)


def test_a_corpus_of_many_row_groups_is_opened_in_order(tmp_path: Path) -> None:
    shards = [Shard(n, f"/d/{n}.parquet", "parquet", 1 + n % 7, n, "e") for n in range(40_000)]
    corpus = Corpus(tuple(shards), ("label",))
    corpus.publish(str(tmp_path))
    opened = Corpus.open(str(tmp_path))
    assert opened == corpus
    assert opened.corpus_id == corpus.corpus_id
    assert opened.shard_rows.tolist() == [shard.num_samples for shard in shards]
    assert opened.shard(33_000) == shards[33_000]
    opened.share_with(str(tmp_path / "run"))
    shared = Corpus.open(str(tmp_path / "run"))
    assert shared == corpus
    assert shared.folder == str(tmp_path)
