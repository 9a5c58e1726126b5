"""Rounds that drop patches: the same run after a kill, on two ranks, and without dropping any."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from digits import VIT, samples, write_corpus, write_index
from fit_process import FitRequest, launch, observed
from killed_fits import KILLED, assert_the_same_bits
from safetensors.torch import load_file

# Patches of 2 × 2 pixels: 16 of each image.
SMALL = VIT["config"] | {"patch_size": 2}
PLAIN = SMALL | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
HALF = {"keep": 0.5, "until": 0.8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("patches")
    corpus = write_corpus(folder / "shards", samples(58))
    corpus.save(str(folder / "run"))
    write_index(folder / "index.parquet", corpus)
    return folder


def request_for(folder: Path, name: str, **training: Any) -> FitRequest:
    settings = {"batch_size": 11, "save_steps": 2, "torch_threads": 1, "max_grad_norm": 0.0}
    settings |= {"learning_rate": 0.2, "arguments": {"optim": "sgd"}}
    return FitRequest(
        run=str(folder / "run"),
        index=str(folder / "index.parquet"),
        out=str(folder / name),
        model={"config": PLAIN},
        training=settings | training,
        stream={"seed": 5},
        patches=HALF,
    )


@pytest.fixture(scope="module")
def half(folder: Path) -> FitRequest:
    request = request_for(folder, "half")
    assert launch(request) == 0
    return request


def test_a_killed_round_ends_with_the_same_bits(folder: Path) -> None:
    whole = replace(request_for(folder, "whole"), model={"config": SMALL})
    killed = replace(whole, out=str(folder / "killed"), kill_after_step=3)
    assert launch(whole) == 0
    assert launch(killed) == KILLED
    assert launch(replace(killed, kill_after_step=0)) == 0
    assert_the_same_bits(killed.out, whole.out)


@pytest.mark.parametrize(("num_ranks", "micro_batch_size"), [(1, 3), (2, 2)])
def test_ranks_and_micro_batches_keep_the_same_patches(
    folder: Path, half: FitRequest, num_ranks: int, micro_batch_size: int
) -> None:
    name = f"ranks-{num_ranks}"
    request = request_for(folder, name, micro_batch_size=micro_batch_size)
    assert launch(request, num_ranks=num_ranks) == 0
    first, second = (load_file(f"{each.out}/model.safetensors") for each in (request, half))
    for key, tensor in first.items():
        torch.testing.assert_close(tensor, second[key], rtol=1e-4, atol=1e-6, msg=key)


def test_only_the_last_steps_of_the_run_see_whole_images(folder: Path, half: FitRequest) -> None:
    whole = replace(request_for(folder, "whole-images"), patches=None)
    assert launch(whole) == 0
    first = [observed(request).filter(pl.col("step") == 0)["loss"] for request in (whole, half)]
    assert first[0].to_list() != pytest.approx(first[1].to_list(), abs=1e-3)
    second_round = request_for(folder, "second-round")
    second_round = replace(second_round, start=half.out, first_step=6, total_steps=12)
    late = replace(second_round, patches=HALF | {"until": 0.5})
    whole = replace(second_round, out=str(folder / "second-round-whole-images"), patches=None)
    assert launch(late) == 0
    assert launch(whole) == 0
    assert_the_same_bits(late.out, whole.out)


def test_all_patches_are_whole_images_bit_for_bit(folder: Path) -> None:
    plain = replace(request_for(folder, "plain"), patches=None)
    every = replace(plain, out=str(folder / "every"), patches={"keep": 1.0, "until": 0.8})
    assert launch(plain) == 0
    assert launch(every) == 0
    assert_the_same_bits(every.out, plain.out)
