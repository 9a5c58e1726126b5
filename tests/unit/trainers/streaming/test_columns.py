"""Batches that a task makes from columns: the same as those from samples."""

from pathlib import Path
from typing import Any

import pytest
import torch
from digits import TASK, samples, stream_of, write_corpus, write_index

from trainers.task import HasColumns, takes_columns


class SamplesOnly:
    """The task of the digits without `collate_columns`."""

    columns, draws = TASK.columns, False
    prepare, collate = TASK.prepare, TASK.collate


@pytest.mark.parametrize("micro_batch_size", [None, 3])
def test_a_stream_of_columns_is_that_of_samples(
    tmp_path: Path, micro_batch_size: int | None
) -> None:
    rows = samples(50)
    for row in (3, 4, 40):
        rows[row] = {"image": b"damaged", "label": 1}
    rows[7] = {**rows[7], "label": None}
    corpus = write_corpus(tmp_path / "corpus", rows)
    index = write_index(tmp_path / "index.parquet", corpus)
    tasks: list[Any] = [TASK, SamplesOnly()]
    assert [takes_columns(task) for task in tasks] == [True, False]
    streams = [stream_of(index, corpus, task, micro_batch_size=micro_batch_size) for task in tasks]
    for first, second in zip(*streams, strict=True):
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
    stats = [
        (each.stats.num_samples, each.stats.num_skipped, each.stats.num_units, each.stats.unusable)
        for each in streams
    ]
    assert stats[0] == stats[1]
    assert stats[0][1] == 4


def test_a_step_without_a_usable_sample_has_the_same_stand_in(tmp_path: Path) -> None:
    rows = samples(9)
    rows[8] = {"image": b"damaged", "label": 1}
    corpus = write_corpus(tmp_path / "corpus", rows)
    index = write_index(tmp_path / "index.parquet", corpus)
    first, second = (
        list(stream_of(index, corpus, task, batch_size=1)) for task in (TASK, SamplesOnly())
    )
    assert [int(batch["weight"].count_nonzero()) for batch in first].count(0) == 1
    for ours, theirs in zip(first, second, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_task_that_changes_images_at_random_gets_samples() -> None:
    from dataclasses import replace

    augmented = replace(TASK, augment=True)
    assert isinstance(augmented, HasColumns)
    assert not takes_columns(augmented)
