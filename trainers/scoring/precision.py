"""Precision of losses, and of the arithmetic that measures them."""

from typing import Any

import torch


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """Keep float64, for a model in float64 (`trainers/antk`); convert anything else to float32."""
    return values if values.dtype == torch.float64 else values.float()


def has_fast_bfloat16() -> bool:
    """Whether the device that scores here, an accelerator or the CPU, gains by bfloat16.

    A CPU does with AMX. With AVX-512 BF16 alone, bfloat16 took 0.6 times the seconds of float32 on
    one processor (AMD EPYC), and 1.3 to 1.7 times on another (Intel Xeon). Other CPUs emulate it.
    """
    if torch.cuda.is_available():
        return torch.cuda.get_device_capability() >= (8, 0)
    cpu: Any = torch.cpu
    return bool(cpu._is_amx_tile_supported())  # noqa: SLF001
