"""Spans: every row once, parts of whole shards, digests of all that losses depend on."""

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogs.losses.catalog import Span
from catalogs.shard_format import Shard
from pipeline.scoring.span_task import Measurement
from pipeline.scoring.spans import group_into_parts, split_into_spans, with_digests
from trainers.checkpoint import Checkpoint
from trainers.inputs.decoding.frame import Resampling
from trainers.settings import ScoringSettings
from trainers.tasks.image_classification import ImageClassification

SIZES = st.lists(st.integers(1, 500), min_size=1, max_size=12)


def shards_of(sizes: list[int]) -> list[Shard]:
    return [
        Shard(number, f"/shards/{number}.parquet", "parquet", size, 100 * size, f"etag-{number}")
        for number, size in enumerate(sizes)
    ]


@given(SIZES, st.integers(1, 200))
def test_spans_hold_every_row_once_in_order_within_their_size(
    sizes: list[int], span_samples: int
) -> None:
    planned = list(split_into_spans(shards_of(sizes), span_samples=span_samples))
    rows = [
        (span.shard_id, row)
        for _, span in planned
        for row in range(span.first_row, span.first_row + span.num_rows)
    ]
    assert rows == [(number, row) for number, size in enumerate(sizes) for row in range(size)]
    assert max(span.num_rows for _, span in planned) <= span_samples
    assert all(shard.shard_id == span.shard_id for shard, span in planned)


@given(SIZES, st.integers(1, 200), st.integers(1, 1500))
def test_parts_are_contiguous_ranges_of_whole_shards_within_their_size(
    sizes: list[int], span_samples: int, part_samples: int
) -> None:
    planned = [span for _, span in split_into_spans(shards_of(sizes), span_samples=span_samples)]
    groups = list(group_into_parts(planned, part_samples=part_samples))
    assert [position for group in groups for position in group] == list(range(len(planned)))
    shard_ids = [{planned[position].shard_id for position in group} for group in groups]
    assert sum(len(ids) for ids in shard_ids) == len(sizes), "a shard is in one part"
    for group, ids in zip(groups, shard_ids, strict=True):
        num_rows = sum(planned[position].num_rows for position in group)
        assert num_rows <= part_samples or len(ids) == 1


SHARD = Shard(0, "/shards/0.parquet", "parquet", 10, 1000, "etag")
SPAN = Span(shard_id=0, first_row=0, num_rows=10)
MEASURED_BY = {"weights": "abc", "task": ImageClassification(image_size=8), "settings": {"a": 1}}


def digest(shard: Shard, span: Span, measured_by: dict[str, object]) -> str:
    [(_, _, result)] = with_digests([(shard, span)], measured_by=measured_by)
    return result


@pytest.mark.parametrize(
    ("shard", "span", "changed"),
    [
        (replace(SHARD, etag="other"), SPAN, {}),
        (SHARD, replace(SPAN, num_rows=9), {}),
        (SHARD, SPAN, {"weights": "abd"}),
        (SHARD, SPAN, {"task": ImageClassification(image_size=16)}),
        (SHARD, SPAN, {"settings": {"a": 2}}),
    ],
)
def test_a_digest_changes_with_everything_that_a_loss_depends_on(
    shard: Shard, span: Span, changed: dict[str, object]
) -> None:
    before = digest(SHARD, SPAN, MEASURED_BY)
    assert digest(SHARD, SPAN, dict(MEASURED_BY)) == before
    assert digest(shard, span, MEASURED_BY | changed) != before


def test_digests_stay_the_same_between_versions() -> None:
    measured_by = MEASURED_BY | {"step": 3}
    assert digest(SHARD, SPAN, measured_by) == "cebeface1a89c2df02b9afe5466ccf00"


@pytest.mark.parametrize("version", ["none", "1.9.0"])
def test_a_digest_names_the_decoder_where_it_is_not_pillow(version: str) -> None:
    checkpoint = Checkpoint("/run/checkpoints/0", step=0, weights_digest="abc", files={})
    for resampling in get_args(Resampling):
        task = ImageClassification(resampling=resampling)
        measurement = Measurement(
            run="/run",
            task=task,
            model={},
            checkpoint=checkpoint,
            settings=ScoringSettings(),
            environment={"simplejpeg": version},
        )
        is_named = resampling == "torch" and version != "none"
        decoder = "simplejpeg 1.9.0" if is_named else None
        assert measurement.facts.get("jpeg_decoder") == decoder


def test_a_setting_that_cannot_be_written_as_json_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        digest(SHARD, SPAN, {"task": object()})
