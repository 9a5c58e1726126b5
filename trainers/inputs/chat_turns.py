"""The characters of a rendered chat that the assistant wrote: its turns, located in the whole text.

With `{% generation %}` markers the template says it. Otherwise a turn lies between the rendering
of the messages before it, with the generation prompt, and that of the messages up to it. Templates
that render a message differently when others follow (Qwen3 removes the reasoning of earlier turns)
need a third way: the message is replaced by a mark, and what changes in the whole text is its body.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from attent_select.errors import SampleError
from trainers.hf import Span, chat_template_of, compile_template, has_markers, render_chat
from trainers.inputs.chat_messages import Chat, Message

# Stands for the body of a message; no data set contains it.
_MARK = "\ue0a7\U000f5e1d\ue0a7"
_QUESTION: list[Message] = [{"role": "user", "content": "?"}]


def check_template(tokenizer: Any, *, template: str | None) -> None:
    """Check a chat template, by default the tokenizer's.

    Raises:
        InputError: there is none, or it is not valid Jinja.
    """
    if template is None:
        template = chat_template_of(tokenizer, tools=None)
    compile_template(template)


def rendered_chat(
    tokenizer: Any, chat: Chat, *, template: str | None = None, first: int = 0
) -> tuple[str, tuple[Span, ...]]:
    """Return the text of a chat, and the characters of the assistant's turns from message `first`.

    `template` replaces that of the tokenizer.

    Raises:
        SampleError: the template rejects the messages, or a turn cannot be located.
        InputError: the tokenizer has no chat template.
    """
    turns = turns_in(chat.messages)
    chosen = [turn for turn in turns if turn >= first]
    rendering = _Rendering(
        tokenizer, chat, template or chat_template_of(tokenizer, tools=chat.tools)
    )
    text, spans = rendering.render(chat.messages)
    if not chosen or not has_markers(rendering.template):
        spans = _locate(rendering, text, chosen)
    elif chosen[0] > turns[0]:
        spans = spans[len(rendering.render(chat.messages[: chosen[0]])[1]) :]
    return text, tuple(spans)


def turns_in(messages: Sequence[Message]) -> list[int]:
    """Return the positions of the assistant's messages."""
    return [n for n, message in enumerate(messages) if message["role"] == "assistant"]


@dataclass(frozen=True)
class _Rendering:
    """A chat and the template that renders it."""

    tokenizer: Any
    chat: Chat
    template: str

    def render(
        self, messages: Sequence[Message], *, prompt: bool = False
    ) -> tuple[str, list[Span]]:
        return render_chat(
            self.tokenizer,
            messages,
            template=self.template,
            tools=self.chat.tools,
            variables=self.chat.variables,
            add_generation_prompt=prompt,
        )

    def text(self, messages: Sequence[Message], *, prompt: bool = False) -> str | None:
        """Return the text of some messages; None if the template rejects them."""
        try:
            return self.render(messages, prompt=prompt)[0] if messages else None
        except SampleError:
            return None


def _locate(rendering: _Rendering, text: str, turns: Sequence[int]) -> list[Span]:
    """Return the characters of each turn.

    Raises:
        SampleError: one cannot be located.
    """
    spans: list[Span] = []
    for turn in turns:
        located = _Turn(rendering, text, turn)
        span = located.between_prefixes() or located.around_body()
        if span is None or (spans and span[0] < spans[-1][1]):
            name = rendering.tokenizer.name_or_path or "the tokenizer"
            raise SampleError(
                f"message {turn + 1} cannot be located in the rendered chat: the chat template of "
                f"{name} leaves it out or rewrites it. Use a template with {{% generation %}} "
                "markers",
                status="unreadable",
            )
        spans.append(span)
    return spans


