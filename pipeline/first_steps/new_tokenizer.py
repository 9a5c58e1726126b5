"""A small tokenizer for a model from scratch, trained on the first rows of a corpus."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attent_select.errors import ExistsError, InputError
from catalogs.shards import read_shard
from pipeline.first_steps.first_rows import FirstRows
from trainers.inputs.tokenizer import train_tokenizer

# The settings of tasks on text that name a column of plain text.
_TEXT_KEYS = ("text", "prompt", "response", "chosen", "rejected")
_VOCABULARY = 4096
_MAX_ROWS = 4096
# Of these rows in the shard; texts take up to a few times as many in memory.
_MAX_BYTES = 4 << 20


def tokenizer_of_first_rows(rows: FirstRows, settings: Mapping[str, Any], *, folder: Path) -> int:
    """Train a tokenizer on the columns that a task's `settings` name; return the number of rows.

    Raises:
        InputError: the columns hold chats, which need a chat template.
        ExistsError: the folder exists.
    """
    columns = [settings[key] for key in _TEXT_KEYS if key in settings]
    if settings.get("chats") or not columns:
        raise InputError(
            "chats need a chat template: add --model with a folder, or a name on the hub such as"
            " HuggingFaceTB/SmolLM2-135M-Instruct, or --tokenizer PATH with a template"
        )
    if folder.exists():
        raise ExistsError(f"{folder} exists: use it with --tokenizer {folder}, or move it away")
    shard = rows.shard
    row_bytes = -(-shard.num_bytes // shard.num_samples)
    read = range(min(shard.num_samples, _MAX_ROWS, max(1, _MAX_BYTES // row_bytes)))
    values = read_shard(shard, rows=read, columns=columns).values
    train_tokenizer(_texts(values), folder, vocab_size=_VOCABULARY)
    return len(read)


def _texts(values: Mapping[str, Any]) -> Iterator[str]:
    for column in values.values():
        yield from (text for text in column if isinstance(text, str))
