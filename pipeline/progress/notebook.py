"""Progress bars in a Jupyter notebook, as HTML below the cell."""

import html
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from pipeline.progress.reporter import Advance, Reporter

# Between two updates of a bar.
_UPDATE_SECONDS = 0.2


class Show(Protocol):
    """Replace what is shown below the cell by `markup` (HTML)."""

    def __call__(self, markup: str, /) -> None: ...


class Output(Protocol):
    """Open a new place below the cell; returns what fills it."""

    def __call__(self) -> Show: ...


@dataclass(frozen=True)
class Notebook:
    """Progress as HTML bars in `output`."""

    output: Output

    @contextmanager
    def progress(self, title: str, *, total: int, unit: str) -> Iterator[Advance]:
        show, done, last_note, last_shown = self.output(), 0, "", monotonic()
        show(bar(title, 0, total, unit=unit))

        def advance(amount: int, note: str = "", /) -> None:
            nonlocal done, last_note, last_shown
            done, last_note, now = done + amount, note, monotonic()
            if now - last_shown >= _UPDATE_SECONDS:
                last_shown = now
                show(bar(title, done, total, unit=unit, note=note))

        try:
            yield advance
        finally:
            show(bar(title, done, total, unit=unit, note=last_note))

    @contextmanager
    def status(self, title: str) -> Iterator[None]:
        show = self.output()
        show(f"{html.escape(title)} …")
        try:
            yield
        finally:
            show("")


def bar(title: str, done: int, total: int, *, unit: str, note: str = "") -> str:
    """HTML of a progress bar with its title and numbers."""
    text = f"{title} {done:,} of {total:,} {unit} {note}".rstrip()
    return f'<progress value="{done}" max="{max(total, 1)}"></progress> {html.escape(text)}'


def notebook_reporter() -> Reporter | None:
    """The reporter of the notebook that this process is the kernel of, or None elsewhere."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return Notebook(_ipython_output) if hasattr(shell, "kernel") else None


def _ipython_output() -> Show:
    display = importlib.import_module("IPython.display")
    handle = display.display(display.HTML(""), display_id=True)

    def show(markup: str, /) -> None:
        handle.update(display.HTML(markup))

    return show
