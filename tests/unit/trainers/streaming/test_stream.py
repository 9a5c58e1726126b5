"""The stream: contents of its batches, resuming, and samples that fail."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from digits import TASK, png, samples, stream_of, write_corpus, write_index
from torch.utils.data import DataLoader

from attent_select.errors import CorpusMismatchError, InputError, StorageError
from catalogs import storage
from catalogs.corpus import Corpus
from catalogs.index import IndexFile
from trainers import TeachingStream
from trainers.settings import OrderSettings, StreamingSettings
from trainers.streaming.rank_share import RankShare
from trainers.task import Batch


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write_corpus(tmp_path_factory.mktemp("corpus"), samples(100))


@pytest.fixture
def index(tmp_path: Path, corpus: Corpus) -> IndexFile:
    return write_index(tmp_path / "index.parquet", corpus, every=2)


def trained(batches: list[Batch]) -> list[tuple[int, int, int]]:
    """(step, shard, row) of all that counts, sorted."""
    found = []
    for batch in batches:
        columns = (batch["shard_id"].tolist(), batch["row"].tolist(), batch["weight"].tolist())
        found += [
            (int(batch["step"]), shard, row)
            for shard, row, weight in zip(*columns, strict=True)
            if weight
        ]
    return sorted(found)


def our_threads() -> list[str]:
    # Storage keeps its own threads for the next request.
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(("attent-work", "attent-feed"))]


def test_an_epoch_holds_every_selected_row_once_with_its_own_image_and_label(
    index: IndexFile, corpus: Corpus
) -> None:
    originals = samples(100)
    first_rows = [0, *pl.Series([s.num_samples for s in corpus.shards]).cum_sum()]
    seen = []
    for batch in stream_of(index, corpus, epochs=2):
        for place, (shard, row) in enumerate(zip(batch["shard_id"], batch["row"], strict=True)):
            original = originals[first_rows[int(shard)] + int(row)]
            item = TASK.prepare(original, generator=None)
            expected = TASK.collate([item])
            assert torch.equal(batch["pixel_values"][place], expected["pixel_values"][0])
            assert batch["labels"][place] == original["label"]
            seen.append((int(shard), int(row)))
    assert len(seen) == 2 * index.num_samples
    assert len(set(seen)) == index.num_samples


def test_a_batch_says_which_samples_it_holds_and_how_to_scale_their_losses(
    tmp_path: Path, corpus: Corpus
) -> None:
    weights = 0.5 + pl.col("row") % 2
    index = write_index(tmp_path / "weighted.parquet", corpus, weights=weights)
    for batch in stream_of(index, corpus, micro_batch_size=3):
        assert batch["shard_id"].dtype == batch["row"].dtype == torch.int64
        assert torch.equal(batch["weight"], (0.5 + batch["row"] % 2).to(torch.float32))
        assert batch["denominator"].dtype == torch.float32
        assert batch["denominator"].item() == 8.0


@pytest.mark.parametrize("micro_batch_size", [None, 1, 3])
@pytest.mark.parametrize("world_size", [2, 3, 4, 8])
def test_any_number_of_ranks_trains_on_the_same_global_batches(
    index: IndexFile, corpus: Corpus, world_size: int, micro_batch_size: int | None
) -> None:
    alone = trained(list(stream_of(index, corpus)))
    together, num_batches = [], set()
    for rank in range(world_size):
        stream = stream_of(
            index, corpus, rank=rank, world_size=world_size, micro_batch_size=micro_batch_size
        )
        batches = list(stream)
        assert len(batches) == stream.num_steps * stream.micro_batches_per_step
        num_batches.add(len(batches))
        together += trained(batches)
    assert len(num_batches) == 1
    assert sorted(together) == alone


def test_the_order_digest_is_one_for_all_world_sizes_and_the_rank_digests_differ(
    index: IndexFile, corpus: Corpus
) -> None:
    streams = [stream_of(index, corpus, rank=rank, world_size=2) for rank in (0, 1)]
    streams.append(stream_of(index, corpus))
    assert len({stream.order_digest() for stream in streams}) == 1
    assert len({stream.rank_digest() for stream in streams}) == 3
    assert stream_of(index, corpus, seed=4).order_digest() != streams[0].order_digest()


def test_a_stream_goes_on_from_its_state_at_another_world_size(
    index: IndexFile, corpus: Corpus
) -> None:
    whole = trained(list(stream_of(index, corpus, epochs=2)))
    first = stream_of(index, corpus, epochs=2, micro_batch_size=4)
    iterator = iter(first)
    before = [next(iterator) for _ in range(10)]  # five steps of two micro-batches
    assert next(iterator)["step"] == 5
    state = first.state_dict()  # in the middle of step 5: that step is done again
    iterator.close()  # type: ignore[attr-defined]
    after = []
    for rank in (0, 1):
        second = stream_of(index, corpus, epochs=2, rank=rank, world_size=2)
        second.load_state_dict(state)
        after += list(second)
    assert sorted(trained(before) + trained(after)) == whole


@pytest.mark.parametrize("micro_batch_size", [None, 3])
def test_a_plain_loop_that_saves_in_its_body_trains_no_step_twice(
    index: IndexFile, corpus: Corpus, micro_batch_size: int | None
) -> None:
    whole = trained(list(stream_of(index, corpus)))
    first = stream_of(index, corpus, micro_batch_size=micro_batch_size)
    before, states = [], []
    for batch in first:
        before.append(batch)
        states.append(first.state_dict())
        if len(before) == 2 * first.micro_batches_per_step:
            break
    second = stream_of(index, corpus, micro_batch_size=micro_batch_size)
    second.load_state_dict(states[-1])
    assert second.next_step == 2
    assert sorted(trained(before) + trained(list(second))) == whole
    # In the middle of a step the whole of it is still to be done.
    assert all(
        state["samples_consumed"] == 0 for state in states[: first.micro_batches_per_step - 1]
    )


def test_a_state_of_another_index_or_order_is_refused_by_name(
    index: IndexFile, corpus: Corpus, tmp_path: Path
) -> None:
    state = stream_of(index, corpus).state_dict()
    other = write_index(tmp_path / "other.parquet", corpus, every=3)
    with pytest.raises(CorpusMismatchError, match="index_digest"):
        stream_of(other, corpus).load_state_dict(state)
    with pytest.raises(InputError, match="batch_size"):
        stream_of(index, corpus, batch_size=9).load_state_dict(state)


def test_under_a_data_loader_the_batches_are_the_same(index: IndexFile, corpus: Corpus) -> None:
    loader = DataLoader(stream_of(index, corpus), batch_size=None, num_workers=0)
    assert trained(list(loader)) == trained(list(stream_of(index, corpus)))


def test_worker_processes_are_refused_with_what_to_write_instead(
    index: IndexFile, corpus: Corpus
) -> None:
    loader = DataLoader(stream_of(index, corpus), batch_size=None, num_workers=1)
    with pytest.raises(InputError, match="num_workers=0"):
        next(iter(loader))


def test_leaving_a_stream_early_leaves_no_thread_behind(index: IndexFile, corpus: Corpus) -> None:
    threads = {"read_threads": 2, "prepare_threads": 2}
    iterator = iter(stream_of(index, corpus, epochs=50, **threads))
    next(iterator)
    assert our_threads()
    iterator.close()  # type: ignore[attr-defined]
    assert our_threads() == []


def test_memory_and_threads_make_no_difference_to_the_batches(
    index: IndexFile, corpus: Corpus
) -> None:
    none = {"read_threads": 0, "prepare_threads": 0}
    narrow = {"read_threads": 1, "prepare_threads": 1, "read_ahead_bytes": 1}
    wide = {"read_threads": 8, "prepare_threads": 4}
    first = list(stream_of(index, corpus, **narrow))
    for settings in (none, wide):
        other_batches = list(stream_of(index, corpus, **settings))
        for one, other in zip(first, other_batches, strict=True):
            assert all(torch.equal(one[name], other[name]) for name in one)


def test_on_one_processor_no_thread_takes_turns_with_training_and_requests_keep_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def threads(settings: StreamingSettings) -> tuple[int, int, int]:
        readers = (settings.num_read_threads(is_local=is_local) for is_local in (True, False))
        return (*readers, settings.num_prepare_threads)

    chosen = StreamingSettings(read_threads=3, prepare_threads=5)
    for cpus, default in (({1}, (0, 16, 0)), ({0, 1}, (4, 16, 2))):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, found=cpus: found)
        assert threads(StreamingSettings()) == default
        assert threads(chosen) == (3, 3, 5)


def test_only_shards_with_selected_rows_are_read(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", samples(60))
    rows = corpus.rows().filter(pl.col("shard_id") == 1)
    index = IndexFile.write(
        str(tmp_path / "index.parquet"),
        rows.with_columns(weight=pl.lit(1.0, pl.Float32), probability=pl.lit(1.0, pl.Float32)),
        provenance={"corpus_id": corpus.corpus_id},
    )
    for shard in (corpus.shards[0], corpus.shards[2]):
        Path(shard.uri).unlink()
    stream = stream_of(index, corpus)
    assert len(trained(list(stream))) == 20
    assert stream.stats.bytes_selected <= stream.stats.bytes_read <= corpus.shards[1].num_bytes


def test_what_compresses_well_is_read_ahead_by_the_memory_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_corpus(tmp_path / "corpus", [{"zeros": bytes(1 << 20)}] * 6)
    index = write_index(tmp_path / "index.parquet", corpus)
    two, read, met = threading.Barrier(2, timeout=0.5), Corpus.read, []

    def meets_another(*arguments: Any, **settings: Any) -> Any:
        with suppress(threading.BrokenBarrierError):  # no other thread arrived
            met.append(two.wait())
        return read(*arguments, **settings)

    monkeypatch.setattr(Corpus, "read", meets_another)
    assert corpus.num_bytes < 1 << 20  # all three shards at once, if these were what counts
    stream = stream_of(index, corpus, None, batch_size=2, read_ahead_bytes=1 << 20)
    assert len(trained(list(stream))) == 6
    assert met == []


def test_augmentation_depends_on_the_sample_and_the_epoch_and_not_on_the_ranks(
    index: IndexFile, corpus: Corpus
) -> None:
    task = replace(TASK, augment=True, flip=True)

    def images(**settings: Any) -> dict[tuple[int, int, int], torch.Tensor]:
        stream = stream_of(index, corpus, task, batch_size=10, epochs=2, **settings)
        return {
            (int(batch["step"]) // 6, int(shard), int(row)): image
            for batch in stream
            for shard, row, image in zip(
                batch["shard_id"], batch["row"], batch["pixel_values"], strict=True
            )
        }

    alone = images()
    together = images(rank=0, world_size=2) | images(rank=1, world_size=2)
    assert alone.keys() == together.keys()
    assert all(torch.equal(image, together[key]) for key, image in alone.items())
    changed = [
        not torch.equal(image, alone[(1, shard, row)])
        for (epoch, shard, row), image in alone.items()
        if epoch == 0
    ]
    assert sum(changed) > len(changed) / 2


def test_samples_that_cannot_be_used_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = samples(60)
    rows[5]["image"] = b"not an image"
    rows[30]["label"] = None
    corpus = write_corpus(tmp_path / "corpus", rows)
    index = write_index(tmp_path / "index.parquet", corpus)
    stream = stream_of(index, corpus, micro_batch_size=1)
    batches = list(stream)
    assert len(batches) == stream.num_steps * 8
    found = {(shard, row) for _, shard, row in trained(batches)}
    assert len(found) == 58
    assert not found & {(0, 5), (1, 10)}
    assert (stream.stats.num_skipped, stream.stats.num_samples) == (2, 58)
    # A micro-batch of one bad sample holds another one instead, which must not count.
    assert sum(float(batch["weight"].sum()) == 0 for batch in batches) == 2 + stream.stats.padded


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_bad_sample_alone_in_the_last_step_is_stood_in_for_by_an_earlier_one(
    tmp_path: Path, bad: int
) -> None:
    rows = samples(3)
    rows[bad]["image"] = b"not an image"
    corpus = write_corpus(tmp_path / "corpus", rows, num_shards=1)
    index = write_index(tmp_path / "index.parquet", corpus)
    batches = list(stream_of(index, corpus, batch_size=1))
    assert len(batches) == 3
    assert {row for _, _, row in trained(batches)} == {0, 1, 2} - {bad}


def test_too_many_samples_that_cannot_be_used_end_the_stream_with_the_last_reason(
    tmp_path: Path,
) -> None:
    rows = samples(60)
    for row in rows[10:40]:
        row["image"] = b"not an image"
    corpus = write_corpus(tmp_path / "corpus", rows)
    index = write_index(tmp_path / "index.parquet", corpus)
    with pytest.raises(InputError, match=r"\d+ of \d+ samples cannot be used.*not one of PNG"):
        list(stream_of(index, corpus))


def test_samples_skipped_before_a_resume_still_count(tmp_path: Path) -> None:
    rows = samples(60)
    for row in rows[10:27]:  # one more than is forgiven
        row["image"] = b"not an image"
    corpus = write_corpus(tmp_path / "corpus", rows)
    index = write_index(tmp_path / "index.parquet", corpus)
    iterator = iter(stream_of(index, corpus, max_failed_share=1.0))
    before = trained([next(iterator) for _ in range(4)])
    iterator.close()  # type: ignore[attr-defined]
    assert 0 < len(before) < 4 * 8
    resumed = stream_of(index, corpus, start_step=4)
    resumed.count_earlier(len(before))
    with pytest.raises(InputError, match="17 of"):
        list(resumed)
    assert len(trained(list(stream_of(index, corpus, start_step=4)))) == 43 - len(before)


def test_a_shard_that_is_gone_is_an_error_at_its_place(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", samples(60))
    index = write_index(tmp_path / "index.parquet", corpus)
    Path(corpus.shards[1].uri).unlink()
    with pytest.raises(FileNotFoundError, match=r"^rank 0, shard 1: .*001\.parquet"):
        list(stream_of(index, corpus))


def test_a_shard_that_was_replaced_is_an_error_that_names_it_and_the_rank(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", samples(60))
    index = write_index(tmp_path / "index.parquet", corpus)
    shutil.copy(corpus.shards[0].uri, corpus.shards[2].uri)
    with pytest.raises(CorpusMismatchError, match=r"^rank 1, shard 2: .*has changed"):
        list(stream_of(index, corpus, rank=1, world_size=2))


# With threads, also where a process has one processor.
IMPATIENT = {"read_threads": 2, "prepare_threads": 2, "timeout_seconds": 0.3}


class Stuck:
    """A task whose third sample never gets ready until it is let go."""

    def __init__(self) -> None:
        self.columns = TASK.columns
        self.release = threading.Event()

    def prepare(self, sample: Any, *, generator: Any) -> Any:
        if sample["label"] == 2:
            self.release.wait()
        return TASK.prepare(sample, generator=generator)

    def collate(self, items: Any) -> Any:
        return TASK.collate(items)


def test_what_takes_longer_than_allowed_ends_the_stream_and_holds_nobody_up(
    index: IndexFile, corpus: Corpus
) -> None:
    task = Stuck()
    stream = stream_of(index, corpus, task, **IMPATIENT)
    try:
        with pytest.raises(StorageError, match=r"^rank 0 of 1 waited 0\.3 s for a batch"):
            list(stream)
    finally:
        task.release.set()
    for thread in threading.enumerate():
        if thread.name.startswith(("attent-work", "attent-feed")):
            thread.join(10)
    assert our_threads() == []


@pytest.mark.parametrize("prepare_threads", [0, 2])
def test_a_shard_that_does_not_come_is_named(
    index: IndexFile, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, prepare_threads: int
) -> None:
    release = threading.Event()
    read = storage.read_ranges

    def stalls(url: str, *arguments: Any, **settings: Any) -> Any:
        release.wait()
        return read(url, *arguments, **settings)

    stream = stream_of(index, corpus, **IMPATIENT | {"prepare_threads": prepare_threads})
    monkeypatch.setattr(storage, "read_ranges", stalls)
    try:
        with pytest.raises(StorageError, match=r"reading shard \d \(.*\.parquet\) has taken"):
            list(stream)
    finally:
        release.set()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_a_stream_used_in_a_fork_says_so_instead_of_hanging(
    index: IndexFile, corpus: Corpus
) -> None:
    stream = stream_of(index, corpus)
    iterator = iter(stream)
    next(iterator)
    for use in (lambda: next(iter(stream)), lambda: next(iterator)):
        ours, theirs = os.pipe()
        child = os.fork()
        if not child:
            try:
                use()
                os.write(theirs, b"it worked")
            except InputError as error:
                os.write(theirs, str(error).encode())
            finally:
                os._exit(0)
        os.close(theirs)
        with os.fdopen(ours, "rb") as answer:
            assert b"is used in a fork of it" in answer.read()
        os.waitpid(child, 0)
    iterator.close()  # type: ignore[attr-defined]


def test_without_a_task_a_batch_has_the_columns_as_they_are(
    index: IndexFile, corpus: Corpus
) -> None:
    stream = stream_of(index, corpus, None)
    batches = list(stream)
    assert trained(batches) == trained(list(stream_of(index, corpus)))
    names = {"shard_id", "row", "weight", "denominator", "step", "micro_batches"}
    assert set(batches[0]) == {*names, *corpus.columns}
    for batch in batches:
        ids = zip(batch["shard_id"].tolist(), batch["row"].tolist(), strict=True)
        stored = [corpus.read(k, rows=[row], columns=corpus.columns).samples[0] for k, row in ids]
        for name in corpus.columns:
            assert batch[name] == [sample[name] for sample in stored]
    assert stream.stats.bytes_read > 0


def test_a_column_with_the_name_of_a_tensor_gets_another_name(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"weight": f"{k} kg", "step": k} for k in range(4)]
    corpus = write_corpus(tmp_path / "corpus", rows, num_shards=1)
    index = write_index(tmp_path / "index.parquet", corpus)
    (batch,) = stream_of(index, corpus, None)
    assert batch["weight"].tolist() == [1.0] * 4
    assert sorted(batch["weight_column"]) == ["0 kg", "1 kg", "2 kg", "3 kg"]
    assert sorted(batch["step_column"]) == [0, 1, 2, 3]


@pytest.mark.parametrize("settings", [{}, {"epochs": 2}, {"micro_batch_size": 3}, {"tail": "drop"}])
def test_the_next_pass_continues_with_the_next_epochs(
    index: IndexFile, corpus: Corpus, settings: dict[str, Any]
) -> None:
    stream = stream_of(index, corpus, **settings)
    passes = [list(stream) for _ in range(3)]
    assert [len(batches) for batches in passes] == [len(stream)] * 3
    epochs = settings.get("epochs", 1)
    in_one = list(stream_of(index, corpus, **settings | {"epochs": 3 * epochs}))
    assert trained([batch for one in passes for batch in one]) == trained(in_one)


def test_the_length_counts_the_batches_of_each_rank(index: IndexFile, corpus: Corpus) -> None:
    for rank in range(3):
        stream = stream_of(index, corpus, rank=rank, world_size=3, micro_batch_size=1)
        loader = DataLoader(stream, batch_size=None, num_workers=0)
        assert len(list(loader)) == len(loader) == len(stream) > stream.num_steps


def test_a_resumed_stream_first_ends_its_pass_even_if_nothing_is_left(
    index: IndexFile, corpus: Corpus
) -> None:
    stream = stream_of(index, corpus)
    for _ in stream:
        in_last_body = stream.state_dict()
    after_pass = stream.state_dict()
    resumed = stream_of(index, corpus)
    resumed.load_state_dict(in_last_body)
    assert list(resumed) == []
    second = trained(list(stream))
    assert trained(list(resumed)) == second
    resumed.load_state_dict(after_pass)
    assert trained(list(resumed)) == second


def test_images_of_different_sizes_make_one_batch(tmp_path: Path) -> None:
    rows = samples(4)
    rows[1]["image"] = png(torch.zeros(20, 12, 3, dtype=torch.uint8).numpy())
    corpus = write_corpus(tmp_path / "corpus", rows, num_shards=1)
    index = write_index(tmp_path / "index.parquet", corpus)
    (batch,) = stream_of(index, corpus)
    assert batch["pixel_values"].shape == (4, 1, 8, 8)


@pytest.mark.parametrize(
    "wrong", [{"rank": 2, "world_size": 2}, {"micro_batch_size": 0}, {"start_step": 99}]
)
def test_a_place_that_does_not_exist_is_refused(
    index: IndexFile, corpus: Corpus, wrong: dict[str, int]
) -> None:
    with pytest.raises(InputError, match="expected"):
        stream_of(index, corpus, **wrong)


def test_an_index_of_no_rows_is_a_stream_of_no_batches(tmp_path: Path, corpus: Corpus) -> None:
    nothing = corpus.rows().filter(pl.lit(value=False))
    index = IndexFile.write(
        str(tmp_path / "empty.parquet"),
        nothing.with_columns(weight=pl.lit(1.0, pl.Float32), probability=pl.lit(1.0, pl.Float32)),
        provenance={"corpus_id": corpus.corpus_id},
    )
    for shuffle in ("block", "full"):
        stream = stream_of(index, corpus, shuffle=shuffle)
        assert (list(stream), list(stream.plans()), stream.num_steps) == ([], [], 0)
        assert stream.stats.num_requests == 0


def test_shards_of_one_row_are_read_like_any_other(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", samples(9), num_shards=9)
    index = write_index(tmp_path / "index.parquet", corpus)
    for shuffle in ("block", "full"):
        found = trained(list(stream_of(index, corpus, batch_size=4, shuffle=shuffle)))
        assert sorted((shard, row) for _, shard, row in found) == [(k, 0) for k in range(9)]


def test_plain_arguments_give_the_stream_of_the_settings_that_they_stand_for(
    index: IndexFile, corpus: Corpus
) -> None:
    plain = TeachingStream(
        index,
        corpus,
        TASK,
        batch_size=8,
        seed=3,
        epochs=2,
        rank=1,
        world_size=2,
        micro_batch_size=2,
    )
    order, share = OrderSettings(3, 8, epochs=2), RankShare(1, 2, micro_batch_size=2)
    settings = TeachingStream(index, corpus, TASK, order=order, share=share)
    assert plain.order_digest() == settings.order_digest()
    rows = [[batch["row"].tolist() for batch in stream] for stream in (plain, settings)]
    assert rows[0] == rows[1]
    assert len(rows[0]) == plain.num_steps * 2


def test_a_stream_without_a_batch_size_says_what_is_missing(
    index: IndexFile, corpus: Corpus
) -> None:
    with pytest.raises(InputError, match="needs batch_size"):
        TeachingStream(index, corpus, TASK)


INTERRUPTED = """
import sys, threading
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from catalogs import concurrency
from digits import samples, stream_of, write_corpus, write_index

concurrency._CLOSING_SECONDS = 0.2

class Stuck:
    columns = ("image", "label")

    def prepare(self, sample, *, generator):
        print("stuck", flush=True)
        threading.Event().wait()

folder = Path(sys.argv[1])
corpus = write_corpus(folder / "corpus", samples(20))
index = write_index(folder / "index.parquet", corpus)
list(stream_of(index, corpus, Stuck(), batch_size=4))
"""


def test_ctrl_c_ends_a_process_whose_threads_hang(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path), str(Path(__file__).parents[3])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"stuck\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert b"KeyboardInterrupt" in errors
    assert process.returncode == -signal.SIGINT
