"""Mixup and CutMix: the samples of a batch are mixed in pairs.

Sources: Zhang et al., "mixup", 2018; Yun et al., "CutMix", 2019.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from attent_select.errors import SampleError
from trainers.inputs.augmentation.random_crops import Box
from trainers.inputs.augmentation.settings import Augmentation
from trainers.task import Item


def mix_pairs(
    items: Sequence[Item | SampleError],
    generators: Iterable[torch.Generator],
    *,
    how: Augmentation,
) -> list[Item | SampleError]:
    """Mix each sample with its partner: samples 0 and 1, 2 and 3, …

    Each sample has its own generator, share and box. A sample stays as it is if its partner is
    missing or cannot be used.

    Returns:
        The items, of which the mixed ones have `share`, that of the sample itself, and
        `other_label`, that of its partner.
    """
    mixed: list[Item | SampleError] = []
    for position, (item, generator) in enumerate(zip(items, generators, strict=True)):
        partner = items[position ^ 1] if position ^ 1 < len(items) else None
        if isinstance(item, SampleError) or partner is None or isinstance(partner, SampleError):
            mixed.append(item)
        else:
            mixed.append(_mix(item, partner, how=how, generator=generator))
    return mixed


def _mix(item: Item, partner: Item, *, how: Augmentation, generator: torch.Generator) -> Item:
    pixels, others = item["pixels"], partner["pixels"]
    if pixels.shape != others.shape:
        return item  # of a processor without a fixed size, which the collation refuses
    cuts = how.cutmix > 0
    if how.mixup > 0 and how.cutmix > 0:
        cuts = bool(torch.randint(2, (), generator=generator))
    # torch's Beta draws from the global generator, which threads share.
    seed = int(torch.randint(1 << 62, (), generator=generator))
    alpha = how.cutmix if cuts else how.mixup
    share = float(np.random.Generator(np.random.PCG64(seed)).beta(alpha, alpha))
    if cuts:
        left, top, right, bottom = _box_to_replace(pixels, share, generator)
        pixels = pixels.clone()
        pixels[..., top:bottom, left:right] = others[..., top:bottom, left:right]
        share = 1.0 - (right - left) * (bottom - top) / pixels[0].numel()
    else:
        blended = torch.lerp(others.to(torch.float32), pixels.to(torch.float32), share)
        pixels = blended if pixels.is_floating_point() else blended.round().to(pixels.dtype)
    return item | {"pixels": pixels, "share": share, "other_label": partner["label"]}


def _box_to_replace(pixels: torch.Tensor, share: float, generator: torch.Generator) -> Box:
    """Return a box of the image's ratio and the area 1 − `share`, cut off at the image's edges."""
    height, width = pixels.shape[-2:]
    side = math.sqrt(1.0 - share)
    x, y = (int(torch.randint(length, (), generator=generator)) for length in (width, height))
    half_width, half_height = int(width * side) // 2, int(height * side) // 2
    return (
        max(x - half_width, 0),
        max(y - half_height, 0),
        min(x + half_width, width),
        min(y + half_height, height),
    )
