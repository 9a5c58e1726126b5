"""A task and a model without work, to measure what scoring costs around them.

Used by `scoring.py` in place of a model.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from catalogs.shard_format import Sample


class Models:
    """A model with one parameter."""

    def build(self, seed: int) -> torch.nn.Module:
        return torch.nn.Linear(1, 1)

    def load(self, folder: Path) -> torch.nn.Module:
        model = torch.nn.Linear(1, 1)
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model

    def save(self, model: torch.nn.Module, folder: Path) -> None:
        save_file(model.state_dict(), folder / "model.safetensors")


@dataclass(frozen=True)
class NoOp:
    """A task whose loss is the sample's number."""

    columns = ("number",)

    def models(self, settings: dict[str, Any]) -> Models:
        return Models()

    def prepare(self, sample: Sample, *, generator: torch.Generator | None) -> dict[str, Any]:
        return {"number": float(sample["number"]), "num_units": 1}

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {"number": torch.tensor([item["number"] for item in items])}

    def per_sample_loss(
        self, model: torch.nn.Module, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return batch["number"], torch.ones(len(batch["number"]), dtype=torch.int64)

    def evaluate(self, model: torch.nn.Module, batches: Iterable[Any]) -> dict[str, float]:
        return {"eval_loss": 0.0}


class Trainable(NoOp):
    """A task whose loss is almost free, and depends on the weights."""

    def per_sample_loss(
        self, model: torch.nn.Module, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        numbers = batch["number"][:, None]
        return model(numbers)[:, 0].square(), torch.ones(len(numbers), dtype=torch.int64)
