"""A transform of the user's: a function in another package, named by its dotted path."""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from attent_select.errors import AttentError, InputError
from attent_select.plugins import load_callable


@dataclass(frozen=True)
class OwnTransform:
    """`package.module.function`, called in training as `function(image, generator=generator)`.

    It gets and returns a decoded Pillow image, upright and in its original size. Random numbers
    come from `generator` (torch), so that training can be resumed and repeated.
    """

    path: str

    def check(self) -> None:
        """Check that the function can be loaded and called.

        Raises:
            InputError: it cannot.
        """
        try:
            inspect.signature(_load(self.path)).bind(None, generator=None)
        except TypeError as error:
            raise InputError(
                f"transform: {self.path} cannot be called as function(image, generator=generator): "
                f"{error}"
            ) from error

    def apply(
        self, images: Sequence[Any], *, keeps_size: bool, generator: torch.Generator
    ) -> list[Any]:
        """Return the transformed images, each made with the same random numbers.

        Raises:
            InputError: it fails, or returns something else than a Pillow image; with `keeps_size`
                also one of another size, which a map beside the image would not follow.
        """
        seed = int(torch.randint(1 << 62, (), generator=generator))
        transformed = []
        for image in images:
            try:
                after = _load(self.path)(image, generator=torch.Generator().manual_seed(seed))
            except AttentError:
                raise
            except Exception as error:  # another package's code can raise anything
                raise InputError(
                    f"transform: {self.path} failed on an image of {image.width} × {image.height} "
                    f"pixels: {type(error).__name__}: {error}"
                ) from error
            transformed.append(self._check_image(image, after, keeps_size=keeps_size))
        return transformed

    def _check_image(self, image: Any, after: Any, *, keeps_size: bool) -> Any:
        from PIL import Image

        if not isinstance(after, Image.Image) or 0 in after.size:
            raise InputError(
                f"transform: {self.path} returned a {type(after).__name__}: expected a Pillow image"
            )
        if keeps_size and after.size != image.size:
            raise InputError(
                f"transform: {self.path} made {after.width} × {after.height} pixels of "
                f"{image.width} × {image.height}: expected the same size, because the map or image "
                "beside it stays as it is"
            )
        return after if after.mode == image.mode else after.convert(image.mode)


@functools.lru_cache(maxsize=8)
def _load(path: str) -> Callable[..., Any]:
    return load_callable(path)
