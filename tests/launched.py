"""Ranks of a training program, in copies (`process_copies`) with the variables of a launcher."""

import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic

from process_copies import copies
from servers import free_ports

# Below the limit of a test: ranks that hang are ended, and print where they were.
_LIMIT = 240


def launch(
    *arguments: object,
    output: Path,
    num_ranks: int = 1,
    restarts: int = 0,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run a program on each rank; return the exit code of the first that fails.

    As torchrun does, end all when one fails, and start them again at most `restarts` times. What
    rank r prints is in `<output>-<r>`.
    """
    outputs = [Path(f"{output}-{rank}") for rank in range(num_ranks)]
    for attempt in range(restarts + 1):
        variables = {"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "none"}
        variables["TORCHELASTIC_RESTART_COUNT"] = str(attempt)
        variables = dict(os.environ if environment is None else environment) | variables
        if failed := _attempt(arguments, outputs, variables):
            continue
        return 0
    for path in outputs:
        print(path.read_text(errors="replace")[-3000:])  # noqa: T201 - shown with a failure
    return failed


def _attempt(
    arguments: Sequence[object], outputs: Sequence[Path], environment: Mapping[str, str]
) -> int:
    pids = []
    for rank, own in enumerate(_variables(len(outputs))):
        pids.append(
            copies().start(*arguments, output=outputs[rank], environment={**environment, **own})
        )
    deadline = monotonic() + _LIMIT
    codes = [_wait(pid, others=pids, deadline=deadline) for pid in pids]
    return next((code for code in codes if code), 0)


def _variables(num_ranks: int) -> list[dict[str, str]]:
    if num_ranks == 1:
        return [{}]
    (port,) = free_ports(1)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"WORLD_SIZE": str(num_ranks), "LOCAL_WORLD_SIZE": str(num_ranks)}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_ranks)]


def _wait(pid: int, *, others: Sequence[int], deadline: float) -> int:
    while (code := copies().wait(pid, seconds=0.1)) is None:
        if monotonic() > deadline:
            _end(others, signal.SIGABRT)  # which prints the stacks
        elif any(copies().wait(other, seconds=0) for other in others):
            _end(others, signal.SIGKILL)
    return code


def _end(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
