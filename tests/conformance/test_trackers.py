"""Conformance of every tracker in `pipeline/tracking/trackers/`: what is sent can be read back."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from tracked_rows import stored_rows, use_folder

from attent_select.plugins import plugin_names
from pipeline.tracking.sending import load_trackers
from pipeline.tracking.tracker import PACKAGE, TrackedRound, TrackedRun, Tracker

NAMES = plugin_names(PACKAGE)
FINISHED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ROUNDS = [
    TrackedRound(
        number,
        FINISHED,
        {
            step: {"train/loss": 2.5 - step / 8, "selection/share/source/wikipédia": 0.25}
            for step in range(4 * number, 4 * number + 4)
        },
    )
    for number in range(3)
]
SENT = {
    step: {name: [value] for name, value in row.items()}
    for round_ in ROUNDS
    for step, row in round_.rows.items()
}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    use_folder(tmp_path, monkeypatch)
    return str(request.param)


def tracker_of(name: str) -> Tracker:
    return load_trackers([name])[name]


def tracked(folder: Path) -> TrackedRun:
    many = {f"section.key{number}": "x" * 600 for number in range(150)}
    settings = {"seed": 0, "selection.where": None, "corpus.shards": ["a", "b"], **many}
    return TrackedRun("0123456789abcdef", str(folder / "run"), settings)


def test_rounds_sent_by_several_processes_are_one_run(name: str, tmp_path: Path) -> None:
    for round_ in ROUNDS:
        tracker_of(name).send(tracked(tmp_path), [round_])
    assert stored_rows(name, str(tmp_path / "run"), tmp_path) == [SENT]


def test_a_round_sent_again_has_no_other_values(name: str, tmp_path: Path) -> None:
    for round_ in (*ROUNDS[:2], *ROUNDS[1:]):
        tracker_of(name).send(tracked(tmp_path), [round_])
    (stored,) = stored_rows(name, str(tmp_path / "run"), tmp_path)
    assert {
        step: {key: sorted(set(values)) for key, values in row.items()}
        for step, row in stored.items()
    } == SENT


def test_more_values_than_a_request_takes_are_sent(name: str, tmp_path: Path) -> None:
    rows = {step: {"train/loss": 1.0, "train/learning_rate": 0.5} for step in range(700)}
    tracker_of(name).send(tracked(tmp_path), [TrackedRound(0, FINISHED, rows)])
    (stored,) = stored_rows(name, str(tmp_path / "run"), tmp_path)
    assert stored == {
        step: {key: [value] for key, value in row.items()} for step, row in rows.items()
    }
