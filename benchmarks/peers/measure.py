"""Stream one corpus with one method in this process and print the costs as JSON.

Started by benchmarks/streaming.py with the interpreter of the method's environment:

    python measure.py REQUEST.json      # keep in step with `Request`
    python measure.py --write …         # a peer's own format: see `others.write`
"""

import importlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Request:
    """`url` holds the corpus in the formats of all methods; `index` is an npz with `ids`, the
    ordinals of the selected samples in the corpus, ascending. Streams for `seconds` at most
    after the first batch.
    """

    method: str
    module: str
    kind: str
    url: str
    index: str
    shard_samples: int
    batch_size: int
    seconds: float
    cache: str
    cpus: list[int]


def peak_rss_bytes() -> int:
    """Peak memory of this program; `ru_maxrss` would include that of the parent process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def io_counts() -> tuple[int, int]:
    """Bytes and calls of `read` so far, without memory-mapped reads."""
    lines = Path("/proc/self/io").read_text().splitlines()
    values = {name: int(value) for name, _, value in (line.partition(": ") for line in lines)}
    return values["rchar"], values["syscr"]


def cpu_seconds() -> float:
    """CPU seconds of this process and of its finished child processes."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measure(request: Request) -> dict[str, Any]:
    os.sched_setaffinity(0, request.cpus)
    import torch

    torch.set_num_threads(1)
    sys.path.insert(0, str(HERE))
    method = importlib.import_module(request.module)
    method.load(request.method)  # imports are not counted
    bytes_before, calls_before = io_counts()
    rss_before = peak_rss_bytes()
    digest, count, first, is_complete = 0, 0, 0.0, True
    started, cpu = time.perf_counter(), cpu_seconds()
    for arrays, labels in method.stream(request):
        count += len(labels)
        digest += int(arrays.sum(dtype=torch.int64)) + int(labels.sum())
        now = time.perf_counter()
        first = first or now - started
        if now - started > first + request.seconds:
            is_complete = False
            break
    seconds, cpu = time.perf_counter() - started, cpu_seconds() - cpu
    bytes_after, calls_after = io_counts()
    return {
        "samples": count,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "first_batch_seconds": first,
        "file_bytes": bytes_after - bytes_before,
        "file_reads": calls_after - calls_before,
        "rss_bytes": peak_rss_bytes(),
        "rss_before_bytes": rss_before,
        "is_complete": is_complete,
        "digest": digest,
        **method.extra(),
    }


def main() -> None:
    if sys.argv[1] == "--write":
        sys.path.insert(0, str(HERE))
        importlib.import_module("others").write(*sys.argv[2:])
        return
    request = Request(**json.loads(Path(sys.argv[1]).read_text()))
    print(json.dumps(measure(request)))
    sys.stdout.flush()
    os._exit(0)  # some peers leave waiting threads behind


if __name__ == "__main__":
    main()
