"""Every file in `catalogs/formats/` passes the conformance suite of shard formats."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attent_select import plugins
from catalogs.formats.parquet import Parquet
from catalogs.shard_format import Reading, Sample, Shard, ShardFormat
from catalogs.testing import ShardFormatConformance, check_round_trip

NAMES = plugins.plugin_names("catalogs.formats")


@pytest.fixture(params=NAMES)
def shard_format(request: pytest.FixtureRequest) -> ShardFormat:
    if request.param == "lance":
        pytest.importorskip("lance.file", reason="pylance is not installed")
    loaded: ShardFormat = plugins.load_plugin("catalogs.formats", request.param)()
    return loaded


class TestShardFormats(ShardFormatConformance):
    """The published suite, for every format."""


def sample_lists() -> st.SearchStrategy[list[Sample]]:
    text = st.text(st.characters(exclude_categories=["Cs"]))
    return st.lists(
        st.fixed_dictionaries(
            {
                "image": st.binary(max_size=200),
                "text": text,
                "label": st.integers(-(1 << 63), (1 << 63) - 1),
                "score": st.none() | st.floats(allow_nan=False),
                "keep": st.booleans(),
                "tags": st.lists(st.integers(-9, 9), max_size=3),
                "meta": st.fixed_dictionaries({"a": st.integers(0, 9), "b": text}),
            }
        ),
        min_size=1,
        max_size=12,
    )


@given(samples=sample_lists(), data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_samples_are_read_as_they_were_written(
    shard_format: ShardFormat, tmp_path: Path, samples: list[Sample], data: st.DataObject
) -> None:
    rows = sorted(data.draw(st.sets(st.sampled_from(range(len(samples))))))
    columns = data.draw(st.lists(st.sampled_from(sorted(samples[0])), min_size=1, unique=True))
    check_round_trip(shard_format, tmp_path, samples, rows=rows, columns=columns)


def test_the_suite_rejects_a_format_that_returns_other_rows(tmp_path: Path) -> None:
    class FirstRows(Parquet):
        def read(self, shard: Shard, *, rows: Sequence[int], columns: Sequence[str]) -> Reading:
            return super().read(shard, rows=range(len(rows)), columns=columns)

    with pytest.raises(AssertionError, match="expected"):
        ShardFormatConformance().test_samples_are_read_as_they_were_written(FirstRows(), tmp_path)
