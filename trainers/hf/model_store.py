"""Choice of the model store for a `model:` section: whole models, or LoRA adapters."""

from pathlib import Path
from typing import Any

import torch

from attent_select.errors import InputError
from trainers.hf.models import HuggingFaceModels
from trainers.task import Models


def model_store(
    auto_class: str,
    settings: dict[str, Any],
    *,
    num_positions: int = 0,
    num_tokens: int = 0,
    model_types: tuple[str, ...] | None = None,
    example: dict[str, torch.Tensor] | None = None,
    is_decoder: bool = False,
) -> Models:
    """Return the store for the `model:` section: of whole models, or of adapters with `lora`.

    The other arguments are those of `HuggingFaceModels`.
    """
    models = HuggingFaceModels(
        auto_class,
        settings,
        num_positions=num_positions,
        num_tokens=num_tokens,
        model_types=model_types,
        example=example,
        is_decoder=is_decoder,
    )
    if settings.get("lora") is None:
        return models
    # PEFT takes seconds to import, with bitsandbytes where that is installed.
    from trainers.hf.lora import LoraModels

    return LoraModels.of(models)


def save_plain(models: Models, saved: Path, folder: Path, *, model: Any = None) -> None:
    """Write a saved model in the plain Hugging Face layout, with adapters merged into it.

    `model` is the saved model, for callers who have loaded it anyway.

    Raises:
        InputError: the model is not one of transformers.
    """
    if hasattr(models, "merged"):
        model = models.merged(saved)
    elif model is None:
        model = models.load(saved)
    from transformers import PreTrainedModel  # takes seconds, and only models need it

    if not isinstance(model, PreTrainedModel):
        raise InputError(
            f"{type(model).__name__} is not a model of transformers: only those can be exported"
        )
    model.save_pretrained(folder)
