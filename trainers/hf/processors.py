"""Tokenizers, image processors and processors of transformers, loaded once per process.

Image processors take seconds to import: only what reads images does.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from attent_select.errors import InputError
from trainers.hf.paths import check_folder

_FAILURES = (OSError, ValueError, KeyError, ImportError, TypeError)


@lru_cache(maxsize=8)
def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """Return the fast tokenizer saved at `path`, loaded once per process.

    Raises:
        InputError: there is none, or it is not a fast one.
    """
    check_folder(path, what="task.tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, use_fast=True, trust_remote_code=False)
    except _FAILURES as error:
        raise InputError(f"no tokenizer can be loaded from {path}: {error}") from error
    if not tokenizer.is_fast:
        raise InputError(f"the tokenizer in {path} is not a fast one (tokenizer.json)")
    # A tokenizer may be saved with them: texts are cut and padded by the task.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def check_same_tokens(folder: Path, tokenizer: str) -> None:
    """Check that a saved model, if a tokenizer lies beside it, has the tokens of `tokenizer`.

    Raises:
        InputError: a text has other tokens for the model.
    """
    if not (folder / "tokenizer.json").is_file():
        return
    own, ours = (load_tokenizer(path).get_vocab() for path in (str(folder), tokenizer))
    if own != ours:
        raise InputError(
            f"the tokenizer of the model has other tokens ({len(own):,}) than the task's in "
            f"{tokenizer} ({len(ours):,}): expected a model with the same tokenizer"
        )


@lru_cache(maxsize=8)
def load_image_processor(path: str, *, backend: str) -> Any:
    """Return the image processor saved at `path`, in that backend (`pil` or `torchvision`).

    Raises:
        InputError: there is none, or the backend is not installed: another gives other pixels.
    """
    from transformers import AutoImageProcessor

    check_folder(path, what="task.processor")
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
    """Return the processor (tokenizer and image processor) saved at `path`.

    Raises:
        InputError: there is none, it lacks a part, or the backend is not installed.
    """
    from transformers import AutoProcessor

    check_folder(path, what="task.processor")
    try:
        processor = AutoProcessor.from_pretrained(path, backend=backend, trust_remote_code=False)
    except _FAILURES as error:
        reason = " ".join(str(error).split())
        if isinstance(error, ImportError) and "ideo" in reason:
            reason = (
                "it also processes videos, for which transformers needs torchvision: install "
                f"torchvision and set task.backend to torchvision ({reason})"
            )
        raise InputError(f"no processor can be loaded from {path}: {reason}") from error
    for part in ("tokenizer", "image_processor"):
        if getattr(processor, part, None) is None:
            raise InputError(f"the processor in {path} has no {part}, which this task needs")
    _check_backend(processor.image_processor, path=path, backend=backend)
    return processor


def save_preprocessing(path: str, folder: Path, *, chat_template: str | None = None) -> None:
    """Copy the tokenizer or processor saved at `path` into a model's folder, with the chat template
    that the model was trained with, if it is another.
    """
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(path, trust_remote_code=False)
        if chat_template is not None:
            processor.chat_template = chat_template
        processor.save_pretrained(folder)
    except _FAILURES as error:
        raise InputError(f"no processor can be loaded from {path}: {error}") from error


def _check_backend(processor: Any, *, path: str, backend: str) -> None:
    from transformers.image_processing_backends import PilBackend

    # transformers falls back to an installed backend, with only a warning.
    if isinstance(processor, PilBackend) != (backend == "pil"):
        raise InputError(
            f"the image processor in {path} has no backend {backend!r} here, only "
            f"{type(processor).__name__}: set task.backend to an installed one"
        )
