"""A raw text pool from files of installed packages: sources, data and web files, and prose."""

import inspect
import random
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

_DOCSTRING = re.compile(r'"""(.+?)"""', re.DOTALL)
_PROSE = re.compile(r"[A-Za-z0-9 ,.;:'`\"()/\n-]*")
_SENTENCE = re.compile(r"[a-z]\. [A-Z]")
_JUNK_SUFFIXES = (".pyi", ".js", ".css", ".json", ".html", ".h", ".xml", ".svg")
_CHUNK = 1200
_WORDS = re.compile(r"[A-Za-z]{2}.*[^A-Za-z].*[A-Za-z]{2}", re.DOTALL)
_DOCUMENTED = ("dask", "distributed", "fsspec", "numpy", "polars", "sklearn")
# Always the same ones, so that another installed package does not change the pool.
_OTHERS = ("botocore", "cfnlint", "mypy", "numpy", "pandas", "pyarrow", "sklearn", "torch")


def prose(count: int) -> list[str]:
    """Paragraphs of docstrings that read like sentences."""
    found: dict[str, None] = {}
    library = Path(sysconfig.get_paths()["stdlib"])
    packages = [Path(sysconfig.get_paths()["purelib"], name) for name in _DOCUMENTED]
    for path in _files([library, *packages], (".py",)):
        found.update(dict.fromkeys(_paragraphs(path)))
    texts = list(found)
    assert len(texts) >= count, f"only {len(texts)} paragraphs are installed"
    random.Random(1).shuffle(texts)
    return texts[:count]


def junk(count: int) -> list[str]:
    """Pieces of sources, data and web files of installed packages."""
    pieces: list[str] = []
    packages = [Path(sysconfig.get_paths()["purelib"], name) for name in _OTHERS]
    for path in _files(packages, _JUNK_SUFFIXES):
        text = path.read_text("utf-8", errors="replace")
        starts = range(0, min(len(text), 6 * _CHUNK), _CHUNK)
        cut = (text[start : start + _CHUNK] for start in starts)
        pieces += [piece for piece in cut if _WORDS.search(piece)]
    assert len(pieces) >= count, f"only {len(pieces)} pieces are installed"
    random.Random(2).shuffle(pieces)
    return pieces[:count]


def write_pool(folder: Path, *, num_rows: int, wanted: list[str], num_shards: int = 4) -> None:
    """Write shards of junk with `wanted` hidden among it: columns `text` and `source`."""
    rows = [(text, "prose") for text in wanted]
    rows += [(text, "junk") for text in junk(num_rows - len(wanted))]
    random.Random(3).shuffle(rows)
    for shard in range(num_shards):
        write_texts(folder / f"{shard:03d}.parquet", rows[shard::num_shards])


def write_texts(path: Path, rows: list[tuple[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    texts, sources = zip(*rows, strict=True)
    pq.write_table(pa.table({"text": texts, "source": sources}), path)


def _files(roots: list[Path], suffixes: tuple[str, ...]) -> Iterator[Path]:
    for root in roots:
        for path in sorted(root.rglob("*")):
            inside = path.relative_to(root).parts
            if path.suffix in suffixes and not {"site-packages", "test", "tests"} & set(inside):
                yield path


def _paragraphs(path: Path) -> Iterator[str]:
    for docstring in _DOCSTRING.findall(path.read_text("utf-8", errors="replace")):
        for text in inspect.cleandoc(docstring).split("\n\n"):
            if len(text) > 120 and _PROSE.fullmatch(text) and _SENTENCE.search(text):
                yield text
