"""Chat messages as data sets store them → the messages, tools and variables of a chat template.

Pure.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from attent_select.errors import SampleError

Message = dict[str, Any]

# Speakers in the ShareGPT format (`from`, `value`), and their roles.
_SPEAKERS = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
}
_ROLES = ("assistant", "user", "system", "developer", "tool")
_CHAT: Final = re.compile(r"\s*\[\s*\{")
# Where the assistant speaks in a message, besides `content`.
_ANSWERS = ("tool_calls", "reasoning_content", "thinking", "reasoning", "function_call")


@dataclass(frozen=True)
class Chat:
    """One conversation: its messages, the tools it may call, and other variables of the template.

    `tools` is None where the conversation has none.
    """

    messages: list[Message]
    tools: list[Any] | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)


def chat_in(
    sample: Mapping[str, Any],
    column: str,
    *,
    tools: str | None = None,
    variables: str | Mapping[str, Any] | None = None,
) -> Chat:
    """Return the chat in a column of a sample.

    `tools` is the column of its tools; `variables` are those of the template, or their column.

    Raises:
        SampleError: a column holds something else.
    """
    if isinstance(variables, str):
        variables = variables_in(sample[variables], column=variables)
    return Chat(
        messages_in(sample[column], column=column),
        None if tools is None else tools_in(sample[tools], column=tools),
        variables or {},
    )


def messages_in(value: Any, *, column: str) -> list[Message]:
    """Return the messages in a value of a column: a list, or JSON text, of messages.

    `datasets` before version 4 stored a list of mappings as a mapping of lists: it is one, too.
    A message is a mapping, or JSON text, with `role` and `content` (text, a list of parts, or
    nothing beside tool calls), or with `from` and `value` (ShareGPT). Nulls in mappings are
    removed: Arrow adds them where messages have different keys.

    Raises:
        SampleError: these are not messages, or there is none.
    """
    value = parse_json(value, place=f"column {column!r}")
    if value is None:
        raise SampleError(f"column {column!r} is empty", status="empty")
    if isinstance(value, dict) and _are_columns(value):
        value = [
            dict(zip(value, entry, strict=True)) for entry in zip(*value.values(), strict=True)
        ]
    if not isinstance(value, list):
        raise _unreadable(
            f"column {column!r} holds {type(value).__name__}: expected a list of messages"
        )
    if not value:
        raise SampleError(f"column {column!r} holds no message", status="empty")
    return [_message(entry, f"column {column!r}, message {n}") for n, entry in enumerate(value, 1)]


def _are_columns(messages: dict[str, Any]) -> bool:
    """Whether these are the roles, the contents, … of the same number of messages."""
    lengths = {len(each) if isinstance(each, list) else None for each in messages.values()}
    return len(lengths) == 1 and None not in lengths


def is_chat_text(text: str) -> bool:
    """Whether a text may be a chat in JSON."""
    return _CHAT.match(text) is not None


def spoken_text(value: Any) -> str:
    """Return what the messages of a chat say, in their order, separated by line breaks.

    Without roles and without a template. Calls of tools are JSON; pictures are left out.

    Raises:
        SampleError: as `messages_in`.
    """
    messages = messages_in(value, column="of the chat")
    return "\n".join(line for message in messages for line in _lines_of(message))


def _lines_of(message: Message) -> Iterator[str]:
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"text": content}]
    for part in parts:
        text = part.get("text") if isinstance(part, dict) else None
        if isinstance(text, str):
            yield text
    for name in _ANSWERS:
        answer = message.get(name)
        if answer:
            is_text = isinstance(answer, str)
            yield answer if is_text else json.dumps(answer, ensure_ascii=False, default=str)


def tools_in(value: Any, *, column: str) -> list[Any] | None:
    """Return the tools in a value of a column: a list, or JSON text, of JSON schemas.

    Raises:
        SampleError: it holds something else.
    """
    value = parse_json(value, place=f"column {column!r}")
    if value is None:
        return None
    if not isinstance(value, list):
        raise _unreadable(
            f"column {column!r} holds {type(value).__name__}: expected a list of tools"
        )
    tools = [parse_json(tool, place=f"column {column!r}") for tool in value]
    if any(not isinstance(tool, dict) for tool in tools):
        raise _unreadable(f"column {column!r}: expected every tool to be a JSON schema")
    return tools or None


def variables_in(value: Any, *, column: str) -> dict[str, Any]:
    """Return the template variables in a value of a column: a mapping, or JSON text of one.

    Raises:
        SampleError: it holds something else.
    """
    value = parse_json(value, place=f"column {column!r}")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _unreadable(
            f"column {column!r} holds {type(value).__name__}: expected names and values"
        )
    return value


def parse_json(value: Any, *, place: str) -> Any:
    """Return a value with JSON text parsed, and without the nulls of Arrow's structs.

    Raises:
        SampleError: it is text, but not JSON.
    """
    if not isinstance(value, str):
        return _without_nulls(value)
    try:
        return json.loads(value)
    except ValueError as error:
        raise _unreadable(f"{place} holds text that is not JSON: {error}") from error


def _message(entry: Any, place: str) -> Message:
    entry = parse_json(entry, place=place) if isinstance(entry, str) else entry
    if not isinstance(entry, dict):
        raise _unreadable(f"{place} is {type(entry).__name__}: expected role and content")
    message = _from_sharegpt(entry, place) if "from" in entry else dict(entry)
    if not isinstance(message.get("role"), str):
        raise _unreadable(f"{place} has no role: expected role and content, or from and value")
    for name in ("tool_calls", "function_call"):
        if isinstance(message.get(name), str):
            message[name] = parse_json(message[name], place=f"{place}, {name}")
    content = message.get("content")
    if isinstance(content, list):
        message["content"] = [
            {"type": "text", "text": p} if isinstance(p, str) else p for p in content
        ]
    elif not isinstance(content, str | None):
        raise _unreadable(
            f"{place} has content of type {type(content).__name__}: expected text or a list of "
            "parts"
        )
    elif content is None and not any(message.get(name) for name in _ANSWERS):
        raise _unreadable(f"{place} has neither content nor tool calls")
    return message


def _from_sharegpt(entry: Message, place: str) -> Message:
    speaker, value = entry["from"], entry.get("value")
    role = speaker if speaker in _ROLES else _SPEAKERS.get(speaker)
    if role is None:
        raise _unreadable(
            f"{place} is from {speaker!r}: expected one of {', '.join([*_ROLES, *_SPEAKERS])}"
        )
    others = {name: kept for name, kept in entry.items() if name not in ("from", "value")}
    if speaker != "function_call":
        return {"role": role, "content": value, **others}
    calls = parse_json(value, place=place)
    calls = calls if isinstance(calls, list) else [calls]
    return {
        "role": role,
        "tool_calls": [{"type": "function", "function": call} for call in calls],
        **others,
    }


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(kept) for name, kept in value.items() if kept is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(entry) for entry in value]
    return value


def _unreadable(reason: str) -> SampleError:
    return SampleError(reason, status="unreadable")
