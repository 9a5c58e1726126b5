"""Checkpoints: folders that count only once their marker exists.

The marker `checkpoint.json` names every file with its size, and the digest of the weights. It is
published last. Files without a marker, left by an interrupted upload, are ignored.
"""

import functools
import hashlib
import platform
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from attent_select.errors import InputError, StorageError
from catalogs import checked_json, storage
from catalogs.layout import join

if TYPE_CHECKING:
    import torch

    from trainers.task import Models

MARKER = "checkpoint.json"
_LIBRARIES = ("torch", "transformers", "peft", "safetensors")


class DamagedError(InputError, StorageError):
    """A checkpoint's files differ from what its marker says."""

    __str__ = Exception.__str__


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint.

    `step` is the number of optimizer steps that the weights were trained for; `stream` is the
    stream's state; `progress` is what the round had measured so far; `result` is set when the round
    was finished. `files` has the size of each file, `digests` a hash of its bytes.
    `reference_digest` is of the weights of the reference that tokens were selected by.
    """

    url: str
    step: int
    weights_digest: str
    files: dict[str, int]
    stream: dict[str, Any] | None = None
    progress: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] | None = None
    versions: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    reference_digest: str | None = None

    @contextmanager
    def local(self, *, with_state: bool = False) -> Iterator[Path]:
        """Yield a local folder with the files: the checkpoint itself, or a temporary copy.

        Every file is compared with its digest, except weights, which `load` checks, and, unless
        `with_state`, the state of the optimizer.

        Raises:
            DamagedError: a file is not what was saved.
        """
        names = [
            name
            for name in self.digests
            if not _is_weights(name) and (with_state or "optimizer" not in name)
        ]
        if storage.is_local(self.url):
            self._check_files(Path(storage.normalise(self.url)), names)
            yield Path(storage.normalise(self.url))
            return
        with tempfile.TemporaryDirectory(prefix="attent-checkpoint-") as folder:
            storage.download_files(self.url, self.files, to=Path(folder))
            self._check_files(Path(folder), names)
            yield Path(folder)

    def _check_files(self, folder: Path, names: Iterable[str]) -> None:
        for name in names:
            if _file_digest(folder / name) != self.digests[name]:
                raise DamagedError(
                    f"checkpoint {self.url} is damaged: {name} is not what was saved. Restore it, "
                    "or delete the folder and run again"
                )

    def load(self, models: "Models", *, folder: Path | None = None) -> "torch.nn.Module":
        """Return the model, checked against the digest that was taken when it was saved.

        `folder` is what `local` yielded, for callers who need the files anyway.

        Raises:
            InputError: the weights do not fit the model, or are not the ones that were saved.
        """
        with self.local() if folder is None else nullcontext(folder) as files:
            try:
                model = models.load(files)
            except Exception:
                # Libraries raise anything for damaged weights: say so if the bytes differ.
                self._check_files(files, [name for name in self.digests if _is_weights(name)])
                raise
        digest = digest_of(model, models)
        if digest != self.weights_digest:
            raise InputError(
                f"the weights loaded from {self.url} have digest {digest}, those saved had "
                f"{self.weights_digest}: the files have changed, or this version of transformers "
                f"reads them differently (saved with {self.versions})"
            )
        return model


def open(url: str) -> Checkpoint | None:  # noqa: A001  (read as `checkpoint.open`)
    """Return the checkpoint at `url`; None without a marker.

    Raises:
        DamagedError: a file that the marker names is missing or has another size.
    """
    marker = join(url, MARKER)
    if storage.info(marker) is None:
        return None
    checkpoint = _parse_marker(storage.read(marker), marker=marker, url=url)
    sizes = {item.url: item.num_bytes for item in storage.list_objects(url)}
    base = storage.normalise(url)
    for name, num_bytes in checkpoint.files.items():
        size = sizes.get(join(base, name))
        if size is None and (stored := storage.info(join(base, name))) is not None:
            size = stored.num_bytes  # some stores list a new object late
        if size != num_bytes:
            raise DamagedError(
                f"checkpoint {url} is damaged: {name} has {size} bytes, expected {num_bytes}. "
                "Delete the folder and run again"
            )
    return checkpoint


def _parse_marker(data: bytes, *, marker: str, url: str) -> Checkpoint:
    try:
        content = checked_json.load(data, url=marker)
        return _adapter().validate_python({**content, "url": url})
    except InputError as error:
        raise DamagedError(f"{error}; or delete {url} and run again") from error
    except ValidationError as error:
        keys = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
        raise DamagedError(
            f"{marker} is not the marker of a checkpoint: {keys} missing or wrong. Restore it, or "
            f"delete {url} and run again"
        ) from error


@functools.cache
def _adapter() -> TypeAdapter[Checkpoint]:
    """Return the validator, which takes as long to make as a marker to read."""
    return TypeAdapter(Checkpoint)


def newest(url: str) -> Checkpoint | None:
    """Return the checkpoint `step-<n>` under `url` with the largest n, except damaged ones."""
    for step in sorted(_steps(url), reverse=True):
        try:
            checkpoint = open(join(url, f"step-{step}"))
        except DamagedError as error:
            warnings.warn(f"{error}. Resuming from an older one", stacklevel=2)
            continue
        if checkpoint is not None:
            return checkpoint
    return None


def publish(
    folder: Path,
    *,
    url: str,
    step: int,
    weights_digest: str,
    stream: dict[str, Any] | None = None,
    progress: dict[str, Any] | None = None,
    result: dict[str, Any] | None = None,
    reference_digest: str | None = None,
) -> Checkpoint:
    """Copy a local folder to `url`, then its marker; remove files of an earlier attempt first."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MARKER]
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
    storage.delete(join(url, MARKER))
    published = {join(storage.normalise(url), name) for name in files}
    steps = join(storage.normalise(url), "step-")
    existing = [item.url for item in storage.list_objects(url) if not item.url.startswith(steps)]
    storage.delete_all(item for item in existing if item not in published)
    for name in files:
        storage.publish(join(url, name), folder / name)
    saved = Checkpoint(
        url=url,
        step=step,
        weights_digest=weights_digest,
        files=files,
        stream=stream,
        progress=progress or {},
        result=result,
        digests={name: _file_digest(folder / name) for name in files},
        versions=_versions(),
        reference_digest=reference_digest,
    )
    _publish_marker(saved)
    return saved


