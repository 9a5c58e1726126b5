"""Progress as log lines."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from pipeline.progress.reporter import Advance

_log = logging.getLogger("attent.progress")

# Between two log lines.
_LINE_SECONDS = 30.0


class LogLines:
    """Progress as a log line at intervals."""

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
