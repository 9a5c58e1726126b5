"""Texts of the raw pool: files of the standard library and installed packages, and public texts.

The packages are those of a fixed list, all of which `make install` brings, so that further ones do
not change the pool. Files are cut into pieces of at most `PIECE` characters at the ends of lines;
copies remain.
"""

import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import polars as pl

PIECE: Final = 600
# Of one file: a table of a million rows is not a tenth of the pool.
_PIECES_OF_A_FILE: Final = 24
STANDARD_LIBRARY, INSTALLED = (Path(sysconfig.get_paths()[each]) for each in ("stdlib", "purelib"))
_NAMES: Final = """
PIL accelerate aiobotocore aiohttp altair boto3 botocore cfn_lint cfnlint click cryptography dask
datasets distributed fsspec graphql httpx huggingface_hub hypothesis importlib_metadata jinja2
jsonschema kornia kubernetes_validate lightning_fabric markdown moto mpmath multidict mypy narwhals
networkx numpy obstore packaging pandas peft pillow polars psutil pyarrow pycountry pydantic
pydantic_core pygments pytest pytorch_lightning regex requests rich ruff s3fs safetensors
scikit_learn scipy sentencepiece sklearn sqlglot sympy tokenizers torch torchgen torchmetrics
tornado tqdm transformers trl typer urllib3 uvicorn webdataset werkzeug xxhash yaml yarl zict
"""
PACKAGES: Final = frozenset(_NAMES.split())
_SUFFIXES: Final[Mapping[str, tuple[str, ...]]] = {
    "python": (".py",),
    "sources": (".h", ".hpp", ".c", ".cc", ".cuh", ".pyx", ".pxd", ".pyi", ".js", ".f90"),
    "documentation": (".md", ".rst", ".txt", ""),  # without a suffix: licences, metadata
    "data": (".json", ".csv", ".html", ".css", ".xml", ".decTest", ".toml", ".yaml"),
    "locale": (".mo",),
}
MACHINE_SOURCES: Final = tuple(_SUFFIXES)
NOVELS, INSTRUCTIONS, MATHEMATICS = "novels", "instructions", "mathematics"
SCHEMA: Final = {"text": pl.String, "source": pl.String, "package": pl.String}


def machine_texts(*, standard_library: Path, installed: Path) -> pl.DataFrame:
    """Return text, source and package of the pieces of all files, in the order of their paths.

    The package of a file is the first folder of its path, without the version.
    """
    rows = [
        row
        for root in (standard_library, installed)
        for folder in sorted(root.iterdir())
        if _is_pooled(folder.name, is_installed=root == installed)
        for path in sorted(folder.rglob("*")) or [folder]
        for row in _rows_of(path, package=_package_of(folder.name))
    ]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _is_pooled(name: str, *, is_installed: bool) -> bool:
    return _package_of(name) in PACKAGES if is_installed else name != "site-packages"


def _package_of(name: str) -> str:
    return name.partition("-")[0].removesuffix(".py")


def public_texts(data: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return (texts for the pool, others), with the work or the part of the set as package."""
    dolly = pl.read_parquet(data / "dolly15k.parquet").with_row_index("number")
    is_other = pl.col("number") % 5 == 0
    return (
        pl.concat(
            [
                _novels(data / "eltec_prose_train.parquet"),
                _instructions(dolly.filter(~is_other)),
                _mathematics(data / "gsm8k_train.parquet"),
            ]
        ),
        pl.concat(
            [
                _novels(data / "eltec_prose_val.parquet"),
                _instructions(dolly.filter(is_other)),
                _mathematics(data / "gsm8k_test.parquet"),
            ]
        ),
    )


def _rows_of(path: Path, *, package: str) -> Iterator[tuple[str, str, str]]:
    source = next((name for name, suffixes in _SUFFIXES.items() if path.suffix in suffixes), None)
    if source is None or not path.is_file():
        return
    content = path.read_bytes()
    if source == "locale":  # translated messages fill the second half, between zero bytes
        content = content[len(content) // 2 :].replace(b"\0", b"\n")
    text = content[: PIECE * _PIECES_OF_A_FILE].decode("utf-8", errors="replace")
    if text.count("\0") > 2:  # not a text
        return
    for piece in pieces(text):
        yield piece, source, package


def pieces(text: str) -> Iterator[str]:
    """Yield pieces of at most `PIECE` characters, cut at the ends of lines where there are any."""
    start = 0
    while start < len(text):
        end = min(start + PIECE, len(text))
        line = text.rfind("\n", start + PIECE // 2, end)
        if end < len(text) and line > 0:
            end = line + 1
        if piece := text[start:end].strip():
            yield piece
        start = end


def _novels(path: Path) -> pl.DataFrame:
    """Neighbouring paragraphs of a novel, joined to pieces."""
    rows: list[tuple[str, str, str]] = []
    for (work,), paragraphs in pl.read_parquet(path).group_by("source", maintain_order=True):
        rows += [(text, NOVELS, str(work)) for text in _join_paragraphs(paragraphs["text"])]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _join_paragraphs(paragraphs: Iterable[str]) -> Iterator[str]:
    waiting = ""
    for paragraph in paragraphs:
        if waiting and len(waiting) + len(paragraph) > PIECE:
            yield from pieces(waiting)
            waiting = ""
        waiting += paragraph + "\n"
    yield from pieces(waiting)


def _instructions(rows: pl.DataFrame) -> pl.DataFrame:
    texts = pl.concat_str("instruction", "input", "output", separator="\n")
    names = pl.format("dolly {}", "number")
    return _cut_rows(rows.select(texts, names).rows(), source=INSTRUCTIONS)


def _mathematics(path: Path) -> pl.DataFrame:
    rows = pl.read_parquet(path).with_row_index("number")
    texts = pl.concat_str("question", "answer", separator="\n")
    names = pl.format("{} {}", pl.lit(path.stem), "number")
    return _cut_rows(rows.select(texts, names).rows(), source=MATHEMATICS)


def _cut_rows(rows: Iterable[tuple[str, str]], *, source: str) -> pl.DataFrame:
    cut = [(piece, source, name) for text, name in rows for piece in pieces(text)]
    return pl.DataFrame(cut, schema=SCHEMA, orient="row")
