"""MDS shards, the format of MosaicML's streaming library, and their index.json.

A shard is: the number of samples n (uint32), n + 1 offsets of the samples in the file (uint32), the
columns as JSON, the samples. A sample is the sizes (uint32) of its columns without a fixed size,
then the values of all columns, in the order of their names. Little-endian.
"""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from attent_select.errors import InputError
from catalogs.shard_format import Sample

_MAX_BYTES = (1 << 32) - 1
# Arrow's names of types that have a fixed size in MDS, under numpy's name.
_FIXED = {
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "halffloat": "float16",
    "float": "float32",
    "double": "float64",
}


def encodings_of(schema: pa.Schema, *, json_names: frozenset[str]) -> dict[str, str]:
    """Return the MDS encoding of each column, in the order of their names."""
    names = sorted(schema.names)
    return {
        name: "json" if name in json_names else _encoding(schema.field(name).type) for name in names
    }


def write_shard(path: Path, samples: Sequence[Sample], *, encodings: Mapping[str, str]) -> None:
    """Write one shard.

    Raises:
        InputError: a value is null where MDS has no null, or the shard exceeds 4 GiB.
    """
    encoded = [_encode_sample(sample, encodings) for sample in samples]
    header = json.dumps(_columns(encodings), sort_keys=True).encode()
    first = 4 + 4 * (len(encoded) + 1) + len(header)
    ends = first + np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    if ends[-1] > _MAX_BYTES:
        raise InputError(f"a shard has {ends[-1]} bytes, MDS allows 4 GiB: lower --part-samples")
    with path.open("wb") as file:
        file.write(np.array([len(encoded)], "<u4").tobytes())
        file.write(ends.astype("<u4").tobytes())
        file.write(header)
        file.writelines(encoded)


def index_of(shards: Sequence[tuple[str, int, int]], *, encodings: Mapping[str, str]) -> bytes:
    """Return index.json of shards (name, bytes, samples)."""
    entries = [
        _columns(encodings)
        | {
            "raw_data": {"basename": name, "bytes": num_bytes, "hashes": {}},
            "samples": num_samples,
            "zip_data": None,
        }
        for name, num_bytes, num_samples in shards
    ]
    return json.dumps({"shards": entries, "version": 2}, sort_keys=True).encode()


def plain_json(value: Any) -> Any:
    """Return a value that JSON has: numbers that are not finite are null, dates and decimals text.

    Raises:
        TypeError: JSON has no bytes.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): plain_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(inner) for inner in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal | timedelta):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        raise TypeError("JSON has no bytes")
    return value


def _columns(encodings: Mapping[str, str]) -> dict[str, Any]:
    sizes = [_fixed_size(encoding) for encoding in encodings.values()]
    return {
        "column_encodings": list(encodings.values()),
        "column_names": list(encodings),
        "column_sizes": sizes,
        "compression": None,
        "format": "mds",
        "hashes": [],
        "size_limit": None,
        "version": 2,
    }


def _fixed_size(encoding: str) -> int | None:
    return np.dtype(encoding).itemsize if encoding in _FIXED.values() else None


def _encoding(kind: pa.DataType) -> str:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "str"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return "bytes"
    return _FIXED.get(str(kind), "json")


def _encode_sample(sample: Sample, encodings: Mapping[str, str]) -> bytes:
    sizes, values = [], []
    for name, encoding in encodings.items():
        data = _encode(sample[name], encoding, name=name, sample=sample)
        if _fixed_size(encoding) is None:
            sizes.append(len(data))
        values.append(data)
    return np.array(sizes, "<u4").tobytes() + b"".join(values)


def _encode(value: Any, encoding: str, *, name: str, sample: Sample) -> bytes:
    try:
        if encoding == "json":
            return json.dumps(plain_json(value)).encode()
        if encoding in _FIXED.values():
            number = math.nan if value is None and encoding.startswith("float") else value
            return np.array([number], dtype=encoding).tobytes()
        return value.encode() if encoding == "str" else bytes(value)
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        where = f"shard {sample['shard_id']}, row {sample['row']}"
        raise InputError(
            f"column {name!r} of {where} cannot be written to MDS as {encoding}: {error}. MDS has"
            " no null; leave the column out with --columns, or export as parquet"
        ) from error
