"""Which rows a scoring task measures, and the digest that names its result. Pure.

Corpus → spans → digests. A digest covers everything that a loss depends on, so a span file that
exists is the right one, and nobody needs to remember what was finished.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from attent_select.schema import SCHEMA_VERSION
from catalogs.losses.catalog import Span
from catalogs.shard_format import Shard
from pipeline.config.task_reference import TaskReference


def plan(shards: Iterable[Shard], *, span_samples: int) -> Iterator[tuple[Shard, Span]]:
    """Every row of every shard exactly once, in order, in spans of nearly equal length.

    A shard of more than `span_samples` rows is split into the fewest spans that are not longer.
    """
    for shard in shards:
        pieces = -(-shard.num_samples // span_samples)
        for piece in range(pieces):
            first = shard.num_samples * piece // pieces
            end = shard.num_samples * (piece + 1) // pieces
            yield shard, Span(shard_id=shard.shard_id, first_row=first, num_rows=end - first)


def digest(shard: Shard, span: Span, *, measured_by: Mapping[str, Any]) -> str:
    """Hex digest of what is measured and of what measures it.

    `measured_by`: plain values or settings dataclasses; the weights' digest, the task's and the
    scoring settings.
    """
    return next(digests([(shard, span)], measured_by=measured_by))[2]


def digests(
    planned: Iterable[tuple[Shard, Span]], *, measured_by: Mapping[str, Any]
) -> Iterator[tuple[Shard, Span, str]]:
    """Each of `planned` with its `digest`."""
    common = hashlib.sha256(_text([SCHEMA_VERSION, dict(measured_by)]).encode())
    for shard, span in planned:
        own = common.copy()
        what = [shard.uri, shard.etag, shard.num_bytes, span.shard_id, span.first_row]
        own.update(_text([*what, span.num_rows]).encode())
        yield shard, span, own.hexdigest()[:32]


def plain(measured_by: Mapping[str, Any]) -> Any:
    """`measured_by` as JSON has it, to be kept and compared."""
    return json.loads(_text(dict(measured_by)))


def parts(spans: Sequence[Span], *, part_samples: int) -> Iterator[list[int]]:
    """Positions in `spans`, grouped into contiguous ranges of whole shards.

    A part holds at least one shard and closes before it would exceed `part_samples` rows.
    """
    group: list[int] = []
    group_rows = 0
    for shard in _by_shard(spans):
        shard_rows = sum(spans[position].num_rows for position in shard)
        if group and group_rows + shard_rows > part_samples:
            yield group
            group, group_rows = [], 0
        group.extend(shard)
        group_rows += shard_rows
    if group:
        yield group


def _by_shard(spans: Sequence[Span]) -> Iterator[list[int]]:
    shard: list[int] = []
    for position, span in enumerate(spans):
        if shard and spans[shard[-1]].shard_id != span.shard_id:
            yield shard
            shard = []
        shard.append(position)
    if shard:
        yield shard


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, TaskReference):
        return value.hashed
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"class": type(value).__qualname__, **dataclasses.asdict(value)}
    raise TypeError(f"{value!r} has no plain form to hash")
