"""`attent ARGUMENTS` with signals at planned moments: `python moments.py PLAN.json ARGUMENTS`.

A moment is a number of ticks. A process ticks before and after each operation on storage, and each
time it opens a file to write, renames or removes one: between two ticks it does something that a
kill could leave half done. A shot signals this process, or others, then or a little later.
"""

import contextlib
import ctypes
import errno
import json
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import time
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.link"}
FULL_DISK, READ_ONLY, LOST_PERMISSION = "full disk", "read-only", "lost permission"
# Root may write whatever the mode says: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, of `capset(2)`.
_OVERRIDES, _CAPABILITY_VERSION = 0b110, 0x20080522


@dataclass(frozen=True)
class Shot:
    """A signal at a moment, or another event.

    Attributes:
        tick: number of the tick, counted in the process of `rank`.
        seconds: to wait after the tick.
        pids: processes to signal; empty: the process that counts.
        signum: the signal.
        times: how often, 0.2 seconds apart.
        rank: which of several processes counts.
        action: instead of the signal. `full disk`: from now on no file can grow. `read-only`: from
            now on no file of the run can be opened to write. `lost permission`: from now on no
            folder of the run can be read or changed.
        run: that loses its permissions.
    """

    tick: int
    seconds: float = 0.0
    pids: tuple[int, ...] = ()
    signum: int = signal.SIGKILL
    times: int = 1
    rank: int = 0
    action: str = ""
    run: str = ""

    def fire(self, log: Path) -> None:
        with log.open("a") as file:
            file.write(f"{self.tick} {time()}\n")
        if self.action == FULL_DISK:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        if self.action == LOST_PERMISSION:
            for folder, _, _ in os.walk(self.run, topdown=False):
                Path(folder).chmod(0o100)
        if self.action:
            return
        for number in range(self.times):
            threading.Event().wait(0.2 if number else 0)
            for pid in self.pids or (os.getpid(),):
                with contextlib.suppress(ProcessLookupError):  # it has ended before
                    os.kill(pid, self.signum)


@dataclass(frozen=True)
class Plan:
    """Shots, and a folder.

    `ticks-RANK` there holds the number of ticks, `fired-RANK` the ticks and times of shots. The
    clock by which leases expire is `clock_seconds` ahead.
    """

    folder: str
    shots: tuple[Shot, ...] = ()
    clock_seconds: float = 0.0

    def write(self) -> Path:
        path = Path(self.folder, "plan.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self)))
        return path

    @staticmethod
    def read(path: str) -> "Plan":
        values = json.loads(Path(path).read_text())
        shots = tuple(Shot(**shot) for shot in values.pop("shots"))
        return Plan(**values, shots=shots)


@dataclass
class Clock:
    """Counts ticks and fires the shots of a plan."""

    plan: Plan
    rank: int
    count: int = 0
    is_read_only: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock)

    def tick(self) -> None:
        with self.lock:
            self.count += 1
            due = [s for s in self.plan.shots if (s.tick, s.rank) == (self.count, self.rank)]
        for shot in due:
            self.is_read_only |= shot.action == READ_ONLY
            fire = lambda shot=shot: shot.fire(self.log)  # noqa: E731
            if shot.seconds:
                timer = threading.Timer(shot.seconds, fire)
                timer.daemon = True
                timer.start()
            else:
                fire()

    @property
    def log(self) -> Path:
        return Path(self.plan.folder, f"fired-{self.rank}")

    def write_count(self) -> None:
        Path(self.plan.folder, f"ticks-{self.rank}").write_text(str(self.count))


class Ticking:
    """A store that ticks before and after each operation."""

    def __init__(self, store: Any, tick: Callable[[], None]) -> None:
        self._store, self._tick = store, tick

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._store, name)

        def ticking(*arguments: Any, **options: Any) -> Any:
            self._tick()
            result = operation(*arguments, **options)
            self._tick()
            return result

        return ticking


def install(clock: Clock) -> None:
    """Let this process tick."""
    from catalogs.storage import access
    from pipeline.runs import ticket

    ticket.time = lambda: time() + clock.plan.clock_seconds  # type: ignore[assignment]

    store_of = access._store_of
    access._store_of = lambda url: Ticking(store_of(url), clock.tick)  # type: ignore[assignment]

    def hook(event: str, arguments: Sequence[Any]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING
        if (writes or event in _CHANGES) and clock.plan.folder not in str(arguments[0]):
            clock.tick()
            if clock.is_read_only and "/runs/" in str(arguments[0]):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(arguments[0]))

    sys.addaudithook(hook)


def drop_overrides() -> None:
    """Let the mode of files bind this process like an ordinary user's, also if it is root's."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    for number in range(3):
        sets[number] &= ~_OVERRIDES
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


def main() -> None:
    drop_overrides()
    # A background job of a script ignores it, and so do its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    plan = Plan.read(sys.argv.pop(1))
    clock = Clock(plan, int(os.environ.get("RANK", "0")))
    from attent_select.__main__ import main as attent

    install(clock)
    try:
        attent()
    finally:
        with contextlib.suppress(OSError):  # a full disk
            clock.write_count()


if __name__ == "__main__":
    main()
