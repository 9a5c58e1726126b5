"""One round in one process: exact arithmetic, one horizon, observed losses, what is refused."""

import importlib
import json
import sys
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from digits import TASK, VIT, samples, stream_of, write_corpus, write_index
from task_cases import causal_lm
from torch.nn import functional

from attent_select.errors import ExistsError, InputError, MissingError
from attent_select.schema import OBSERVED_LOSSES
from catalogs import storage
from catalogs.corpus import Corpus
from catalogs.index import IndexFile
from trainers import checkpoint, fit
from trainers.fitting import FitResult
from trainers.hf import training_loop
from trainers.scoring.evaluation import held_out_batches
from trainers.scoring.scorer import score_rows
from trainers.settings import ScoringSettings, TrainingSettings
from trainers.task import Batch
from trainers.tasks.image_classification import ImageClassification

PLAIN = {
    "config": VIT["config"] | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
}
# Adam and clipping forgive a loss of the wrong scale; this does not.
SGD = TrainingSettings(
    batch_size=16,
    learning_rate=0.2,
    lr_scheduler="linear",
    max_grad_norm=0.0,
    torch_threads=1,
    arguments={"optim": "sgd"},
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write_corpus(tmp_path_factory.mktemp("corpus"), samples(70))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, corpus: Corpus) -> IndexFile:
    weights = 0.5 + pl.col("row") % 2
    return write_index(tmp_path_factory.mktemp("index") / "i.parquet", corpus, weights=weights)


@pytest.fixture
def train(tmp_path: Path, corpus: Corpus, index: IndexFile) -> Callable[..., FitResult]:
    def run(
        name: str = "out",
        *,
        model: dict[str, Any] = PLAIN,
        settings: TrainingSettings = SGD,
        stream: dict[str, Any] | None = None,
        **others: Any,
    ) -> FitResult:
        source = stream_of(
            index,
            corpus,
            seed=5,
            **{
                "batch_size": settings.batch_size,
                "micro_batch_units": settings.micro_batch_units,
                "micro_batch_size": settings.micro_batch_size,
                **(stream or {}),
            },
        )
        return fit(
            source,
            task=TASK,
            models=TASK.models(model),
            out=str(tmp_path / name),
            settings=settings,
            **{
                "start": None,
                "first_step": 0,
                "total_steps": source.num_steps,
                "seed": 7,
                **others,
            },
        )

    return run


def weights_at(url: str, model: dict[str, Any] = PLAIN) -> dict[str, torch.Tensor]:
    found = checkpoint.open(url)
    assert found is not None
    return dict(found.load(TASK.models(model)).state_dict())


def assert_close(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-5, atol=1e-6, msg=name)


def by_hand(corpus: Corpus, index: IndexFile) -> dict[str, torch.Tensor]:
    """The same round as a plain loop over the stream's own global batches."""
    stream = stream_of(index, corpus, seed=5, batch_size=16)
    model = TASK.models(PLAIN).build(7).train()
    for step, batch in enumerate(stream):
        logits = model(pixel_values=batch["pixel_values"]).logits
        losses = functional.cross_entropy(logits, batch["labels"], reduction="none")
        loss = (losses * batch["weight"]).sum() / 16
        model.zero_grad()
        loss.backward()
        rate = 0.2 * (1 - step / stream.num_steps)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.sub_(rate * parameter.grad)
    return dict(model.state_dict())


@pytest.mark.parametrize("limit", [("size", None), ("size", 8), ("size", 1), ("units", 5)])
def test_any_micro_batch_size_gives_the_weights_of_a_plain_loop(
    train: Callable[..., FitResult],
    corpus: Corpus,
    index: IndexFile,
    limit: tuple[str, int | None],
) -> None:
    done = train(settings=replace(SGD, **{f"micro_batch_{limit[0]}": limit[1]}))
    assert_close(weights_at(done.checkpoint), by_hand(corpus, index))


def test_two_rounds_share_one_learning_rate_horizon_and_optimizer_state(
    train: Callable[..., FitResult], tmp_path: Path
) -> None:
    adam = replace(SGD, arguments={}, warmup_steps=2, learning_rate=0.01)
    first = train("first", settings=adam, total_steps=10)
    second = train("second", settings=adam, start=first.checkpoint, first_step=5, total_steps=10)
    for done, step in ((first, 5), (second, 10)):
        state = torch.load(Path(done.checkpoint) / "optimizer.pt", weights_only=True)
        expected = 0.01 * (10 - step) / 8
        assert state["param_groups"][0]["lr"] == pytest.approx(expected)
        # Adam's moments and its own count of steps continue as well.
        assert {float(each["step"]) for each in state["state"].values()} == {float(step)}
        found = checkpoint.open(done.checkpoint)
        assert found is not None
        assert found.step == step


