"""Text for language models: templates and columns of text, and padding of tokenised samples."""

import functools
import string
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch

from attent_select.errors import InputError, SampleError
from catalogs.shard_format import Sample
from trainers.scoring.token_loss import IGNORED
from trainers.task import Batch, Item


@functools.lru_cache
def template_fields(template: str) -> tuple[str, ...]:
    """Return the names in braces, each once.

    Raises:
        InputError: the braces contain no name.
    """
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise InputError(
            f"template is {template!r}: {error}; write {{{{ and }}}} for braces"
        ) from error
    names = [name for _, name, _, _ in parsed if name is not None]
    if not names or any(not name.isidentifier() for name in names):
        raise InputError(
            f"template is {template!r}: expected {{prompt}} or names of columns in braces"
        )
    return tuple(dict.fromkeys(names))


def text_in(sample: Sample, column: str) -> str:
    """Return the text in a column.

    Raises:
        SampleError: it is empty, or is not text.
    """
    text = sample[column]
    if text is None:
        raise SampleError(f"column {column!r} is empty", status="empty")
    if not isinstance(text, str):
        raise SampleError(
            f"column {column!r} holds {type(text).__name__}: expected text", status="unreadable"
        )
    return text


def pad(items: Sequence[Item], *, padding: int) -> Batch:
    """Pad on the right: `input_ids`, `attention_mask`, `labels` int64[batch, tokens], and
    `truncated` bool[batch].
    """
    lengths = np.array([len(item["input_ids"]) for item in items])
    is_token = np.arange(lengths.max()) < lengths[:, None]
    batch = {"attention_mask": torch.from_numpy(is_token.astype(np.int64))}
    for name, fill in (("input_ids", padding), ("labels", IGNORED)):
        values = chain.from_iterable(item[name] for item in items)
        padded = np.full(is_token.shape, fill, np.int64)
        padded[is_token] = np.fromiter(values, np.int64, lengths.sum())
        batch[name] = torch.from_numpy(padded)
    return batch | {"truncated": torch.tensor([item["truncated"] for item in items])}


def tokenizer_path(path: str | None) -> str:
    """Return the folder or name of a task's tokenizer.

    Raises:
        InputError: neither the task nor the model names one.
    """
    if path is None:
        raise InputError(
            "the task has no tokenizer: set task.tokenizer, or model.path to use the model's"
        )
    return path


def padding_of(tokenizer: Any, *, path: str) -> int:
    """Return the padding token, else the end token: attention and loss ignore padding.

    Raises:
        InputError: the tokenizer has neither.
    """
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise InputError(
        f"the tokenizer in {path} has neither a pad nor an eos token: set one in its "
        "tokenizer_config.json"
    )
