"""Check of a Parquet footer in another process: for some footers pyarrow aborts.

It does so for encrypted columns with a plaintext footer and for some damaged statistics. Python
cannot catch that, so the first process to parse the footer of a shard is a helper, which may die.
"""

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

from attent_select.errors import InputError
from catalogs.tables import footer_parser

# A helper may end just now because it was idle, or be killed from outside.
_ATTEMPTS: Final = 2
_lock = threading.Lock()
_helpers: "dict[int, subprocess.Popen[bytes]]" = {}


def check_footer(tail: bytes, *, url: str) -> None:
    """Check that parsing a footer does not end the process. Other damage is not reported.

    Args:
        tail: the last bytes of the file, with its footer.
        url: of the file, for the message.

    Raises:
        InputError: it does.
    """
    with _lock:
        for _ in range(_ATTEMPTS):
            helper = _running_helper()
            if _ask(helper, tail):
                return
            code = helper.wait()
    if code == 0:
        raise InputError(f"{url}: the process that checks Parquet footers does not start")
    raise InputError(
        f"{url}: its Parquet footer ends the process that parses it (exit code {code}). It is"
        " damaged, or has encrypted columns: write it again without encryption, or leave it out"
    )


def _running_helper() -> "subprocess.Popen[bytes]":
    helper = _helpers.get(os.getpid())
    if helper is None or helper.poll() is not None:
        # A copied worker may be in a folder that is gone, where Python refuses relative paths.
        path = [folder for folder in sys.path if Path(folder).is_absolute()]
        helper = subprocess.Popen(  # noqa: S603 - ours
            [sys.executable, "-P", footer_parser.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # the last words of an aborted process
            cwd=os.sep,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
            start_new_session=True,
        )
        _helpers[os.getpid()] = helper
    return helper


def _ask(helper: "subprocess.Popen[bytes]", tail: bytes) -> bool:
    """Return whether the helper survives."""
    assert helper.stdin is not None
    assert helper.stdout is not None
    size = len(tail).to_bytes(footer_parser.NUMBER_BYTES, "little")
    with contextlib.suppress(BrokenPipeError):  # it has ended: reading finds no answer
        helper.stdin.write(size + tail)
        helper.stdin.flush()
    return helper.stdout.read(len(footer_parser.DONE)) == footer_parser.DONE
