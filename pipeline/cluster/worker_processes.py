"""How processes of local workers begin: as copies of one that has imported what they need.

Imports take a worker seconds, and half of its memory, which copies share.
"""

import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path
from typing import Final

import dask
from distributed.utils import get_mp_context

_METHOD: Final = "distributed.worker.multiprocessing-method"
_COPIES: Final = "forkserver"
_SAFE_PATH: Final = "PYTHONSAFEPATH"
_IS_LINUX: Final = sys.platform == "linux"
# A library that has looked for accelerators on import cannot use them in a copy.
_ACCELERATORS: Final = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
# What a worker imports where its driver has imported the key, or a module of that package.
_IMPORTS: Final[Mapping[str, tuple[str, ...]]] = {
    "pipeline.scoring.driver": ("pipeline.scoring.worker",),
    "pipeline.annotation.make": ("pipeline.annotation.span_work",),
    "trainers.tasks": ("trainers.hf.models", "transformers.modeling_utils"),
}


def dask_config() -> dict[str, str]:
    """Return Dask's configuration for workers that start as copies, where that is safe.

    A method other than Dask's default, in its own configuration, is kept.
    """
    has_accelerator = any(Path(path).exists() for path in _ACCELERATORS)
    is_default = dask.config.get(_METHOD) == "spawn"
    return {_METHOD: _COPIES} if _IS_LINUX and is_default and not has_accelerator else {}


def environment() -> dict[str, str]:
    """Name the imports for the process to copy; return the variables of new workers."""
    if dask.config.get(_METHOD) != _COPIES:
        return {}
    # Dask names its imports here, once: ours replace them.
    get_mp_context()  # type: ignore[no-untyped-call]
    imported = {*sys.modules, *(name.rpartition(".")[0] for name in sys.modules)}
    names = [each for name in _IMPORTS if name in imported for each in _IMPORTS[name]]
    multiprocessing.set_forkserver_preload(["distributed", *names])
    with _no_other_path():
        forkserver.ensure_running()
    # The process to copy may be older than the variables of this one.
    return dict(os.environ)


@contextmanager
def _no_other_path() -> Iterator[None]:
    """Keep the current folder off the path of the process to copy, unless it is on ours.

    Python 3.11 and 3.12 put it there first: in a checkout, that process would import packages
    which its copies, whose path is ours, do not have.
    """
    if _SAFE_PATH in os.environ or _is_current_folder_on_path():
        yield
        return
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        del os.environ[_SAFE_PATH]


def _is_current_folder_on_path() -> bool:
    try:
        return "" in sys.path or str(Path.cwd()) in sys.path
    except FileNotFoundError:  # it was deleted
        return False
