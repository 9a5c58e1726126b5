"""Files, modules, commands and options that a docstring, a comment or a page names exist."""

import ast
import importlib
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from pipeline.cli.app import app

ROOT = Path(__file__).parent.parent
PACKAGES = ("attent_select", "catalogs", "trainers", "pipeline")
CODE = (*PACKAGES, "benchmarks", "examples", "tests")
SOURCES = sorted(path for folder in CODE for path in (ROOT / folder).rglob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
OTHERS = [ROOT / "Makefile", ROOT / "pyproject.toml", *sorted((ROOT / "examples").glob("*.yaml"))]

# What the reader of a page writes.
READERS_FILES = {
    "docs/own_task.md": {"reviews.py", "test_reviews.py", "corpus.py"},
    "docs/extending.md": {"seldom.py", "test_seldom.py"},
    "docs/clashes.md": {"pipeline.py", "your_script.py"},
}
FILE = re.compile(r"(?<![\w/.<>-])((?:[\w-]+/)*[\w-]+\.py)\b")
FOLDER = re.compile(rf"(?<![\w/.])((?:{'|'.join(CODE)}|docs)/(?:[\w.-]+/?)*+)(?![<*{{])")
MODULE = re.compile(rf"\b((?:{'|'.join(PACKAGES)})(?:\.[A-Za-z_]\w*)++)(?![\w/*-])")
COMMAND = re.compile(
    r"(?:`|^\$ (?:.* )?|^ {2,}|^# {2,})attent ([a-z][a-z-]*)([^`\n]*)", re.MULTILINE
)
TARGET = re.compile(r"(?:`|^\$ )make ([a-z]+(?:-[a-z]+)*)\b", re.MULTILINE)


@cache
def files() -> frozenset[str]:
    """Every source file of the project, and each of its path's endings."""
    paths = [path.relative_to(ROOT).parts for path in SOURCES]
    return frozenset("/".join(parts[start:]) for parts in paths for start in range(len(parts)))


@cache
def commands() -> dict[str, set[str]]:
    """Each command of `attent` with its options."""
    root: Any = typer.main.get_command(app)
    return {
        name: {"--help", *(option for param in command.params for option in param.opts)}
        for name, command in root.commands.items()
    }


@cache
def is_importable(name: str) -> bool:
    """Whether `name` is a module of ours, or something in one: `package.module.Class.method`."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            if not hasattr(value, attribute):
                return False
            value = getattr(value, attribute)
        return True
    return False


def text_of(path: Path) -> str:
    """The comments and the strings of several words of a module; of any other file, all of it."""
    source = path.read_text()
    text = "\n".join(_strings(source)) if path.suffix == ".py" else source
    return text.replace("\\\n", " ")


def _strings(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def _imports(text: str) -> Iterator[str]:
    """What the Python code on a page imports of our packages."""
    for code in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in PACKAGES:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def dead_pointers(text: str, *, allowed: frozenset[str] = frozenset()) -> list[str]:
    """What `text` names and the project does not have."""
    makefile = (ROOT / "Makefile").read_text()
    dead = [name for name in FILE.findall(text) if name not in files()]
    dead += [name for name in FOLDER.findall(text) if not (ROOT / name.rstrip(".")).exists()]
    dotted = (*MODULE.findall(text), *_imports(text))
    dead += [name for name in dotted if not is_importable(name)]
    dead += [f"make {name}" for name in TARGET.findall(text) if f"\n{name}:" not in makefile]
    for name, arguments in COMMAND.findall(text):
        options = re.findall(r"(?<!\S)--[a-z-]+", arguments.partition("  #")[0])
        known = commands().get(name, set())
        dead += [f"attent {name}"] if name not in commands() else []
        dead += [f"attent {name} {option}" for option in options if option not in known]
    return sorted({*dead} - allowed)


@pytest.mark.parametrize(
    "path",
    [path for path in (*SOURCES, *PAGES, *OTHERS) if path != Path(__file__)],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_what_a_file_points_at_exists(path: Path) -> None:
    allowed = READERS_FILES.get(str(path.relative_to(ROOT)), set())
    assert dead_pointers(text_of(path), allowed=frozenset(allowed)) == []


@pytest.mark.parametrize(
    ("text", "dead"),
    [
        ("see `catalogs/storage.py`", "catalogs/storage.py"),
        ("(`nowhere.py`)", "nowhere.py"),
        ("the files of trainers/nothing/", "trainers/nothing/"),
        ("`pipeline.stages.scores`", "pipeline.stages.scores"),
        ("`attent choose RUN`", "attent choose"),
        ("$ attent select RUN --shares 0.1", "attent select --shares"),
        ("`make everything`", "make everything"),
        ("```python\nfrom catalogs import Nothing\n```", "catalogs.Nothing"),
    ],
)
def test_a_wrong_pointer_is_found(text: str, dead: str) -> None:
    assert dead in dead_pointers(text)


def test_pointers_at_what_exists_pass() -> None:
    text = """`catalogs/layout.py`, `layout.py`, catalogs/storage/, `trainers.fit`, `make test`,
    `attent select LOSSES --ratio R`, `catalogs/formats/<name>.py`"""
    assert dead_pointers(text) == []
