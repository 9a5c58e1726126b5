"""CSV files with a header as rows of columns; the type of a column follows from all its values."""

import csv
import gzip
import itertools
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

import pyarrow as pa

from attent_select.errors import InputError
from catalogs import storage
from catalogs.file_contents import HEAD_BYTES, check_contents
from pipeline.corpus.column_types import JSON, Types, column_of

_NAME: Final = re.compile(r"\.(csv|tsv)(\.gz)?$")
_BATCH_ROWS: Final = 1024
# Numbers whose text is not more than their value: 007 and integers beyond 64 bits stay text.
_INTEGER: Final = re.compile(r"-?(0|[1-9]\d{0,18})")
_BOUND: Final = 1 << 63
_FLOAT: Final = re.compile(
    r"-?(0|[1-9]\d{0,17})(\.\d*)?([eE][+-]?\d+)?|-?\.\d+([eE][+-]?\d+)?|nan|NaN|-?inf"
)
_BOOL: Final = {"true": True, "false": False, "True": True, "False": False}
# From the narrowest type to the one that has every value.
_ORDER: Final = (pa.null(), pa.bool_(), pa.int64(), pa.float64(), pa.string())

csv.field_size_limit(1 << 30)  # a text may be long


def is_csv(url: str) -> bool:
    """Whether a file is CSV by its name."""
    return _NAME.search(url.lower()) is not None


def contents_of(url: str) -> tuple[int, Types]:
    """Return the number of rows and the types of the columns.

    Raises:
        InputError: the file is damaged, or a row has another number of fields than the header.
    """
    num_rows, types = 0, Types()
    for names, batch in _batches(url, start=0, stop=None):
        columns = zip(*(row for _, row in batch), strict=True)
        types = common_types(types, dict(zip(names, map(_type_of, columns), strict=True)))
        num_rows += len(batch)
    return num_rows, types


def common_types(first: Types, second: Types) -> Types:
    """Return types that represent the values of both."""
    names = dict.fromkeys((*first, *second))
    null = pa.null()
    return {name: _common(first.get(name, null), second.get(name, null)) for name in names}


def tables_of(url: str, *, start: int, stop: int, types: Types) -> Iterator[pa.Table]:
    """Yield the rows from `start` to `stop` with columns of these types. Empty fields are null.

    Raises:
        InputError: a value does not have its column's type; names the line.
    """
    for names, batch in _batches(url, start=start, stop=stop):
        lines = [line for line, _ in batch]
        fields = dict(zip(names, zip(*(row for _, row in batch), strict=True), strict=True))
        missing = ("",) * len(batch)
        yield pa.table(
            {
                name: _column(fields.get(name, missing), name, dtype, lines, url)
                for name, dtype in types.items()
            }
        )


def _column(
    texts: Sequence[str], name: str, dtype: pa.DataType, lines: Sequence[int], url: str
) -> pa.Array:
    values = [_value(text, dtype) for text in texts]
    try:
        return column_of(values, dtype)
    except ValueError:
        for line, text, value in zip(lines, texts, values, strict=True):
            try:
                column_of([value], dtype)
            except ValueError as error:
                raise InputError(
                    f"{url}, line {line}: column {name!r} is {text!r}, expected {dtype}. Correct"
                    f" the value, or store the column as text with `--schema {name}=string`"
                ) from error
        raise


def _value(text: str, dtype: pa.DataType) -> object:
    """Return the value of a field; its text where it does not have the type."""
    if text == "":
        return None
    if dtype == JSON or pa.types.is_string(dtype):
        return text
    if pa.types.is_boolean(dtype):
        return _BOOL.get(text, text)
    try:
        if pa.types.is_integer(dtype):
            return int(text)
        return float(text) if pa.types.is_floating(dtype) else text
    except ValueError:
        return text


def _type_of(texts: Sequence[str]) -> pa.DataType:
    values = {text for text in texts if text}
    if not values:
        return pa.null()
    if values <= _BOOL.keys():
        return pa.bool_()
    if all(map(_INTEGER.fullmatch, values)):
        is_int64 = all(-_BOUND <= int(text) < _BOUND for text in values)
        return pa.int64() if is_int64 else pa.string()
    return pa.float64() if all(map(_FLOAT.fullmatch, values)) else pa.string()


def _common(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    if pa.bool_() in (first, second) and first != second and pa.null() not in (first, second):
        return pa.string()
    return max(first, second, key=_ORDER.index)


def _batches(
    url: str, *, start: int, stop: int | None
) -> Iterator[tuple[list[str], list[tuple[int, list[str]]]]]:
    """Yield the names of the columns and some rows, each with its line."""
    with storage.local_copy(url) as path, _open(path, url) as file:
        is_tabs = ".tsv" in url.lower().rpartition("/")[2]
        reader = csv.reader(file, delimiter="\t" if is_tabs else ",", strict=True)
        try:
            names = _header(next(reader, []), url)
            rows = itertools.islice(_rows(reader, len(names), url), start, stop)
            while batch := list(itertools.islice(rows, _BATCH_ROWS)):
                yield names, batch
        except UnicodeDecodeError as error:
            raise InputError(
                f"{url} is not UTF-8 near line {reader.line_num + 1}: {error}. Save it as UTF-8"
            ) from error
        except csv.Error as error:
            raise InputError(
                f"{url}, line {reader.line_num}: not CSV: {error}. Fields with quotes, commas or"
                ' line breaks are in double quotes, and quotes in them are doubled ("")'
            ) from error
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{url} cannot be read: {error}. It may be truncated") from error


def _rows(
    reader: "Iterator[list[str]]", num_fields: int, url: str
) -> Iterator[tuple[int, list[str]]]:
    for row in reader:
        if not row:  # a blank line
            continue
        line: int = reader.line_num  # type: ignore[attr-defined]
        if len(row) != num_fields:
            raise InputError(
                f"{url}, line {line}: {len(row)} fields, and the header has {num_fields}. Quote"
                " fields with commas or line breaks, or complete the row"
            )
        yield line, row


def _header(names: list[str], url: str) -> list[str]:
    # pandas writes its index without a name, and reads it under this one.
    names = [name or f"Unnamed: {number}" for number, name in enumerate(names)]
    if not names:
        raise InputError(f"{url} is empty: expected a header with the names of the columns")
    if len(names) == 1 and ";" in names[0]:
        raise InputError(f"{url}: the fields are separated by semicolons: expected commas")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{url}: the header has {twice[0]!r} more than once: rename a column")
    return names


def _open(path: Path, url: str) -> IO[str]:
    with path.open("rb") as file:
        check_contents(file.read(HEAD_BYTES), url)
    if url.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")
