"""From text to tokens: templates, chats, cutting; and answers out of what is generated."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from task_cases import LLAMA, TEXTS

from attent_select.errors import InputError, SampleError
from trainers.hf import load_tokenizer
from trainers.inputs.tokenizer import END, train_tokenizer
from trainers.scoring.generation import answer_in
from trainers.scoring.token_loss import IGNORED
from trainers.tasks.causal_lm import CausalLm

CHAT = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}" + END + "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer((text for pair in TEXTS for text in pair), folder, vocab_size=320)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": CHAT}))
    return folder


def decoded(task: CausalLm, item: dict[str, Any], *, counted: bool) -> str:
    ids = [
        token
        for token, label in zip(item["input_ids"], item["labels"], strict=True)
        if (label != IGNORED) == counted
    ]
    return str(load_tokenizer(task.tokenizer).decode(ids))


def test_a_template_may_name_any_columns(folder: Path) -> None:
    task = CausalLm(tokenizer=str(folder), template="{a} and {b}{{x}}: ", response="r")
    assert task.columns == ("a", "b", "r")
    item = task.prepare({"a": "one", "b": "two", "r": "three"}, generator=None)
    assert decoded(task, item, counted=False) == "one and two{x}: "
    assert decoded(task, item, counted=True) == f"three{END}"


def test_in_a_chat_only_what_the_assistant_says_counts(folder: Path) -> None:
    task = CausalLm(tokenizer=str(folder), messages="m")
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "len(s)?"},
        {"role": "assistant", "content": "The number of items."},
        {"role": "user", "content": "id(obj)?"},
        {"role": "assistant", "content": "The identity."},
    ]
    item = task.prepare({"m": messages}, generator=None)
    assert decoded(task, item, counted=True) == f"The number of items.{END}The identity.{END}"
    assert decoded(task, item, counted=False) == (
        "<system>Be brief.<user>len(s)?<assistant><user>id(obj)?<assistant>"
    )


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        ([{"role": "user", "content": "alone"}], "empty"),
        ([], "empty"),
        ("text", "unreadable"),
        (None, "empty"),
        ([{"role": "user"}], "unreadable"),
        ([{"role": "user", "content": 3}], "unreadable"),
    ],
)
def test_messages_that_teach_nothing_have_a_status(
    folder: Path, messages: Any, status: str
) -> None:
    task = CausalLm(tokenizer=str(folder), messages="m")
    with pytest.raises(SampleError) as caught:
        task.prepare({"m": messages}, generator=None)
    assert caught.value.status == status


def with_template(folder: Path, to: Path, template: str | None) -> CausalLm:
    to.mkdir()
    (to / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config = {name: value for name, value in config.items() if name != "chat_template"}
    if template is not None:
        config["chat_template"] = template
    (to / "tokenizer_config.json").write_text(json.dumps(config))
    return CausalLm(tokenizer=str(to), messages="m")


def test_a_template_that_rejects_or_rewrites_messages_is_named(
    folder: Path, tmp_path: Path
) -> None:
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    refusing = with_template(folder, tmp_path / "no", "{{ raise_exception('roles') }}")
    with pytest.raises(SampleError, match="rejects the messages: roles"):
        refusing.prepare({"m": chat}, generator=None)
    counting = with_template(folder, tmp_path / "len", "{{ messages | length }} {{ messages }}")
    with pytest.raises(SampleError, match=r"message 2 cannot be located .* template of .*len "):
        counting.prepare({"m": chat}, generator=None)


def test_a_tokenizer_that_lacks_what_the_task_needs_is_refused_before_a_run_starts(
    folder: Path, tmp_path: Path
) -> None:
    CausalLm(tokenizer=str(folder), messages="m").check()
    with pytest.raises(InputError, match="has no chat template"):
        with_template(folder, tmp_path / "none", None).check()
    bare = tmp_path / "none"
    (bare / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    load_tokenizer.cache_clear()
    with pytest.raises(InputError, match="neither a pad nor an eos token"):
        CausalLm(tokenizer=str(bare), text="t").check()
    with pytest.raises(InputError, match=r"task\.tokenizer is .*nowhere: there is no such folder"):
        CausalLm(tokenizer=str(tmp_path / "nowhere"), text="t").check()


def test_a_model_with_fewer_tokens_than_the_tokenizer_is_refused(folder: Path) -> None:
    task = CausalLm(tokenizer=str(folder), text="t", max_length=64)
    with pytest.raises(InputError, match=r"tokenizer has 320 tokens, the model only 300"):
        task.models(LLAMA).build(1)


def test_without_truncation_a_long_sample_is_too_long(folder: Path) -> None:
    cut, whole = (
        CausalLm(tokenizer=str(folder), text="t", max_length=8, truncate=truncate)
        for truncate in (True, False)
    )
    text = {"t": "Return the number of items. " * 9}
    assert cut.prepare(text, generator=None)["truncated"]
    answer = CausalLm(tokenizer=str(folder), response="r", template="{t}", max_length=8)
    gone = replace(answer, truncate=False)
    with pytest.raises(SampleError, match=r"none of the first 8 tokens counts, of \d+: raise"):
        answer.prepare(text | {"r": "x"}, generator=None)
    with pytest.raises(SampleError, match="more than 8 tokens"):
        gone.prepare(text | {"r": "x"}, generator=None)
    with pytest.raises(SampleError, match="more than 8 tokens") as caught:
        whole.prepare(text, generator=None)
    assert caught.value.status == "too_long"


def test_a_prompt_that_leaves_no_room_is_empty_and_never_nan(folder: Path) -> None:
    task = CausalLm(tokenizer=str(folder), prompt="p", response="r", max_length=8)
    with pytest.raises(SampleError, match="none of the first 8 tokens counts") as caught:
        task.prepare({"p": "Return the number of items. " * 9, "r": "x"}, generator=None)
    assert caught.value.status == "empty"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"response": "r", "template": "{0}"}, "names of columns in braces"),
        ({"response": "r", "template": "{a"}, "write {{ and }} for braces"),
        ({"response": "r", "prompt": "p", "template": "{a}"}, "prompt is 'p'"),
        ({"messages": "m", "text": "t"}, "set exactly one of"),
        ({"text": "t", "answer": "x"}, "answer needs a response"),
        ({"response": "r", "answer": "("}, "not a regular expression"),
        ({"response": "r", "answer": "x", "max_new_tokens": 0}, "max_new_tokens is 0"),
    ],
)
def test_inconsistent_task_settings_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CausalLm(tokenizer="anywhere", **settings)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3 + 4 = 7\n#### 7", "7"),
        ("#### 1\n#### 1,234.", "1234"),
        ("#### -5 dollars", "-5"),
        ("no answer", None),
    ],
)
def test_the_answer_is_the_last_match_without_separators(text: str, answer: str | None) -> None:
    assert answer_in(text, r"#### (-?[0-9.,]+)") == answer


def test_generated_answers_are_compared_with_the_expected_ones(folder: Path) -> None:
    task = CausalLm(
        tokenizer=str(folder), template="{p}=", response="r", answer="=?([0-9]+)", max_length=64
    )
    rows = [{"p": "1+1", "r": "2"}, {"p": "3+4+5", "r": "12"}, {"p": "8", "r": "none"}]
    batch = task.collate([task.prepare(row, generator=None) for row in rows])
    model = task.models({"config": LLAMA["config"] | {"vocab_size": 320}}).build(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        losses, _ = task.per_sample_loss(model, batch)
        losses.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    found = task.evaluate(model, [batch])
    assert found["exact_match"] == 1.0
    wrong = task.collate([task.prepare(row | {"r": "99"}, generator=None) for row in rows[:2]])
    assert task.evaluate(model, [batch, wrong])["exact_match"] == 0.5


def test_the_mean_is_over_counted_tokens_and_not_over_the_padded_length(folder: Path) -> None:
    """The mean over the padded length, as published, reverses the order of these samples."""
    task = CausalLm(tokenizer=str(folder), text="t", max_length=96)
    model = task.models({"config": LLAMA["config"] | {"vocab_size": 320}}).build(1).eval()
    easy_and_long, hard_and_short = "a" * 60, "Größe"
    # Easier, after two steps on it.
    batch = task.collate([task.prepare({"t": easy_and_long}, generator=None)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
    for _ in range(2):
        task.per_sample_loss(model, batch)[0].sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    both = task.collate(
        [task.prepare({"t": text}, generator=None) for text in (easy_and_long, hard_and_short)]
    )
    with torch.inference_mode():
        (easy, hard), units = task.per_sample_loss(model, both)
    assert hard > easy + 0.5
    padded_length = both["input_ids"].shape[1] - 1
    over_padding = torch.stack([easy, hard]) * units / padded_length
    assert over_padding[0] > over_padding[1]
