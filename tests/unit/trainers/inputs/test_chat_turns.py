"""The assistant's turns in a rendered chat, for templates of every kind."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from attent_select.errors import InputError, SampleError
from trainers.hf import load_tokenizer
from trainers.inputs.tokenizer import END, train_tokenizer
from trainers.scoring.token_loss import IGNORED
from trainers.tasks.causal_lm import CausalLm

# Each turn alone; content may be parts, and an assistant may call tools.
PLAIN = (
    "{{ '<s>' }}{% if tools %}{{ '[' + tools[0].function.name + ']' }}{% endif %}"
    "{% for m in messages %}{{ '<' + m.role + '>' }}"
    "{% if m.content is string %}{{ m.content }}"
    "{% else %}{% for p in m.content or [] %}{{ p.text }}{% endfor %}{% endif %}"
    "{% for c in m.tool_calls or [] %}{{ '(' + c.function.name + ')' }}{% endfor %}"
    "{{ '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<assistant>' }}"
    "{% generation %}{{ m.content + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ '<' + m.role + '>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
)
# Reasoning only in the turn after the last question, which the generation prompt opens.
LAST_REASONS = (
    "{% set ns = namespace(last=-1) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}"
    "{% endfor %}{% for m in messages %}{{ '<' + m.role + '>' }}"
    "{% if m.role == 'assistant' and loop.index0 > ns.last %}{{ '<think></think>' }}{% endif %}"
    "{{ m.content.split('</think>')[-1] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant><think>' }}{% endif %}"
)
# The chat ends with a token, unless a prompt follows.
CLOSED = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{{ '<|assistant|>\n' if add_generation_prompt else '<|endoftext|>' }}"
)
# Questions and answers in turn, without a generation prompt.
INSTRUCTIONS = (
    "{{ '<s>' }}{% for m in messages %}"
    "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
)
QUESTION, ANSWER = {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "You."}
SECOND = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "You asked."}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["Who? You. Why? You asked."], folder, vocab_size=300)
    return folder


@pytest.fixture(params=[PLAIN, MARKED, LAST_REASONS, CLOSED, INSTRUCTIONS])
def template(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def task_of(folder: Path, template: str, **settings: Any) -> CausalLm:
    return CausalLm(tokenizer=str(folder), messages="m", chat_template=template, **settings)


def turns_of(task: CausalLm, item: dict[str, Any]) -> list[str]:
    """Return the text of every run of counted tokens."""
    tokenizer = load_tokenizer(str(task.tokenizer))
    runs: list[list[int]] = [[]]
    for label in item["labels"]:
        if label == IGNORED:
            runs.append([])
        else:
            runs[-1].append(label)
    return [str(tokenizer.decode(run)) for run in runs if run]


def test_the_tokens_are_those_of_apply_chat_template(folder: Path, template: str) -> None:
    messages = [QUESTION, ANSWER, *SECOND]
    item = task_of(folder, template).prepare({"m": messages}, generator=None)
    assert item["input_ids"] == load_tokenizer(str(folder)).apply_chat_template(
        messages, tokenize=True, return_dict=False, chat_template=template
    )


def test_each_turn_of_the_assistant_counts_with_its_end(folder: Path, template: str) -> None:
    task = task_of(folder, template)
    item = task.prepare({"m": [QUESTION, ANSWER, *SECOND]}, generator=None)
    first, second = turns_of(task, item)
    assert re.fullmatch(r" ?You\.<\|end\|>\n?", first)
    assert re.fullmatch(r"(</think>)? ?You asked\.<\|end\|>\n?(<\|endoftext\|>)?", second)


def test_only_the_last_turn_counts_if_asked(folder: Path, template: str) -> None:
    task = task_of(folder, template, train_on="last")
    messages = [QUESTION, ANSWER, *SECOND, {"role": "user", "content": "And?"}]
    (turn,) = turns_of(task, task.prepare({"m": messages}, generator=None))
    assert "You asked." in turn
    assert "You." not in turn


def test_the_assistant_may_begin(folder: Path, template: str) -> None:
    task = task_of(folder, template)
    first, second = turns_of(task, task.prepare({"m": [ANSWER, *SECOND]}, generator=None))
    assert "You." in first
    assert "<s>" not in first
    assert "You asked." in second


def test_an_earlier_turn_counts_without_the_reasoning_that_the_template_removes(
    folder: Path,
) -> None:
    reasoned = {"role": "assistant", "content": "hm</think>You."}
    task = task_of(folder, LAST_REASONS)
    item = task.prepare({"m": [QUESTION, reasoned, *SECOND]}, generator=None)
    assert turns_of(task, item) == [f"You.{END}", f"</think>You asked.{END}"]


def test_tools_calls_and_parts_are_given_to_the_template(folder: Path) -> None:
    task = task_of(folder, PLAIN, tools="t")
    call = {"type": "function", "function": {"name": "get", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Brief."}]},
        QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "You"},
        ANSWER,
    ]
    item = task.prepare({"m": messages, "t": [call]}, generator=None)
    assert turns_of(task, item) == [f"(get){END}", f"You.{END}"]
    text = load_tokenizer(str(folder)).decode(item["input_ids"])
    assert str(text).startswith("<s>[get]<system>Brief.")


@pytest.mark.parametrize("kwargs", ["v", {"greeting": "Hi"}], ids=["column", "constant"])
def test_template_variables_come_from_a_column_or_the_settings(folder: Path, kwargs: Any) -> None:
    task = task_of(folder, "{{ greeting }}" + PLAIN, chat_template_kwargs=kwargs)
    sample = {"m": [QUESTION, ANSWER], "v": '{"greeting": "Hi"}'}
    ids = task.prepare({name: sample[name] for name in task.columns}, generator=None)["input_ids"]
    assert str(load_tokenizer(str(folder)).decode(ids)).startswith("Hi<s>")


def test_a_turn_that_the_template_leaves_out_is_named(folder: Path) -> None:
    silent = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    with pytest.raises(SampleError, match=rf"message 2 cannot .* template of {folder}") as caught:
        task_of(folder, silent).prepare({"m": [QUESTION, ANSWER]}, generator=None)
    assert caught.value.status == "unreadable"


def test_a_role_that_the_template_rejects_gives_its_reason(folder: Path) -> None:
    refusing = "{% if messages[0].role != 'user' %}{{ raise_exception('no system') }}{% endif %}"
    with pytest.raises(SampleError, match="rejects the messages: no system"):
        task_of(folder, refusing).prepare({"m": [ANSWER]}, generator=None)


def test_a_template_that_is_not_jinja_is_refused_before_a_run_starts(folder: Path) -> None:
    with pytest.raises(InputError, match="the chat template is not valid"):
        task_of(folder, "{% for").check()
    with pytest.raises(InputError, match="tools needs a chat"):
        CausalLm(tokenizer=str(folder), text="t", tools="t")
    with pytest.raises(InputError, match="train_on is 'first'"):
        task_of(folder, PLAIN, train_on="first")


def test_threads_do_not_mix_the_turns_of_their_chats(folder: Path) -> None:
    task = task_of(folder, MARKED)
    chats = [
        [QUESTION, {"role": "assistant", "content": "You " * number}] for number in range(1, 60)
    ]
    alone = [task.prepare({"m": chat}, generator=None) for chat in chats]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda chat: task.prepare({"m": chat}, generator=None), chats))
    assert together == alone
