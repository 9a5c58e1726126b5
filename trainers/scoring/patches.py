"""A share of the patches of an image: a vision transformer leaves out the others.

In scoring, the patches are spread evenly over the image, the same ones of every image. In training
they are drawn for each image and step. They keep their position embeddings; the cost of all layers
falls with their number.

Sources: images of which most patches are left out are encoded in He et al., "Masked Autoencoders
Are Scalable Vision Learners" (CVPR 2022), and classified in Liu et al., "PatchDropout: Economizing
Vision Transformers Using Patch Dropout" (WACV 2023); the evenly spread places are a rank-1 lattice,
Roberts' sequence R₂.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch

from attent_select.errors import InputError

# Models whose layers take any set of patches: position embeddings are added before the first.
_MODEL_TYPES: Final = ("vit", "deit", "dinov2", "dinov2_with_registers", "vit_msn")
# 1/g and 1/g², g the plastic number.
_ROW, _COLUMN = 0.7548776662466927, 0.5698402909980532


@dataclass(frozen=True)
class PatchDropping:
    """Training on a random share of the patches of each image (PatchDropout).

    Attributes:
        keep: share of the patches that is kept, drawn again for each image and step.
        until: share of the optimizer steps of the run, from the first, that drop patches; the
            others train on whole images.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    keep: float = 0.5
    until: float = 0.8

    def __post_init__(self) -> None:
        for name in ("keep", "until"):
            if not 0 < (share := getattr(self, name)) <= 1:
                raise InputError(f"{name} is {share}: expected a share, above 0 and at most 1")


def on_share(model: torch.nn.Module, *, share: float) -> AbstractContextManager[None]:
    """Let the layers of `model` take the share `share` of the patches of each image.

    Raises:
        InputError: the model needs all patches.
    """
    check_model_type(model, setting="scoring.units_share")
    return on_patches(model, lambda grid: evenly_spread(*grid, share=share)[None])


@contextmanager
def on_patches(
    model: torch.nn.Module, choose: Callable[[tuple[int, int]], torch.Tensor]
) -> Iterator[None]:
    """Let the layers of `model` take some of the patches of each image.

    Args:
        model: a model that `check_model_type` accepts.
        choose: the rows and columns of patches → which of them, row by row: int64[batch, number],
            or int64[1, number] for all images.
    """

    def keep(
        module: Any, inputs: Any, kwargs: dict[str, Any], output: torch.Tensor
    ) -> torch.Tensor:
        pixels = inputs[0] if inputs else kwargs["pixel_values"]
        height, width = _sides(module.patch_embeddings.patch_size)
        rows, columns = pixels.shape[-2] // height, pixels.shape[-1] // width
        others = output.shape[1] - rows * columns  # class, distillation and register tokens
        places = others + choose((rows, columns)).to(output.device)
        places = places[:, :, None].expand(len(output), -1, output.shape[2])
        return torch.cat([output[:, :others], output.gather(1, places)], dim=1)

    # The module whose output are the tokens of an image, patches last.
    embeddings = next(each for each in model.modules() if hasattr(each, "patch_embeddings"))
    handle = embeddings.register_forward_hook(keep, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def evenly_spread(rows: int, columns: int, *, share: float) -> torch.Tensor:
    """Return ⌈share · rows · columns⌉ of the patches of a grid, row by row: int64, ascending."""
    row = torch.arange(rows, dtype=torch.float64)[:, None]
    column = torch.arange(columns, dtype=torch.float64)
    order = ((row * _ROW + column * _COLUMN) % 1).flatten().argsort(stable=True)
    return order[: math.ceil(share * rows * columns)].sort().values


def check_model_type(model: torch.nn.Module, *, setting: str) -> None:
    """Raise `InputError`, which names the setting, for a model that needs all patches."""
    config: Any = getattr(model, "config", None)
    kind = getattr(config, "model_type", None)
    if kind not in _MODEL_TYPES:
        raise InputError(
            f"{setting}: a model of type {kind!r} needs all patches of an image: "
            f"expected one of {', '.join(_MODEL_TYPES)}, or remove the key"
        )


def _sides(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
