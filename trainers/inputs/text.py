"""Text for language models: which tokens a sample becomes, and which of them count.

Templates, chat messages, cutting, padding. A sample is a list of segments `(text, counts)`.
"""

import string
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jinja2 import TemplateError

from attent_select.errors import InputError, SampleError
from catalogs.shard_format import Sample
from trainers.scoring.token_loss import IGNORED
from trainers.task import Batch, Item

Segments = list[tuple[str, bool]]


def template_fields(template: str) -> tuple[str, ...]:
    """The names in braces, each once. Raises `InputError` for braces that name nothing."""
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
    """The text in a column. Raises `SampleError`, `empty` or `unreadable`, when there is none."""
    found = sample[column]
    if found is None:
        raise SampleError(f"column {column!r} is empty", status="empty")
    if not isinstance(found, str):
        raise SampleError(
            f"column {column!r} holds {type(found).__name__}: expected text", status="unreadable"
        )
    return found


def chat_segments(tokenizer: Any, messages: Any, *, column: str) -> Segments:
    """Messages in the words of the tokenizer's chat template; what the assistant says counts.

    Raises:
        SampleError: they are no messages, the template refuses them, or rewrites earlier ones.
    """
    if not isinstance(messages, list) or not all(map(_is_message, messages)):
        raise SampleError(
            f"column {column!r} holds no list of messages with role and content",
            status="unreadable",
        )
    segments: Segments = []
    done = ""
    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _rendered(tokenizer, messages[:place], add_generation_prompt=True)
        after = _rendered(tokenizer, messages[: place + 1], add_generation_prompt=False)
        if not (before.startswith(done) and after.startswith(before)):
            raise SampleError(
                "the chat template rewrites earlier messages: what the assistant said cannot be "
                "told from the rest",
                status="unreadable",
            )
        segments += [(before[len(done) :], False), (after[len(before) :], True)]
        done = after
    return segments


def tokenize(tokenizer: Any, segments: Segments, *, ends: bool, max_length: int) -> Item:
    """`input_ids` and `labels` (-100: does not count) as lists, cut to `max_length`; `truncated`.

    Args:
        tokenizer: a fast one.
        segments: the texts, each of which is tokenised by itself.
        ends: put the tokenizer's beginning before them and its end after them. The end counts.
        max_length: in tokens.

    Raises:
        SampleError: nothing is left that counts.
    """
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    ids: list[int] = [start] if ends and start is not None else []
    labels = [IGNORED] * len(ids)
    num_counted = 0
    for text, counts in segments:
        found = encode(tokenizer, text)
        ids += found
        labels += found if counts else [IGNORED] * len(found)
        num_counted += len(found) if counts else 0
    if not num_counted:
        raise SampleError("there is no token to count", status="empty")
    if ends and end is not None:
        ids.append(end)
        labels.append(end)
    truncated = len(ids) > max_length
    ids, labels = ids[:max_length], labels[:max_length]
    if all(label == IGNORED for label in labels[1:]):
        raise SampleError(
            f"nothing that counts is left of the first {max_length} tokens"
            if truncated
            else "a single token has nothing before it to go by",
            status="empty",
        )
    return {"input_ids": ids, "labels": labels, "truncated": truncated, "num_units": len(ids)}


def pad(items: Sequence[Item], *, padding: int) -> Batch:
    """`input_ids`, `attention_mask`, `labels` int64[batch, tokens], padded on the right;
    `truncated` bool[batch].
    """
    lengths = torch.tensor([len(item["input_ids"]) for item in items])
    shape = (len(items), int(lengths.max()))
    batch = {
        "input_ids": torch.full(shape, padding, dtype=torch.int64),
        "attention_mask": (torch.arange(shape[1]) < lengths[:, None]).to(torch.int64),
        "labels": torch.full(shape, IGNORED, dtype=torch.int64),
        "truncated": torch.tensor([item["truncated"] for item in items]),
    }
    for place, item in enumerate(items):
        for name in ("input_ids", "labels"):
            batch[name][place, : lengths[place]] = torch.tensor(item[name])
    return batch


def padding_of(tokenizer: Any, *, path: str) -> int:
    """The padding token, else the end token: padding is masked out of attention and loss.

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


def encode(tokenizer: Any, text: str) -> list[int]:
    """Tokens of a text, no special ones added. Raises `SampleError` for what is not Unicode."""
    # The backend and not the tokenizer itself, which changes shared state and has no lock.
    try:
        ids: list[int] = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    except (TypeError, UnicodeError) as error:  # half of a surrogate pair has no UTF-8
        raise SampleError(f"the text is not Unicode: {error}", status="unreadable") from error
    return ids


def _rendered(tokenizer: Any, messages: list[Any], *, add_generation_prompt: bool) -> str:
    try:
        return str(
            tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        raise SampleError(
            f"the chat template refuses the messages: {error}", status="unreadable"
        ) from error


def _is_message(message: Any) -> bool:
    return isinstance(message, Mapping) and all(
        isinstance(message.get(name), str) for name in ("role", "content")
    )
