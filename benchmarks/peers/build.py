"""Create an environment for each peer of benchmarks/streaming.py, with pinned versions.

    python benchmarks/peers/build.py FOLDER [PEER ...]

Creates `FOLDER/<peer>` for each `<peer>.txt` beside this file. A peer that cannot be installed
leaves `FOLDER/<peer>.failed`, which the benchmark reports. torch comes from the index that pip
uses; the smaller build for CPUs is enough.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def build(requirements: Path, folder: Path) -> str | None:
    """Create the environment `folder`; return the error message, if any."""
    steps = [
        [sys.executable, "-m", "venv", str(folder)],
        [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "-r", str(requirements)],
    ]
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            return "\n".join(errors) or done.stderr[-1000:]
    return None


def main() -> None:
    folder, *peers = map(Path, sys.argv[1:])
    for requirements in sorted(HERE.glob("*.txt")):
        if peers and Path(requirements.stem) not in peers:
            continue
        failed = folder / f"{requirements.stem}.failed"
        failed.unlink(missing_ok=True)
        print(f"{requirements.stem} …", flush=True)
        if (problem := build(requirements, folder / requirements.stem)) is not None:
            failed.write_text(problem)
            print(f"{requirements.stem}: {problem}")


if __name__ == "__main__":
    main()