@functools.cache
def _versions() -> dict[str, str]:
    """Return what is installed: reading it takes as long as saving a small model."""
    return {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}}


def _is_weights(name: str) -> bool:
    """Whether a file is checked by the digest of the tensors that are loaded from it."""
    return name.endswith(".safetensors")


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def record(checkpoint: Checkpoint, *, result: dict[str, Any]) -> None:
    """Replace the result of a published checkpoint; its files stay."""
    _publish_marker(replace(checkpoint, result=result))


def _publish_marker(checkpoint: Checkpoint) -> None:
    content = {name: value for name, value in asdict(checkpoint).items() if name != "url"}
    storage.publish(join(checkpoint.url, MARKER), checked_json.dump(content))


def discard(url: str) -> None:
    """Remove a checkpoint: its marker first, so that an incomplete one never counts."""
    storage.delete(join(url, MARKER))
    storage.delete_folder(url)


def discard_steps(url: str, *, before: int | None = None) -> None:
    """Remove every `step-<n>` under `url` (n below `before`), with or without a marker."""
    for step in sorted(_steps(url)):
        if before is None or step < before:
            discard(join(url, f"step-{step}"))


def _steps(url: str) -> set[int]:
    """Return every n of `step-<n>` under `url`."""
    base = storage.normalise(url)
    names = (item.url.removeprefix(base).lstrip("/") for item in storage.list_objects(url))
    matches = (re.match(r"step-(\d+)/", name) for name in names)
    return {int(match[1]) for match in matches if match}


def save_initial(models: "Models", *, seed: int, url: str) -> Checkpoint:
    """Publish a new model as the checkpoint of step 0; keep an existing one."""
    if (existing := open(url)) is not None:
        return existing
    model = models.build(seed)
    with tempfile.TemporaryDirectory(prefix="attent-checkpoint-") as folder:
        models.save(model, Path(folder))
        return publish(Path(folder), url=url, step=0, weights_digest=digest_of(model, models))


def digest_of(model: "torch.nn.Module", models: "Models") -> str:
    """Return the digest of a model's weights: the store's own, else that of all tensors."""
    if hasattr(models, "digest"):
        return str(models.digest(model))
    return weights_digest(model)


def weights_digest(model: "torch.nn.Module") -> str:
    """Hash names, dtypes, shapes and bits of every parameter and persistent buffer."""
    return tensors_digest(model.state_dict())


def tensors_digest(weights: Mapping[str, "torch.Tensor"]) -> str:
    """Hash names, dtypes, shapes and bits of tensors."""
    import torch

    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
