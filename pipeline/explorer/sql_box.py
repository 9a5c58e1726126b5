"""SQL of the page: `attent query` in a subprocess, whose limits can end it without the server."""

import json
import subprocess
import sys
from typing import Any, Final

from attent_select.errors import InputError

MAX_ROWS: Final = 500
_SECONDS: Final = 60
_MEMORY: Final = "2GiB"


def run_sql(url: str, sql: str) -> dict[str, Any]:
    """Return `columns` and `rows` (at most 500) of one SELECT, and whether there are more.

    Raises:
        InputError: it is not a SELECT over the tables of the run, or exceeds the limits.
    """
    limits = ["--timeout", str(_SECONDS), "--memory-limit", _MEMORY, "--limit", str(MAX_ROWS + 1)]
    done = subprocess.run(  # noqa: S603 - a list of words, without a shell
        [sys.executable, "-m", "attent_select", "query", "--json", *limits, "--", url, sql],
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS * 2,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["the query was ended"]
        raise InputError(lines[-1].removeprefix("attent: "))
    answer = json.loads(done.stdout)
    rows = answer["rows"]
    return {"columns": answer["columns"], "rows": rows[:MAX_ROWS], "cut": len(rows) > MAX_ROWS}
