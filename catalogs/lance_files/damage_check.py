"""Check of a Lance file of another program: it is decoded once in another process.

Such a file has no seal, and for some damaged ones pylance ends the process, which Python cannot
catch. Run as a program, this file is that process.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from attent_select.errors import InputError

# Rows of a batch.
_BATCH_ROWS: Final = 64
_TIMEOUT_SECONDS: Final = 600


def check_file(path: Path, *, url: str) -> None:
    """Check that pylance decodes a local file.

    Raises:
        InputError: it does not, or ends its process.
    """
    command = [sys.executable, "-P", __file__, str(path)]
    try:
        process = subprocess.run(  # noqa: S603 - ours
            command, capture_output=True, timeout=_TIMEOUT_SECONDS, check=False, env=_environment()
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{url}: reading it takes longer than {_TIMEOUT_SECONDS} s") from error
    if process.returncode:
        raise InputError(
            f"{url} cannot be read as a Lance file: it is damaged. Copy it again, or leave it out"
        )


def _environment() -> dict[str, str]:
    path = [folder or str(Path.cwd()) for folder in sys.path]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path)}


def _decode(path: str) -> None:
    import lance.file

    for batch in lance.file.LanceFileReader(path).read_all(batch_size=_BATCH_ROWS).to_batches():
        batch.validate(full=True)


if __name__ == "__main__":
    _decode(sys.argv[1])
