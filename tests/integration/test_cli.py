"""The command line: exit codes, one JSON object on stdout, everything else on stderr."""

import html
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from commands import ENVIRONMENT, ROOT, answer, answer_here, attent, attent_process
from digits import stream_of
from process_copies import ATTENT, copies
from small_runs import small_run
from typer.testing import CliRunner

from catalogs import Corpus, IndexFile
from pipeline.cli.app import app

COMMANDS = (
    "demo",
    "ingest",
    "score",
    "select",
    "stream",
    "train",
    "run",
    "query",
    "antk",
    "report",
    "gc",
    "doctor",
)


def test_help_names_every_command_without_loading_heavy_libraries() -> None:
    code = (
        "import sys; from pipeline.cli import app as cli\n"
        "try: cli.app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'dask', 'altair', 'pyarrow', 'polars', 'numpy'}\n"
        "sys.exit(f'loaded {heavy & set(sys.modules)}' if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        assert f" {command} " in done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> dict[str, dict[str, Any]]:
    """Answers of the commands that make a run of one round; two of them are subprocesses."""
    folder = tmp_path_factory.mktemp("cli")
    values = small_run(folder / "run", shards, schedule={"epochs": 1, "ratio": {"start": 0.5}})
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(values))
    return {
        "ingest": answer_here("ingest", shards / "parquet", "--out", folder / "run"),
        "score": answer("score", file),
        "train": answer("train", folder / "run"),
        "run": answer_here("run", file),
    }


@pytest.fixture(scope="module")
def run(made: dict[str, dict[str, Any]]) -> Path:
    """The run; its configuration is beside it."""
    return Path(made["run"]["run"])


def test_a_run_can_be_made_stage_by_stage(made: dict[str, dict[str, Any]], run: Path) -> None:
    assert (made["ingest"]["num_shards"], made["ingest"]["num_samples"]) == (3, 240)
    scored = made["score"]
    assert (scored["scored"], scored["skipped"], scored["failed"]) == (240, 0, {})
    assert scored["samples_per_second"] > 0
    assert Path(scored["snapshot"]).exists()
    assert made["train"] == made["run"]
    assert made["run"]["checkpoint"] == f"{run}/checkpoints/00000"
    rows = answer_here("query", run, "SELECT count(*) AS n FROM losses")
    assert rows == {"columns": ["n"], "rows": [[240]]}
    shown = CliRunner().invoke(app, ["run", str(run)])
    assert shown.stdout.startswith("round 0 (teach, 50%): 120 samples, train_loss ")


READING = [
    ["query", "RUN", "SELECT count(*) AS n FROM losses"],
    ["query", "RUN", "SELECT count(*) AS n FROM antk"],
    ["select", "RUN", "--ratio", "0.5", "--dry-run"],
    ["select", "TABLE", "--ratio", "0.5", "--dry-run"],
    ["report", "RUN", "--out", "OUT"],
    ["gc", "RUN", "--dry-run"],
]


