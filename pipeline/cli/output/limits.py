"""Limits on the time and the memory of a command whose input may ask for any amount of both.

Code in Rust cannot be interrupted from Python. So a thread watches the process, and ends it.
"""

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from attent_select.errors import InputError

_INTERVAL_SECONDS = 0.02
_UNITS = {"": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 1e3, "mb": 1e6, "gb": 1e9}


@contextmanager
def bounded(*, seconds: float, memory: str, what: str) -> Iterator[None]:
    """End the process with exit code 2 if it takes longer, or more memory.

    Args:
        seconds: from now; 0: no limit.
        memory: resident bytes of the process, such as `4GiB`; `0`: no limit.
        what: the options to change, for the message.

    Raises:
        InputError: a limit is not valid.
    """
    if not seconds >= 0:
        raise InputError(f"invalid time limit {seconds}: expected seconds, 0 for no limit")
    is_done = threading.Event()
    limits = (seconds, _bytes_of(memory), what)
    thread = threading.Thread(target=_watch, args=(is_done, *limits), daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_done.set()


def _watch(is_done: threading.Event, seconds: float, num_bytes: int, what: str) -> None:
    started = monotonic()
    while not is_done.wait(_INTERVAL_SECONDS):
        resident = _resident_bytes()
        if num_bytes and resident > num_bytes:
            _end(f"it takes more than {num_bytes / (1 << 30):.3g} GiB of memory", what)
        if seconds and monotonic() - started > seconds:
            _end(f"it takes longer than {seconds:g} seconds", what)


def _end(reason: str, what: str) -> None:
    sys.stderr.write(f"attent: stopped, because {reason}: ask for less, or raise {what}\n")
    sys.stderr.flush()
    os._exit(InputError.exit_code)


def _resident_bytes() -> int:
    """Return the resident memory of this process; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - read often
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def _bytes_of(memory: str) -> int:
    parsed = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]i?b)?", memory.strip().lower())
    if parsed is None:
        raise InputError(f"invalid memory limit {memory!r}: expected e.g. 4GiB, 0 for no limit")
    return int(float(parsed[1]) * _UNITS[parsed[2] or ""])
