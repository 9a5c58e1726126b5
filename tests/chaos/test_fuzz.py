"""No mutated file or text makes a door fail in another way than with an error of ours."""

import json
from pathlib import Path

import fuzz_campaign
import fuzz_doors
import pytest

EXECUTIONS = 1_500


@pytest.mark.parametrize("name", fuzz_doors.DOORS)
def test_a_door_answers_any_bytes_with_a_result_or_an_error_of_ours(
    name: str, seed: int, size: int, tmp_path: Path
) -> None:
    door = fuzz_doors.DOORS[name](tmp_path)
    executions = size * 1000 or EXECUTIONS
    assert fuzz_doors.fuzz(door, name=name, seed=seed, executions=executions) == []


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("os.abort()", "ended by SIGABRT"),
        ("while True: pass", "hangs"),
        ("signal.pause()", "hangs"),
        ("sys.exit('no words')", "exit code 1; no words"),
    ],
)
def test_an_input_that_ends_its_process_is_reported(
    end: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "reader.py"
    script.write_text(
        "import os, pathlib, signal, sys\n"
        f"pathlib.Path(sys.argv[-1]).write_bytes(bytes([52, 49, 10, 0, 255, 10]))\n{end}"
    )
    monkeypatch.setattr(fuzz_campaign, "FUZZ", script)
    limits = {"HANG_SECONDS": 0.5, "DEADLOCK_SECONDS": 2, "POLL_SECONDS": 0.1}
    for name, seconds in limits.items():
        monkeypatch.setattr(fuzz_campaign, name, seconds)
    result = fuzz_campaign.read_batch("tar", seed=7, executions=100, folder=tmp_path)
    ((message, data),) = result["defects"]
    assert reason in message
    assert (result["executions"], data) == (41, "00ff0a")


def test_a_campaign_continues_after_its_last_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.jsonl"
    for executions in ("30", "50"):
        arguments = [str(results), "--door", "condition", "--executions", executions]
        monkeypatch.setattr("sys.argv", ["fuzz_campaign.py", *arguments, "--batch", "30"])
        fuzz_campaign.main()
    batches = [json.loads(line) for line in results.read_text().splitlines()]
    assert [(each["seed"], each["executions"]) for each in batches] == [(1, 30), (2, 20)]
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["condition"]["executions"] == 50
