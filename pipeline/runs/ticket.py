"""Tickets: what a driver writes about itself when it claims a run."""

import json
import os
import platform
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import time
from typing import Self

from attent_select.errors import ExistsError

TTL_SECONDS = 60.0
WAITING, HOLDING = "waiting", "holding"


@dataclass(frozen=True)
class Ticket:
    """One driver's claim. `expires` is in seconds since 1970."""

    name: str
    state: str
    host: str
    pid: int
    namespace: str
    expires: float

    @classmethod
    def of_this_process(cls) -> Self:
        """Return a new ticket, which has expired."""
        name = uuid.uuid4().hex
        return cls(name, WAITING, platform.node(), os.getpid(), _namespace(), expires=0.0)

    @classmethod
    def parse(cls, data: bytes, *, url: str) -> Self:
        """Return the ticket in a file.

        Raises:
            ExistsError: it is not a ticket.
        """
        try:
            return cls(**json.loads(data))
        except (ValueError, TypeError) as error:
            raise ExistsError(
                f"{url} is not a ticket of this version of attent-select ({error}): delete it if no"
                " driver works on the run"
            ) from error

    def renew(self, state: str) -> Self:
        """Return the ticket in that state, valid for `TTL_SECONDS` from now on."""
        return replace(self, state=state, expires=time() + TTL_SECONDS)

    def dump(self) -> bytes:
        """Return the content of its file."""
        return json.dumps(asdict(self)).encode()

    def is_live(self) -> bool:
        """Whether its driver may still be running."""
        if self.expires < time():
            return False
        here = (self.host, self.namespace) == (platform.node(), _namespace())
        return not here or _is_running(self.pid)

    def refusal(self, run: str) -> ExistsError:
        """Return the error for other drivers of `run`."""
        left = max(0.0, self.expires - time())
        return ExistsError(
            f"{run}: process {self.pid} on {self.host} works on this run. Wait until it "
            f"ends, or end it. If it is dead, its lease expires in {left:.0f} s: run the command "
            "again then"
        )


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _namespace() -> str:
    """Return the process namespace, which differs between containers with the same host name."""
    link = Path("/proc/self/ns/pid")
    return str(link.readlink()) if link.is_symlink() else ""
