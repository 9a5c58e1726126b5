"""A share of the patches of an image: a vision transformer leaves out the others.

The patches are spread evenly over the image, the same ones of every image, and keep their position
embeddings. The cost of all layers falls with their number.

Source: images of which most patches are left out are encoded in He et al., "Masked Autoencoders Are
Scalable Vision Learners" (CVPR 2022); the places are a rank-1 lattice, Roberts' sequence R₂.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch

from attent_select.errors import InputError

# Models whose layers take any set of patches: position embeddings are added before the first.
_MODEL_TYPES: Final = ("vit", "deit", "dinov2", "dinov2_with_registers", "vit_msn")
# 1/g and 1/g², g the plastic number.
_ROW, _COLUMN = 0.7548776662466927, 0.5698402909980532


@contextmanager
def on_share(model: torch.nn.Module, *, share: float) -> Iterator[None]:
    """Let the layers of `model` take the share `share` of the patches of each image.

    Raises:
        InputError: the model needs all patches.
    """
    embeddings = _embeddings(model)

    def keep(
        module: Any, inputs: Any, kwargs: dict[str, Any], output: torch.Tensor
    ) -> torch.Tensor:
        pixels = inputs[0] if inputs else kwargs["pixel_values"]
        height, width = _sides(module.patch_embeddings.patch_size)
        rows, columns = pixels.shape[-2] // height, pixels.shape[-1] // width
        others = output.shape[1] - rows * columns  # class, distillation and register tokens
        kept = chosen_patches(rows, columns, share=share).to(output.device)
        return torch.cat([output[:, :others], output[:, others + kept]], dim=1)

    handle = embeddings.register_forward_hook(keep, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def chosen_patches(rows: int, columns: int, *, share: float) -> torch.Tensor:
    """Return ⌈share · rows · columns⌉ of the patches of a grid, row by row: int64, ascending."""
    row = torch.arange(rows, dtype=torch.float64)[:, None]
    column = torch.arange(columns, dtype=torch.float64)
    order = ((row * _ROW + column * _COLUMN) % 1).flatten().argsort(stable=True)
    return order[: math.ceil(share * rows * columns)].sort().values


def _embeddings(model: torch.nn.Module) -> torch.nn.Module:
    """Return the module whose output are the tokens of an image, patches last."""
    config: Any = getattr(model, "config", None)
    kind = getattr(config, "model_type", None)
    if kind not in _MODEL_TYPES:
        raise InputError(
            f"scoring.units_share: a model of type {kind!r} needs all patches of an image: "
            f"expected one of {', '.join(_MODEL_TYPES)}, or remove the key"
        )
    return next(each for each in model.modules() if hasattr(each, "patch_embeddings"))


def _sides(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
