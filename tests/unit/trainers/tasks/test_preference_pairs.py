"""Preference pairs: which tokens of the two answers count, their losses and margin."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from task_cases import LLAMA, TEXTS

from attent_select.errors import InputError, SampleError
from trainers.hf import load_tokenizer
from trainers.inputs.tokenizer import END, train_tokenizer
from trainers.scoring.scorer import score_rows
from trainers.scoring.token_loss import IGNORED
from trainers.settings import ScoringSettings
from trainers.tasks.causal_lm import CausalLm
from trainers.tasks.preference_pairs import PreferencePairs

TEMPLATE = (
    "{% for m in messages %}{{ '<' + m.role + '>' + m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{{ '<' + m.role + '>' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ m.content + '<|end|>' }}{% endif %}{% endfor %}"
)
ASKED = [{"role": "user", "content": "Who?"}]
TALKED = [*ASKED, {"role": "assistant", "content": "You."}, {"role": "user", "content": "Why?"}]
GOOD, BAD = {"role": "assistant", "content": "You asked."}, {"role": "assistant", "content": "No."}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer((text for pair in TEXTS for text in pair), folder, vocab_size=300)
    return folder


def answers_of(task: PreferencePairs, sample: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the text of each answer, and what counts of it."""
    tokenizer: Any = load_tokenizer(str(task.tokenizer))
    item = task.prepare(sample, generator=None)
    return [
        (
            tokenizer.decode(item[name]["input_ids"]),
            tokenizer.decode([label for label in item[name]["labels"] if label != IGNORED]),
        )
        for name in ("chosen", "rejected")
    ]


@pytest.mark.parametrize(
    ("settings", "sample"),
    [
        ({"prompt": "p"}, {"p": "The sky is", "chosen": " blue.", "rejected": " green."}),
        ({}, {"chosen": "The sky is blue.", "rejected": "The sky is green."}),
        (
            {"prompt": "p", "template": "{prompt} is"},
            {"p": "The sky", "chosen": " blue.", "rejected": " green."},
        ),
    ],
    ids=["explicit", "implicit", "template"],
)
def test_the_answers_of_a_text_count_with_their_end_token(
    folder: Path, settings: dict[str, Any], sample: dict[str, Any]
) -> None:
    assert answers_of(PreferencePairs(tokenizer=str(folder), **settings), sample) == [
        (f"The sky is blue.{END}", f" blue.{END}"),
        (f"The sky is green.{END}", f" green.{END}"),
    ]


@pytest.mark.parametrize("template", [TEMPLATE, MARKED], ids=["located", "marked"])
@pytest.mark.parametrize("start", [ASKED, TALKED], ids=["one turn", "two turns"])
@pytest.mark.parametrize("prompt", ["p", None], ids=["explicit", "implicit"])
def test_only_the_assistant_s_messages_after_the_prompt_of_a_chat_count(
    folder: Path, template: str, start: list[Any], prompt: str | None
) -> None:
    task = PreferencePairs(tokenizer=str(folder), prompt=prompt, chats=True, chat_template=template)
    before = [] if prompt else start
    sample = {"p": start, "chosen": [*before, GOOD], "rejected": [*before, BAD]}
    expected = load_tokenizer(str(folder)).apply_chat_template(
        [*start, GOOD], tokenize=False, chat_template=template
    )
    chosen, rejected = answers_of(task, sample)
    assert chosen == (expected, f"You asked.{END}")
    assert rejected[1] == f"No.{END}"


@pytest.mark.parametrize("packing", [False, True])
def test_the_columns_are_the_losses_of_both_answers_and_their_difference(
    folder: Path, *, packing: bool
) -> None:
    rows = [{"p": p, "chosen": r, "rejected": r[::-1] + "!"} for p, r in TEXTS]
    task = PreferencePairs(tokenizer=str(folder), prompt="p", packing=packing, max_length=96)
    model = task.models(LLAMA).build(1)
    scores = score_rows(
        task,
        model,
        [*enumerate(rows), (99, {"p": "f", "chosen": "x", "rejected": None})],
        settings=ScoringSettings(batch_units=200),
    )
    usable = scores.head(len(rows))
    assert scores.tail(1).select("loss", *task.score_columns).null_count().row(0) == (1, 1, 1, 1)
    alone = CausalLm(
        tokenizer=str(folder), prompt="p", response="r", template="{prompt}", max_length=96
    )
    for name in ("chosen", "rejected"):
        answers = [{"p": row["p"], "r": row[name]} for row in rows]
        losses = score_rows(alone, model, enumerate(answers))["loss"]
        assert usable[f"loss_{name}"].to_list() == pytest.approx([*losses], rel=1e-5)
    margin = pl.col("loss_rejected") - pl.col("loss_chosen")
    assert usable["margin"].to_list() == usable.select(margin).to_series().to_list()
    expected = -torch.nn.functional.logsigmoid(usable["margin"].to_torch())
    assert usable["loss"].to_list() == pytest.approx(expected.tolist(), rel=1e-5)
    assert usable["num_units"].unique().to_list() == [1]
    assert scores["status"].to_list() == ["ok"] * len(rows) + ["empty"]


def test_an_infinite_loss_of_one_answer_is_not_finite(folder: Path) -> None:
    task = PreferencePairs(tokenizer=str(folder), prompt="p", max_length=96)
    model = task.models(LLAMA).build(1)
    model.lm_head.weight.data[5] = torch.inf
    row = {"p": "f", "chosen": "x", "rejected": "y"}
    scores = score_rows(task, model, [(0, row)])
    assert scores["status"].to_list() == ["nonfinite"]
    assert scores.select("loss", *task.score_columns).null_count().row(0) == (1, 1, 1, 1)


def test_an_unusable_answer_is_named_by_its_column(folder: Path) -> None:
    task = PreferencePairs(tokenizer=str(folder), prompt="p", truncate=False, max_length=8)
    with pytest.raises(SampleError, match=r"rejected: more than 8 tokens") as caught:
        task.prepare({"p": "f", "chosen": "x", "rejected": "x" * 40}, generator=None)
    assert caught.value.status == "too_long"
    with pytest.raises(SampleError, match=r"chosen and rejected are the same"):
        task.prepare({"p": "f", "chosen": "x", "rejected": "x"}, generator=None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"template": "{text}", "prompt": "p"}, r"expected \{prompt\}"),
        ({"template": "Q: {prompt}"}, r"template needs a column"),
        ({"tools": "t"}, r"tools needs a chat"),
        ({"max_length": 1}, r"max_length is 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        PreferencePairs(**settings)


def test_training_on_pairs_is_refused_and_names_trl() -> None:
    with pytest.raises(InputError, match=r"trl \(DPOTrainer\)"):
        PreferencePairs().check_training()
