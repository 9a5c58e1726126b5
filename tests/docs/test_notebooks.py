"""The notebooks of the documentation run, and their pages show what they say."""

from pathlib import Path

import pytest
from notebook_pages import NOTEBOOKS, kinds_of_outputs, page_of, read, run_cells


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_page_is_that_of_its_notebook(path: Path) -> None:
    # After a change of a notebook: python tests/notebook_pages.py
    assert path.with_suffix(".md").read_text() == page_of(read(path), name=path.stem)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_it_did(path: Path) -> None:
    notebook = read(path)
    assert kinds_of_outputs(run_cells(notebook)) == kinds_of_outputs(notebook)


def test_every_page_has_a_notebook_and_all_are_small() -> None:
    pages = sorted(NOTEBOOKS[0].parent.glob("*.md"))
    assert pages == [path.with_suffix(".md") for path in NOTEBOOKS]
    assert max(path.stat().st_size for path in NOTEBOOKS) < 50_000
