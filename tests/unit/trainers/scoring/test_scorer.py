"""Scoring rows: batches that depend on nothing but the rows, statuses, running out of memory."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from digits import TASK, VIT, samples
from hypothesis import given
from hypothesis import strategies as st
from task_cases import TEXTS, causal_lm

from attent_select.errors import InputError, SampleError
from catalogs.shard_format import Sample
from trainers.scoring.scorer import SCORES, ScoringNotes, score_rows
from trainers.settings import ScoringSettings
from trainers.task import Batch, Item


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return TASK.models(VIT).build(3)


class Reciprocal(torch.nn.Module):
    """Loss 1 / x; runs out of memory on more padded units than `limit`."""

    def __init__(self, limit: int, error: type[Exception] = torch.OutOfMemoryError) -> None:
        super().__init__()
        self.limit, self.error = limit, error
        self.one = torch.nn.Parameter(torch.ones(()))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if values.numel() > self.limit:
            raise self.error("DefaultCPUAllocator: can't allocate memory")
        return self.one / values[:, 0]


@dataclass
class Numbers:
    """A task over {"x": …, "length": …}; remembers the batches it collated."""

    batches: list[list[float]] = field(default_factory=list)
    lengths: list[list[int]] = field(default_factory=list)

    columns = ("x", "length")

    def prepare(self, sample: Sample, *, generator: torch.Generator | None) -> Item:
        assert generator is None
        if sample["x"] is None:
            raise SampleError("nothing here", status="empty")
        return {"x": sample["x"], "num_units": sample["length"]}

    def collate(self, items: Sequence[Item]) -> Batch:
        self.batches.append([item["x"] for item in items])
        self.lengths.append([item["num_units"] for item in items])
        longest = max(self.lengths[-1])
        return {"x": torch.tensor([[item["x"]] * longest for item in items])}

    def per_sample_loss(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        losses = model(batch["x"])
        return losses, torch.full(losses.shape, batch["x"].shape[1], dtype=torch.int64)


def numbers(values: list[tuple[float, int]]) -> list[tuple[int, Sample]]:
    return [(row, {"x": x, "length": length}) for row, (x, length) in enumerate(values)]


def score(
    values: list[tuple[float, int]], *, limit: int = 10**9, **settings: Any
) -> tuple[pl.DataFrame, Numbers, ScoringNotes]:
    task, notes = Numbers(), ScoringNotes()
    rows = score_rows(
        task,  # type: ignore[arg-type]  # only what scoring calls
        Reciprocal(limit),
        numbers(values),
        settings=ScoringSettings(**settings),
        notes=notes,
    )
    return rows, task, notes


@given(
    st.lists(st.tuples(st.floats(0.5, 100, width=32), st.integers(1, 9)), max_size=60),
    st.integers(1, 20),
    st.integers(1, 8),
    st.integers(1, 30),
)
def test_batches_keep_their_limits_and_every_row_is_scored_once(
    values: list[tuple[float, int]], units: int, most: int, window: int
) -> None:
    limits = {"batch_units": units, "max_batch_samples": most, "window_samples": window}
    rows, task, notes = score(values, **limits)
    assert rows["row"].to_list() == list(range(len(values)))
    assert rows["loss"].to_list() == pytest.approx([1 / x for x, _ in values], rel=1e-6)
    assert sum(len(lengths) for lengths in task.lengths) == len(values)
    for lengths in task.lengths:
        assert len(lengths) <= most
        assert len(lengths) * max(lengths) <= units or len(lengths) == 1
    assert score(values, **limits)[1] == task
    padded = sum(len(lengths) * max(lengths) for lengths in task.lengths)
    assert (notes.input_units, notes.padded_units) == (sum(map(sum, task.lengths)), padded)


def test_samples_are_batched_longest_first_within_a_window() -> None:
    values = [(1.0, 2), (2.0, 5), (3.0, 1), (4.0, 5), (5.0, 3), (6.0, 1)]
    _, task, _ = score(values, batch_units=10, window_samples=4)
    assert task.batches == [[2.0, 4.0], [1.0], [3.0], [5.0], [6.0]]


def test_a_batch_that_runs_out_of_memory_is_halved_and_noted() -> None:
    values = [(float(x), 1) for x in range(1, 9)]
    rows, task, notes = score(values, limit=3)
    assert rows["status"].unique().to_list() == ["ok"]
    assert rows["loss"].to_list() == pytest.approx([1 / x for x in range(1, 9)])
    assert [len(batch) for batch in task.batches] == [8, 4, 2, 2, 4, 2, 2]
    assert notes.num_splits == 3


def test_a_single_sample_too_large_for_memory_gets_a_status_and_the_others_their_losses() -> None:
    rows, _, _ = score([(1.0, 1), (2.0, 7), (4.0, 2)], limit=3)
    assert rows["status"].to_list() == ["ok", "oom", "ok"]
    assert rows["loss"].to_list() == [1.0, None, 0.25]


def test_the_cpus_way_to_run_out_of_memory_counts_and_another_error_does_not() -> None:
    values = numbers([(1.0, 1), (2.0, 1), (4.0, 1)])
    task: Any = Numbers()
    rows = score_rows(task, Reciprocal(1, RuntimeError), values)
    assert rows["loss"].to_list() == [1.0, 0.5, 0.25]
    with pytest.raises(ValueError, match="allocate"):
        score_rows(task, Reciprocal(1, ValueError), values)


def test_a_loss_that_is_not_finite_is_no_loss() -> None:
    rows, _, _ = score([(0.0, 1), (float("nan"), 1), (2.0, 1)])
    assert rows["status"].to_list() == ["nonfinite", "nonfinite", "ok"]
    assert rows["loss"].to_list() == [None, None, 0.5]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"image": b"nonsense"}, "the image cannot be decoded"),
        ({"label": 10}, "nothing in it counts for this model (a label that it lacks?)"),
    ],
    ids=["the task's", "the model's"],
)
def test_one_sample_without_a_loss_is_kept_as_an_example(
    model: torch.nn.Module, bad: dict[str, Any], why: str
) -> None:
    rows, notes = samples(6), ScoringNotes()
    rows[4] |= bad
    score_rows(TASK, model, enumerate(rows), notes=notes)
    (example,) = notes.unusable.examples
    assert (example.row, notes.unusable.counts.total()) == (4, 1)
    assert example.reason.startswith(why)


def test_samples_that_cannot_be_used_have_their_status_at_their_row(
    model: torch.nn.Module,
) -> None:
    rows = samples(40)
    rows[3]["image"] = b"nonsense"
    rows[17]["label"] = None
    scored = score_rows(TASK, model, enumerate(rows))
    assert dict(scored.schema) == SCORES
    assert scored["row"].to_list() == list(range(40))
    assert {
        row: status for row, status in scored.select("row", "status").rows() if status != "ok"
    } == {
        3: "unreadable",
        17: "empty",
    }
    assert scored.filter(pl.col("status") != "ok")["loss"].null_count() == 2


def test_scoring_is_in_eval_mode_and_leaves_the_model_as_it_was(model: torch.nn.Module) -> None:
    model.train()  # dropout would make the two runs differ
    first, second = (score_rows(TASK, model, enumerate(samples(30))) for _ in range(2))
    assert first.equals(second)
    assert model.training


def test_threads_make_no_difference(model: torch.nn.Module) -> None:
    one, many = (
        score_rows(TASK, model, enumerate(samples(200)), num_threads=threads) for threads in (1, 6)
    )
    assert one.equals(many)


def test_bfloat16_losses_are_near_those_of_float32(model: torch.nn.Module) -> None:
    exact = score_rows(TASK, model, enumerate(samples(50)))
    rough = score_rows(
        TASK, model, enumerate(samples(50)), settings=ScoringSettings(dtype="bfloat16")
    )
    assert rough["loss"].dtype == pl.Float32
    assert rough["loss"].to_list() == pytest.approx(exact["loss"].to_list(), rel=0.05)
    assert not rough.equals(exact)


def test_texts_of_different_lengths_are_scored_by_their_counted_tokens(tmp_path: Path) -> None:
    case = causal_lm(tmp_path)
    notes = ScoringNotes()
    rows = score_rows(
        case.task,
        case.task.models(case.model_settings).build(3),
        enumerate([*case.samples, {"prompt": "f", "response": TEXTS[1][1] * 9}]),
        settings=ScoringSettings(batch_units=200),
        notes=notes,
    )
    assert rows["num_units"].to_list()[:-1] == case.num_units
    assert notes.num_truncated == 1


def test_no_rows_are_an_empty_table_of_the_same_columns(model: torch.nn.Module) -> None:
    scored = score_rows(TASK, model, [])
    assert dict(scored.schema) == SCORES
    assert scored.is_empty()


def test_an_error_of_the_source_ends_scoring_and_its_threads(model: torch.nn.Module) -> None:
    def source() -> Iterator[tuple[int, Sample]]:
        yield from enumerate(samples(100))
        raise OSError("the shard is gone")

    with pytest.raises(OSError, match="the shard is gone"):
        score_rows(TASK, model, source())
    assert not [
        t.name for t in threading.enumerate() if t.name.startswith(("attent-work", "attent-feed"))
    ]


def test_a_label_beyond_the_models_classes_is_unreadable_and_the_others_have_their_losses(
    model: torch.nn.Module,
) -> None:
    rows = samples(4)
    expected = score_rows(TASK, model, enumerate(rows))["loss"].to_list()
    rows[2]["label"] = 10
    found = score_rows(TASK, model, enumerate(rows))
    assert found["status"].to_list() == ["ok", "ok", "unreadable", "ok"]
    assert found["loss"].to_list() == [*expected[:2], None, expected[3]]
    batch = TASK.collate([TASK.prepare(rows[2], generator=None)])
    with pytest.raises(InputError, match="num_labels"):
        TASK.evaluate(model, [batch])


def test_a_compiled_model_gives_the_same_losses_but_for_their_last_bits(
    model: torch.nn.Module,
) -> None:
    rows = list(enumerate(samples(40)))
    plain = score_rows(TASK, model, rows, settings=ScoringSettings(max_batch_samples=16))
    other = TASK.models(VIT).build(3)
    settings = ScoringSettings(max_batch_samples=16, compile=True)
    compiled = score_rows(TASK, other, rows, settings=settings)
    assert compiled["loss"].to_list() == pytest.approx(plain["loss"].to_list(), abs=1e-5)
    assert other.vit._compiled_call_impl is not None


def test_rows_are_reported_as_soon_as_they_have_their_result() -> None:
    finished: list[int] = []
    values = [(float(x), 1) for x in range(1, 9)]
    rows: list[tuple[int, Sample]] = [*numbers(values), (8, {"x": None, "length": 1})]
    score_rows(
        Numbers(),  # type: ignore[arg-type]  # only what scoring calls
        Reciprocal(10**9),
        rows,
        settings=ScoringSettings(max_batch_samples=3),
        on_scored=finished.extend,
    )
    assert sorted(finished) == list(range(9))
