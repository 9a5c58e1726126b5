"""Micro-batches of a number of units: the same global batches, in numbers that vary."""

from pathlib import Path

import pytest
from digits import samples, stream_of, write_corpus, write_index

from attent_select.errors import InputError
from catalogs.corpus import Corpus
from catalogs.index import IndexFile
from trainers.streaming.rank_share import RankShare
from trainers.task import Batch


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write_corpus(tmp_path_factory.mktemp("corpus"), samples(100))


@pytest.fixture
def index(tmp_path: Path, corpus: Corpus) -> IndexFile:
    return write_index(tmp_path / "index.parquet", corpus, every=2)


def rows_of(batches: list[Batch]) -> list[tuple[int, int, int]]:
    """Return (step, shard, row) of every sample, sorted."""
    return sorted(
        (int(batch["step"]), shard, row)
        for batch in batches
        for shard, row in zip(batch["shard_id"].tolist(), batch["row"].tolist(), strict=True)
    )


@pytest.mark.parametrize("world_size", [1, 3])
def test_micro_batches_filled_to_a_number_of_units_hold_the_same_global_batches(
    index: IndexFile, corpus: Corpus, world_size: int
) -> None:
    alone = rows_of(list(stream_of(index, corpus)))
    together, numbers = [], []
    for rank in range(world_size):
        stream = stream_of(index, corpus, rank=rank, world_size=world_size, micro_batch_units=2)
        position = 0
        for batch in stream:
            assert len(batch["row"]) <= 2  # an image is one unit
            position += 1
            is_last = position == int(batch["micro_batches"])
            assert is_last == (stream.next_step > int(batch["step"]))
            numbers.append(int(batch["micro_batches"]))
            position = 0 if is_last else position
            together += rows_of([batch])
        assert stream.order_digest() == stream_of(index, corpus).order_digest()
    assert sorted(together) == alone
    assert len(set(numbers)) > 1  # the tail has fewer
    with pytest.raises(InputError, match="differs from step to step"):
        _ = stream.micro_batches_per_step


@pytest.mark.parametrize(
    ("size", "units", "message"), [(None, 0, "at least 1"), (1, 1, "only one of them")]
)
def test_limits_that_contradict_are_refused(size: int | None, units: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        RankShare(micro_batch_size=size, micro_batch_units=units)
