"""Progress of long work: what library code reports, and who shows it.

Library code calls `progress` and `status`. The command line shows bars on a terminal, a notebook
shows them below the cell. Everywhere else progress is log lines of the logger `attent.progress`.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

from pipeline.progress.log_lines import LogLines
from pipeline.progress.notebook import notebook_reporter
from pipeline.progress.reporter import Advance, Reporter

__all__ = ["Advance", "Reporter", "is_first_rank", "progress", "reporting", "status"]

_reporter: ContextVar[Reporter | None] = ContextVar("attent_reporter", default=None)


@contextmanager
def reporting(reporter: Reporter) -> Iterator[None]:
    """Show progress with `reporter` while the context lasts."""
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)


def progress(title: str, *, total: int, unit: str) -> AbstractContextManager[Advance]:
    """Report the progress of work on `total` units (samples, steps, …); yields an `Advance`."""
    return _current().progress(title, total=total, unit=unit)


def status(title: str) -> AbstractContextManager[None]:
    """Report that the work called `title` is in progress while the context lasts."""
    return _current().status(title)


def is_first_rank() -> bool:
    """Whether this is the first process of a launcher (torchrun): only it reports progress."""
    return os.environ.get("RANK", "0") == "0"


class _Silent:
    def progress(self, title: str, *, total: int, unit: str) -> AbstractContextManager[Advance]:
        return nullcontext(_ignore)

    def status(self, title: str) -> AbstractContextManager[None]:
        return nullcontext()


def _ignore(amount: int, note: str = "", /) -> None:
    """Advance nothing."""


def _current() -> Reporter:
    if not is_first_rank():
        return _Silent()
    if (reporter := _reporter.get()) is not None:
        return reporter
    return notebook_reporter() or LogLines()
