"""Paths of models and tokenizers: local folders, or names on the hub."""

from pathlib import Path

from attent_select.errors import MissingError


def check_folder(path: str | Path, *, what: str) -> None:
    """Check that a path exists if it can only be a local folder: other ones are names on the hub.

    Raises:
        MissingError: it does not exist. transformers would ask the hub for it, several times.
    """
    if is_local(path) and not Path(path).expanduser().exists():
        raise MissingError(
            f"{what} is {path}: there is no such folder. Expected a folder, or a name on the hub "
            "(owner/name)"
        )


def is_local(path: str | Path) -> bool:
    """Whether a path is a folder, or can only be one: a name on the hub has at most one slash and
    does not begin in an existing folder.
    """
    path = str(path)
    first, *others = path.split("/")
    return (
        Path(path).exists()
        or first in ("", ".", "..", "~")
        or "\\" in path
        or len(others) > 1
        or (bool(others) and Path(first).is_dir())
    )
