"""Rounds with adapters and of text: small checkpoints, similar lengths, resumed evaluation."""

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from digits import stream_of, write_corpus, write_index
from task_cases import TaskCase, causal_lm

from attent_select.errors import InputError
from pipeline.scoring import worker
from pipeline.scoring.span_task import Measurement
from trainers import TeachingStream, checkpoint, fit
from trainers.fitting import FitResult
from trainers.hf.lora import ADAPTER_FILE
from trainers.scoring.evaluation import held_out_batches
from trainers.scoring.scorer import score_rows
from trainers.settings import ScoringSettings, TrainingSettings
from trainers.task import Batch, Models


class Round:
    """One round of a language model with an adapter, as often as it is asked for."""

    def __init__(self, folder: Path, **lora: Any) -> None:
        self.folder = folder
        self.case: TaskCase = causal_lm(folder / "tokenizer")
        whole = self.case.task.models(self.case.model_settings)
        whole.save(whole.build(3), folder / "base")
        settings = {"path": str(folder / "base"), "lora": {"rank": 4} | lora}
        self.models: Models = self.case.task.models(settings)
        self.corpus = write_corpus(folder / "corpus", self.case.samples * 4, num_shards=1)
        self.index = write_index(folder / "index.parquet", self.corpus)
        self.held_out = list(
            held_out_batches(self.case.task, self.case.samples, settings=ScoringSettings())
        )

    def stream(self, **settings: Any) -> TeachingStream:
        return stream_of(self.index, self.corpus, self.case.task, seed=1, batch_size=14, **settings)

    def length(self, row: int) -> int:
        task: Any = self.case.task
        return int(task.length(self.case.samples[row % len(self.case.samples)]))

    def train(self, name: str = "out", **others: Any) -> FitResult:
        stream = self.stream(micro_batch_size=5, epochs=10)
        settings = {"learning_rate": 0.02, "torch_threads": 1} | others.pop("settings", {})
        return fit(
            stream,
            task=self.case.task,
            models=self.models,
            out=str(self.folder / name),
            settings=TrainingSettings(batch_size=14, micro_batch_size=5, **settings),
            **{
                "start": None,
                "first_step": 0,
                "total_steps": 2 * stream.num_steps,
                "seed": 7,
                **others,
            },
        )


@pytest.fixture
def round_(tmp_path: Path) -> Round:
    return Round(tmp_path)


@pytest.mark.parametrize(
    "arguments", [{}, {"gradient_checkpointing": True}], ids=["plain", "gradient checkpointing"]
)
def test_two_rounds_with_an_adapter_learn_and_store_only_the_adapter(
    round_: Round, arguments: dict[str, Any]
) -> None:
    case = round_.case
    before = case.task.evaluate(round_.models.build(7), round_.held_out)
    settings = {"save_steps": 7, "arguments": arguments}
    first = round_.train("first", settings=settings)
    second = round_.train(
        "second",
        settings=settings,
        start=first.checkpoint,
        first_step=first.num_steps,
        evaluation=round_.held_out,
    )
    assert second.metrics["eval_loss"] < before["eval_loss"] - 0.1
    names = {path.name for path in Path(second.checkpoint).iterdir()}
    assert ADAPTER_FILE in names
    assert "model.safetensors" not in names
    found = checkpoint.open(second.checkpoint)
    assert found is not None
    scored = score_rows(case.task, found.load(round_.models), list(enumerate(case.samples)))
    mean = (scored["loss"] * scored["num_units"]).sum() / scored["num_units"].sum()
    assert mean == pytest.approx(second.metrics["eval_loss"], rel=1e-5)


def test_a_worker_does_not_reload_the_base_for_the_next_adapter(round_: Round) -> None:
    first = round_.train("first")
    second = round_.train("second", start=first.checkpoint, first_step=first.num_steps)
    base = round_.folder / "base"

    def on_a_worker(done: FitResult) -> torch.nn.Module:
        found = checkpoint.open(done.checkpoint)
        assert found is not None
        return worker.model_of(
            Measurement(
                run=str(round_.folder),
                task=round_.case.task,
                model={"path": str(base), "lora": {"rank": 4}},
                checkpoint=found,
                settings=ScoringSettings(),
            )
        )

    before = on_a_worker(first)
    assert on_a_worker(first) is before
    shutil.rmtree(base)
    after = on_a_worker(second)
    one, other = (
        score_rows(round_.case.task, model, list(enumerate(round_.case.samples)))["loss"]
        for model in (before, after)
    )
    assert other.sum() < one.sum()


