"""The rows of a part in the part's order, as a table or as samples."""

import json
import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from attent_select.errors import InputError
from catalogs import stored_rows
from catalogs.shard_format import Sample, Shard
from catalogs.shards import read_shard
from catalogs.tables import plain_values
from pipeline.subset.part import ADDED, Part

T = TypeVar("T")


def table_of(part: Part) -> pa.Table:
    """Return the rows with the types of `part.columns`, and the added columns.

    Raises:
        InputError: a value does not have the type of its column.
    """
    chunks, order = [], _order(part)
    for shard, rows, _ in _by_shard(part, order):
        if stored_rows.has_schema(shard):
            table = stored_rows.read_table(shard, rows=rows, columns=part.columns.names)
            chunks.append(_cast(table, part, shard))
        else:
            values = read_shard(shard, rows=rows, columns=part.columns.names).values
            chunks.append(_table(values, part, shard))
    table = pa.concat_tables(chunks)
    if np.any(np.diff(order) != 1):
        table = table.take(pa.array(np.argsort(order)))
    columns = [*table.columns, *_arrays_of_facts(part)]
    fields = [field.with_name(part.columns.name_of(field.name)) for field in table.schema]
    schema = pa.schema([*fields, *ADDED], metadata=part.columns.schema.metadata)
    return pa.Table.from_arrays(columns, schema=schema)


def samples_of(part: Part) -> list[Sample]:
    """Return the rows as plain Python values, with the added columns."""
    if all(map(stored_rows.has_schema, part.shards)):
        table = table_of(part)
        values = plain_values.values_of(table)
        return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]

    def read(shard: Shard, rows: list[int]) -> list[Sample]:
        return read_shard(shard, rows=rows, columns=part.columns.names).samples

    return [
        {part.columns.name_of(name): value for name, value in sample.items()} | facts
        for sample, facts in zip(_read_in_order(part, read), facts_of(part), strict=True)
    ]


def members_of(part: Part) -> list[dict[str, bytes]]:
    """Return the members of samples in tar files by extension, as they are stored."""
    columns = None if part.columns.all_members else part.columns.names

    def read(shard: Shard, rows: list[int]) -> list[dict[str, bytes]]:
        return stored_rows.members_of_rows(shard, rows=rows, columns=columns)

    return _read_in_order(part, read)


def facts_of(part: Part) -> list[Sample]:
    """Return the added columns of each row."""
    losses = [None if math.isnan(loss) else loss for loss in part.losses.tolist()]
    values = (part.weights.tolist(), losses, part.shard_ids.tolist(), part.rows.tolist())
    return [dict(zip(ADDED.names, row, strict=True)) for row in zip(*values, strict=True)]


def _arrays_of_facts(part: Part) -> list[pa.Array]:
    losses = pa.array(part.losses, mask=np.isnan(part.losses))
    arrays = (part.weights, losses, part.shard_ids, part.rows)
    return [pa.array(array) for array in arrays]


def _order(part: Part) -> npt.NDArray[np.int64]:
    """Return the positions of the part's rows, sorted by shard and row."""
    return np.lexsort((part.rows, part.shard_ids))


def _by_shard(
    part: Part, order: npt.NDArray[np.int64]
) -> Iterator[tuple[Shard, list[int], npt.NDArray[np.int64]]]:
    """Yield each shard with its sorted rows, and their positions in the part."""
    shard_of = {shard.shard_id: shard for shard in part.shards}
    ids = part.shard_ids[order]
    bounds = [0, *(np.flatnonzero(np.diff(ids)) + 1).tolist(), len(ids)]
    for first, end in pairwise(bounds):
        positions = order[first:end]
        yield shard_of[int(ids[first])], part.rows[positions].tolist(), positions


def _read_in_order(part: Part, read: Callable[[Shard, list[int]], list[T]]) -> list[T]:
    """Read the rows shard by shard; return them in the part's order."""
    result: list[Any] = [None] * len(part.rows)
    for shard, rows, positions in _by_shard(part, _order(part)):
        for position, value in zip(positions.tolist(), read(shard, rows), strict=True):
            result[position] = value
    return result


def _cast(table: pa.Table, part: Part, shard: Shard) -> pa.Table:
    schema = part.columns.schema
    if table.schema.equals(schema, check_metadata=True):
        return table
    try:
        return table.cast(schema)
    except pa.ArrowException as error:
        raise InputError(
            f"{shard.uri}: a column has another type than in the other shards: {error}. Leave that"
            " column out with --columns, or export as jsonl"
        ) from error


def _table(values: dict[str, list[Any]], part: Part, shard: Shard) -> pa.Table:
    arrays = []
    for field in part.columns.schema:
        column = values[field.name]
        if field.name in part.columns.json_names:
            column = [None if value is None else json_text(value, shard) for value in column]
        try:
            arrays.append(pa.array(column, field.type))
        except (pa.ArrowException, TypeError, OverflowError) as error:
            raise InputError(
                f"{shard.uri}: column {field.name!r} has values of other types than {field.type}:"
                f" {error}. Leave it out with --columns, or export as jsonl or webdataset"
            ) from error
    return pa.Table.from_arrays(arrays, schema=part.columns.schema)


def json_text(value: Any, shard: Shard) -> str:
    """Return a value of a tar file's JSON member as text."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{shard.uri}: a JSON member cannot be decoded: {error}. Leave that column out with"
            " --columns"
        ) from error
