"""Tokenizers, image processors and processors of transformers, loaded once per process."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)
from transformers.image_processing_backends import PilBackend

from attent_select.errors import InputError

_FAILURES = (OSError, ValueError, KeyError, ImportError, TypeError)


@lru_cache(maxsize=8)
def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The fast tokenizer saved at `path`, loaded once per process.

    Raises:
        InputError: there is none, or it is not a fast one.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, use_fast=True, trust_remote_code=False)
    except _FAILURES as error:
        raise InputError(f"no tokenizer can be loaded from {path}: {error}") from error
    if not tokenizer.is_fast:
        raise InputError(f"the tokenizer in {path} is not a fast one (tokenizer.json)")
    return tokenizer


@lru_cache(maxsize=8)
def load_image_processor(path: str, *, backend: str) -> Any:
    """The image processor saved at `path`, in that backend (`pil` or `torchvision`).

    Raises:
        InputError: there is none, or the backend is not installed: another would give other pixels.
    """
    try:
        processor = AutoImageProcessor.from_pretrained(
            path, backend=backend, trust_remote_code=False
        )
    except _FAILURES as error:
        raise InputError(f"no image processor can be loaded from {path}: {error}") from error
    _check_backend(processor, path=path, backend=backend)
    return processor


@lru_cache(maxsize=8)
def load_processor(path: str, *, backend: str) -> Any:
    """The processor (tokenizer and image processor) saved at `path`; raises what the others do."""
    try:
        processor = AutoProcessor.from_pretrained(path, backend=backend, trust_remote_code=False)
    except _FAILURES as error:
        why = " ".join(str(error).split())
        if isinstance(error, ImportError) and "ideo" in why:
            why = (
                "it is for videos too, and transformers has that part only with torchvision: "
                f"install it and set task.backend to torchvision ({why})"
            )
        raise InputError(f"no processor can be loaded from {path}: {why}") from error
    for part in ("tokenizer", "image_processor"):
        if getattr(processor, part, None) is None:
            raise InputError(f"the processor in {path} has no {part}: expected both for images")
    _check_backend(processor.image_processor, path=path, backend=backend)
    return processor


def save_preprocessing(path: str, folder: Path) -> None:
    """Put a copy of what is saved at `path`, tokenizer or processor, beside a model."""
    try:
        AutoProcessor.from_pretrained(path, trust_remote_code=False).save_pretrained(folder)
    except _FAILURES as error:
        raise InputError(f"no processor can be loaded from {path}: {error}") from error


def _check_backend(processor: Any, *, path: str, backend: str) -> None:
    # Theirs falls back to whatever is installed, with a warning.
    if isinstance(processor, PilBackend) != (backend == "pil"):
        raise InputError(
            f"the image processor in {path} has no backend {backend!r} here, only "
            f"{type(processor).__name__}: set task.backend to the one that is installed"
        )
