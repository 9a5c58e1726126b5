"""The length to which texts are truncated, so that few answers lose their end."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from attent_select.errors import SampleError
from pipeline.first_steps.first_rows import FirstRows

# Tokens: of a text, and the least and the most of a prompt with its answer.
_DEFAULT_LENGTH = 512
_MAX_LENGTH = 4096
_SHARE = 0.99


def fitting_length(
    rows: FirstRows, settings: Mapping[str, Any], *, tokenizer: str, model: str | None
) -> int:
    """Return a power of two that holds 99 % of the first prompts with their answers.

    It is 512 at least, and for texts without answers; at most the positions of a saved model. Only
    tokenizers and models in folders are read: what `attent init` says needs no download.

    Args:
        rows: the first rows.
        settings: of the task, which name its columns.
        tokenizer: folder of the tokenizer, or its name on the hub.
        model: the same of a saved model.

    Raises:
        InputError: the tokenizer or the model cannot be loaded.
    """
    length = _DEFAULT_LENGTH
    if Path(tokenizer).is_dir() and {"response", "messages"} & settings.keys():
        length = max(length, 1 << (_longest(rows, settings, tokenizer=tokenizer) - 1).bit_length())
    if model is None or not Path(model).is_dir():
        return length
    from trainers.hf.configs import limit_of_positions, load_config

    return min(length, limit_of_positions(load_config({"path": model})) or length)


def _longest(rows: FirstRows, settings: Mapping[str, Any], *, tokenizer: str) -> int:
    """Return the number of tokens that 99 % of the first samples do not exceed."""
    from trainers.tasks.causal_lm import CausalLm

    named = {name: value for name, value in settings.items() if name != "name"}
    task = CausalLm(**{**named, "tokenizer": tokenizer, "max_length": _MAX_LENGTH})
    columns = [rows.values[name] for name in task.columns]
    samples = [dict(zip(task.columns, row, strict=True)) for row in zip(*columns, strict=True)]
    items = [item for item in task.prepare_all(samples) if not isinstance(item, SampleError)]
    lengths = [len(item["input_ids"]) for item in items] or [1]
    return int(np.quantile(lengths, _SHARE, method="higher"))
