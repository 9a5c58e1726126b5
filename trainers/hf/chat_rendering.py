"""Rendering of chats with a tokenizer's template, as its `apply_chat_template` does."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from threading import Lock
from typing import Any, Final, Literal

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import (
    _compile_jinja_template,
    render_jinja_template,
)

from attent_select.errors import InputError, SampleError

# Start and end of characters in a text.
Span = tuple[int, int]

_MARKERS = re.compile(r"\{%-?\s*generation\s*-?%\}")
# Content of the message with which a template is tried; no template contains it.
_PROBE: Final = "\ue0a7probe\ue0a7"
_SPECIAL_TOKENS: Final = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
# transformers stores the characters between the markers in the compiled template, for all threads.
_marker_lock = Lock()


def chat_template_of(tokenizer: Any, *, tools: Sequence[Any] | None) -> str:
    """Return the template that the tokenizer uses for a chat: it may have another for tools.

    Raises:
        InputError: the tokenizer has no chat template.
    """
    try:
        template: str = tokenizer.get_chat_template(None, tools)
    except ValueError as error:
        raise InputError(
            f"the tokenizer in {tokenizer.name_or_path} has no chat template: set "
            "task.chat_template, add chat_template.jinja to the tokenizer, or set `response` with "
            "a template"
        ) from error
    return template


def compile_template(template: str) -> None:
    """Check that a chat template is valid.

    Raises:
        InputError: it is not.
    """
    try:
        _compile_jinja_template(template)
    except TemplateError as error:
        raise InputError(f"the chat template is not valid: {error}") from error


def has_markers(template: str) -> bool:
    """Whether a template marks what the assistant generates with `{% generation %}`."""
    return _MARKERS.search(template) is not None


def render_chat(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    *,
    template: str,
    tools: Sequence[Any] | None,
    variables: Mapping[str, Any],
    add_generation_prompt: bool = False,
) -> tuple[str, list[Span]]:
    """Return the text of a chat, and the characters that the template marks as generated.

    Content, and arguments of tool calls, are given in the form that the template takes.

    Raises:
        SampleError: the template rejects the messages, or does not take what they contain.
    """
    is_marked = has_markers(template)
    present = [_message_in_form(message, template) for message in messages]
    render: Any = render_jinja_template  # annotated as returning one text
    try:
        with _marker_lock:
            texts, spans = render(
                conversations=[present],
                tools=None if tools is None else list(tools),
                chat_template=template,
                return_assistant_tokens_mask=is_marked,
                add_generation_prompt=add_generation_prompt,
                **{**tokenizer.special_tokens_map, **variables},
            )
    except Exception as error:  # a template is a program, which can raise anything
        raise SampleError(
            f"the chat template rejects the messages: {error}", status="unreadable"
        ) from error
    return texts[0], [(start, end) for start, end in spans[0]] if is_marked else []


@lru_cache(maxsize=64)
def content_form(template: str) -> Literal["parts", "text"] | None:
    """Return the only form of content that a template renders; None: both, or it cannot be told.

    Templates of some models with images leave content out that is text (Idefics3). Many templates
    for text leave parts out (Qwen3), reject them, or write them as the source code of a list
    (Llama 3).
    """
    of_text = _render_probe(template, {"role": "user", "content": _PROBE})
    parts = [{"type": "text", "text": _PROBE}]
    of_parts = _render_probe(template, {"role": "user", "content": parts})
    takes_text = _PROBE in of_text
    # The name of a key appears in source code only.
    takes_parts = _PROBE in of_parts and of_parts.count("type") <= of_text.count("type")
    if takes_text == takes_parts:
        return None
    return "text" if takes_text else "parts"


@lru_cache(maxsize=64)
def arguments_form(template: str) -> Literal["mapping", "text"] | None:
    """Return the form of a tool call's arguments that a template renders; None: both are the same,
    or it cannot be told.

    OpenAI's API, and data sets made with it, have text in JSON. Many templates reject it (Qwen3.5),
    or write it as a text inside JSON, with its quotes escaped (Llama 3.1, gpt-oss). Others take
    only text (DeepSeek V3).
    """
    of_mapping, of_text = (
        _render_probe(
            template,
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
        )
        for call in map(_probe_call, ({_PROBE: 1}, f'{{"{_PROBE}": 1}}'))
    )
    # Python's quotes appear in source code only.
    if _PROBE in of_mapping and f"'{_PROBE}'" not in of_mapping:
        return None if of_text == of_mapping else "mapping"
    return "text" if f'"{_PROBE}": 1' in of_text else None


def _probe_call(arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "arguments": arguments}}


def _render_probe(template: str, *messages: dict[str, Any]) -> str:
    """Return the text of some messages; empty if the template rejects them."""
    tokens = {f"{name}_token": "" for name in _SPECIAL_TOKENS}
    render: Any = render_jinja_template
    try:
        texts, _ = render(
            conversations=[list(messages)],
            chat_template=template,
            **tokens,
        )
    except Exception:  # noqa: BLE001  (a template is a program, which can raise anything)
        return ""
    return str(texts[0])


def _message_in_form(message: Mapping[str, Any], template: str) -> dict[str, Any]:
    """Return a message in the form that a template takes."""
    # As `apply_chat_template`: absent keys, because templates write null as "None".
    present = {name: value for name, value in message.items() if value is not None}
    if "content" in present:
        present["content"] = _content_in_form(present["content"], content_form(template))
    if isinstance(calls := present.get("tool_calls"), list):
        form = arguments_form(template)
        present["tool_calls"] = [_call_in_form(call, form) for call in calls]
    return present


def _call_in_form(call: Any, form: str | None) -> Any:
    """Return a tool call with its arguments in the form that a template takes."""
    if not isinstance(call, dict) or form is None:
        return call
    if "function" in call:
        return {**call, "function": _call_in_form(call["function"], form)}
    arguments = call.get("arguments")
    if form == "text" and isinstance(arguments, dict):
        return {**call, "arguments": json.dumps(arguments, ensure_ascii=False)}
    if form == "mapping" and isinstance(arguments, str):
        return {**call, "arguments": _parse_arguments(arguments)}
    return call


def _parse_arguments(text: str) -> dict[str, Any]:
    try:
        arguments = json.loads(text or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise SampleError(
            f"a tool call has the arguments {text[:40]!r}: expected a JSON object, as the chat "
            "template writes it",
            status="unreadable",
        )
    return arguments


def _content_in_form(content: Any, form: str | None) -> Any:
    """Return the content of a message in the form that a template takes."""
    if form == "parts" and isinstance(content, str):
        return [{"type": "text", "text": content}]
    if form != "text" or not isinstance(content, list):
        return content
    for part in content:
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise SampleError(
                f"a message has a part of type {kind}, and the chat template takes only text",
                status="unreadable",
            )
    return "".join(part["text"] for part in content)