def test_a_killed_round_with_an_adapter_resumes_from_its_saved_step(round_: Round) -> None:
    whole = round_.train("whole")

    def killed(step: int) -> None:
        if step == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        round_.train("killed", settings={"save_steps": 4}, on_step=killed)
    steps: list[int] = []
    resumed = round_.train("killed", settings={"save_steps": 4}, on_step=steps.append)
    assert steps[0] == 9
    digests = []
    for done in (whole, resumed):
        found = checkpoint.open(done.checkpoint)
        assert found is not None
        digests.append(found.weights_digest)
    assert digests[0] == digests[1]


class Interrupted:
    """Held-out batches that somebody stops after the first."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:
        yield self.batches[0]
        raise KeyboardInterrupt


def test_a_round_interrupted_in_its_evaluation_only_repeats_the_evaluation(round_: Round) -> None:
    with pytest.raises(KeyboardInterrupt):
        round_.train(evaluation=Interrupted(round_.held_out))
    steps: list[int] = []
    done = round_.train(evaluation=round_.held_out, on_step=steps.append)
    assert steps == []
    assert done.metrics == round_.train("straight", evaluation=round_.held_out).metrics
    # An existing evaluation is not repeated.
    assert round_.train(evaluation=Interrupted(round_.held_out)) == done


def test_micro_batches_group_samples_of_similar_length_within_a_step(
    round_: Round,
) -> None:
    def by_step(batches: list[Batch]) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for batch in batches:
            found.setdefault(int(batch["step"]), []).extend(batch["row"].tolist())
        return {step: sorted(rows) for step, rows in found.items()}

    grouped = list(round_.stream(micro_batch_size=4, epochs=3))
    whole = list(round_.stream(micro_batch_size=14, epochs=3))
    assert by_step(grouped) == by_step(whole)
    for step in range(round_.stream(epochs=3).num_steps):
        parts = [batch for batch in grouped if int(batch["step"]) == step]
        lengths = [[round_.length(row) for row in part["row"].tolist()] for part in parts]
        assert lengths == sorted(lengths, reverse=True)
        assert all(min(one) >= max(two) for one, two in pairwise(lengths))
    padding = [
        sum(int((batch["attention_mask"] == 0).sum()) for batch in batches)
        for batches in (grouped, whole)
    ]
    assert padding[0] < padding[1] / 2


def test_text_fills_micro_batches_to_the_default_number_of_tokens_with_little_padding(
    round_: Round,
) -> None:
    stream = round_.stream(epochs=3)
    batches = list(stream)
    assert {int(batch["micro_batches"]) for batch in batches} != {1}
    padding = sum(int((batch["attention_mask"] == 0).sum()) for batch in batches)
    units = sum(batch["attention_mask"].numel() for batch in batches)
    assert stream.stats.padding == pytest.approx(padding / units)
    assert stream.stats.padding <= 0.05


def test_observed_losses_belong_to_their_samples_in_any_micro_batch(
    round_: Round,
) -> None:
    seen: list[pl.DataFrame] = []
    round_.train(settings={"learning_rate": 1e-9}, on_losses=lambda _, rows: seen.append(rows))
    rows = pl.concat(seen).with_columns(pl.col("row") % len(round_.case.samples))
    spread = rows.group_by("row").agg(pl.col("loss").max() - pl.col("loss").min())
    assert spread["loss"].max() < 1e-4
    assert rows.n_unique("loss") >= len(round_.case.samples)


def test_fsdp_with_a_single_process_is_refused(round_: Round) -> None:
    with pytest.raises(InputError, match="this is the only one: start several"):
        round_.train(settings={"arguments": {"fsdp": True}})


def test_adapters_train_in_bfloat16_on_a_bfloat16_base(tmp_path: Path) -> None:
    round_ = Round(tmp_path, base_dtype="bfloat16", dora=True)
    done = round_.train(settings={"dtype": "bfloat16"}, evaluation=round_.held_out)
    with torch.autocast("cpu", torch.bfloat16):
        before = round_.case.task.evaluate(round_.models.build(7), round_.held_out)
    assert done.metrics["eval_loss"] < before["eval_loss"]