@pytest.mark.parametrize("arguments", READING, ids=lambda arguments: " ".join(arguments)[:40])
def test_a_command_that_only_reads_needs_neither_torch_nor_dask(
    run: Path, tmp_path: Path, arguments: list[str]
) -> None:
    code = (
        "import sys; from pipeline.cli.app import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'transformers', 'distributed'} & set(sys.modules)\n"
        "heavy |= {'pandas'} & set(sys.modules) if sys.argv[1] == 'select' else set()\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    table = tmp_path / "losses.parquet"
    pl.DataFrame({"shard_id": [0, 0], "row": [0, 1], "loss": [1.0, 2.0]}).write_parquet(table)
    places = {"RUN": str(run), "TABLE": str(table), "OUT": str(tmp_path / "page.html")}
    done = subprocess.run(
        [sys.executable, "-c", code, *(places.get(word, word) for word in arguments)],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_ingest_can_convert_first(tmp_path: Path) -> None:
    lines = [json.dumps({"label": number, "text": f"text {number}"}) for number in range(5)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    run = tmp_path / "run"
    options = ("--convert", "webdataset", "--shard-samples", 2)
    found = answer_here("ingest", tmp_path / "rows.jsonl", "--out", run, *options)
    assert (found["num_shards"], found["num_samples"]) == (3, 5)
    assert len(list((run / "shards").glob("*.tar"))) == 3
    again = CliRunner().invoke(
        app, ["ingest", str(tmp_path / "rows.jsonl"), "--out", str(run), "--convert", "parquet"]
    )
    assert again.exit_code == 2
    assert "has shards that were made" in again.stderr
    assert (
        answer_here("ingest", tmp_path / "rows.jsonl", "--out", run, *options)["num_samples"] == 5
    )


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Losses of two shards in two Parquet files, not in order: 0.00 … 0.99, and one null."""
    folder = tmp_path_factory.mktemp("losses")
    for shard in (0, 1):
        rows = range(50)
        frame = pl.DataFrame(
            {
                "shard_id": [shard] * 50,
                "row": rows,
                "loss": [None if (shard, row) == (1, 0) else shard / 2 + row / 100 for row in rows],
                "source": ["even" if row % 2 == 0 else "odd" for row in rows],
            },
            schema_overrides={"shard_id": pl.UInt32, "row": pl.UInt32, "loss": pl.Float32},
        )
        frame.reverse().write_parquet(folder / f"{shard}.parquet")
    return folder


def test_every_world_size_streams_the_same_order(run: Path) -> None:
    index = run / "index" / "00000.parquet"
    walks = [
        answer_here("stream", run, "--index", index, "--batch-size", 32, "--world-size", size)
        for size in (1, 2)
    ]
    assert walks[0]["order_digest"] == walks[1]["order_digest"]
    assert walks[0]["rank_digest"] != walks[1]["rank_digest"]
    assert [walk["num_samples"] for walk in walks] == [120, 60]
    assert walks[0]["read_amplification"] == walks[0]["bytes_read"] / walks[0]["bytes_selected"]
    only = answer_here("stream", run, "--index", index, "--batch-size", 32, "--digest")
    assert (only["order_digest"], only["bytes_read"]) == (walks[0]["order_digest"], 0)


def test_a_plan_says_what_walking_reads_without_reading_it(run: Path) -> None:
    index = run / "index" / "00000.parquet"
    asked = ("stream", run, "--index", index, "--batch-size", 32, "--epochs", 2)
    # Two processes: the bytes of a small shard whose footer was read are kept for its first read.
    plan, walked = answer(*asked, "--plan"), answer(*asked)
    for name in ("num_samples", "num_steps", "padded", "dropped"):
        assert plan[name] == walked[name]
    assert plan["bytes_selected"] == walked["bytes_selected"]
    assert plan["num_reads"] == sum(plan["methods"].values())
    assert 0 < plan["bytes_read"] <= walked["bytes_read"]  # the plan does not count footers
    assert plan["num_shards"] <= plan["total_shards"]


def test_the_shuffle_is_chosen_and_its_quality_shown(run: Path) -> None:
    index = run / "index" / "00000.parquet"
    asked = ("stream", run, "--index", index, "--batch-size", 8, "--classes", "label")
    full = answer_here(*asked, "--set", "shuffle=full")
    pieces = answer_here(*asked, "--set", "block_bytes=1")
    assert full["order_digest"] != pieces["order_digest"]
    assert abs(full["rank_correlation"]) < abs(pieces["rank_correlation"]) + 0.5
    for walked in (full, pieces):
        assert 0 < walked["perfect_batch_mix"] < 1
        assert 0 < walked["batch_mix"] < 1


def test_the_mix_of_classes_is_that_of_the_batches_as_they_are(run: Path) -> None:
    index = run / "index" / "00000.parquet"
    found = answer_here("stream", run, "--index", index, "--batch-size", 8, "--classes", "label")
    corpus = Corpus.open(str(run))
    stream = stream_of(IndexFile.open(str(index), corpus=corpus), corpus, seed=0, batch_size=8)
    batches = [batch["labels"].numpy() for batch in stream]
    shares = np.bincount(np.concatenate(batches), minlength=10) / sum(map(len, batches))
    distances = [
        np.abs(np.bincount(batch, minlength=10) / len(batch) - shares).sum() / 2
        for batch in batches
    ]
    assert found["batch_mix"] == pytest.approx(np.mean(distances))


def test_a_stream_is_walked_with_the_settings_of_its_run(run: Path, tmp_path: Path) -> None:
    index = run / "index" / "00000.parquet"
    copied = shutil.copytree(run, tmp_path / "run")
    values = yaml.safe_load((copied / "run.yaml").read_text())
    values["streaming"]["shuffle"] = "full"
    (copied / "run.yaml").write_text(yaml.safe_dump(values))
    asked = ("--index", index, "--batch-size", 8, "--digest")
    blocks, full = answer_here("stream", run, *asked), answer_here("stream", copied, *asked)
    assert full["order_digest"] != blocks["order_digest"]
    asked_for = answer_here("stream", run, *asked, "--set", "shuffle=full")
    assert full["order_digest"] == asked_for["order_digest"]
    back = answer_here("stream", copied, *asked, "--set", "shuffle=block")
    assert back["order_digest"] == blocks["order_digest"]


def test_report_writes_pictures_where_asked(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    found = answer_here("report", run, "--out", out, "--png")
    assert found["report"] == str(out)
    assert found["verdict"]["is_shown"] is False
    assert found["verdict"]["sentence"].startswith("No saving shown: there is no run on all data")
    page = out.read_text()
    details = found["verdict"]["sentence"].partition(". ")[2]
    assert f'<p class="verdict">{details}</p>' in html.unescape(page)
    assert "Verdict: No saving shown: there is no run on all data to compare with.<" in page
    assert len(list((tmp_path / "report").glob("*.png"))) > 3


STREAM = ["stream", "RUN", "--index", "INDEX", "--batch-size", "8"]
WRONG = [
    (["run", "nowhere.yaml"], "nowhere.yaml"),
    (["run", "CONFIG", "--set", "schedule.ratio.start=1.4"], "start: 1.4 is outside (0, 1]"),
    (["run", "CONFIG", "--set", "schedule"], "--set schedule: expected key=value"),
    (["train", "/nowhere"], "/nowhere is not a run"),
    (["score", "RUN", "--round", "7"], "the schedule has rounds 0 to 0"),
    (["ingest", "/nowhere/*.parquet", "--out", "OUT"], "nothing found at /nowhere/*.parquet"),
    (["ingest", "LOSSES", "--out", "OUT", "--convert", "zip"], "unknown plug-in 'zip'"),
    (["select", "LOSSES", "--out", "OUT"], "give one of --ratio, --num-samples"),
    (["select", "LOSSES", "--out", "OUT", "--ratio", "2"], "2.0 is outside (0, 1]"),
    (["select", "LOSSES", "--out", "OUT", "--num-samples", "100"], "only 99 are eligible"),
    (["select", "LOSSES", "--out", "OUT", "--ratio", "1", "--set", "tau=2"], "tau: unknown key"),
    (["select", "LOSSES", "--out", "OUT", "--ratio", "1", "--set", "tau=["], "not YAML"),
    (
        ["select", "LOSSES", "--out", "OUT", "--ratio", "1", "--strategy", "os.path"],
        "is a module, expected a class",
    ),
    (["select", "RUN", "--out", "OUT", "--ratio", "1", "--round", "x"], "--round"),
    (["select", "LOSSES", "--out", "CONFIG", "--ratio", "0.1"], "already exists"),
    (["stream", "RUN", "--index", "/nowhere", "--batch-size", "8"], "/nowhere"),
    (["stream", "RUN", "--index", "x", "--batch-size", "8", "--set", "shufle=full"], "shuffle"),
    ([*STREAM, "--plan", "--digest"], "--plan cannot be combined with"),
    ([*STREAM, "--plan", "--classes", "label"], "--plan cannot be combined with"),
    ([*STREAM, "--digest", "--classes", "label"], "whole batches"),
    ([*STREAM, "--world-size", "2", "--classes", "label"], "whole batches"),
    (["query", "RUN", "DROP TABLE losses"], "one SELECT or WITH"),
    (["query", "/nowhere", "SELECT * FROM metrics"], "/nowhere: no corpus there"),
    (["demo", "--task", "sound"], "--task sound: expected vision or text"),
    (["report", "/nowhere"], "/nowhere"),
    (["report", "RUN", "--control", "full"], "--control full: expected NAME=RUN"),
    (["report", "RUN", "--control", "full=/nowhere"], "/nowhere has no finished round"),
    (["selct"], "selct"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=lambda value: str(value)[:50])
def test_bad_input_is_exit_code_2_and_a_message_without_a_traceback(
    run: Path, losses: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    places = {
        "CONFIG": str(run.parent / "config.yaml"),
        "RUN": str(run),
        "INDEX": str(run / "index" / "00000.parquet"),
        "LOSSES": str(losses),
        "OUT": str(tmp_path / "out"),
    }
    done = CliRunner().invoke(app, [places.get(word, word) for word in arguments])
    assert done.exit_code == 2, done.stderr
    assert message in done.stderr
    assert done.stdout == ""


def test_a_mistyped_command_is_answered_with_the_nearest_one() -> None:
    told = attent("selct").stderr
    assert told.startswith("attent: No such command 'selct'. Did you mean 'select'? See `")


def test_an_error_of_a_process_is_one_line_on_stderr() -> None:
    done = attent_process("train", "/nowhere", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("attent: /nowhere is not a run")
    assert len(done.stderr.splitlines()) == 1


ANSWER = """
import subprocess
import typer
from pipeline.cli.output.answer import answer

def work():
    print("noise")
    subprocess.run(["echo", "noise of a process"], check=True)
    {last}

typer.run(lambda: answer(work, as_json=True, show=print))
"""


def answer_of(last: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process whose command prints, starts a process that prints, and ends with `last`."""
    return subprocess.run(
        [sys.executable, "-c", ANSWER.format(last=last)],
        env=ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_processes_print_is_not_on_stdout_beside_the_object() -> None:
    done = answer_of("return {'n': 1}")
    assert done.stdout == '{"n": 1}\n'
    assert done.stderr.splitlines() == ["noise", "noise of a process"]


def test_values_that_json_does_not_know_are_written_as_text() -> None:
    done = answer_of("import datetime; return {'day': datetime.date(2026, 1, 2), 'raw': b'ab'}")
    assert json.loads(done.stdout) == {"day": "2026-01-02", "raw": "YWI="}


def test_an_unexpected_error_is_one_line_and_exit_code_1() -> None:
    short, long = (
        answer_of("raise RuntimeError('two\\nlines')", ATTENT_TRACEBACK=on) for on in ("0", "1")
    )
    line = "attent: internal error: RuntimeError: two lines at <string>:9 (this is a bug; please "
    line += "report it)"
    assert (short.returncode, short.stdout) == (1, "")
    assert short.stderr.splitlines()[2:] == [line]
    assert "Traceback" in long.stderr
    assert long.stderr.splitlines()[-1] == line


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_says_how_to_resume(
    tmp_path: Path, shards: Path, sent: signal.Signals
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(small_run(tmp_path / "run", shards)))
    out, errors = tmp_path / "out", tmp_path / "errors"
    pid = copies().start(ATTENT, "run", file, "--json", output=out, errors=errors)
    deadline = monotonic() + 120
    while not (tmp_path / "run" / "run.yaml").exists():
        assert monotonic() < deadline, "it never came so far"
        # A pause that ends early with the process.
        assert copies().wait(pid, seconds=0.01) is None, errors.read_text()
    os.kill(pid, sent)
    code, said = copies().wait(pid), errors.read_text()
    assert code == 130, said
    assert f"Resume with: attent run {file} --json" in said
    assert "Traceback" not in said
    assert out.read_text() == ""
