"""`attent explore` in a process, and questions to it as its page asks them."""

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from commands import ENVIRONMENT, ROOT


@dataclass(frozen=True)
class Explored:
    """A running server: its process and the URL with the token."""

    process: subprocess.Popen[str]
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
        self.process.send_signal(number)
        return self.process.wait(timeout=60)


@contextmanager
def explored(target: object, *options: object) -> Iterator[Explored]:
    """Run `attent explore TARGET --json` until the block ends."""
    command = [sys.executable, "-m", "attent_select", "explore", str(target), "--json"]
    process = subprocess.Popen(
        [*command, *map(str, options)],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield Explored(process, json.loads(line)["url"])
    finally:
        process.kill()
        process.communicate()
