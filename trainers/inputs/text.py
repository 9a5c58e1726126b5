"""Text for language models: templates, chat messages, tokens and which of them count, padding."""

import string
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jinja2 import TemplateError

from attent_select.errors import InputError, SampleError
from catalogs.shard_format import Sample
from trainers.scoring.token_loss import IGNORED
from trainers.task import Batch, Item

# Parts of a sample's text, and whether the tokens of each count.
Segments = list[tuple[str, bool]]


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


def chat_segments(tokenizer: Any, messages: Any, *, column: str) -> Segments:
    """Render messages with the tokenizer's chat template; the assistant's messages count.

    Raises:
        SampleError: they are not messages, or the template rejects them or rewrites earlier ones.
    """
    if not isinstance(messages, list) or not all(map(_is_message, messages)):
        raise SampleError(
            f"column {column!r}: expected a list of messages with role and content",
            status="unreadable",
        )
    segments: Segments = []
    rendered = ""
    for position, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _render(tokenizer, messages[:position], add_generation_prompt=True)
        after = _render(tokenizer, messages[: position + 1], add_generation_prompt=False)
        if not (before.startswith(rendered) and after.startswith(before)):
            raise SampleError(
                "the chat template rewrites earlier messages: the assistant's messages cannot be "
                "located",
                status="unreadable",
            )
        segments += [(before[len(rendered) :], False), (after[len(before) :], True)]
        rendered = after
    return segments


def tokenize(tokenizer: Any, segments: Segments, *, ends: bool, max_length: int) -> Item:
    """Return `input_ids` and `labels` (-100: does not count) as lists, cut to `max_length`;
    `truncated`.

    Args:
        tokenizer: a fast tokenizer.
        segments: the texts, tokenised one by one.
        ends: add the tokenizer's begin token before and its end token after them. The end counts.
        max_length: in tokens.

    Raises:
        SampleError: no token that counts is left.
    """
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    ids: list[int] = [start] if ends and start is not None else []
    labels = [IGNORED] * len(ids)
    num_counted = 0
    for text, counts in segments:
        tokens = encode(tokenizer, text)
        ids += tokens
        labels += tokens if counts else [IGNORED] * len(tokens)
        num_counted += len(tokens) if counts else 0
    if not num_counted:
        raise SampleError("no token counts", status="empty")
    if ends and end is not None:
        ids.append(end)
        labels.append(end)
    truncated = len(ids) > max_length
    ids, labels = ids[:max_length], labels[:max_length]
    if all(label == IGNORED for label in labels[1:]):
        raise SampleError(
            f"none of the first {max_length} tokens counts"
            if truncated
            else "a single token has no context to be predicted from",
            status="empty",
        )
    return {"input_ids": ids, "labels": labels, "truncated": truncated, "num_units": len(ids)}


def pad(items: Sequence[Item], *, padding: int) -> Batch:
    """Pad on the right: `input_ids`, `attention_mask`, `labels` int64[batch, tokens], and
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
    for position, item in enumerate(items):
        for name in ("input_ids", "labels"):
            batch[name][position, : lengths[position]] = torch.tensor(item[name])
    return batch


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


def encode(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text, without special tokens.

    Raises:
        SampleError: the text is not valid Unicode.
    """
    # The backend, because the tokenizer itself changes shared state without a lock.
    try:
        ids: list[int] = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    except (TypeError, UnicodeError) as error:  # an unpaired surrogate has no UTF-8
        raise SampleError(f"the text is not valid Unicode: {error}", status="unreadable") from error
    return ids


def _render(tokenizer: Any, messages: list[Any], *, add_generation_prompt: bool) -> str:
    try:
        return str(
            tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        raise SampleError(
            f"the chat template rejects the messages: {error}", status="unreadable"
        ) from error


def _is_message(message: Any) -> bool:
    return isinstance(message, Mapping) and all(
        isinstance(message.get(name), str) for name in ("role", "content")
    )
