"""Configurations of transformers models: made from `model:` settings, and checked.

No weights are read here.
"""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig

from attent_select.errors import InputError
from trainers.hf import architectures
from trainers.hf.paths import check_folder

architectures.register_configs()


def load_config(settings: Mapping[str, Any]) -> PreTrainedConfig:
    """Return the configuration of the model that the `model:` section describes.

    Raises:
        InputError: no model has this type or these fields, or nothing is saved at `path`.
    """
    return _saved_config(settings) if "path" in settings else _new_config(settings)


def check_positions(config: PreTrainedConfig, *, num_positions: int) -> None:
    """Check that texts of `num_positions` tokens fit the model.

    Raises:
        InputError: the model has fewer positions.
    """
    limit = limit_of_positions(config)
    if limit is not None and limit < num_positions:
        raise InputError(
            f"the task cuts text at {num_positions} tokens, but the model has {limit} positions: "
            f"set task.max_length to at most {limit}"
        )


def limit_of_positions(config: PreTrainedConfig) -> int | None:
    """Return the number of positions of a model; None: its configuration says none."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit if limit is not None and limit > 0 else None


def check_vocabulary(config: PreTrainedConfig, *, num_tokens: int) -> None:
    """Check that the model has an embedding for every one of `num_tokens` tokens.

    Raises:
        InputError: the model has fewer embeddings.
    """
    vocab_size = getattr(config.get_text_config(), "vocab_size", None)
    if vocab_size is not None and vocab_size < num_tokens:
        raise InputError(
            f"the tokenizer has {num_tokens} tokens, the model only {vocab_size}: set "
            f"model.config.vocab_size to at least {num_tokens}, or use the model's tokenizer"
        )


def check_decoder(config: PreTrainedConfig) -> None:
    """Check that the model continues a text, instead of reading it in a separate encoder.

    Raises:
        InputError: the model is an encoder-decoder.
    """
    parts = (config, config.get_text_config())
    if any(getattr(part, "is_encoder_decoder", False) for part in parts):
        raise InputError(
            f"model type {config.model_type!r} does not fit the task: it has an encoder for "
            "the text; expected one that continues a text (llava, idefics3, paligemma, …)"
        )


def _new_config(settings: Mapping[str, Any]) -> PreTrainedConfig:
    config_fields = dict(settings["config"])
    for name, value in config_fields.items():
        if name.startswith("num_") and isinstance(value, int) and value < 0:
            raise InputError(
                f"model.config.{name} is {value}: expected a number that is not negative"
            )
    try:
        config = AutoConfig.for_model(config_fields.pop("model_type"), **config_fields)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise InputError(f"model.config: the model cannot be built: {error}") from error
    _check_fields(config_fields, config=config)
    _check_heads(config_fields, config=config)
    # For types with several classes (DeiT), transformers searches this list, which may be None.
    config.architectures = config.architectures or []
    return config


def _saved_config(settings: Mapping[str, Any]) -> PreTrainedConfig:
    path = settings["path"]
    overrides = dict(settings.get("config", {}))
    overrides.pop("model_type", None)
    trusted = bool(settings.get("trust_remote_code", False))
    check_folder(path, what="model.path")
    _check_no_adapter(Path(path).expanduser())
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            path, trust_remote_code=trusted, **overrides
        )
    except (OSError, ValueError, TypeError, StrictDataclassError) as error:
        raise InputError(f"model.path: no model can be loaded from {path}: {error}") from error
    return config


def _check_no_adapter(folder: Path) -> None:
    """Refuse the folder of an adapter: it holds no model."""
    adapter = folder / "adapter_config.json"
    if not adapter.is_file() or (folder / "config.json").is_file():
        return
    try:
        base = json.loads(adapter.read_bytes()).get("base_model_name_or_path")
    except (ValueError, AttributeError):
        base = None
    raise InputError(
        f"model.path is {folder}: it holds an adapter of {base or 'an unnamed model'}, without its "
        "base model. Set model.path to the base model, or merge the adapter into it (`attent "
        "export` for a run, `merge_and_unload` of PEFT) and give the merged folder"
    )


def _check_heads(config_fields: Mapping[str, Any], *, config: PreTrainedConfig) -> None:
    """Refuse heads that do not divide the hidden size: a part of it would not be attended to."""
    size, heads = (getattr(config, key, None) for key in ("hidden_size", "num_attention_heads"))
    if "head_dim" in config_fields or not isinstance(size, int) or not isinstance(heads, int):
        return
    if heads > 0 and size % heads:
        raise InputError(
            f"model.config: num_attention_heads is {heads}: expected a number of heads that divides"
            f" hidden_size, which is {size}"
        )


def _check_fields(config_fields: Mapping[str, Any], *, config: PreTrainedConfig) -> None:
    """Refuse unknown fields: a configuration would keep them as attributes that nothing reads."""
    default = type(config)()
    for name in config_fields:
        if hasattr(config, name) and not hasattr(default, name):
            known = [*default.to_dict(), *default.attribute_map, "num_labels"]
            close = get_close_matches(name, known, n=1)
            raise InputError(
                f"model.config: {config.model_type} has no field {name!r}"
                + (f"; did you mean {close[0]!r}?" if close else "")
            )
