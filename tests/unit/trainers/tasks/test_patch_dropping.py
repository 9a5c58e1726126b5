"""Dropped patches: which ones, the loss on the others, and the models that need all of them."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from digits import TASK, VIT, samples
from hypothesis import given
from hypothesis import strategies as st
from patch_reference import logits_on_patches
from torch.nn import functional

from attent_select.errors import InputError
from trainers.draw_keys import with_draw_keys
from trainers.inputs.draws import random_subset
from trainers.round_hooks import Steps
from trainers.scoring.patches import PatchDropping

HALF: Any = dataclasses.replace(TASK, patches=PatchDropping())


def vit(model_type: str) -> dict[str, Any]:
    config = VIT["config"] | {"model_type": model_type, "patch_size": 2}
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    if model_type.startswith("dinov2"):
        config["mlp_ratio"] = config.pop("intermediate_size") // 16
    return {"config": config}


def batch_of(task: Any, number: int) -> dict[str, torch.Tensor]:
    items = [task.prepare(sample, generator=None) for sample in samples(number)]
    return {
        **task.collate(items),
        "shard_id": torch.tensor([0, 0, 0, 1, 1, 1])[:number],
        "row": torch.tensor([0, 1, 2, 0, 1, 2])[:number],
    }


def steps(*, first: int = 0, total: int = 10, seed: int = 5) -> Steps:
    return Steps(first, total, total, seed, (first, total))


@pytest.mark.parametrize("model_type", ["vit", "deit", "dinov2", "dinov2_with_registers"])
def test_loss_and_gradients_are_those_of_the_kept_patches_of_each_image(model_type: str) -> None:
    model: Any = HALF.models(vit(model_type)).build(0).train()
    batch = with_draw_keys(batch_of(HALF, 6), task=HALF, steps=steps(), step=3)
    losses, num_units = HALF.per_sample_loss(model, batch)
    losses.mean().backward()
    found = {name: weight.grad for name, weight in model.named_parameters()}
    model.zero_grad()
    kept = random_subset(batch["draw_keys"], 16, share=0.5, purpose=0)
    assert kept.shape == (6, 8)
    logits = logits_on_patches(model, batch["pixel_values"], kept)
    reference = functional.cross_entropy(logits, batch["labels"], reduction="none")
    reference.mean().backward()
    torch.testing.assert_close(losses, reference)
    assert num_units.tolist() == [1] * 6
    for name, weight in model.named_parameters():
        # Sums of large terms of both signs may be small; the mask token has no gradient.
        unit = 1.0 if weight.grad is None else max(1.0, float(weight.grad.abs().max()))
        torch.testing.assert_close(found[name], weight.grad, rtol=1e-4, atol=1e-6 * unit, msg=name)


def test_evaluation_and_scoring_see_all_patches() -> None:
    model = HALF.models(vit("vit")).build(0)
    batch = batch_of(HALF, 6)
    assert HALF.evaluate(model, [batch]) == TASK.evaluate(model, [batch])
    assert torch.equal(HALF.per_sample_loss(model, batch)[0], TASK.per_sample_loss(model, batch)[0])


def test_all_patches_are_the_image_bit_for_bit() -> None:
    task: Any = dataclasses.replace(TASK, patches=PatchDropping(keep=1.0))
    model = task.models(vit("vit")).build(0)
    batch = batch_of(task, 6)
    keyed = with_draw_keys(batch, task=task, steps=steps(), step=0)
    assert "draw_keys" in keyed
    assert torch.equal(task.per_sample_loss(model, keyed)[0], task.per_sample_loss(model, batch)[0])


@given(st.integers(1, 40), st.floats(0.01, 1.0), st.lists(st.integers(0, 1 << 62), min_size=1))
def test_a_subset_has_its_size_and_each_number_once(
    num: int, share: float, keys: list[int]
) -> None:
    subsets = random_subset(torch.tensor(keys), num, share=share, purpose=0)
    assert subsets.shape == (len(keys), int(np.ceil(share * num)))
    assert subsets.min() >= 0
    assert subsets.max() < num
    assert (subsets.diff(dim=1) > 0).all()


def test_each_patch_is_kept_equally_often() -> None:
    counts = random_subset(torch.arange(4000), 16, share=0.25, purpose=0).flatten().bincount()
    assert counts.tolist() == pytest.approx([1000] * 16, abs=4 * (4000 * 0.25 * 0.75) ** 0.5)


def test_keys_depend_on_seed_step_and_sample_alone() -> None:
    batch = batch_of(HALF, 6)

    def keys(rows: slice, step: int, seed: int = 5) -> list[int]:
        part = {name: tensor[rows] for name, tensor in batch.items()}
        found = with_draw_keys(part, task=HALF, steps=steps(seed=seed), step=step)
        return found["draw_keys"].tolist()

    whole = keys(slice(None), 2)
    assert whole == keys(slice(0, 2), 2) + keys(slice(2, None), 2)
    assert len({*whole, *keys(slice(None), 3), *keys(slice(None), 2, seed=6)}) == 18


@pytest.mark.parametrize(("until", "dropping"), [(0.8, 8), (0.7, 7), (0.25, 3), (1.0, 10)])
def test_the_first_steps_of_the_run_drop_patches(until: float, dropping: int) -> None:
    task: Any = dataclasses.replace(TASK, patches=PatchDropping(until=until))
    batch = batch_of(task, 2)
    later_round = steps(first=4)
    keyed = [
        "draw_keys" in with_draw_keys(batch, task=task, steps=later_round, step=step)
        for step in range(10)
    ]
    assert keyed == [step < dropping for step in range(10)]
    plain = with_draw_keys(batch, task=TASK, steps=later_round, step=0)
    assert "draw_keys" not in plain


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": 0.0}, "keep is 0.0: expected a share, above 0 and at most 1"),
        ({"until": 1.5}, "until is 1.5: expected a share, above 0 and at most 1"),
    ],
)
def test_a_share_outside_its_bounds_is_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PatchDropping(**settings)


def test_a_model_that_needs_all_patches_is_refused() -> None:
    swin = {"model_type": "swin", "image_size": 8, "patch_size": 2, "num_channels": 1}
    swin |= {"embed_dim": 8, "depths": [1], "num_heads": [1], "window_size": 2}
    model = TASK.models({"config": swin}).build(0)
    with pytest.raises(InputError, match=r"^task\.patches: a model of type 'swin' needs all"):
        HALF.check_model(model)
