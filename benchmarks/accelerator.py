"""What an accelerator does with this project: one command, a few minutes, resumable by part.

Every part runs in a separate process, on generated data and models with random weights, and
imports only what it needs: without a library it reports `skipped: NAME is missing`. A part with a
result is not run again. Writes JSON and a table.

    python benchmarks/accelerator.py                     # 8 minutes at most
    python benchmarks/accelerator.py --toy --out /tmp/x  # seconds, on a CPU: a test of the script
    python benchmarks/accelerator.py --only scoring_vit,packing --again
"""

import argparse
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

# Part → module and function, in the order of their importance: the time may run out.
PARTS = {
    "scoring_vit": ("scoring", "vit"),
    "scoring_llama": ("scoring", "llama"),
    "out_of_memory": ("scoring", "out_of_memory"),
    "packing": ("training", "packing"),
    "attention": ("training", "attention"),
    "adapters": ("training", "adapters"),
    "decoding": ("training", "decoding"),
    "copies": ("training", "copies"),
    "compilation": ("scoring", "compilation"),
    "two_workers": ("scoring", "two_workers"),
    "beside_selection": ("scoring", "beside_selection"),
}
# Seconds of a part, and of all.
PART_SECONDS = 100
ALL_SECONDS = 8 * 60


def run_one(name: str, *, toy: bool) -> dict[str, Any]:
    """Run a part in this process."""
    module, function = PARTS[name]
    try:
        from accelerator_parts.workloads import Size

        part: Callable[[Any], dict[str, Any]] = getattr(
            importlib.import_module(f"accelerator_parts.{module}"), function
        )
        return part(Size(is_toy=toy))
    except ModuleNotFoundError as error:
        return {"skipped": f"{error.name} is missing"}


def measure(name: str, *, toy: bool, seconds: float) -> dict[str, Any]:
    """Run a part in a process; an error or too little time is a result, too."""
    command = [sys.executable, __file__, "--one", name, *(["--toy"] if toy else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"did not end within {seconds:.0f} s"}
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1:] or [f"exit {done.returncode}"]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def describe_hardware() -> dict[str, Any]:
    import machine

    try:
        import torch
    except ModuleNotFoundError:
        return machine.describe()
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return machine.describe() | {"accelerator": accelerator, "torch": torch.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS), help="comma-separated parts")
    parser.add_argument("--out", type=Path, default=HERE / "results/accelerator")
    parser.add_argument("--toy", action="store_true", help="smallest sizes, as for a test")
    parser.add_argument("--again", action="store_true", help="measure parts with a result again")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_one(options.one, toy=options.toy)))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "machine.json").write_text(json.dumps(describe_hardware(), indent=1) + "\n")
    ends = time.monotonic() + ALL_SECONDS
    for name in options.only.split(","):
        path = options.out / f"{name}.json"
        if not path.exists() or options.again:
            left = ends - time.monotonic()
            if left < 1:
                print(f"{name:18} no time left: run the command again", flush=True)
                continue
            result = measure(name, toy=options.toy, seconds=min(PART_SECONDS, left))
            path.write_text(json.dumps(result, indent=1) + "\n")
        print(f"{name:18} {path.read_text().strip()}", flush=True)


if __name__ == "__main__":
    main()