def test_a_small_model_learns_and_is_evaluated_on_held_out_images(
    train: Callable[..., FitResult],
) -> None:
    held_out = list(held_out_batches(TASK, samples(200)[70:], settings=ScoringSettings()))
    adam = TrainingSettings(batch_size=16, learning_rate=0.01, torch_threads=1)
    done = train(settings=adam, stream={"epochs": 12}, evaluation=held_out)
    assert done.metrics["accuracy"] > 0.25  # by chance: 0.1
    assert done.metrics["eval_loss"] < np.log(10)
    assert done.samples_seen == 12 * 70
    assert done.num_steps == 12 * 5


def test_a_small_language_model_learns_its_responses(tmp_path: Path) -> None:
    case = causal_lm(tmp_path / "tokenizer")
    corpus = write_corpus(tmp_path / "corpus", case.samples, num_shards=1)
    index = write_index(tmp_path / "index.parquet", corpus)
    settings = TrainingSettings(batch_size=7, micro_batch_size=3, torch_threads=1)
    stream = stream_of(
        index, corpus, case.task, seed=1, batch_size=7, micro_batch_size=3, epochs=40
    )
    seen: list[pl.DataFrame] = []
    models = case.task.models(case.model_settings)
    held_out = list(held_out_batches(case.task, case.samples, settings=ScoringSettings()))
    before = case.task.evaluate(models.build(7), held_out)
    done = fit(
        stream,
        task=case.task,
        models=models,
        start=None,
        out=str(tmp_path / "out"),
        settings=settings,
        first_step=0,
        total_steps=stream.num_steps,
        seed=7,
        evaluation=held_out,
        on_losses=lambda _, rows: seen.append(rows),
    )
    assert done.metrics["eval_loss"] < 0.9 * before["eval_loss"]
    assert seen[0].filter(step=0).sort("row")["num_units"].to_list() == case.num_units


def test_every_trained_sample_is_observed_once_with_its_current_loss(
    train: Callable[..., FitResult], corpus: Corpus
) -> None:
    seen: list[tuple[int, pl.DataFrame]] = []
    settings = replace(SGD, save_steps=2, learning_rate=1e-9)  # the model stays as it was built
    done = train(settings=settings, on_losses=lambda step, rows: seen.append((step, rows)))
    assert [step for step, _ in seen] == [0, 2, 4]
    observed = pl.concat([rows for _, rows in seen])
    assert dict(observed.schema) == OBSERVED_LOSSES
    assert [rows["step"].unique().to_list() for _, rows in seen] == [[0, 1], [2, 3], [4]]
    model = TASK.models(PLAIN).build(7)
    scored = pl.concat(
        score_rows(
            TASK,
            model,
            enumerate(
                corpus.read(
                    shard.shard_id, rows=range(shard.num_samples), columns=TASK.columns
                ).samples
            ),
        ).with_columns(shard_id=pl.lit(shard.shard_id, pl.UInt32))
        for shard in corpus.shards
    )
    both = observed.join(scored, on=["shard_id", "row"], suffix="_scored", validate="1:1")
    assert len(both) == len(observed) == 70
    assert np.allclose(both["loss"], both["loss_scored"], rtol=1e-5)
    weighted = (0.5 + both["row"] % 2) * both["loss"]
    assert done.train_loss == pytest.approx(weighted.mean(), rel=1e-5)


def test_a_finished_round_is_not_trained_again(train: Callable[..., FitResult]) -> None:
    first = train()
    steps: list[int] = []
    assert train(on_step=steps.append) == first
    assert steps == []


def test_the_progress_callback_counts_the_steps_of_the_whole_run(
    train: Callable[..., FitResult],
) -> None:
    first = train("first", total_steps=10)
    steps: list[int] = []
    train("second", start=first.checkpoint, first_step=5, total_steps=10, on_step=steps.append)
    assert steps == [6, 7, 8, 9, 10]


