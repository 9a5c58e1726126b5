"""Spans: the rows that one scoring task measures, and the digest that names its result.

A digest covers everything that a loss depends on. A span file with that name is therefore the right
one, and finished spans need no other record.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from attent_select.schema import SCHEMA_VERSION
from catalogs.losses.catalog import Span
from catalogs.shard_format import Shard
from pipeline.config.canonical_json import canonical_json

_DIGEST_LENGTH = 32


def split_into_spans(shards: Iterable[Shard], *, span_samples: int) -> Iterator[tuple[Shard, Span]]:
    """Split shards into spans of nearly equal length: every row exactly once, in order.

    A shard of more than `span_samples` rows gets the smallest number of spans that are not longer.
    """
    for shard in shards:
        num_spans = -(-shard.num_samples // span_samples)
        for number in range(num_spans):
            first = shard.num_samples * number // num_spans
            end = shard.num_samples * (number + 1) // num_spans
            yield shard, Span(shard_id=shard.shard_id, first_row=first, num_rows=end - first)


def with_digests(
    spans: Iterable[tuple[Shard, Span]], *, measured_by: Mapping[str, Any]
) -> Iterator[tuple[Shard, Span, str]]:
    """Add to each span the hex digest of what is measured and of what measures it.

    `measured_by`: plain values or settings dataclasses: the digest of the weights, the task and the
    scoring settings.
    """
    common = hashlib.sha256(canonical_json([SCHEMA_VERSION, dict(measured_by)]).encode())
    for shard, span in spans:
        digest = common.copy()
        facts = [shard.uri, shard.etag, shard.num_bytes, span.shard_id, span.first_row]
        digest.update(canonical_json([*facts, span.num_rows]).encode())
        yield shard, span, digest.hexdigest()[:_DIGEST_LENGTH]


def group_into_parts(spans: Sequence[Span], *, part_samples: int) -> Iterator[list[int]]:
    """Group positions in `spans` into contiguous ranges of whole shards, one range a part.

    A part holds at least one shard and closes before it would exceed `part_samples` rows.
    """
    part: list[int] = []
    part_rows = 0
    for positions in _by_shard(spans):
        shard_rows = sum(spans[position].num_rows for position in positions)
        if part and part_rows + shard_rows > part_samples:
            yield part
            part, part_rows = [], 0
        part.extend(positions)
        part_rows += shard_rows
    if part:
        yield part


def _by_shard(spans: Sequence[Span]) -> Iterator[list[int]]:
    positions: list[int] = []
    for position, span in enumerate(spans):
        if positions and spans[positions[-1]].shard_id != span.shard_id:
            yield positions
            positions = []
        positions.append(position)
    if positions:
        yield positions
