"""One sample: its values for people, its status, its losses, and where it is stored."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from attent_select.errors import AttentError, InputError, SampleError
from attent_select.schema import LOSS, ROW, SHARD_ID
from catalogs.concurrency import ordered_map
from catalogs.index import rows_of_shard
from catalogs.layout import Layout
from catalogs.shard_format import Sample
from catalogs.shards import plan_shard, read_shard
from catalogs.tables.byte_cache import BoundedCache
from catalogs.tables.joined import JoinedScan
from pipeline.explorer.source import Source, run_chunks

# Characters of a text in a list, and of one that is shown by itself.
SHORT_CHARACTERS: Final = 280
LONG_CHARACTERS: Final = 40_000
_MAX_TURNS: Final = 200
_MAX_DUPLICATES: Final = 20
_THREADS: Final = 8
_MAGIC: Final = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_ROLES: Final = (("role", "content"), ("from", "value"))
_DUPLICATES: Final = ("duplicates", "near_duplicates")

_cache: BoundedCache["StoredSample"] = BoundedCache(max_bytes=128 << 20)


@dataclass(frozen=True)
class StoredSample:
    """The values of a sample, or why it cannot be read."""

    values: Sample
    reason: str = ""


def read_sample(source: Source, shard_id: int, row: int) -> StoredSample:
    """Return a sample; a damaged or missing one has a reason instead of values.

    Raises:
        InputError: there is no such sample.
    """
    shard = source.corpus.shard(shard_id)
    if not 0 <= row < shard.num_samples:
        raise InputError(f"row {row}: shard {shard_id} has rows 0 to {shard.num_samples - 1}")
    key = (shard.uri, shard.etag, row)
    if (cached := _cache.get(key)) is not None:
        return cached
    try:
        reading = read_shard(shard, rows=[row], columns=source.corpus.columns)
    except AttentError as error:
        return StoredSample({}, str(error))
    sample = StoredSample(reading.samples[0])
    return _cache.put(key, sample, num_bytes=1024 + _num_bytes(sample.values))


def read_previews(source: Source, ids: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """Return short views of samples, in their order, read in threads."""

    def view(pair: tuple[int, int]) -> dict[str, Any]:
        sample = read_sample(source, *pair)
        fields = fields_of(sample.values, characters=SHORT_CHARACTERS)
        return {"shard_id": pair[0], "row": pair[1], "reason": sample.reason, "fields": fields}

    return list(ordered_map(view, ids, num_threads=_THREADS))


def show_sample(source: Source, shard_id: int, row: int) -> dict[str, Any]:
    """Return everything about a sample, without reading the losses of other shards.

    Raises:
        InputError: there is no such sample.
    """
    sample = read_sample(source, shard_id, row)
    return {
        "shard_id": shard_id,
        "row": row,
        "reason": sample.reason,
        "fields": fields_of(sample.values, characters=LONG_CHARACTERS),
        "columns": _columns(source, shard_id, row),
        "history": _history(source, shard_id, row),
        "place": _place(source, shard_id, row),
        "has_duplicates": bool(_duplicate_columns(source)),
    }


def find_duplicates(source: Source, shard_id: int, row: int) -> dict[str, Any]:
    """Return the other samples of the clusters of a sample, at most 20 of each annotation."""
    values = _columns(source, shard_id, row)
    clusters = []
    for name in _duplicate_columns(source):
        if (value := values.get(name)) is None:
            continue
        rows = source.read([name])
        is_same = (pl.col(name) == value) & ~((pl.col(SHARD_ID) == shard_id) & (pl.col(ROW) == row))
        parts = run_chunks(rows, functools.partial(_same_rows, is_same))
        same = pl.concat(parts)
        ids = [{"shard_id": a, "row": b} for a, b in same.head(_MAX_DUPLICATES).rows()]
        clusters.append({"annotation": name, "count": len(same), "samples": ids})
    return {"clusters": clusters}


def fields_of(sample: Sample, *, characters: int) -> list[dict[str, Any]]:
    """Return the values of a sample for people: `name`, `kind`, and what the kind needs."""
    return [{"name": name} | _field(value, characters) for name, value in sample.items()]


def is_image(value: Any) -> bool:
    """Whether a value is the bytes of an image, or a mapping with them."""
    if isinstance(value, Mapping):
        value = value.get("bytes")
    if not isinstance(value, bytes):
        return False
    is_riff = value[:4] == b"RIFF" and value[8:12] == b"WEBP"
    return is_riff or value[4:12] == b"ftypavif" or value.startswith(_MAGIC)


def picture_of(sample: Sample, column: str, *, side: int) -> bytes:
    """Return an image of a sample as a new PNG of at most `side` pixels per side.

    Raises:
        InputError: the column does not hold an image that can be decoded.
    """
    import io

    from PIL import ImageOps

    from trainers.inputs.images import open_image

    if column not in sample or not is_image(sample[column]):
        raise InputError(f"{column} is not an image")
    try:
        image = open_image(sample[column], num_channels=3)
    except SampleError as error:
        raise InputError(str(error)) from error
    if column != _first_image(sample):  # a map of small numbers would be black
        image = ImageOps.autocontrast(image)
    image.thumbnail((side, side))
    target = io.BytesIO()
    image.save(target, "PNG")
    return target.getvalue()


def _first_image(sample: Sample) -> str | None:
    return next((name for name, value in sample.items() if is_image(value)), None)


def _field(value: Any, characters: int) -> dict[str, Any]:
    if value is None:
        return {"kind": "null"}
    if is_image(value):
        return {"kind": "image"}
    if isinstance(value, bool | int | float):
        return {"kind": "number", "text": str(value)}
    if isinstance(value, bytes):
        head = value[:64].hex(" ")
        return {"kind": "bytes", "text": head, "num_bytes": len(value), "cut": len(value) > 64}
    if isinstance(value, str):
        turns = _turns(_parse(value)) if value[:1] == "[" else None
        return _chat(turns, characters) if turns else {"kind": "text"} | _cut(value, characters)
    if turns := _turns(value):
        return _chat(turns, characters)
    text = json.dumps(value, default=_plain, ensure_ascii=False, indent=1)
    return {"kind": "json"} | _cut(text, characters)


def _cut(text: str, characters: int) -> dict[str, Any]:
    return {"text": text[:characters], "cut": len(text) > characters}


def _chat(turns: list[tuple[str, str]], characters: int) -> dict[str, Any]:
    shown, left = [], characters
    for role, text in turns[:_MAX_TURNS]:
        shown.append({"role": role, "text": text[:left]})
        left -= len(text)
        if left <= 0:
            break
    return {"kind": "chat", "turns": shown, "cut": left < 0 or len(shown) < len(turns)}


def _turns(value: Any) -> list[tuple[str, str]] | None:
    """Return (role, text) of chat messages; None for other values."""
    if not isinstance(value, list) or not value:
        return None
    turns = []
    for stored in value:
        message = _parse(stored) if isinstance(stored, str) else stored
        if not isinstance(message, Mapping):
            return None
        names = next((pair for pair in _ROLES if message.keys() >= set(pair)), None)
        if names is None:
            return None
        content = message[names[1]]
        text = content if isinstance(content, str) else json.dumps(content, default=_plain)
        turns.append((str(message[names[0]]), text))
    return turns


def _parse(text: str) -> Any:
    try:
        return json.loads(text[:4_000_000])
    except (ValueError, RecursionError):
        return None


def _plain(value: Any) -> str:
    return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)


def _columns(source: Source, shard_id: int, row: int) -> dict[str, Any]:
    """Return the losses and annotations of one sample."""
    if source.pool_rounds:
        frame = source.read(list(source.columns)).chunks.frame()
    else:
        tables = [table for table in source.tables if shard_id < len(table.shards)]
        if not tables:
            return {}
        joined = JoinedScan.of([table.first(shard_id + 1) for table in tables])
        frame = joined.of_shards([shard_id]).frame()
    is_it = (pl.col(SHARD_ID) == shard_id) & (pl.col(ROW) == row)
    rows = frame.filter(is_it).collect().to_dicts()
    return {name: rows[0][name] for name in source.columns if name in rows[0]} if rows else {}


def _history(source: Source, shard_id: int, row: int) -> list[dict[str, Any]]:
    """Return round by round the loss of a sample, and whether it was selected."""
    values = _columns(source, shard_id, row)
    losses = {
        number: values.get(name)
        for number, name in zip(source.rounds, source.round_columns(), strict=True)
    }
    if not losses and LOSS in values and source.pool_rounds:
        losses = {source.pool_rounds[-1]: values[LOSS]}
    layout = Layout(source.url)
    rows = {n: rows_of_shard(layout.index(n), shard_id) for n in source.indexes}
    return [
        {
            "round": number,
            "loss": losses.get(number),
            "selected": bool((rows[number] == row).any()) if number in rows else None,
        }
        for number in sorted({*losses, *rows})
    ]


def _place(source: Source, shard_id: int, row: int) -> dict[str, Any]:
    """Return the shard of a sample, and the byte ranges that reading it takes."""
    shard = source.corpus.shard(shard_id)
    place = {"uri": shard.uri, "format": shard.format, "row": row, "num_bytes": shard.num_bytes}
    try:
        plan = plan_shard(shard, rows=[row], columns=source.corpus.columns)
    except AttentError as error:
        return place | {"error": str(error), "ranges": []}
    return place | {"method": plan.method, "ranges": [list(pair) for pair in plan.ranges[:20]]}


def _duplicate_columns(source: Source) -> list[str]:
    return [r.name for r, _ in source.annotations.annotations if r.kind in _DUPLICATES]


def _same_rows(is_same: pl.Expr, rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(is_same).select(SHARD_ID, ROW)


def _num_bytes(value: Any) -> int:
    if isinstance(value, bytes | str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_num_bytes, value.values())) + 64 * len(value)
    return sum(map(_num_bytes, value)) + 64 * len(value) if isinstance(value, list) else 32
