"""Rendering of chats with a tokenizer's template, as its `apply_chat_template` does."""

import re
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import (
    _compile_jinja_template,
    render_jinja_template,
)

from attent_select.errors import InputError, SampleError

# Start and end of characters in a text.
Span = tuple[int, int]

_MARKERS = re.compile(r"\{%-?\s*generation\s*-?%\}")
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

    Raises:
        SampleError: the template rejects the messages.
    """
    is_marked = has_markers(template)
    # As `apply_chat_template`: absent keys, because templates write null as "None".
    present = [{k: v for k, v in message.items() if v is not None} for message in messages]
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
