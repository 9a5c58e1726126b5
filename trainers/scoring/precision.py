"""Precision of losses."""

import torch


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """Keep float64, for a model in float64 (`trainers/antk`); convert anything else to float32."""
    return values if values.dtype == torch.float64 else values.float()
