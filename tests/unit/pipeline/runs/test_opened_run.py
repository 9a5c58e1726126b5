"""Opening a run by its URL: its tables, and its card in notebooks."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from attent_select.errors import InputError, MissingError
from pipeline import Run, metrics


def write_run(folder: Path, *, task: str = "causal_lm") -> Run:
    """A run with nothing but its settings."""
    folder.mkdir(exist_ok=True)
    (folder / "run.yaml").write_text(f"task: {{name: {task}}}\nselection: {{strategy: soft}}\n")
    return Run.open(str(folder))


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"is not a run: .*run\.yaml was not found"):
        Run.open(str(tmp_path))


def test_a_run_without_finished_rounds_has_a_card(tmp_path: Path) -> None:
    run = write_run(tmp_path, task="'<script>'")
    assert run.rounds == []
    ElementTree.fromstring(run._repr_html_())
    assert "&lt;script&gt;" in run._repr_html_()
    assert len(repr(run)) < len(str(tmp_path)) + 20
    with pytest.raises(InputError, match="no round is finished"):
        run.index()


def test_a_run_shows_a_bar_for_each_finished_round(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    for number, loss in enumerate([2.0, 1.5]):
        values = {"eval_loss": loss, "train_loss": 3.0, "samples_seen": 100.0}
        metrics.publish(str(tmp_path), number, values)
    assert run.rounds == [0, 1]
    assert run.checkpoint() == run.checkpoint(1)
    tree = ElementTree.fromstring(run._repr_html_())
    assert [title.text for title in tree.iter("title")] == ["round 0: 2", "round 1: 1.5"]
    assert "samples seen" in [cell.text for cell in tree.iter("th")]


def test_a_damaged_run_says_so_in_its_card(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    (tmp_path / "run.yaml").write_text("[")
    assert "problem" in run._repr_html_()