def test_the_previous_round_s_model_is_freed_before_training(
    train: Callable[..., FitResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()

    class Seen(training_loop._Learner):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            alive.add(self)

    monkeypatch.setattr(training_loop, "_Learner", Seen)
    counts: set[int] = set()
    for name in ("first", "second", "third"):
        train(name, on_step=lambda _: counts.add(len(alive)))
    assert counts == {1}


# Ours, and the Trainer's own words for it.
SIXTEEN_BITS = [{"dtype": "bfloat16"}, {"arguments": SGD.arguments | {"bf16": True}}]


@pytest.mark.parametrize("settings", SIXTEEN_BITS, ids=["dtype", "bf16"])
def test_training_in_16_bits_keeps_float32_weights(
    train: Callable[..., FitResult], settings: dict[str, Any]
) -> None:
    done = train(settings=replace(SGD, **settings))
    assert {tensor.dtype for tensor in weights_at(done.checkpoint).values()} == {torch.float32}
    exact = train("exact")
    assert done.train_loss == pytest.approx(exact.train_loss, rel=0.02)
    assert done.train_loss != exact.train_loss


@pytest.mark.parametrize("settings", SIXTEEN_BITS, ids=["dtype", "bf16"])
def test_a_round_is_evaluated_in_the_precision_it_was_trained_in(
    train: Callable[..., FitResult], settings: dict[str, Any]
) -> None:
    held_out = list(held_out_batches(TASK, samples(200)[70:], settings=ScoringSettings()))
    done = train(settings=replace(SGD, **settings), evaluation=held_out)
    saved = checkpoint.open(done.checkpoint)
    assert saved is not None
    model = saved.load(TASK.models(PLAIN))
    with torch.autocast("cpu", torch.bfloat16):
        assert done.metrics == TASK.evaluate(model, held_out)
    assert done.metrics != TASK.evaluate(model, held_out)


@pytest.mark.parametrize(
    ("dtype", "arguments", "told"),
    [
        ("bfloat16", {"bf16": False}, "bf16: false"),
        ("bfloat16", {"bf16": None}, "bf16: none"),
        ("bfloat16", {"fp16": True}, "fp16: true"),
        ("float32", {"bf16": True, "fp16": True}, "bf16: true, fp16: true"),
    ],
)
def test_contradicting_precision_settings_are_refused(
    dtype: str, arguments: dict[str, Any], told: str
) -> None:
    with pytest.raises(InputError, match=f"dtype is {dtype} and arguments say {told}: expected"):
        replace(SGD, dtype=dtype, arguments=arguments)


def test_both_ways_to_set_16_bits_give_the_same_precision() -> None:
    assert SGD.computes_in == "float32"
    assert replace(SGD, dtype="bfloat16", arguments={"bf16": True}).computes_in == "bfloat16"
    assert replace(SGD, arguments={"fp16": True}).computes_in == "float16"


def test_diverged_training_names_the_sample_and_publishes_no_checkpoint(
    train: Callable[..., FitResult], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"step \d+ the loss of shard \d, row \d+ is nan"):
        train(settings=replace(SGD, learning_rate=1e30, arguments={"optim": "sgd"}))
    assert checkpoint.open(str(tmp_path / "out")) is None


def with_foreign_labels(folder: Path, *, num_foreign: int) -> tuple[Corpus, IndexFile]:
    rows = samples(70)
    for row in rows[:num_foreign]:
        row["label"] = 10  # the model knows 0 to 9
    corpus = write_corpus(folder / "foreign", rows, num_shards=1)
    return corpus, write_index(folder / "foreign.parquet", corpus)


def test_samples_whose_label_the_model_lacks_are_left_out_and_counted(tmp_path: Path) -> None:
    corpus, index = with_foreign_labels(tmp_path, num_foreign=2)
    stream = stream_of(index, corpus, seed=5, batch_size=16)
    seen: list[pl.DataFrame] = []
    done = fit(
        stream,
        task=TASK,
        models=TASK.models(PLAIN),
        start=None,
        out=str(tmp_path / "out"),
        settings=SGD,
        first_step=0,
        total_steps=stream.num_steps,
        seed=7,
        on_losses=lambda _, rows: seen.append(rows),
    )
    assert done.samples_seen == 68
    assert sorted(pl.concat(seen)["row"]) == list(range(2, 70))
    assert (stream.stats.num_samples, stream.stats.num_skipped) == (68, 2)


def test_too_many_unknown_labels_stop_training_and_name_a_sample(tmp_path: Path) -> None:
    corpus, index = with_foreign_labels(tmp_path, num_foreign=30)
    stream = stream_of(index, corpus, seed=5, batch_size=16)
    with pytest.raises(
        InputError, match=r"row \d+ of .*000\.parquet: nothing in it counts for this model"
    ):
        fit(
            stream,
            task=TASK,
            models=TASK.models(PLAIN),
            start=None,
            out=str(tmp_path / "out"),
            settings=SGD,
            first_step=0,
            total_steps=stream.num_steps,
            seed=7,
        )


def test_samples_skipped_before_an_interruption_still_count(tmp_path: Path) -> None:
    rows = samples(60)
    for row in rows[10:27]:  # one more than is forgiven
        row["image"] = b"not an image"
    corpus = write_corpus(tmp_path / "corpus", rows, num_shards=1)
    index = write_index(tmp_path / "index.parquet", corpus)

    def train(allowed: float, *, stop_after: int) -> None:
        def on_step(step: int) -> None:
            if step == stop_after:
                raise TimeoutError

        stream = stream_of(index, corpus, seed=5, batch_size=10, max_failed_share=allowed)
        fit(
            stream,
            task=TASK,
            models=TASK.models(PLAIN),
            start=None,
            out=str(tmp_path / "out"),
            settings=replace(SGD, batch_size=10, save_steps=2),
            first_step=0,
            total_steps=stream.num_steps,
            seed=7,
            on_step=on_step,
        )

    with pytest.raises(TimeoutError):
        train(1.0, stop_after=3)
    with pytest.raises(InputError, match="17 of"):
        train(0.01, stop_after=0)


@dataclass(frozen=True)
class GradientsExplode(ImageClassification):
    """From the second step on the losses are finite and their gradients are not."""

    def per_sample_loss(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        losses, num_units = super().per_sample_loss(model, batch)
        if int(batch["step"]) >= 1:
            losses.register_hook(lambda gradient: gradient * float("inf"))
        return losses, num_units


@pytest.mark.parametrize("save_steps", [0, 2])
def test_weights_that_are_not_finite_are_never_published(
    index: IndexFile, corpus: Corpus, tmp_path: Path, save_steps: int
) -> None:
    task = GradientsExplode(image_size=8, num_channels=1)
    stream = stream_of(index, corpus, task, seed=5, batch_size=40)  # two steps
    with pytest.raises(InputError, match=r"diverged: at step 2 .* is not finite"):
        fit(
            stream,
            task=task,
            models=task.models(PLAIN),
            start=None,
            out=str(tmp_path / "out"),
            settings=replace(SGD, batch_size=40, save_steps=save_steps),
            first_step=0,
            total_steps=4,
            seed=7,
        )
    assert not list((tmp_path).rglob(checkpoint.MARKER))


def test_a_checkpoint_of_another_index_is_refused(
    train: Callable[..., FitResult],
) -> None:
    train()
    with pytest.raises(ExistsError, match="another round"):
        train(stream={"epochs": 2})


def test_a_round_starts_only_from_a_checkpoint_at_its_first_step(
    train: Callable[..., FitResult], tmp_path: Path
) -> None:
    initial = checkpoint.save_initial(TASK.models(PLAIN), seed=1, url=str(tmp_path / "initial"))
    with pytest.raises(InputError, match="is at step 0, the round starts at 5"):
        train(start=initial.url, first_step=5, total_steps=10)
    with pytest.raises(MissingError, match="no checkpoint at"):
        train(start=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="needs a start"):
        train(first_step=5, total_steps=10)
    with pytest.raises(InputError, match="exceed the total of 4 steps"):
        train(total_steps=4)


def test_a_round_from_the_initial_checkpoint_equals_one_from_the_same_seed(
    train: Callable[..., FitResult], tmp_path: Path
) -> None:
    initial = checkpoint.save_initial(TASK.models(PLAIN), seed=7, url=str(tmp_path / "initial"))
    built, started = train("built"), train("started", start=initial.url)
    assert_close(weights_at(built.checkpoint), weights_at(started.checkpoint))


def test_a_remote_checkpoint_is_downloaded_once(
    train: Callable[..., FitResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    initial = checkpoint.save_initial(TASK.models(PLAIN), seed=7, url="memory://once/initial")
    downloaded: list[str] = []
    download = storage.download_files

    def counted(url: str, names: Iterable[str], *, to: Path) -> None:
        downloaded.append(url)
        download(url, names, to=to)

    monkeypatch.setattr(storage, "download_files", counted)
    train(start=initial.url)
    assert downloaded == [initial.url]


def test_arguments_reach_the_trainer_and_wrong_values_are_refused(
    train: Callable[..., FitResult],
) -> None:
    done = train(settings=replace(SGD, arguments={"optim": "sgd", "optim_args": "momentum=0.5"}))
    state = torch.load(Path(done.checkpoint) / "optimizer.pt", weights_only=True)
    assert state["param_groups"][0]["momentum"] == 0.5
    with pytest.raises(InputError, match="transformers refuses them"):
        train("other", settings=replace(SGD, arguments={"optim": "no_such_optimizer"}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"gradient_accumulation_steps": 2},
        {"save_only_model": True},
        {"label_smoothing_factor": 0.1},
        {"neftune_noise_alpha": 5.0},
        {"no_such_argument": 1},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_an_argument_that_would_break_a_round_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"may not set {next(iter(wrong))}"):
        replace(SGD, arguments=wrong)


@pytest.mark.parametrize(
    "allowed",
    [{"activation_checkpointing": True}, {"logging_strategy": "steps", "logging_steps": 1}],
)
def test_arguments_for_memory_or_logging_do_not_change_weights(
    train: Callable[..., FitResult], allowed: dict[str, Any]
) -> None:
    plain = train("plain")
    other = train("other", settings=replace(SGD, arguments=SGD.arguments | allowed))
    assert_close(weights_at(plain.checkpoint), weights_at(other.checkpoint))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU computes in it")
def test_fp16_on_a_cpu_is_refused(train: Callable[..., FitResult]) -> None:
    with pytest.raises(InputError, match=r"fp16 is for GPUs.*training\.dtype to bfloat16"):
        train(settings=replace(SGD, arguments={"optim": "sgd", "fp16": True}))


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "trainer_state.json"])
def test_a_round_does_not_start_from_a_checkpoint_without_trainer_state(
    train: Callable[..., FitResult], name: str
) -> None:
    first = train("first", total_steps=10)
    marker = Path(first.checkpoint) / checkpoint.MARKER
    content = json.loads(marker.read_text())
    del content["files"][name], content["digests"][name], content["content_digest"]
    marker.write_text(json.dumps(content))
    (Path(first.checkpoint) / name).unlink()
    with pytest.raises(InputError, match=f"has no {name}: expected the state"):
        train("second", start=first.checkpoint, first_step=5, total_steps=10)


def test_an_older_transformers_is_refused_before_it_can_scale_the_loss_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr("transformers.Trainer.loss_is_scaled_for_ga")
    monkeypatch.delitem(sys.modules, "trainers.hf.training_loop", raising=False)
    with pytest.raises(InputError, match=r"install transformers>=5"):
        importlib.import_module("trainers.hf.training_loop")


def test_a_stream_for_another_rank_or_batch_size_is_refused(
    train: Callable[..., FitResult],
) -> None:
    with pytest.raises(InputError, match="rank 0 of 2, this process is rank 0 of 1"):
        train(stream={"world_size": 2})
    with pytest.raises(InputError, match="selects no full batch"):
        train(settings=replace(SGD, batch_size=100), stream={"tail": "drop"})
    with pytest.raises(InputError, match="micro_batch_size is 4, the settings' None"):
        train(stream={"micro_batch_size": 4})


def test_nothing_is_printed_to_stdout(
    train: Callable[..., FitResult], capfd: pytest.CaptureFixture[str]
) -> None:
    train(settings=replace(SGD, save_steps=2))
    assert capfd.readouterr().out == ""


def test_the_marker_names_corpus_index_and_library_versions(
    train: Callable[..., FitResult], corpus: Corpus, index: IndexFile
) -> None:
    done = train()
    marker = json.loads((Path(done.checkpoint) / checkpoint.MARKER).read_text())
    assert marker["stream"]["corpus_id"] == corpus.corpus_id
    assert marker["stream"]["index_digest"] == index.digest
    assert marker["result"]["train_loss"] == done.train_loss
    assert {"torch", "transformers"} <= marker["versions"].keys()
