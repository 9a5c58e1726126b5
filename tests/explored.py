"""`attent explore` in a process, and questions to it as its page asks them."""

import json
import os
import signal
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from process_copies import ATTENT, Copy, copies


@dataclass(frozen=True)
class Explored:
    """A running server: its process and the URL with the token."""

    process: Copy
    url: str

    def ask(self, question: str, /, **values: Any) -> dict[str, Any]:
        """The answer to a question; an error is its `error`."""
        request = urllib.request.Request(
            f"{self.url}api/{question}",
            data=json.dumps(values).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            answer: dict[str, Any] = json.loads(response.read())
            return answer

    def stop(self, number: int = signal.SIGINT) -> int:
        """Interrupt the process and return its exit code."""
        os.kill(self.process.pid, number)
        self.process.wait()
        code = self.process.returncode
        assert code is not None
        return code


@contextmanager
def explored(target: object, *options: object) -> Iterator[Explored]:
    """Run `attent explore TARGET --json` until the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        arguments = ("explore", target, "--json", *options)
        pid = copies().start(ATTENT, *arguments, output=output, errors=errors)
        process = Copy(copies(), pid, errors)
        try:
            # A pause that ends early with the process.
            while not (line := output.read_text() if output.exists() else "").endswith("\n"):
                assert copies().wait(pid, seconds=0.01) is None, process.wait()
            yield Explored(process, json.loads(line)["url"])
        finally:
            process.kill()
            process.wait()
