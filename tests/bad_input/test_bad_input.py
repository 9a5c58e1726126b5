"""A mistake of the user ends with exit code 2 and one line that names it, and leaves nothing."""

import contextlib
import io
import os
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml
from bad_input.commands_table import ROWS, Change
from bad_input.configurations import VALUES
from digits import samples, write_corpus
from scored_runs import scored_run
from small_runs import small_run

import pipeline.cli
from catalogs import Corpus, storage
from catalogs.shards import inspect_shard
from pipeline.selection.choice import Budget
from pipeline.selection.select_command import select_losses
from pipeline.selection.selection_options import SelectionOptions

BOMB = "\n".join(
    ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    + [
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ]
)
FILES: dict[str, bytes] = {
    "text.txt": b"text",
    "bad/text.parquet": b"this is a text and no Parquet file",
    "bad/empty.parquet": b"",
    "bad/broken.jsonl": b'{"a": 1}\n{"a": \n',
    "bad/list.jsonl": b"[1]\n",
    "bad/deep.jsonl": b"[" * 100_000 + b"\n",
    "bad/empty.jsonl": b"\n",
    "bad/mixed.jsonl": b'{"a": 1}\n{"a": "x"}\n',
    "text.yaml": b"text",
    "empty.yaml": b"",
    "list.yaml": b"[1, 2]",
    "tabs.yaml": b"a:\n\t- 1",
    "binary.yaml": b"\x00\xff\xfe",
    "tag.yaml": b"!!python/object/apply:os.getcwd []",
    "loop.yaml": b"a: &a [*a]",
    "bomb.yaml": BOMB.encode(),
    "deep.yaml": b"a: " + b"[" * 2000,
    "keys.yaml": b"? [1]\n: 2",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inputs: a run with losses, an index, a corpus, a configuration, and bad files."""
    folder = tmp_path_factory.mktemp("world")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    write_corpus(folder / "parquet", samples(40), num_shards=1)
    write_corpus(folder / "shards", samples(8), num_shards=1)
    (stored,) = storage.expand([str(folder / "shards")])
    Path(stored.url).rename(folder / "shards" / "000.parquet")
    (stored,) = storage.expand([str(folder / "shards")])
    inspected = [(stored, "parquet", inspect_shard(stored.url, "parquet"))]
    Corpus.from_inspections(inspected).publish(str(folder / "corpus"))
    run = scored_run(folder / "run", [[float(row) for row in range(30)]] * 2)
    select_losses(
        run, out=str(folder / "index.parquet"), budget=Budget(20), options=SelectionOptions("hard")
    )
    values = small_run(folder / "new", folder)
    del values["evaluation"]
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@contextlib.contextmanager
def changed(world: Path, change: Change) -> object:
    """The world with some files changed."""
    before: Change = {}
    for name, content in change.items():
        path = world / name
        before[name] = path.read_bytes() if path.exists() else None
        _write(path, content)
    try:
        yield
    finally:
        for name, content in before.items():
            _write(world / name, content)


def _write(path: Path, content: bytes | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(content)


def attent(*arguments: str) -> tuple[int, str]:
    """Exit code and stderr of a command in this process."""
    stderr = io.StringIO()
    # It decides on colours by variables.
    with (
        patch.dict(os.environ),
        patch.object(sys, "argv", ["attent", *arguments]),
        contextlib.redirect_stderr(stderr),
        contextlib.redirect_stdout(io.StringIO()),
        pytest.raises(SystemExit) as ended,
    ):
        pipeline.cli.main()
    return int(ended.value.code or 0), stderr.getvalue()


def check(world: Path, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    filled = [
        argument.format(world=world) if "{world}" in argument else argument
        for argument in arguments
    ]
    before = contents(world)
    code, stderr = attent(*filled)
    lines = [line for line in stderr.splitlines() if not line.startswith("Failed to load CPU gemm")]
    assert code == 2, stderr
    assert len(lines) == 1, stderr
    assert lines[0].startswith("attent: "), stderr
    assert all(word in lines[0] for word in words), stderr
    assert contents(world) == before


def _id(arguments: tuple[str, ...]) -> str:
    return " ".join(arguments)[:60]


@pytest.mark.parametrize(
    ("arguments", "change", "words"),
    ROWS,
    ids=lambda value: _id(value) if isinstance(value, tuple) else "",
)
def test_a_command(
    world: Path, arguments: tuple[str, ...], change: Change, words: tuple[str, ...]
) -> None:
    with changed(world, change):
        check(world, arguments, words)


@pytest.mark.parametrize(
    ("key", "value", "words"), VALUES, ids=[f"{key}={value}" for key, value, _ in VALUES]
)
def test_a_configuration(world: Path, key: str, value: str, words: tuple[str, ...]) -> None:
    written = value.replace("{world}", str(world)).replace("{{", "{").replace("}}", "}")
    check(world, ("run", "{world}/config.yaml", "--set", f"{key}={written}"), words)
