"""Check that workers can do the driver's work: the same versions, the same storage.

The driver compares every worker with itself before it submits tasks. A worker that joins later
compares itself (`check_here`), as the driver does not see it join.
"""

import functools
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from attent_select import siblings
from attent_select.errors import AttentError, ClashError, ClusterError, InputError
from attent_select.schema import SCHEMA_VERSION
from catalogs import storage
from pipeline.cluster import Client, on_every_worker

# Packages that losses, files, or messages between processes depend on.
PACKAGES = (
    "attent-select",
    "bitsandbytes",
    "dask",
    "distributed",
    "numpy",
    "peft",
    "pillow",
    "polars",
    "pyarrow",
    "simplejpeg",
    "tokenizers",
    "torch",
    "transformers",
)
_NEXT = "install the same versions there (constraints.txt), then run the command again"


@functools.cache
def environment() -> Mapping[str, str]:
    """Return the versions in this process that must be the same in all processes."""
    versions = {"python": ".".join(platform.python_version_tuple()[:2])}
    versions |= {name: _version(name) for name in PACKAGES}
    return versions | {"schema": str(SCHEMA_VERSION)}


def check_here(expected: Mapping[str, str]) -> None:
    """Check that this process has the versions of the driver.

    Raises:
        ClusterError: it has others.
    """
    if differ := differences(environment(), expected):
        raise ClusterError(f"a worker on {platform.node()} has {'; '.join(differ)}: {_NEXT}")


def check_workers(client: Client, *, objects: Mapping[str, str], needs_gpu: bool) -> None:
    """Compare every worker with this process, and let it look up `objects` (URL → etag).

    Raises:
        InputError: a worker differs; the message names each difference.
    """
    # First by a function that imports none of the packages that others may hide.
    clashes = on_every_worker(client, siblings.clashes)
    lines = _lines(clashes, _clash_problems)
    if not lines:
        answers = on_every_worker(client, look, list(objects), needs_gpu)
        lines = _lines(answers, lambda answer: _problems(answer, objects, needs_gpu=needs_gpu))
    if lines:
        more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
        raise InputError(f"{'; '.join(lines[:5])}{more}")


def look(urls: Sequence[str], needs_gpu: bool) -> dict[str, Any]:  # noqa: FBT001
    """Return what a worker reports about itself, in plain values."""
    return {
        "versions": dict(environment()),
        "storage": {url: _etag(url) for url in urls},
        "gpus": _num_gpus() if needs_gpu else 0,
    }


def differences(versions: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    """Return `name version, the driver has expected` for each version that differs."""
    return [
        f"{name} {versions.get(name, 'none')}, the driver has {version}"
        for name, version in expected.items()
        if versions.get(name, "none") != version
    ]


def _lines(answers: Mapping[str, Any], problems: Callable[[Any], Iterable[str]]) -> list[str]:
    """Return a line per problem. A worker that ended instead of answering has none."""
    from distributed.comm.core import CommClosedError

    return [
        f"worker {address}: {problem}"
        for address, answer in answers.items()
        if not isinstance(answer, CommClosedError)
        for problem in problems(answer)
    ]


def _clash_problems(answer: Any) -> Iterable[str]:
    return [_cannot_run(answer)] if isinstance(answer, Exception) else answer


def _cannot_run(error: Exception) -> str:
    if isinstance(error, ClashError):
        return str(error)
    message = " ".join(f"{type(error).__name__}: {error}".split())
    return f"cannot run this version of attent-select ({message}): {_NEXT}"


def _problems(answer: Any, objects: Mapping[str, str], *, needs_gpu: bool) -> Iterator[str]:
    if isinstance(answer, Exception):
        yield _cannot_run(answer)
        return
    if differ := differences(answer["versions"], environment()):
        yield f"has {', '.join(differ)}: {_NEXT}"
    for url, etag in answer["storage"].items():
        if etag is None or etag.startswith("!"):
            why = "it was not found" if etag is None else etag.removeprefix("!")
            hint = (
                "local paths need workers on this machine or a shared file system"
                if storage.is_local(url)
                else "give it the credentials and the endpoint that this process has"
            )
            yield f"cannot read {url} ({why}): {hint}"
        elif etag != objects[url]:
            yield f"sees another object at {url} (etag {etag}, expected {objects[url]})"
    if needs_gpu and not answer["gpus"]:
        yield "offers a GPU, but torch there sees none: check its driver and its torch"


def _etag(url: str) -> str | None:
    """Return the object's etag, None without an object, or `!` and the error."""
    try:
        info = storage.info(url)
    except AttentError as error:
        return f"!{error}"
    return None if info is None else info.etag


def _num_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
