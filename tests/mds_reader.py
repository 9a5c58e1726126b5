"""A reader of MDS written from the format's description, independent of our writer."""

import json
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

_SCALARS = {
    "int8": "b",
    "int16": "h",
    "int32": "i",
    "int64": "q",
    "int": "q",
    "uint8": "B",
    "uint16": "H",
    "uint32": "I",
    "uint64": "Q",
    "float16": "e",
    "float32": "f",
    "float64": "d",
}


def _decode(encoding: str, data: bytes) -> Any:
    if encoding in _SCALARS:
        return struct.unpack(f"<{_SCALARS[encoding]}", data)[0]
    if encoding == "json":
        return json.loads(data.decode("utf-8"))
    return data.decode("utf-8") if encoding == "str" else data


def read_mds(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the samples of every shard that index.json names, in order."""
    index = json.loads((folder / "index.json").read_text())
    assert index["version"] == 2
    for shard in index["shards"]:
        assert (shard["version"], shard["format"], shard["compression"]) == (2, "mds", None)
        data = (folder / shard["raw_data"]["basename"]).read_bytes()
        assert len(data) == shard["raw_data"]["bytes"]
        (count,) = struct.unpack_from("<I", data, 0)
        assert count == shard["samples"]
        offsets = struct.unpack_from(f"<{count + 1}I", data, 4)
        assert offsets[-1] == len(data)
        header = json.loads(data[4 + 4 * (count + 1) : offsets[0]])
        columns = ("column_names", "column_encodings", "column_sizes")
        assert all(header[name] == shard[name] for name in columns)
        for first, end in pairwise(offsets):
            yield _sample(data[first:end], *(shard[name] for name in columns))


def _sample(
    data: bytes, names: list[str], encodings: list[str], fixed: list[int | None]
) -> dict[str, Any]:
    position, sizes = 0, []
    for fixed_size in fixed:
        if fixed_size is not None:
            sizes.append(fixed_size)
            continue
        sizes.append(struct.unpack_from("<I", data, position)[0])
        position += 4
    sample = {}
    for name, encoding, size in zip(names, encodings, sizes, strict=True):
        sample[name] = _decode(encoding, data[position : position + size])
        position += size
    assert position == len(data)
    return sample
