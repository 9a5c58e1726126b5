"""What every shard format promises: a new file in `catalogs/formats/` is tested for existing."""

import os
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attent_select import plugins
from attent_select.errors import CorpusMismatchError, InputError, MissingError
from catalogs import storage
from catalogs.corpus import save_members
from catalogs.shard_format import Sample, Shard, ShardFormat

NAMES = plugins.plugin_names("catalogs.formats")
MIB = 1 << 20

in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def format_(name: str) -> ShardFormat:
    found: ShardFormat = plugins.load_plugin("catalogs.formats", name)()
    return found


def path_in(folder: Path, format_: ShardFormat) -> Path:
    return folder / f"shard{format_.suffixes[0]}"


def ingested(path: Path, name: str, format_: ShardFormat, members: Path | None = None) -> Shard:
    """A shard as a manifest would hold it, with its member index saved where it keeps one."""
    stored = storage.info(str(path))
    assert stored is not None
    found = format_.inspect(stored.url)
    members_uri = None
    if found.members is not None and members is not None:
        members_uri = str(members)
        save_members(members_uri, found.members)
    return Shard(0, stored.url, name, found.num_samples, stored.num_bytes, stored.etag, members_uri)


def pictures(count: int, *, num_bytes: int = 64) -> list[Sample]:
    return [
        {"image": bytes([index % 251]) * num_bytes, "label": index, "text": f"number {index}"}
        for index in range(count)
    ]


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
@in_one_folder
def test_samples_come_back_as_they_were_written(
    format_: ShardFormat, name: str, tmp_path: Path, samples: list[Sample], data: st.DataObject
) -> None:
    path = path_in(tmp_path, format_)
    format_.write(path, samples)
    shard = ingested(path, name, format_, tmp_path / "members.parquet")
    every_row = range(len(samples))
    rows = sorted(data.draw(st.sets(st.sampled_from(every_row))))
    columns = data.draw(st.lists(st.sampled_from(sorted(samples[0])), min_size=1, unique=True))

    assert shard.num_samples == len(samples)
    assert format_.read(shard, rows=every_row, columns=sorted(samples[0])).samples == samples
    some = format_.read(shard, rows=rows, columns=columns)
    assert some.samples == [{column: samples[row][column] for column in columns} for row in rows]


def test_the_columns_are_found_by_inspecting(
    format_: ShardFormat, name: str, tmp_path: Path
) -> None:
    format_.write(path_in(tmp_path, format_), pictures(3))
    found = format_.inspect(str(path_in(tmp_path, format_)))
    assert sorted(found.columns) == ["image", "label", "text"]
    assert found.num_samples == 3
    assert (found.members is not None) == format_.keeps_members


def test_a_shard_reads_the_same_without_its_saved_member_index(
    format_: ShardFormat, name: str, tmp_path: Path
) -> None:
    samples = pictures(20)
    format_.write(path_in(tmp_path, format_), samples)
    bare = ingested(path_in(tmp_path, format_), name, format_)
    found = format_.read(bare, rows=[3, 4, 19], columns=["label"]).samples
    assert found == [{"label": 3}, {"label": 4}, {"label": 19}]


def test_equal_samples_make_equal_bytes(format_: ShardFormat, name: str, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    format_.write(first, pictures(50))
    # The same values, with the columns in another order.
    format_.write(second, [dict(reversed(sample.items())) for sample in pictures(50)])
    os.utime(first, (1, 1))
    assert first.read_bytes() == second.read_bytes()


def test_writing_takes_any_number_of_samples_from_an_iterator(
    format_: ShardFormat, name: str, tmp_path: Path
) -> None:
    samples = pictures(3000, num_bytes=10)
    format_.write(path_in(tmp_path, format_), iter(samples))
    shard = ingested(path_in(tmp_path, format_), name, format_)
    rows = [0, 1023, 1024, 2999]
    found = format_.read(shard, rows=rows, columns=["image", "label", "text"]).samples
    assert found == [samples[row] for row in rows]


def test_a_shard_without_samples_cannot_be_written(
    format_: ShardFormat, name: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no samples"):
        format_.write(path_in(tmp_path, format_), [])


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.5, 0.9, 0.999])
def test_a_truncated_shard_is_an_input_error_that_names_it(
    format_: ShardFormat, name: str, tmp_path: Path, share: float
) -> None:
    path = path_in(tmp_path, format_)
    format_.write(path, pictures(200))
    data = path.read_bytes()
    # A tar ends in zeros; one that lacks only some of those lacks nothing.
    path.write_bytes(data[: int(len(data.rstrip(b"\0")) * share)])
    with pytest.raises(InputError, match=path.name):
        format_.inspect(str(path))


def test_a_shard_cut_at_any_block_is_noticed(
    format_: ShardFormat, name: str, tmp_path: Path
) -> None:
    path = path_in(tmp_path, format_)
    format_.write(path, pictures(2))
    data = path.read_bytes()
    used = len(data.rstrip(b"\0"))
    for end in range(0, used, 512):
        path.write_bytes(data[:end])
        with pytest.raises(InputError, match=path.name):
            format_.inspect(str(path))


