"""Samples that cannot be used: before a run, in its output, and in `attent doctor`."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import answer_here, attent
from digits import samples, write_corpus
from small_runs import small_run
from task_cases import LLAMA
from typer.testing import CliRunner

from pipeline.cli.app import app
from trainers.inputs.tokenizer import train_tokenizer

ROLES = "{{ raise_exception('only user and assistant may speak, not ' + messages[0].role) }}"
# Without markers, and without all but the last of the assistant's turns.
FORGETS = (
    "{% for m in messages %}{% if loop.last or m.role == 'user' %}{{ m.content }}|"
    "{% endif %}{% endfor %}"
)
PLAIN = "{% for m in messages %}{{ '<' + m.role + '>' + m.content }}{% endfor %}"
CHAT = [
    {"role": "user", "content": "Who?"},
    {"role": "assistant", "content": "You."},
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "You asked."},
]


def chat_run(folder: Path, rows: list[dict[str, Any]], **task: Any) -> Path:
    """Write a configuration that trains on chats without scoring them; return its path."""
    train_tokenizer(["Who? You. Why? You asked."], folder / "tokenizer", vocab_size=300)
    write_corpus(folder / "data/parquet", rows, num_shards=1)
    values = small_run(folder / "run", folder / "data", model=LLAMA, selection__strategy="uniform")
    del values["evaluation"]
    values["task"] = {
        "name": "causal_lm",
        "tokenizer": str(folder / "tokenizer"),
        "messages": "messages",
        "max_length": 96,
        **task,
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize(
    ("task", "row", "reason"),
    [
        ({"chat_template": "{{ 1 // 0 }}"}, {}, "division"),
        ({"chat_template": FORGETS}, {}, "message 2 cannot be located in the rendered chat"),
        ({"chat_template": ROLES}, {}, "only user and assistant may speak, not user"),
        ({"chat_template": PLAIN, "tools": "tools"}, {"tools": "[{]"}, "text that is not JSON"),
        ({"chat_template": PLAIN, "max_length": 6}, {}, "none of the first 6 tokens counts"),
    ],
    ids=["raises", "rewrites turns", "refuses roles", "tools", "truncated"],
)
def test_if_no_sample_can_be_used_one_message_says_why_before_any_training(
    tmp_path: Path, task: dict[str, Any], row: dict[str, Any], reason: str
) -> None:
    rows = [{"messages": json.dumps(CHAT), **row} for _ in range(40)]
    done = CliRunner().invoke(app, ["run", str(chat_run(tmp_path, rows, **task)), "-q"])
    assert done.exit_code == 2
    assert "the task can use none of 16 samples, the first of some shards: " in done.stderr
    assert reason in done.stderr
    assert "for example row 0 of" in done.stderr
    assert done.stderr.count("attent: ") == 1
    assert not (tmp_path / "run/run.yaml").exists()
    assert not (tmp_path / "run/checkpoints").exists()


@pytest.mark.parametrize(
    ("task", "tokenizer", "reason"),
    [
        ({}, {}, "has no chat template"),
        ({"chat_template": PLAIN}, {"pad_token": None, "eos_token": None}, "neither a pad nor an"),
        ({"chat_template": PLAIN, "max_length": 129}, {}, "the model has 128 positions"),
    ],
    ids=["no chat template", "neither pad nor end", "too few positions"],
)
def test_settings_with_which_every_sample_would_fail_are_refused_before_the_run_is_created(
    tmp_path: Path, task: dict[str, Any], tokenizer: dict[str, Any], reason: str
) -> None:
    path = chat_run(tmp_path, [{"messages": json.dumps(CHAT)}], **task)
    config = tmp_path / "tokenizer/tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | tokenizer))
    done = CliRunner().invoke(app, ["run", str(path), "-q"])
    assert (done.exit_code, reason in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "run").exists()


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A run over 240 digits: 6 without an image, 4 without a label; one held-out image is lost."""
    rows = samples(300)
    for number in range(0, 240, 40):
        rows[number]["image"] = b"nonsense"
    for number in range(1, 200, 50):
        rows[number]["label"] = None
    rows[250]["image"] = None
    write_corpus(tmp_path / "parquet", rows[:240])
    write_corpus(tmp_path / "held-out", rows[240:], num_shards=1)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(small_run(tmp_path / "run", tmp_path, cluster__workers=1)))
    return path


def test_a_run_says_what_each_stage_could_not_use_with_an_example_of_each_cause(
    damaged: Path,
) -> None:
    done = CliRunner().invoke(app, ["run", str(damaged), "-q"])
    assert done.exit_code == 0, done.stderr
    folder = damaged.parent
    unreadable = f"row 0 of {folder}/parquet/000.parquet: the image cannot be decoded"
    empty = f"row 1 of {folder}/parquet/000.parquet: column 'label' is empty (empty)"
    # Training used what scoring had left in the last round, which the answer shows.
    training, *_, held_out, scoring, _, _ = done.stdout.splitlines()
    assert training.startswith(
        "unusable in training of round 0: 4 empty, 6 unreadable; for example "
    )
    assert unreadable in training
    assert empty in training
    assert held_out.startswith("  unusable in evaluation: 1 empty; for example row 10 of ")
    assert scoring.startswith("  unusable in scoring: 4 empty, 6 unreadable; for example ")

    again = answer_here("run", damaged)["rounds"]
    assert [sorted(each["unusable"]) for each in again] == [
        ["evaluation", "training"], ["evaluation", "scoring"], ["evaluation", "scoring"],
    ]  # fmt: skip
    assert again[1]["unusable"]["scoring"]["counts"] == {"unreadable": 6, "empty": 4}
    examples = again[1]["unusable"]["scoring"]["examples"]
    assert [(each["row"], each["status"]) for each in examples] == [(0, "unreadable"), (1, "empty")]
    assert all(each["shard"].endswith("000.parquet") and each["reason"] for each in examples)

    scored = CliRunner().invoke(app, ["score", str(folder / "run"), "--round", "2", "-q"])
    (failed,) = (line for line in scored.stdout.splitlines() if line.startswith("failed: "))
    assert failed.startswith("failed: 4 empty, 6 unreadable; for example row 0 of ")
    assert empty in failed


def test_the_doctor_says_which_share_cannot_be_used_and_why(damaged: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", str(damaged), "--json"])
    assert done.exit_code == 0, done.stdout
    finding = json.loads(done.stdout)["findings"][-1]
    assert (finding["name"], finding["ok"]) == ("samples", True)
    assert finding["detail"].startswith(
        "5.0% cannot be used (scoring.max_failed_share allows 10.0%), 4 of 80 samples: 2 empty, "
        "2 unreadable; for example row 0 of "
    )
    refused = attent("doctor", damaged, "--set", "scoring.max_failed_share=0.04")
    assert refused.returncode == 2
    assert "FAILED samples: 5.0% cannot be used" in refused.stdout
    assert "scoring: " not in refused.stdout, "no cost is estimated"
