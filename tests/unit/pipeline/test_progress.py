"""Progress: silent by default, log lines with logging, bars in a notebook, the first rank only."""

import logging

import pytest

from pipeline.progress import log_lines, progress, reporting, status
from pipeline.progress.notebook import Notebook
from pipeline.progress.reporter import Advance


def work() -> None:
    """Three steps of one sample each."""
    with status("looking"), progress("scoring", total=3, unit="samples") as advance:
        for _ in range(3):
            advance(1, "fast")


def test_a_library_user_sees_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    work()
    assert capfd.readouterr() == ("", "")


def test_logging_shows_progress(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_lines, "_LINE_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, logger="attent"):
        work()
    assert len(caplog.messages) == 3
    assert caplog.messages[-1] == "scoring: 3 of 3 samples, about 0 s left; fast"


def test_only_the_first_rank_reports(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_lines, "_LINE_SECONDS", 0.0)
    monkeypatch.setenv("RANK", "1")
    with caplog.at_level(logging.DEBUG, logger="attent"):
        work()
    assert caplog.messages == []


class Cell:
    """The output of a notebook cell: what each of its places has shown."""

    def __init__(self) -> None:
        self.places: list[list[str]] = []

    def __call__(self) -> "Show":
        self.places.append([])
        return Show(self.places[-1])


class Show:
    def __init__(self, shown: list[str]) -> None:
        self.shown = shown

    def __call__(self, markup: str, /) -> None:
        self.shown.append(markup)


def test_a_notebook_shows_a_bar_that_ends_full_and_a_status_that_goes_away() -> None:
    cell = Cell()
    with reporting(Notebook(cell)):
        work()
    looking, scoring = cell.places
    assert looking == ["looking …", ""]
    assert scoring[0].startswith('<progress value="0" max="3">')
    assert scoring[-1] == '<progress value="3" max="3"></progress> scoring 3 of 3 samples fast'


def test_text_in_a_notebook_is_escaped() -> None:
    cell = Cell()
    with reporting(Notebook(cell)), progress("a < b", total=1, unit="rows") as advance:
        step: Advance = advance
        step(1, "<script>")
    assert "a &lt; b" in cell.places[0][-1]
    assert "<script>" not in cell.places[0][-1]
