"""A raw text pool from the files of this machine's packages: prose hidden among the rest.

Prose are paragraphs of docstrings that read like sentences. The rest is documentation, sources,
data files, and message catalogues in many languages, which additive smoothing would select.
"""

import inspect
import itertools
import random
import re
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

Item = TypeVar("Item")

PROSE: Final = "prose"
_PURELIB: Final = Path(sysconfig.get_paths()["purelib"])
_STDLIB: Final = Path(sysconfig.get_paths()["stdlib"])
_SHARE: Final = Path("/usr/share")
_PIECE: Final = 1200
_PIECES_OF_A_FILE: Final = 6
# Files of a source that are read: enough for a pool of a hundred thousand rows.
_FILES: Final = 8000
_DOCSTRING: Final = re.compile(r'"""(.+?)"""', re.DOTALL)
_PLAIN: Final = re.compile(r"[A-Za-z0-9 ,.;:'`\"()/\n-]*")
_SENTENCE: Final = re.compile(r"[a-z]\. [A-Z]")


def write(folder: Path, *, num_rows: int, share: float = 0.15, num_examples: int = 1000) -> None:
    """Write `shards/` with the columns text and source, and `target/` with examples of prose."""
    num_wanted = round(num_rows * share)
    prose = _shuffle(set(_paragraphs()), seed=1)[: num_wanted + num_examples]
    hidden = [(text, PROSE) for text in prose[:num_wanted]]
    rows = [*hidden, *itertools.islice(_junk(), num_rows - num_wanted)]
    if len(prose) < num_wanted + num_examples or len(rows) < num_rows:
        raise SystemExit(f"the packages here have too few files for {num_rows} rows")
    rows = _shuffle(rows, seed=3)
    for shard in range(8):
        _write(folder / "shards" / f"{shard:03d}.parquet", rows[shard::8])
    _write(folder / "target" / "000.parquet", [(text, PROSE) for text in prose[num_wanted:]])


def _junk() -> Iterator[tuple[str, str]]:
    """Yield pieces of every source in turn, until all are used up."""
    sources = {
        "documentation": _pieces([_PURELIB, _SHARE / "doc"], (".md", ".rst", ".txt", "")),
        "sources": _pieces([_STDLIB, _PURELIB], (".py", ".h", ".pyi", ".js", ".c", ".pyx")),
        "data": _pieces([_PURELIB], (".json", ".html", ".css", ".csv", ".xml")),
        "messages": _messages(),
    }
    in_turn = itertools.zip_longest(*sources.values())
    names = list(sources)
    for pieces in in_turn:
        yield from ((text, name) for text, name in zip(pieces, names, strict=True) if text)


def _paragraphs() -> Iterator[str]:
    for path in _files([_STDLIB, _PURELIB], (".py",)):
        for docstring in _DOCSTRING.findall(path.read_text("utf-8", errors="replace")):
            for text in inspect.cleandoc(docstring).split("\n\n"):
                if len(text) > 120 and _PLAIN.fullmatch(text) and _SENTENCE.search(text):
                    yield text


def _pieces(roots: Sequence[Path], suffixes: tuple[str, ...]) -> Iterator[str]:
    for path in _shuffle(_files(roots, suffixes), seed=4)[:_FILES]:
        with path.open("rb") as file:
            text = file.read(_PIECE * _PIECES_OF_A_FILE).decode("utf-8", errors="replace")
        yield from (text[n : n + _PIECE] for n in range(0, len(text), _PIECE))


def _messages() -> Iterator[str]:
    """Yield translated messages, which fill the second half of a catalogue, between zero bytes."""
    for path in _shuffle(_files([_PURELIB, _SHARE / "locale"], (".mo",)), seed=5)[:_FILES]:
        content = path.read_bytes()
        text = content[len(content) // 2 :].decode("utf-8", errors="replace").replace("\0", "\n")
        yield from (text[n : n + _PIECE] for n in range(0, min(len(text), 3 * _PIECE), _PIECE))


def _files(roots: Sequence[Path], suffixes: tuple[str, ...]) -> list[Path]:
    paths = (path for root in roots for path in root.rglob("*") if path.suffix in suffixes)
    return sorted(path for path in paths if path.is_file())


def _shuffle(items: Sequence[Item] | set[Item], *, seed: int) -> list[Item]:
    ordered = sorted(items) if isinstance(items, set) else list(items)
    random.Random(seed).shuffle(ordered)
    return ordered


def _write(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    texts, sources = zip(*rows, strict=True)
    pq.write_table(pa.table({"text": texts, "source": sources}), path)
