"""Progress of long work: what library code reports, and who shows it.

Library code calls `progress` and `status`. The command line shows bars on a terminal, a notebook
shows them below the cell. Everywhere else progress is log lines of the logger `attent.progress`.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from time import monotonic
from typing import Protocol

_log = logging.getLogger("attent.progress")

# Between two log lines.
_LINE_SECONDS = 30.0


class Advance(Protocol):
    """Add `amount` to what is done; `note` replaces the text beside it."""

    def __call__(self, amount: int, note: str = "", /) -> None: ...


class Reporter(Protocol):
    """Shows the progress of one piece of work at a time."""

    def progress(self, title: str, *, total: int, unit: str) -> AbstractContextManager[Advance]:
        """Show how many of `total` units are done while the context lasts."""
        ...

    def status(self, title: str) -> AbstractContextManager[None]:
        """Show `title` while the context lasts: for work whose amount is not known."""
        ...


class LogLines:
    """Reports progress as a log line now and then."""

    @contextmanager
    def progress(self, title: str, *, total: int, unit: str) -> Iterator[Advance]:
        done, started = 0, monotonic()
        last = started

        def advance(amount: int, note: str = "", /) -> None:
            nonlocal done, last
            done += amount
            now = monotonic()
            if now - last >= _LINE_SECONDS:
                last = now
                left = (now - started) * (total - done) / max(done, 1)
                line = f"{title}: {done:,} of {total:,} {unit}, about {left:,.0f} s left"
                _log.info(f"{line}; {note}" if note else line)

        yield advance

    @contextmanager
    def status(self, title: str) -> Iterator[None]:
        _log.debug(title)
        yield


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
    """Report that the work called `title` is going on while the context lasts."""
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
    from pipeline.notebook import notebook_reporter

    return notebook_reporter() or LogLines()
