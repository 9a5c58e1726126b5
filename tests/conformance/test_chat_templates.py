"""Chats and texts have the tokens of the templates of trl and of the tokenizers of Mistral.

The templates are read from the package of trl, which tokenises a chat as the reference here does:
by `apply_chat_template` with the mask of what the assistant generates.
"""

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaTokenizer

from attent_select.errors import SampleError
from trainers.hf import load_tokenizer
from trainers.inputs.tokenizer import END, train_tokenizer
from trainers.scoring.token_loss import IGNORED
from trainers.tasks.causal_lm import CausalLm

Messages = list[dict[str, Any]]


def files_of(package: str, folder: str, pattern: str) -> list[Path]:
    """Return data files of an installed package, which is not imported."""
    spec = find_spec(package)
    assert spec is not None, f"{package} is not installed: run make install"
    assert spec.origin is not None
    files = sorted((Path(spec.origin).parent / folder).glob(pattern))
    assert files
    return files


TEMPLATES = {path.stem: path for path in files_of("trl", "chat_templates", "*.jinja")}
TRAINING = {name: path for name, path in TEMPLATES.items() if name.endswith("_training")}
MODELS = {path.name: path for path in files_of("mistral_common", "data", "*.model.v*")}


def turns(*spoken: tuple[str, str]) -> Messages:
    return [{"role": role, "content": content} for role, content in spoken]


CALL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get", "arguments": {"city": "Rome"}},
}
TOOL = {
    "type": "function",
    "function": {
        "name": "get",
        "description": "Weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Name"}},
        },
    },
}
SINGLE = turns(("user", "hello"), ("assistant", "fine"))
MULTI = [*SINGLE, *turns(("user", "how are you"), ("assistant", "fine\n\nand you"))]
CONVERSATIONS = {
    "single": SINGLE,
    "system": [*turns(("system", "Be brief.")), *SINGLE],
    "multi-turn": [*MULTI, *turns(("user", "why"), ("assistant", "a reason"))],
    "assistant first": [*turns(("assistant", "How can I help?")), *MULTI],
    "thinking": turns(
        ("user", "hi"),
        ("assistant", "<think>\nhm\n</think>\n\nyes"),
        ("user", "so"),
        ("assistant", "<think>\nha\n</think>\n\nno"),
    ),
    "tools": [
        *turns(("user", "weather?")),
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "name": "get", "content": "sunny"},
        *turns(("assistant", "It is sunny.")),
    ],
    "null content": [
        *turns(("user", "weather?")),
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "name": "get", "content": "sunny"},
        *turns(("assistant", "It is sunny.")),
    ],
}
# One of each class: joined emoji, right to left, line ends, NUL, combining, beyond 16 bits, spaces.
TEXTS = (
    "What is 7 + 8?\nAnswer: 15",
    "👩‍👩‍👧 שלום مرحبا\r\nfour",
    "a\x00b e\u0301 ñ 𝒳 漢字",
    "  two  spaces \n Four",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["hello fine how are you weather sunny"], folder, vocab_size=400)
    settings = folder / "tokenizer_config.json"  # some templates begin with its begin token
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"bos_token": END}))
    return folder


def takes_text(folder: Path, template: str) -> bool:
    """Whether the template renders content that is text, and not only parts."""
    rendered = of_trl(folder, template, SINGLE)
    return rendered is not None and "hello" in decoded(folder, rendered["input_ids"])


def decoded(folder: Path, ids: list[int]) -> str:
    return str(load_tokenizer(str(folder)).decode(ids))


def conversations_for(folder: Path, template: str) -> dict[str, Messages]:
    """Return the conversations, with parts as content for templates that lose content as text."""
    if takes_text(folder, template):
        return CONVERSATIONS
    return {name: [with_parts(m) for m in messages] for name, messages in CONVERSATIONS.items()}


def with_parts(message: dict[str, Any]) -> dict[str, Any]:
    text = message["content"]
    return {**message, "content": [] if not text else [{"type": "text", "text": text}]}


def of_trl(folder: Path, template: str, messages: Messages) -> dict[str, list[int]] | None:
    """Return `input_ids` and `assistant_masks` of the reference; None if the template rejects."""
    try:
        encoded: dict[str, list[int]] = load_tokenizer(str(folder)).apply_chat_template(
            messages,
            tools=tools_of(messages),
            chat_template=template,
            return_dict=True,
            return_assistant_tokens_mask="generation" in template,
        )
    except Exception:  # noqa: BLE001  (a template is a program, which can raise anything)
        return None
    return encoded


def tools_of(messages: Messages) -> list[Any] | None:
    return [TOOL] if any("tool_calls" in message for message in messages) else None


def prepare(folder: Path, template: str, messages: Messages) -> dict[str, Any]:
    task = CausalLm(
        tokenizer=str(folder),
        messages="m",
        tools="t",
        chat_template=template,
        max_length=100_000,
    )
    return task.prepare({"m": messages, "t": tools_of(messages)}, generator=None)


