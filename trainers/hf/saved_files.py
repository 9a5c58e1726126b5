"""Files of a saved model or tokenizer: in a folder, at a URL, or under a name on the hub."""

import fnmatch
import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from attent_select.errors import InputError
from catalogs import storage
from trainers.hf.paths import check_folder, is_local

MODEL_FILES: Final = ("config.json", "*.safetensors")
PREPROCESSING_FILES: Final = (
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "*processor_config.json",
)


@contextmanager
def local_files(path: str, *, what: str) -> Iterator[Path]:
    """Yield a local folder with what is saved at `path`; a temporary copy of remote files.

    Raises:
        MissingError: there is no such folder.
        InputError: the hub has no such name.
    """
    if "://" in path and not storage.is_local(path):
        with tempfile.TemporaryDirectory(prefix="attent-model-") as folder:
            storage.download_folder(path, Path(folder))
            yield Path(folder)
    elif "://" in path or is_local(path):
        local = storage.normalise(path)
        check_folder(local, what=what)
        yield Path(local)
    else:
        yield _from_hub(path, what=what)


def files_digest(folder: Path, patterns: tuple[str, ...]) -> str:
    """Hash names and contents of the files in `folder` that match one of `patterns`."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if any(fnmatch.fnmatch(file.name, pattern) for pattern in patterns):
            with file.open("rb") as content:
                own = hashlib.file_digest(content, "sha256").hexdigest()
            digest.update(f"{file.name} {own}\n".encode())
    return digest.hexdigest()[:32]


def _from_hub(name: str, *, what: str) -> Path:
    patterns = [*MODEL_FILES, *PREPROCESSING_FILES, "*.model", "*.txt", "*.index.json"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{what} is {name}: it is not a folder, and the hub has no such name ({reason})"
        ) from error