def test_a_file_of_something_else_is_an_input_error_that_names_it(
    format_: ShardFormat, name: str, tmp_path: Path
) -> None:
    path = path_in(tmp_path, format_)
    path.write_bytes(b"neither a table nor an archive\n" * 100)
    with pytest.raises(InputError, match=path.name):
        format_.inspect(str(path))


def test_an_unknown_column_is_an_input_error_that_names_it_and_the_known_ones(
    format_: ShardFormat, name: str, tmp_path: Path
) -> None:
    format_.write(path_in(tmp_path, format_), pictures(3))
    shard = ingested(path_in(tmp_path, format_), name, format_)
    with pytest.raises(InputError, match=r"'picture'.*image, label, text"):
        format_.read(shard, rows=[0], columns=["label", "picture"])


@pytest.mark.parametrize("rows", [[3], [0, 7], [-1, 0], [1, 0], [1, 1]])
def test_rows_outside_the_shard_or_out_of_order_are_input_errors(
    format_: ShardFormat, name: str, tmp_path: Path, rows: list[int]
) -> None:
    format_.write(path_in(tmp_path, format_), pictures(3))
    shard = ingested(path_in(tmp_path, format_), name, format_)
    with pytest.raises(InputError, match=r"has no row|strictly increasing"):
        format_.read(shard, rows=rows, columns=["label"])


@pytest.mark.parametrize("warm", [False, True])
def test_a_shard_that_is_gone_is_missing(
    format_: ShardFormat, name: str, tmp_path: Path, *, warm: bool
) -> None:
    path = path_in(tmp_path, format_)
    format_.write(path, pictures(3))
    shard = ingested(path, name, format_)
    if warm:
        format_.read(shard, rows=[0], columns=["label"])
    path.unlink()
    with pytest.raises(MissingError, match=path.name):
        format_.read(shard, rows=[0], columns=["label"])
    with pytest.raises(MissingError, match=path.name):
        format_.inspect(str(path))


@pytest.mark.parametrize("warm", [False, True])
def test_a_shard_that_changed_is_a_corpus_mismatch_that_names_it(
    format_: ShardFormat, name: str, tmp_path: Path, *, warm: bool
) -> None:
    path = path_in(tmp_path, format_)
    format_.write(path, pictures(300))
    shard = ingested(path, name, format_)
    if warm:
        format_.read(shard, rows=[0], columns=["label"])
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(1, 1))
    with pytest.raises(CorpusMismatchError, match=path.name):
        format_.read(shard, rows=[5], columns=["label"])


def test_a_few_rows_of_a_large_shard_cost_few_bytes(
    format_: ShardFormat, name: str, tmp_path: Path
) -> None:
    shard = large_shard(format_, name, tmp_path)
    first = format_.read(shard, rows=[700], columns=["image", "label"])
    again = format_.read(shard, rows=[701], columns=["image", "label"])
    assert shard.num_bytes > 60 * MIB
    for reading in (first, again):
        assert reading.bytes_read < 12 * MIB
        assert reading.num_requests <= 3


def test_a_narrow_column_does_not_cost_the_wide_one(
    format_: ShardFormat, name: str, tmp_path: Path
) -> None:
    shard = large_shard(format_, name, tmp_path)
    reading = format_.read(shard, rows=range(1000), columns=["label"])
    assert [sample["label"] for sample in reading.samples] == list(range(1000))
    assert reading.bytes_read < MIB
    assert reading.bytes_selected < 2 * MIB


def test_a_whole_shard_is_read_in_one_request(
    format_: ShardFormat, name: str, tmp_path: Path
) -> None:
    samples = pictures(500, num_bytes=2000)
    format_.write(path_in(tmp_path, format_), samples)
    shard = ingested(path_in(tmp_path, format_), name, format_, tmp_path / "members.parquet")
    format_.read(shard, rows=[0], columns=["label"])
    reading = format_.read(shard, rows=range(500), columns=["image", "label", "text"])
    assert reading.num_requests == 1
    assert reading.bytes_read <= shard.num_bytes
    assert 0 < reading.bytes_selected <= shard.num_bytes


def test_what_samples_take_when_decoded_is_known_before_they_are_read(
    format_: ShardFormat, name: str, tmp_path: Path
) -> None:
    samples = [{"image": os.urandom(10_000), "label": index} for index in range(3000)]
    path = path_in(tmp_path, format_)
    format_.write(path, samples)
    shard = ingested(path, name, format_, tmp_path / "members.parquet")

    def decoded(rows: Sequence[int], columns: list[str]) -> int:
        return format_.plan(shard, rows=rows, columns=columns).decoded_bytes

    assert decoded([], ["image"]) == 0
    assert 10_000_000 <= decoded(range(1000), ["image"]) < 25_000_000
    assert decoded([5], ["image"]) >= 10_000
    assert decoded(range(1000), ["label"]) < 50_000
    with pytest.raises(InputError, match="'picture'"):
        decoded([0], ["picture"])
    with pytest.raises(InputError, match="has no row 3000"):
        decoded([3000], ["label"])


