"""A long campaign of mutated files: `python tests/chaos/fuzz_campaign.py RESULTS.jsonl`.

Each batch runs in a new process, because a library may abort it, hang in native code or take all
memory. The input that did so is reported, and the next seed follows. RESULTS.jsonl gets a line for
each batch; a campaign that was ended continues after the last one.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from time import monotonic
from typing import Any

import psutil

DOORS = ("tar", "footer", "index", "config", "condition", "query")
FUZZ = Path(__file__).with_name("fuzz_doors.py")
# Of processor time on one input: twice the time after which a door raises in Python code.
HANG_SECONDS = 60
# Of real time on one input: a process that waits for ever takes no processor time.
DEADLOCK_SECONDS = 1800
POLL_SECONDS = 10
_Result = dict[str, Any]


def read_batch(door: str, *, seed: int, executions: int, folder: Path) -> _Result:
    """Read mutated inputs in a new process; return its result, or the input that ended it."""
    keep, output, started = folder / "input", folder / "output", monotonic()
    keep.unlink(missing_ok=True)
    command = [sys.executable, str(FUZZ), "--door", door, "--seed", str(seed)]
    command += ["--executions", str(executions), "--keep", str(keep)]
    with output.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            reason = _wait(process, keep)
        finally:
            process.kill()
            process.wait()
    lines = output.read_text(errors="replace").splitlines()
    if reason is None:
        result: _Result = json.loads(lines[-1])
        return result
    number, _, data = (keep.read_bytes() if keep.exists() else b"0\n").partition(b"\n")
    reason = f"{door}: {reason}; {' | '.join(lines[-3:])}"
    result = {"door": door, "seed": seed, "executions": int(number or 0)}
    result["seconds"] = round(monotonic() - started)
    return result | {"defects": [(reason[:1000], data.hex())]}


def _wait(process: "subprocess.Popen[bytes]", keep: Path) -> str | None:
    """Return what was wrong when the process ended, or None; wait while it reads new inputs."""
    current, cpu, started = None, 0.0, monotonic()
    while True:
        try:
            code = process.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            data, now = keep.read_bytes() if keep.exists() else None, _cpu_seconds(process.pid)
            if data != current:
                current, cpu, started = data, now, monotonic()
            elif now - cpu > HANG_SECONDS or monotonic() - started > DEADLOCK_SECONDS:
                return f"hangs: {now - cpu:.0f} s of processor time for one input"
            continue
        if code < 0:
            return f"ended by {signal.Signals(-code).name}"
        return f"exit code {code}" if code else None


def _cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def totals(results: Iterable[_Result]) -> dict[str, _Result]:
    """Return the sums of each door: executions, seconds, defects, the last seed, the peaks."""
    sums: dict[str, _Result] = {}
    for result in results:
        total = sums.setdefault(result["door"], {"executions": 0, "seconds": 0, "defects": 0})
        for name in ("executions", "seconds"):
            total[name] += result[name]
        total["defects"] += len(result["defects"])
        total["last_seed"] = max(result["seed"], total.get("last_seed", 0))
        total["peak_mb"] = max(result.get("peak_mb", 0), total.get("peak_mb", 0))
    return sums


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--executions", type=int, default=170_000, help="of each door, in all")
    parser.add_argument("--batch", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1, help="of the first batch of each door")
    parser.add_argument("--door", action="append", help="by default all of them")
    options = parser.parse_args()
    lines = options.results.read_text().splitlines() if options.results.exists() else []
    results = [json.loads(line) for line in lines]
    with tempfile.TemporaryDirectory() as folder, options.results.open("a") as file:
        unfinished = list(options.door or DOORS)
        while unfinished:
            door = unfinished.pop(0)
            so_far = totals(results).get(door, {"executions": 0, "last_seed": options.seed - 1})
            left = options.executions - so_far["executions"]
            if left <= 0:
                continue
            seed, executions = so_far["last_seed"] + 1, min(left, options.batch)
            result = read_batch(door, seed=seed, executions=executions, folder=Path(folder))
            results.append(result)
            file.write(json.dumps(result) + "\n")
            file.flush()
            summary = {**result, "defects": [each[0] for each in result["defects"]]}
            sys.stderr.write(f"{sum(r['executions'] for r in results)} inputs; {summary}\n")
            unfinished.append(door)
    sys.stdout.write(json.dumps(totals(results)) + "\n")


if __name__ == "__main__":
    main()
