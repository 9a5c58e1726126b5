"""File formats of an export: the names of part files, their content, and files beside them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from attent_select.errors import InputError
from catalogs.formats.webdataset import encode_members
from catalogs.shard_format import Sample
from pipeline.subset import mds
from pipeline.subset.part import ADDED, Part, SubsetColumns
from pipeline.subset.subset_rows import facts_of, members_of, samples_of, table_of

# A row group has at most this many bytes.
_GROUP_BYTES = 8 << 20
# The member of a sample in a tar file that has the added columns.
_SIDECAR = "attent.json"
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

# Name, bytes and samples of a part file that was written.
PartFile = tuple[str, int, int]


@dataclass(frozen=True)
class SubsetFormat:
    """A file format: name of part `number` of `total`, its writer, and what follows the parts.

    `finish` returns files by name, which make the parts a data set of that format.
    """

    name_of: Callable[[int, int], str]
    write: Callable[[Part, Path], None]
    finish: Callable[[Sequence[PartFile], SubsetColumns], Mapping[str, bytes]] = lambda *_: {}


def _write_parquet(part: Part, path: Path) -> None:
    _write_table(table_of(part), path)


def _write_table(table: pa.Table, path: Path) -> None:
    # Encoded images do not repeat, and statistics would put whole ones into the footer.
    plain = [field.name for field in table.schema if not _holds_bytes(field.type)]
    group_rows = max(1, table.num_rows * _GROUP_BYTES // max(table.nbytes, 1))
    try:
        pq.write_table(
            table,
            path,
            compression="zstd",
            use_dictionary=plain,
            write_statistics=plain,
            row_group_size=min(group_rows, table.num_rows),
        )
    except pa.ArrowException as error:
        raise InputError(f"Parquet cannot hold a column: {error}. Export as jsonl") from error


def _holds_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or kind == _IMAGE)


def _write_hf(part: Part, path: Path) -> None:
    """Write Parquet whose image columns are the feature `Image` of the library `datasets`."""
    table = table_of(part)
    names = [part.columns.name_of(name) for name in sorted(part.columns.image_names)]
    for name in names:
        # The null of an image is the null of the struct.
        images = pa.StructArray.from_arrays(
            [table[name].combine_chunks().cast(pa.binary()), pa.nulls(len(table), pa.string())],
            fields=list(_IMAGE),
            mask=table[name].combine_chunks().is_null(),
        )
        table = table.set_column(table.schema.names.index(name), name, images)
    if names:
        metadata = table.schema.metadata or {}
        info = json.loads(metadata.get(b"huggingface", b"{}"))
        features = info.setdefault("info", {}).setdefault("features", {})
        features.update({name: {"_type": "Image"} for name in names})
        table = table.replace_schema_metadata(metadata | {b"huggingface": json.dumps(info)})
    _write_table(table, path)


def _write_jsonl(part: Part, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for sample in samples_of(part):
            file.write(_json_line(sample) + "\n")


def _json_line(sample: Sample) -> str:
    for name, value in sample.items():
        try:
            sample[name] = mds.plain_json(value)
        except TypeError as error:
            where = f"shard {sample['shard_id']}, row {sample['row']}"
            raise InputError(
                f"column {name!r} of {where}: {error}. Leave it out with --columns, or export as"
                " parquet, webdataset, hf or mds"
            ) from error
    return json.dumps(sample, ensure_ascii=False, default=str)


def _write_webdataset(part: Part, path: Path) -> None:
    """Write tar files: members of tar files as they are, other columns by their type."""
    from webdataset.writer import TarWriter  # here, because it imports torch

    with (
        path.open("wb") as file,
        # Encoded here: nothing is pickled.
        TarWriter(
            file, encoder=False, keep_meta=True, mtime=0, user="", group="", compress=False
        ) as archive,
    ):
        for members, facts in zip(_members(part, path), facts_of(part), strict=True):
            archive.write(members | {_SIDECAR: json.dumps(facts).encode()})


def _members(part: Part, path: Path) -> list[dict[str, Any]]:
    keys = [f"{facts['shard_id']:05d}-{facts['row']:08d}" for facts in facts_of(part)]
    if all(shard.format == "webdataset" for shard in part.shards):
        pairs = zip(members_of(part), keys, strict=True)
        return [{"__key__": key, **members} for members, key in pairs]
    return [
        encode_members(_without_facts(sample), key=key, path=path)
        for sample, key in zip(samples_of(part), keys, strict=True)
    ]


def _without_facts(sample: Sample) -> Sample:
    """Return a sample without the added columns and nulls; an image is its bytes."""
    return {
        name: value["bytes"] if _is_image(value) else value
        for name, value in sample.items()
        if name not in ADDED.names and value is not None
    }


def _is_image(value: Any) -> bool:
    """Whether a value is an image as the library `datasets` stores it, with its bytes."""
    return isinstance(value, dict) and value.keys() == {"bytes", "path"} and bool(value["bytes"])


def _write_mds(part: Part, path: Path) -> None:
    mds.write_shard(path, samples_of(part), encodings=_encodings(part.columns))


def _encodings(columns: SubsetColumns) -> dict[str, str]:
    fields = [field.with_name(columns.name_of(field.name)) for field in columns.schema]
    names = frozenset(map(columns.name_of, columns.json_names))
    return mds.encodings_of(pa.schema([*fields, *ADDED]), json_names=names)


def _mds_index(parts: Sequence[PartFile], columns: SubsetColumns) -> dict[str, bytes]:
    return {"index.json": mds.index_of(parts, encodings=_encodings(columns))}


def _hf_card(_parts: Sequence[PartFile], _columns: SubsetColumns) -> dict[str, bytes]:
    card = (
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n"
        "    path: data/train-*.parquet\n---\n\n"
        "Samples selected by attent-select. `weight` is the weight of a sample in training, `loss`"
        " the\nloss that it was selected by, `shard_id` and `row` its place in the corpus.\n"
    )
    return {"README.md": card.encode()}


FORMATS: dict[str, SubsetFormat] = {
    "parquet": SubsetFormat(lambda k, _: f"part-{k:05d}.parquet", _write_parquet),
    "jsonl": SubsetFormat(lambda k, _: f"part-{k:05d}.jsonl", _write_jsonl),
    "webdataset": SubsetFormat(lambda k, _: f"part-{k:05d}.tar", _write_webdataset),
    "hf": SubsetFormat(lambda k, n: f"data/train-{k:05d}-of-{n:05d}.parquet", _write_hf, _hf_card),
    "mds": SubsetFormat(lambda k, _: f"shard.{k:05d}.mds", _write_mds, _mds_index),
}
