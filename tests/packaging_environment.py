"""An environment that the wheel is installed in, and libraries that it pretends to lack."""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("attent_select", "catalogs", "trainers", "pipeline")

# Fails the import of everything that the base installation does not have.
BASE_ONLY = """
import sys


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Missing())
"""


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel, and what tests run in it."""

    folder: Path

    def run(
        self, program: str, *arguments: object, cwd: Path, path: Sequence[Path] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run `bin/PROGRAM` in `cwd`, with `path` as PYTHONPATH."""
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        if path:
            environment["PYTHONPATH"] = os.pathsep.join(map(str, path))
        return subprocess.run(
            [self.folder / "bin" / program, *map(str, arguments)],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def site_packages(self) -> Path:
        """Where the wheel's packages are."""
        return Path(sysconfig.get_path("purelib", vars={"base": str(self.folder)}))


def pip(*arguments: object) -> None:
    """Run pip without an index: nothing is downloaded."""
    command = [sys.executable, "-m", "pip", *map(str, arguments), "--no-index", "--no-deps"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