@pytest.mark.parametrize("rows", [range(1000), range(0, 1000, 7), [5], []], ids=len)
def test_what_is_planned_is_what_is_read(
    format_: ShardFormat, name: str, tmp_path: Path, rows: Sequence[int]
) -> None:
    shard = large_shard(format_, name, tmp_path)
    plan = format_.plan(shard, rows=rows, columns=["image", "label"])
    meter = storage.ReadMeter()
    with storage.use_read_policy(storage.ReadPolicy(meter=meter)):
        reading = format_.read(shard, rows=rows, columns=["image", "label"])
    assert meter.num_bytes == plan.num_bytes == reading.bytes_read
    assert meter.num_requests == len(plan.ranges) == reading.num_requests
    assert plan.bytes_selected == reading.bytes_selected
    assert plan.method == "whole file" or len(rows) < 1000
    assert plan.method != "whole file" or len(rows) > 1


def test_dearer_requests_are_fewer_and_read_more(
    format_: ShardFormat, name: str, tmp_path: Path
) -> None:
    format_.write(path_in(tmp_path, format_), pictures(4000, num_bytes=3000))
    shard = ingested(path_in(tmp_path, format_), name, format_, tmp_path / "members.parquet")
    plans = []
    for latency in (0.0, 1e-5, 1.0):
        cost = storage.ReadCost(latency_seconds=latency, bytes_per_second=1e9)
        with storage.use_read_policy(storage.ReadPolicy(cost=cost)):
            plans.append(format_.plan(shard, rows=range(0, 4000, 2), columns=["image"]))
    requests, num_bytes = (
        [f(plan) for plan in plans] for f in (lambda p: len(p.ranges), lambda p: p.num_bytes)
    )
    assert requests == sorted(requests, reverse=True)
    assert num_bytes == sorted(num_bytes)
    assert requests[-1] == 1


def test_row_groups_begin_at_row_0_and_grow_or_are_refused_with_another_way(
    format_: ShardFormat, name: str, tmp_path: Path
) -> None:
    shard = large_shard(format_, name, tmp_path)
    first_rows, refusal = [0], ""
    try:
        first_rows = list(format_.row_groups(shard))
    except InputError as error:
        refusal = str(error)
    if refusal:
        assert refusal.startswith(f"{shard.uri} is a ")
        assert "granularity: shard" in refusal
        return
    assert first_rows[0] == 0
    assert first_rows == sorted(set(first_rows))
    assert 1 < len(first_rows) <= first_rows[-1] < shard.num_samples


def test_no_rows_cost_nothing(format_: ShardFormat, name: str, tmp_path: Path) -> None:
    format_.write(path_in(tmp_path, format_), pictures(3))
    shard = ingested(path_in(tmp_path, format_), name, format_)
    reading = format_.read(shard, rows=[], columns=["label"])
    assert (reading.samples, reading.bytes_read, reading.num_requests) == ([], 0, 0)


def test_many_threads_read_one_shard(format_: ShardFormat, name: str, tmp_path: Path) -> None:
    samples = pictures(400)
    format_.write(path_in(tmp_path, format_), samples)
    shard = ingested(path_in(tmp_path, format_), name, format_, tmp_path / "members.parquet")

    def labels(first: int) -> list[Any]:
        rows = range(first, 400, 8)
        return [one["label"] for one in format_.read(shard, rows=rows, columns=["label"]).samples]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(labels, range(8)))
    assert found == [list(range(first, 400, 8)) for first in range(8)]


def test_any_url_will_do(format_: ShardFormat, name: str, tmp_path: Path) -> None:
    samples = pictures(40)
    format_.write(path_in(tmp_path, format_), samples)
    url = f"memory://formats/{name}{format_.suffixes[0]}"
    storage.publish(url, path_in(tmp_path, format_))
    stored = storage.info(url)
    assert stored is not None
    shard = replace(ingested(path_in(tmp_path, format_), name, format_), uri=url, etag=stored.etag)
    assert format_.inspect(url).num_samples == 40
    rows: Sequence[int] = [1, 39]
    found = format_.read(shard, rows=rows, columns=["image", "label", "text"]).samples
    assert found == [samples[1], samples[39]]


def large_shard(format_: ShardFormat, name: str, folder: Path) -> Shard:
    def samples() -> Any:
        noise = random.Random(0)
        for index in range(1000):
            yield {"image": noise.randbytes(64 << 10), "label": index}

    format_.write(path_in(folder, format_), samples())
    return ingested(path_in(folder, format_), name, format_, folder / "members.parquet")
