"""JSON Lines, and JSON files with one array, as rows of columns."""

import codecs
import gzip
import io
import itertools
import json
import logging
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from attent_select.errors import InputError
from catalogs import storage
from catalogs.file_contents import HEAD_BYTES, check_contents
from catalogs.shard_format import Sample
from pipeline.corpus.column_types import Types, column_of, common_types, types_of

_BATCH_ROWS = 1024
_NAME = re.compile(r"\.(jsonl|ndjson|json)(\.gz|\.zst)?$")
# Such a file may also be one array.
_ARRAY = re.compile(r"\.json(\.gz|\.zst)?$")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

_log = logging.getLogger("attent.pipeline.conversion")


def is_json(url: str) -> bool:
    """Whether a file is JSON or JSON Lines by its name."""
    return _NAME.search(url.lower()) is not None


def contents_of(url: str) -> tuple[int, Types]:
    """Return the number of rows and the types of the columns.

    Raises:
        InputError: the file is damaged, or a line is not a JSON object.
    """
    num_rows, types = 0, Types()
    for batch in _batches(_objects(url, warns=True)):
        types = common_types(types, types_of([row for _, row in batch]))
        num_rows += len(batch)
    return num_rows, types


def tables_of(url: str, *, start: int, stop: int, types: Types) -> Iterator[pa.Table]:
    """Yield the rows from `start` to `stop` with columns of these types.

    Raises:
        InputError: a value does not have its column's type; names the line.
    """
    for batch in _batches(itertools.islice(_objects(url, start=start), stop - start)):
        yield pa.table({name: _column(batch, name, types[name], url) for name in types})


def _column(batch: list[tuple[int, Sample]], name: str, dtype: pa.DataType, url: str) -> pa.Array:
    try:
        return column_of([row.get(name) for _, row in batch], dtype)
    except ValueError:
        for line, row in batch:
            try:
                column_of([row.get(name)], dtype)
            except ValueError as error:
                raise InputError(
                    f"{url}, line {line}: column {name!r} is not {dtype}: {error}. Correct the"
                    f" value, or store the column as JSON text with `--schema {name}=json`"
                ) from error
        raise


def _batches(objects: Iterator[tuple[int, Sample]]) -> Iterator[list[tuple[int, Sample]]]:
    while batch := list(itertools.islice(objects, _BATCH_ROWS)):
        yield batch


def _objects(url: str, *, start: int = 0, warns: bool = False) -> Iterator[tuple[int, Sample]]:
    """Yield the objects from the one at `start`, with their lines (or their places in an array)."""
    with storage.local_copy(url) as path, _open(path, url) as lines:
        try:
            head, first = _first_line(lines)
            if head.startswith(b"[") and _ARRAY.search(url.lower()):
                elements = _elements(head + lines.read(), url=url)
                yield from itertools.islice(elements, start, None)
                return
            numbered = itertools.chain([(first, head)], enumerate(lines, start=first + 1))
            texts = ((number, line) for number, line in numbered if line.strip())
            for number, line in itertools.islice(texts, start, None):
                yield number, _object(line, where=f"{url}, line {number}", warns=warns)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{url} cannot be read: {error}. It may be truncated") from error


def _first_line(lines: Any) -> tuple[bytes, int]:
    """Return the first line that is not blank, without a byte order mark, and its number."""
    number = 0
    for number, line in enumerate(lines, start=1):
        text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if text.strip():
            return text.lstrip(), number
    return b"", number


def _elements(data: bytes, *, url: str) -> Iterator[tuple[int, Sample]]:
    values = _parse(data, where=url, warns=True)
    for number, value in enumerate(values, start=1):
        if not isinstance(value, dict):
            raise InputError(
                f"{url}, element {number}: expected a JSON object, found {type(value).__name__}"
            )
        yield number, value


def _open(path: Path, url: str) -> Any:
    with path.open("rb") as file:
        check_contents(file.read(HEAD_BYTES), url)
    if url.lower().endswith(".gz"):
        return gzip.open(path)
    if url.lower().endswith(".zst"):
        return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))
    return path.open("rb")


def _object(line: bytes, *, where: str, warns: bool) -> Sample:
    value = _parse(line, where=where, warns=warns)
    if not isinstance(value, dict):
        raise InputError(
            f"{where}: expected a JSON object, found {type(value).__name__}. A file that is one"
            " array is named .json"
        )
    return value


def _parse(text: bytes, *, where: str, warns: bool) -> Any:
    try:
        value: Any = json.loads(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8: {error}. Save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:  # not JSON, or nested too deep
        raise InputError(
            f"{where}: not JSON: {error}. Expected a JSON object in each line, or a .json file that"
            " is one array of objects"
        ) from error
    # Half of a surrogate pair, from a text cut in the middle of an emoji, has no UTF-8.
    if _SURROGATE.search(text):
        cleaned = _without_surrogates(value)
        if warns and cleaned != value:
            _log.warning("%s: replaced half of a surrogate pair by U+FFFD", where)
        return cleaned
    return value


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(k): _without_surrogates(v) for k, v in value.items()}
    return value
