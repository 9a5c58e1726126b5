"""Check of a Parquet footer in another process: for some footers pyarrow aborts.

It does so for encrypted columns with a plaintext footer and for some damaged statistics. Python
cannot catch that, so the first process to parse the footer of a shard is a helper, which may die.
"""

import contextlib
import os
import select
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Final

from attent_select.errors import InputError

# The helper ends when it had nothing to do for this long, or when its parent ends.
_IDLE_SECONDS: Final = 5.0
_DONE: Final = b"\n"
_NUMBER_BYTES: Final = 8

_lock = threading.Lock()
_helpers: "dict[int, subprocess.Popen[bytes]]" = {}


def check_footer(tail: bytes, *, url: str, num_bytes: int) -> None:
    """Check that parsing a footer does not end the process. Other damage is not reported.

    Args:
        tail: the last bytes of the file, with its footer.
        url: of the file, for the message.
        num_bytes: size of the file.

    Raises:
        InputError: it does.
    """
    with _lock:
        for _ in range(2):  # an idle helper may end just now
            helper = _running_helper()
            if _ask(helper, tail, num_bytes=num_bytes):
                return
            if helper.wait() != 0:
                raise InputError(
                    f"{url}: its Parquet footer ends the process that parses it. It is damaged, or"
                    " has encrypted columns: write it again without encryption, or leave it out"
                )
    raise InputError(f"{url}: the process that checks Parquet footers does not start")


def _running_helper() -> "subprocess.Popen[bytes]":
    helper = _helpers.get(os.getpid())
    if helper is None or helper.poll() is not None:
        path = [folder or str(Path.cwd()) for folder in sys.path]
        helper = subprocess.Popen(
            [sys.executable, "-P", "-m", "catalogs.tables.footer_check"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # the last words of an aborted process
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
            start_new_session=True,
        )
        _helpers[os.getpid()] = helper
    return helper


def _ask(helper: "subprocess.Popen[bytes]", tail: bytes, *, num_bytes: int) -> bool:
    """Return whether the helper survives."""
    assert helper.stdin is not None
    assert helper.stdout is not None
    sizes = (
        len(tail).to_bytes(_NUMBER_BYTES, "little"),
        num_bytes.to_bytes(_NUMBER_BYTES, "little"),
    )
    with contextlib.suppress(BrokenPipeError):  # it has ended: reading finds no answer
        helper.stdin.write(b"".join([*sizes, tail]))
        helper.stdin.flush()
    return helper.stdout.read(len(_DONE)) == _DONE


def _answer(questions: IO[bytes], answers: IO[bytes]) -> None:
    """Parse footers until the input ends."""
    from catalogs.tables import parquet_file

    while select.select([questions], [], [], _IDLE_SECONDS)[0]:
        sizes = questions.read(2 * _NUMBER_BYTES)
        if len(sizes) < 2 * _NUMBER_BYTES:
            return
        tail = questions.read(int.from_bytes(sizes[:_NUMBER_BYTES], "little"))
        num_bytes = int.from_bytes(sizes[_NUMBER_BYTES:], "little")
        with contextlib.suppress(Exception):  # the parent parses it, too
            parquet_file.parse_footer(tail, url="the footer", num_bytes=num_bytes)
        answers.write(_DONE)
        answers.flush()


if __name__ == "__main__":
    _answer(sys.stdin.buffer, sys.stdout.buffer)
