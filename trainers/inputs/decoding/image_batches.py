"""Batches of encoded images, decoded into one memory.

For small images, a tensor for each of them takes longer than decoding it.
"""

from collections.abc import Sequence
from typing import Any

import torch

from attent_select.errors import SampleError
from trainers.inputs.decoding.frame import size_of
from trainers.inputs.decoding.plain_png import GreyPngs
from trainers.inputs.images import MAX_PIXELS, check_encoded
from trainers.inputs.pixels import Pixels


def batch_of(images: Sequence[Any], *, how: Pixels) -> tuple[torch.Tensor, dict[int, SampleError]]:
    """Return `pixel_values` of the encoded images that can be decoded, and the errors of the others
    by their positions. The values are those of `prepare` and `stack`, without random changes.
    """
    errors: dict[int, SampleError] = {}
    if how.processor is None:
        return how.leave(decode_batch(images, how=how, errors=errors)), errors
    prepared: list[torch.Tensor] = []
    for position, image in enumerate(images):
        try:
            prepared += how.prepare([how.open(image)])[0]
        except SampleError as error:
            errors[position] = error
    return (how.stack(prepared) if prepared else torch.empty(0)), errors


def decode_batch(
    images: Sequence[Any], *, how: Pixels, errors: dict[int, SampleError]
) -> torch.Tensor:
    """Return uint8[batch, channels, size, size] of the encoded images that can be decoded, and add
    the errors of the others by their positions.
    """
    side = how.image_size
    pixels = torch.empty((len(images), how.num_channels, side, side), dtype=torch.uint8)
    memory, image_bytes = pixels.view(-1).numpy().data, how.num_channels * side * side
    has_grey = how.num_channels == 1 and image_bytes <= MAX_PIXELS
    grey = GreyPngs(side, side) if has_grey else None
    number = 0
    for position, data in enumerate(images):
        try:
            encoded = check_encoded(data)
            decoded = None if grey is None else grey.decode(encoded)
            if decoded is not None:
                memory[number * image_bytes : (number + 1) * image_bytes] = decoded
            else:
                image = how.open(encoded)
                pixels[number] = how.frame(size_of(image)).pixels(image)
            number += 1
        except SampleError as error:
            errors[position] = error
    return pixels[:number]