def without_markers(template: str) -> str:
    template = re.sub(r"\{%(-?)\s*generation\s*(-?)%\}", r"{%\1 if true \2%}", template)
    return re.sub(r"\{%(-?)\s*endgeneration\s*(-?)%\}", r"{%\1 endif \2%}", template)


@pytest.mark.parametrize("path", TRAINING.values(), ids=TRAINING)
def test_a_chat_has_the_tokens_of_trl_and_the_same_ones_count(folder: Path, path: Path) -> None:
    template, compared = path.read_text(encoding="utf-8"), 0
    for name, messages in conversations_for(folder, template).items():
        expected = of_trl(folder, template, messages)
        if expected is None:
            with pytest.raises(SampleError, match=r"rejects the messages"):
                prepare(folder, template, messages)
            continue
        item = prepare(folder, template, messages)
        assert item["input_ids"] == expected["input_ids"], name
        counted = [int(label != IGNORED) for label in item["labels"]]
        assert counted == expected["assistant_masks"], name
        compared += 1
    assert compared >= 3


@pytest.mark.parametrize("path", TEMPLATES.values(), ids=TEMPLATES)
def test_a_chat_is_accepted_without_markers_and_has_the_same_tokens(
    folder: Path, path: Path
) -> None:
    template, compared = without_markers(path.read_text(encoding="utf-8")), 0
    for name, messages in conversations_for(folder, template).items():
        if (expected := of_trl(folder, template, messages)) is not None:
            item = prepare(folder, template, messages)
            assert item["input_ids"] == expected["input_ids"], name
            assert any(label != IGNORED for label in item["labels"]), name
            compared += 1
    assert compared >= 3


@pytest.mark.parametrize("path", TEMPLATES.values(), ids=TEMPLATES)
def test_content_as_text_and_as_parts_has_the_same_tokens(folder: Path, path: Path) -> None:
    template = path.read_text(encoding="utf-8")
    as_text = prepare(folder, template, MULTI)
    as_parts = prepare(folder, template, [with_parts(message) for message in MULTI])
    text = decoded(folder, as_parts["input_ids"])
    assert "how are you" in text
    assert "'text'" not in text
    assert as_text["input_ids"] == as_parts["input_ids"]
    assert as_text["labels"] == as_parts["labels"]


@pytest.mark.parametrize("path", TEMPLATES.values(), ids=TEMPLATES)
def test_arguments_of_calls_as_text_and_as_mapping_have_the_same_tokens(
    folder: Path, path: Path
) -> None:
    template, messages = path.read_text(encoding="utf-8"), CONVERSATIONS["tools"]
    text = json.dumps(CALL["function"]["arguments"])
    function = CALL["function"] | {"arguments": text}
    call = {"tool_calls": [CALL | {"function": function}]}
    as_text = [messages[0], messages[1] | call, *messages[2:]]
    if of_trl(folder, template, messages) is None and of_trl(folder, template, as_text) is None:
        pytest.skip("the template takes no calls")
    item = prepare(folder, template, messages)
    assert item == prepare(folder, template, as_text)
    assert '\\"' not in decoded(folder, item["input_ids"])


@pytest.mark.parametrize("arguments", ["{", "[1]"])
def test_arguments_that_are_not_a_json_object_are_unreadable(folder: Path, arguments: str) -> None:
    template = TEMPLATES["llama3_1"].read_text(encoding="utf-8")
    call = {"type": "function", "function": {"name": "get", "arguments": arguments}}
    messages = [*SINGLE[:1], {"role": "assistant", "content": "", "tool_calls": [call]}]
    with pytest.raises(SampleError, match=r"arguments .*: expected a JSON object") as caught:
        prepare(folder, template, messages)
    assert caught.value.status == "unreadable"


@pytest.mark.parametrize("name", ["llama3", "gemma"])
def test_a_picture_is_refused_by_templates_that_take_only_text(folder: Path, name: str) -> None:
    template = TEMPLATES[name].read_text(encoding="utf-8")
    picture = {"role": "user", "content": [{"type": "text", "text": "what"}, {"type": "image"}]}
    with pytest.raises(SampleError, match=r"part of type image, .* takes only text"):
        prepare(folder, template, [picture, SINGLE[1]])


@pytest.mark.parametrize("path", MODELS.values(), ids=MODELS)
def test_prompt_and_response_have_the_tokens_of_their_whole_text(
    path: Path, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.model").write_bytes(path.read_bytes())
    LlamaTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
    tokenizer: Any = load_tokenizer(str(tmp_path))
    task = CausalLm(tokenizer=str(tmp_path), prompt="p", response="r", template="{prompt}")
    for text in TEXTS:
        expected = tokenizer(text, add_special_tokens=False)["input_ids"]
        for cut in range(len(text.rstrip())):
            item = task.prepare({"p": text[:cut], "r": text[cut:]}, generator=None)
            assert item["input_ids"][1:-1] == expected
        assert tokenizer.decode(expected).lstrip(" ") == text.lstrip(" ")
    with pytest.raises(SampleError, match=r"not valid Unicode"):
        task.prepare({"p": "a", "r": "\ud800"}, generator=None)
