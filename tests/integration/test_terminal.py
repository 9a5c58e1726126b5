"""What commands write to terminals and pipes: colours, and completion by a shell."""

import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from commands import ENVIRONMENT, ROOT

COLOR = re.compile(r"\x1b\[[0-9;]*m")
# Variables that force or forbid colours.
COLOR_NAMES = ("NO_COLOR", "FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TTY_COMPATIBLE")
PLAIN = {name: text for name, text in ENVIRONMENT.items() if name not in COLOR_NAMES}
ATTENT = [sys.executable, "-m", "attent_select"]


def on_terminal(arguments: list[str], **variables: str) -> str:
    """What `attent ARGUMENTS` writes to a terminal, stdout and stderr together."""
    master, slave = pty.openpty()
    environment = PLAIN | {"TERM": "xterm-256color"} | variables
    process = subprocess.Popen(
        [*ATTENT, *arguments], cwd=ROOT, env=environment, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    written = b""
    try:
        while data := os.read(master, 1 << 16):
            written += data
    except OSError:  # the other end is closed
        pass
    process.wait()
    os.close(master)
    return written.decode()


def in_pipes(arguments: list[str], **variables: str) -> str:
    done = subprocess.run(
        [*ATTENT, *arguments], cwd=ROOT, env=PLAIN | variables, capture_output=True, check=False
    )
    return done.stdout.decode() + done.stderr.decode()


@pytest.fixture(scope="module")
def ingest(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A command that shows progress."""
    folder = tmp_path_factory.mktemp("shards")
    pl.DataFrame({"text": ["a", "b"]}).write_parquet(folder / "shard.parquet")
    return ["ingest", str(folder), "--out", str(folder / "corpus"), "--scheduler", "local"]


COMMANDS = [["--help"], ["select", "--help"], [], ["sselect"]]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_no_color_forbids_colours_whatever_else_is_set(arguments: list[str]) -> None:
    forced = {"NO_COLOR": "1", "FORCE_COLOR": "1", "PY_COLORS": "1", "GITHUB_ACTIONS": "true"}
    assert COLOR.findall(on_terminal(arguments, **forced)) == []
    assert "\x1b" not in in_pipes(arguments, **forced)


def test_progress_has_no_colours_with_no_color(ingest: list[str]) -> None:
    written = on_terminal(ingest, NO_COLOR="1", FORCE_COLOR="1")
    assert "num_samples: 2" in written
    assert COLOR.findall(written) == []


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_nothing_that_is_not_a_terminal_gets_escape_codes(arguments: list[str]) -> None:
    assert "\x1b" not in in_pipes(arguments, TERM="xterm-256color", GITHUB_ACTIONS="true")


def test_help_on_a_terminal_has_colours_and_in_a_pipe_if_they_are_forced() -> None:
    assert COLOR.findall(on_terminal(["--help"]))
    assert COLOR.findall(in_pipes(["--help"], FORCE_COLOR="1"))


def complete(line: str, folder: Path) -> list[str]:
    """What bash offers after TAB at the end of a line, by the script that `attent` prints."""
    bash = shutil.which("bash")
    assert bash
    start = f"#!{sys.executable} -P\nimport sys\nfrom attent_select.__main__ import main\n"
    (folder / "attent").write_text(f"{start}sys.argv[0] = 'attent'\nmain()\n")
    (folder / "attent").chmod(0o755)
    script = """
source <(attent --show-completion)
read -ra COMP_WORDS <<< "$1"
[[ "$1" == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
$(complete -p attent | sed 's/.*-F \\([^ ]*\\) .*/\\1/') attent
printf '%s\\n' "${COMPREPLY[@]}"
"""
    path = f"{folder}{os.pathsep}{PLAIN['PATH']}"
    done = subprocess.run(
        [bash, "--norc", "-c", script, "bash", line],
        cwd=folder, env=PLAIN | {"PATH": path}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_bash_completes_commands_options_and_choices(tmp_path: Path) -> None:
    assert complete("attent sel", tmp_path) == ["select"]
    assert {"run", "report"} <= set(complete("attent r", tmp_path))
    assert complete("attent select losses.parquet --stra", tmp_path) == ["--strategy"]
    assert "--allow-marks" in complete("attent explore --", tmp_path)
    assert "demo" in complete("attent ", tmp_path)
