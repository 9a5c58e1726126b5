"""Precision of losses, and of the arithmetic that measures them."""

from typing import Any

import torch


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """Keep float64, for a model in float64 (`trainers/antk`); convert anything else to float32."""
    return values if values.dtype == torch.float64 else values.float()


def has_fast_bfloat16() -> bool:
    """Whether the device that scores here, an accelerator or the CPU, computes bfloat16 itself.

    Other devices emulate it, at the speed of float32 or less.
    """
    if torch.cuda.is_available():
        return torch.cuda.get_device_capability() >= (8, 0)
    cpu: Any = torch.cpu
    return bool(cpu._is_amx_tile_supported() or cpu._is_avx512_bf16_supported())  # noqa: SLF001