@dataclass(frozen=True)
class _Turn:
    """One of the assistant's messages, in the text of the whole chat."""

    rendering: _Rendering
    text: str
    turn: int

    def between_prefixes(self) -> Span | None:
        """Locate the turn where the template keeps what it rendered as messages are added."""
        before = self.rendering.text(self._messages[: self.turn], prompt=True)
        if before is None or not self.text.startswith(before):
            return None
        after = self._up_to(self.turn)
        if after is None or not (self.text.startswith(after) and after.startswith(before)):
            return None
        return (len(before), len(after)) if before != after else None

    def around_body(self) -> Span | None:
        """Locate the turn from its body: after the generation prompt before it, to the end token
        after it.
        """
        body = self._body(self._messages, self.turn)
        if body is None:
            return None
        start = self._after_prompt(body[0])
        end = self._end_of(self.turn, body)
        return None if end is None or start > body[0] or end < body[1] else (start, end)

    @property
    def _messages(self) -> list[Message]:
        return self.rendering.chat.messages

    def _up_to(self, turn: int) -> str | None:
        """Return the text of the messages up to one, which is that of all for the last."""
        if turn == len(self._messages) - 1:
            return self.text
        return self.rendering.text(self._messages[: turn + 1])

    def _after_prompt(self, body_start: int) -> int:
        """Return where the generation prompt before the body ends.

        Only its first part is there if it opens the reasoning, and the turn's was removed.
        """
        first, header = self._end_before(), self._header()
        region = self.text[first:body_start]
        for length in range(len(header), len(header) // 2, -1):
            position = region.rfind(header[:length])
            if position >= 0:
                return first + position + length
        return body_start if header or not self.turn else first

    def _header(self) -> str:
        """Return the generation prompt that follows the messages before the turn."""
        earlier = self._messages[: self.turn] or _QUESTION
        before, plain = self.rendering.text(earlier, prompt=True), self.rendering.text(earlier)
        if before is None or plain is None:
            return ""
        return before[common_prefix(before, plain) :]

    def _end_before(self) -> int:
        """Return where the message before the turn ends."""
        if not self.turn:
            return 0
        body = self._body(self._messages, self.turn - 1)
        end = None if body is None else self._end_of(self.turn - 1, body)
        return end or 0

    def _end_of(self, turn: int, body: Span) -> int | None:
        """Return where a message ends whose body is known: after what the template adds to it."""
        if turn == len(self._messages) - 1:
            return len(self.text)
        alone, following = self._messages[: turn + 1], self._body(self._messages, turn + 1)
        gap = "" if following is None else self.text[body[1] : following[0]]
        rendered, body_alone = self.rendering.text(alone), self._body(alone, turn)
        if rendered is None or body_alone is None:
            # A template may require a question: then the turn ends where the next message begins.
            header = self._header_length(gap, turn + 1)
            return body[1] + len(gap) - header if header else None
        tail = rendered[body_alone[1] :]
        length = common_prefix(self.text[body[1] :], tail)
        if length < len(tail) and gap:
            # What ends the chat and what begins the next message may share characters.
            length = min(length, len(gap) - self._header_length(gap, turn + 1) or length)
        return body[1] + length

    def _header_length(self, gap: str, turn: int) -> int:
        """Return how many characters before a body belong to its message: those that its role has
        elsewhere, too.
        """
        role = self._messages[turn]["role"]
        alone: list[Message] = [{"role": role, "content": _MARK}]
        before = [(self.rendering.text(alone) or "").partition(_MARK)[0]]
        for other in (n for n in range(turn) if self._messages[n]["role"] == role):
            body = self._body(self._messages, other)
            before += [] if body is None else [self.text[: body[0]]]
        lengths = [common_prefix(gap[::-1], text[::-1]) for text in before]
        return min((length for length in lengths if length), default=0)

    def _body(self, messages: Sequence[Message], turn: int) -> Span | None:
        """Return the characters that change if a message is another; None if there are none."""
        text = self.text if messages is self._messages else self.rendering.text(messages)
        for variant in _variants(messages[turn]):
            other = self.rendering.text([*messages[:turn], variant, *messages[turn + 1 :]])
            if text is not None and other is not None and other.count(_MARK) == 1:
                start = common_prefix(text, other)
                return start, len(text) - common_prefix(text[start:][::-1], other[start:][::-1])
        return None


def _variants(message: Message) -> Iterator[Message]:
    """Yield the message with a mark as its body, in forms of which a template takes one."""
    answer = {"role": message["role"], "content": _MARK}
    if message["role"] == "assistant":
        yield answer
    parts = [{"type": "text", "text": _MARK}]
    yield {**message, "content": parts if isinstance(message.get("content"), list) else _MARK}
    calls = message.get("tool_calls")
    if isinstance(calls, list) and calls and isinstance(calls[0], dict):
        yield {**message, "tool_calls": [_with_marked_arguments(calls[0]), *calls[1:]]}


def _with_marked_arguments(call: dict[str, Any]) -> dict[str, Any]:
    if isinstance(call.get("function"), dict):
        return {**call, "function": _with_marked_arguments(call["function"])}
    marked = {"mark": _MARK}
    is_text = isinstance(call.get("arguments"), str)
    return {**call, "arguments": json.dumps(marked, ensure_ascii=False) if is_text else marked}


def common_prefix(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Return the number of characters, or of messages, with which both begin."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
