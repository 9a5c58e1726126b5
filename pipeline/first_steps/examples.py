"""The examples of configurations that come with the project, and the schema beside them."""

import sysconfig
from pathlib import Path

from attent_select.errors import ExistsError, InputError, MissingError
from pipeline.config.validation import did_you_mean

SCHEMA_FILE = "attent.schema.json"
# Editors with a language server for YAML read the schema that is named here.
SCHEMA_LINE = f"# yaml-language-server: $schema={SCHEMA_FILE}"


def example_names() -> dict[str, str]:
    """Return the examples, each with the sentence that it begins with."""
    return {path.stem: _first_sentence(path) for path in sorted(examples_folder().glob("*.yaml"))}


def write_example(name: str, *, folder: Path) -> Path:
    """Write an example to a folder, and the schema beside it; return its path.

    Raises:
        InputError: there is no such example.
        ExistsError: the file exists.
    """
    if name not in (known := example_names()):
        raise InputError(f"no example is called {name!r}: {did_you_mean(name, list(known))}")
    text = (examples_folder() / f"{name}.yaml").read_text(encoding="utf-8")
    return write_config(text, folder / f"{name}.yaml")


def write_config(text: str, path: Path) -> Path:
    """Write a configuration, and the schema beside it; return its path.

    Raises:
        ExistsError: the file exists.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise _exists(path) from error
    path.with_name(SCHEMA_FILE).write_text(stored_schema(), encoding="utf-8")
    return path


def refuse_existing(path: Path) -> None:
    """Raise `ExistsError` where a configuration would be overwritten."""
    if path.exists():
        raise _exists(path)


def _exists(path: Path) -> ExistsError:
    return ExistsError(f"{path} exists: move it away, or name another file")


def stored_schema() -> str:
    """Return the JSON schema of configurations, as it is stored beside the examples."""
    return (examples_folder() / SCHEMA_FILE).read_text(encoding="utf-8")


def examples_folder() -> Path:
    """Return the folder of the examples: of a checkout, or of the installed package."""
    installed = Path(sysconfig.get_path("data")) / "share" / "attent-select" / "examples"
    for folder in (Path(__file__).parents[2] / "examples", installed):
        if (folder / SCHEMA_FILE).is_file():
            return folder
    raise MissingError(f"the examples are missing in {installed}: install attent-select again")


def _first_sentence(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.removeprefix("#").strip() for line in lines if line.startswith("# "))
    comment = comment.removeprefix(SCHEMA_LINE.removeprefix("# ")).strip()
    return comment.partition(". ")[0].rstrip(".") + "."
