"""Random crops: a box of an image, or all layers of a sample, padded and moved."""

import math

import torch
from torch.nn import functional

from trainers.inputs.augmentation.settings import RandomResizedCrop

# Left, top, right, bottom in pixels; right and bottom are outside.
Box = tuple[int, int, int, int]

# Boxes that are tried before the largest one in the middle is taken.
_ATTEMPTS = 10


def random_box(size: tuple[int, int], *, how: RandomResizedCrop, generator: torch.Generator) -> Box:
    """Return a random box of an image of (width, height): its area uniform, the logarithm of its
    ratio uniform.
    """
    width, height = size
    for _ in range(_ATTEMPTS):
        area_draw, ratio_draw, left_draw, top_draw = torch.rand(4, generator=generator).tolist()
        area = width * height * (how.scale[0] + area_draw * (how.scale[1] - how.scale[0]))
        least, most = (math.log(limit) for limit in how.ratio)
        ratio = math.exp(least + ratio_draw * (most - least))
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            # Draws are below 1, so that every position is possible and none is outside.
            left = int(left_draw * (width - box_width + 1))
            top = int(top_draw * (height - box_height + 1))
            return left, top, left + box_width, top + box_height
    ratio = min(max(width / height, how.ratio[0]), how.ratio[1])
    box_width, box_height = min(width, round(height * ratio)), min(height, round(width / ratio))
    return centred_box(size, max(box_width, 1), max(box_height, 1))


def centred_box(size: tuple[int, int], width: int, height: int) -> Box:
    """Return the box of this width and height in the middle of an image of (width, height)."""
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return left, top, left + width, top + height


def crop_and_flip(
    *layers: tuple[torch.Tensor, float], flip: bool, generator: torch.Generator
) -> list[torch.Tensor]:
    """Pad each (tensor[…, height, width], fill) by an eighth and crop all at the same random
    position; with `flip`, mirror all of them first with probability 1/2.
    """
    height, width = layers[0][0].shape[-2:]
    margin = max(max(height, width) // 8, 1)
    top, left, mirror = (
        int(torch.randint(high, (), generator=generator))
        for high in (2 * margin + 1, 2 * margin + 1, 2)
    )
    cropped = []
    for tensor, fill in layers:
        mirrored = tensor.flip(-1) if flip and mirror else tensor
        padded = functional.pad(mirrored, (margin,) * 4, value=fill)
        cropped.append(padded[..., top : top + height, left : left + width])
    return cropped
