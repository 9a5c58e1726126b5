"""In which precision a loss is computed."""

import torch


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """float64 stays, for a model in float64 (`trainers/antk`); anything shorter becomes float32."""
    return values if values.dtype == torch.float64 else values.float()
