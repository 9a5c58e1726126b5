"""The columns of an export and their types, from the footers or from some samples of the shards."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from attent_select.errors import InputError
from catalogs import Corpus, stored_rows
from catalogs.concurrency import ordered_map
from catalogs.formats.webdataset import kind_of_bytes
from catalogs.shard_format import Shard
from catalogs.shards import read_shard
from pipeline.subset.part import SubsetColumns

# Types are taken from this many shards, and for tar files from this many samples of each.
_NUM_SHARDS = 64
_NUM_ROWS = 16
_TYPES: dict[type, pa.DataType] = {bytes: pa.binary(), str: pa.string(), int: pa.int64()}


def subset_columns(
    corpus: Corpus, shard_ids: Sequence[int], *, names: Sequence[str] | None
) -> SubsetColumns:
    """Return the columns `names` of the shards, or those that every shard has.

    Raises:
        InputError: a column is missing, or shards have other types for it.
    """
    known = corpus.columns
    if missing := [name for name in names or () if name not in known]:
        raise InputError(f"--columns: no column {missing[0]!r}; the corpus has {', '.join(known)}")
    positions = np.linspace(0, len(shard_ids) - 1, min(_NUM_SHARDS, len(shard_ids)), dtype=int)
    shards = [corpus.shard(shard_ids[position]) for position in np.unique(positions)]
    if all(map(stored_rows.has_schema, shards)):
        schema = _stored_schema(shards, names or known)
        return SubsetColumns(schema, image_names=_image_names(shards[0], schema))
    return _sampled_columns(shards, names or known, all_members=names is None)


def _stored_schema(shards: Sequence[Shard], names: Sequence[str]) -> pa.Schema:
    """Return the common types of shards, with the metadata of the first."""
    schemas = list(ordered_map(stored_rows.schema_of, shards, num_threads=8))
    first = schemas[0]
    ordered = [name for name in first.names if name in names]
    try:
        merged = pa.unify_schemas(
            [pa.schema([one.field(name) for name in ordered]) for one in schemas],
            promote_options="permissive",
        )
    except pa.ArrowException as error:
        raise InputError(
            f"the shards have other types for a column than {shards[0].uri}: {error}. Leave that"
            " column out with --columns, or convert the corpus first"
        ) from error
    return merged.with_metadata(first.metadata)


def _image_names(shard: Shard, schema: pa.Schema) -> frozenset[str]:
    """Return the binary columns whose first values in the shard are encoded images."""
    names = [field.name for field in schema if pa.types.is_binary(field.type)]
    if not names:
        return frozenset()
    rows = range(min(_NUM_ROWS, shard.num_samples))
    table = stored_rows.read_table(shard, rows=rows, columns=names)
    return frozenset(name for name in names if _are_images(table[name].to_pylist()))


def _are_images(values: Sequence[Any]) -> bool:
    present = [value for value in values if value is not None]
    return bool(present) and all(
        isinstance(value, bytes) and kind_of_bytes(value) != "bin" for value in present
    )


def _sampled_columns(
    shards: Sequence[Shard], names: Sequence[str], *, all_members: bool
) -> SubsetColumns:
    kinds: dict[str, set[type]] = {name: set() for name in names}
    images = set(names)
    for shard in shards:
        rows = range(min(_NUM_ROWS, shard.num_samples))
        for name, values in read_shard(shard, rows=rows, columns=names).values.items():
            kinds[name] |= {type(value) for value in values if value is not None}
            images -= set() if _are_images(values) else {name}
    json_names = frozenset(name for name in names if not _has_type(kinds[name]))
    schema = pa.schema([(name, _type_of(kinds[name])) for name in names])
    return SubsetColumns(schema, json_names, frozenset(images), all_members)


def _has_type(kinds: set[type]) -> bool:
    return len(kinds) == 1 and kinds <= {*_TYPES, float}


def _type_of(kinds: set[Any]) -> pa.DataType:
    """Return the type of a column; text for values that only JSON has."""
    if kinds == {float}:
        return pa.float64()
    return _TYPES[next(iter(kinds))] if _has_type(kinds) else pa.string()
