"""Batches of uint8 pixels: a quarter of the bytes, and the same losses bit for bit."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from digits import TASK, VIT, samples
from task_cases import DIT

from catalogs.shard_format import Sample
from trainers.inputs.augmentation import Augmentation
from trainers.tasks.diffusion import Diffusion

PER_CHANNEL = {"num_channels": 3, "mean": (0.2, 0.4, 0.6), "std": (0.3, 0.2, 0.1)}
RGB_VIT = {"config": {**VIT["config"], "num_channels": 3}}
CASES = {
    "classification": (TASK, VIT),
    "per channel": (replace(TASK, **PER_CHANNEL), RGB_VIT),
    "diffusion": (Diffusion(label="label", image_size=8, num_channels=1), DIT),
}


def batch_of(task: Any, rows: list[Sample]) -> Any:
    return task.collate([task.prepare(row, generator=None) for row in rows])


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_those_of_float32(name: str) -> None:
    task, settings = CASES[name]
    small = replace(task, pixel_dtype="uint8")
    rows = samples(7)
    batches = [batch_of(each, rows) for each in (task, small)]
    assert [batch["pixel_values"].dtype for batch in batches] == [torch.float32, torch.uint8]
    model = task.models(settings).build(3).eval()
    expected, result = (
        each.loss_and_gradient(model, batch)
        for each, batch in zip((task, small), batches, strict=True)
    )
    for first, second in zip(expected, result, strict=True):
        assert torch.equal(first, second)


def test_columns_become_the_same_batch() -> None:
    small = replace(TASK, pixel_dtype="uint8")
    rows = samples(7)
    columns = {name: [row[name] for row in rows] for name in small.columns}
    batch, errors = small.collate_columns(columns)
    assert not errors
    assert batch["pixel_values"].dtype == torch.uint8
    assert torch.equal(batch["pixel_values"], batch_of(small, rows)["pixel_values"])


def test_mixed_images_have_the_same_losses() -> None:
    small = replace(TASK, pixel_dtype="uint8", augment=Augmentation(mixup=0.4, cutmix=1.0))
    model = small.models(VIT).build(3).eval()
    losses = []
    for task in (small, replace(small, pixel_dtype="float32")):
        generators = [torch.Generator().manual_seed(number) for number in range(6)]
        items = [
            task.prepare(row, generator=each)
            for row, each in zip(samples(6), generators, strict=True)
        ]
        batch = task.collate(task.mix(items, generators))
        losses.append(task.per_sample_loss(model, batch)[0])
    assert batch["is_mixed"].any()
    assert torch.equal(*losses)


def test_inputs_of_models_without_the_task_are_normalised() -> None:
    small = replace(TASK, pixel_dtype="uint8")
    inputs, _ = small.collate_inputs(small.prepare_inputs(samples(5)))
    expected, _ = TASK.collate_inputs(TASK.prepare_inputs(samples(5)))
    assert torch.equal(inputs["pixel_values"], expected["pixel_values"])
