"""Two ranks train on the same global batches as one, each sample once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from digits import VIT, samples, write_corpus, write_index
from fit_process import FitRequest, launch, observed, result
from safetensors.torch import load_file
from transformers.integrations.deepspeed import is_deepspeed_available

PLAIN = {
    "config": VIT["config"] | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
}


def request_for(folder: Path, name: str, **micro_batches: int) -> FitRequest:
    return FitRequest(
        run=str(folder / "run"),
        index=str(folder / "index.parquet"),
        out=str(folder / name),
        model=PLAIN,
        training={
            "batch_size": 11,  # uneven shares, and a tail of 3 samples
            **micro_batches,
            "torch_threads": 1,
            "save_steps": 3,
            # Adam and clipping forgive a loss of the wrong scale; this does not.
            "learning_rate": 0.2,
            "max_grad_norm": 0.0,
            "arguments": {"optim": "sgd"},
        },
        stream={"seed": 5},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    corpus = write_corpus(folder / "shards", samples(58))
    corpus.save(str(folder / "run"))
    write_index(folder / "index.parquet", corpus, weights=0.5 + pl.col("row") % 2)
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path) -> FitRequest:
    request = request_for(folder, "alone")
    assert launch(request) == 0
    return request


SEVERAL = {
    "one batch": {},
    "three micro-batches": {"micro_batch_size": 2},
    # Of the shares of 6 and 5 images, one fills two micro-batches, the other one.
    "a different number on each rank": {"micro_batch_units": 5},
}


@pytest.fixture(scope="module", params=SEVERAL)
def together(folder: Path, request: pytest.FixtureRequest) -> FitRequest:
    wanted = request_for(folder, f"two-{request.param}", **SEVERAL[request.param])
    assert launch(wanted, num_ranks=2) == 0
    return wanted


def assert_close_weights(one: FitRequest, other: FitRequest, *, tolerance: float = 1e-6) -> None:
    first, second = (load_file(f"{request.out}/model.safetensors") for request in (one, other))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-5, atol=tolerance, msg=name)


def test_two_ranks_with_and_without_accumulation_give_the_weights_of_one_rank(
    alone: FitRequest, together: FitRequest
) -> None:
    assert_close_weights(alone, together)
    assert result(together)["train_loss"] == pytest.approx(result(alone)["train_loss"], rel=1e-5)


def test_both_ranks_together_train_on_every_sample_once_in_the_same_steps(
    alone: FitRequest, together: FitRequest
) -> None:
    seen = observed(together)
    assert len(seen) == len(seen.unique(["shard_id", "row"])) == 58
    where = ["step", "shard_id", "row"]
    assert seen.select(where).equals(observed(alone).select(where))


def test_a_round_started_on_one_rank_resumes_on_two(folder: Path, alone: FitRequest) -> None:
    request = request_for(folder, "one-then-two")
    assert launch(replace(request, kill_after_step=4)) == -9
    assert launch(request, num_ranks=2) == 0
    assert_close_weights(alone, request)
    assert result(request)["samples_seen"] == 58


def test_a_model_sharded_over_two_ranks_and_killed_gives_the_weights_of_one_rank(
    folder: Path,
) -> None:
    """FSDP and its gradient checkpointing, as the Trainer's own arguments."""

    def with_adam(name: str, **arguments: Any) -> FitRequest:
        request = request_for(folder, name, micro_batch_units=5)
        adam = {"learning_rate": 0.003, "arguments": {"optim": "adamw_torch", **arguments}}
        return replace(request, training=request.training | adam)

    alone = with_adam("adam alone")
    assert launch(alone) == 0
    sharding = {"fsdp": True, "fsdp_config": {"activation_checkpointing": True}}
    spread = replace(with_adam("spread", **sharding), shard_on_cpu=True)
    assert launch(replace(spread, kill_after_step=4), num_ranks=2) != 0
    assert launch(spread, num_ranks=2) == 0
    # Adam divides by gradients: where they are nearly 0, their last bits show.
    assert_close_weights(alone, spread, tolerance=2e-4)
    # Not the Trainer's optimizer.pt: it is written from the parts of both ranks.
    assert Path(spread.out, "optimizer.bin").is_file()
    assert not list(Path(spread.out).glob("pytorch_model*"))


@pytest.mark.skipif(
    not is_deepspeed_available(), reason="deepspeed is not installed: run pip install deepspeed"
)
@pytest.mark.parametrize("stage", [1, 2])
def test_deepspeed_killed_and_resumed_gives_the_weights_of_one_rank(
    folder: Path, stage: int
) -> None:
    def with_adam(name: str, **arguments: Any) -> FitRequest:
        request = request_for(folder, f"{name} {stage}", micro_batch_units=5)
        adam = {"learning_rate": 0.003, "arguments": {"optim": "adamw_torch", **arguments}}
        return replace(request, training=request.training | adam | {"max_grad_norm": 1.0})

    alone = with_adam("adam")
    assert launch(alone) == 0
    sharding = {"deepspeed": {"zero_optimization": {"stage": stage}}}
    whole, killed = (with_adam(name, **sharding) for name in ("zero", "zero killed"))
    assert launch(whole, num_ranks=2) == 0
    assert launch(replace(killed, kill_after_step=4), num_ranks=2) != 0
    assert launch(killed, num_ranks=2) == 0
    assert_close_weights(alone, whole, tolerance=2e-4)
    assert_close_weights(whole, killed, tolerance=0)
    torch.load(Path(whole.out, "optimizer.pt"), weights_only=True)


def test_gradient_checkpointing_works_on_two_ranks(folder: Path, alone: FitRequest) -> None:
    request = request_for(folder, "checkpointing", micro_batch_size=2)
    arguments = {"optim": "sgd", "gradient_checkpointing": True}
    request = replace(request, training=request.training | {"arguments": arguments})
    assert launch(request, num_ranks=2) == 0
    assert_close_weights(alone, request)
