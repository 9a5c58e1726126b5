"""Conformance suite of shard formats, for pytest; also for formats outside this repository.

Derive from `ShardFormatConformance`, provide the fixture `shard_format`, and pytest runs the whole
suite. A complete test module for the format `Jsonl` of the module `jsonl_shards`:

    import pytest
    from catalogs.testing import ShardFormatConformance
    from jsonl_shards import Jsonl

    class TestJsonl(ShardFormatConformance):
        @pytest.fixture
        def shard_format(self) -> Jsonl:
            return Jsonl()

The tests check the contract of `catalogs.shard_format.ShardFormat` and write below pytest's
`tmp_path`. This module does not import pytest and needs no network.
"""

import contextlib
import os
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from attent_select.errors import CorpusMismatchError, InputError, MissingError
from catalogs import storage
from catalogs.concurrency import ordered_map
from catalogs.shard_format import Sample, Shard, ShardFormat
from catalogs.shards import save_members

__all__ = ["ShardFormatConformance", "check_round_trip", "ingest"]

_MIB = 1 << 20
_COLUMNS = ["image", "label", "text"]
_MIXED_SAMPLES: list[Sample] = [
    {"image": b"", "text": "", "label": 0, "score": None, "keep": False, "tags": []},
    {"image": b"\x00\xff", "text": "zwölf 文\n", "label": -(1 << 63), "score": -0.5, "keep": True},
    {
        "image": b"P" * 700,
        "text": "\x00 .tar",
        "label": (1 << 63) - 1,
        "score": 1e300,
        "keep": True,
    },
]


def ingest(shard_format: ShardFormat, path: Path, samples: Sequence[Sample]) -> Shard:
    """Write a local shard and its member index, if any; return it as a manifest holds it."""
    shard_format.write(path, iter(samples))
    return _inspect(shard_format, path, members=path.with_name(f"{path.name}.members"))


def check_round_trip(
    shard_format: ShardFormat,
    folder: Path,
    samples: Sequence[Sample],
    *,
    rows: Sequence[int],
    columns: Sequence[str],
) -> None:
    """Check that `samples`, which all have the same columns, are read as they were written."""
    shard = ingest(shard_format, _path(shard_format, folder), samples)
    _check_equal(shard.num_samples, len(samples), "num_samples")
    all_rows, all_columns = range(len(samples)), sorted(samples[0])
    _check_equal(_read(shard_format, shard, all_rows, all_columns), list(samples), "all samples")
    expected = [{column: samples[row][column] for column in columns} for row in rows]
    _check_equal(_read(shard_format, shard, rows, columns), expected, f"{columns} of rows {rows}")


class ShardFormatConformance:
    """Suite of tests; a subclass provides the fixture `shard_format`."""

    def test_samples_are_read_as_they_were_written(
        self, shard_format: ShardFormat, tmp_path: Path
    ) -> None:
        defaults = {"tags": [3, -1], "meta": {"a": 1, "b": "é"}}
        samples = [defaults | sample for sample in _MIXED_SAMPLES]
        check_round_trip(
            shard_format, tmp_path, samples, rows=[0, 2], columns=["tags", "image", "label"]
        )

    def test_inspection_finds_the_columns(self, shard_format: ShardFormat, tmp_path: Path) -> None:
        shard_format.write(_path(shard_format, tmp_path), _samples(3))
        inspection = shard_format.inspect(str(_path(shard_format, tmp_path)))
        _check_equal(sorted(inspection.columns), _COLUMNS, "columns")
        _check_equal(inspection.num_samples, 3, "num_samples")
        has_members = inspection.members is not None
        _check_equal(has_members, shard_format.keeps_members, "presence of a member index")

    def test_a_shard_is_readable_without_a_saved_member_index(
        self, shard_format: ShardFormat, tmp_path: Path
    ) -> None:
        shard_format.write(_path(shard_format, tmp_path), _samples(20))
        shard = _inspect(shard_format, _path(shard_format, tmp_path))
        labels = _read(shard_format, shard, [3, 4, 19], ["label"])
        _check_equal(labels, [{"label": 3}, {"label": 4}, {"label": 19}], "samples")

    def test_equal_samples_make_equal_bytes(
        self, shard_format: ShardFormat, tmp_path: Path
    ) -> None:
        first, second = tmp_path / "first", tmp_path / "second"
        shard_format.write(first, _samples(50))
        shard_format.write(second, [dict(reversed(sample.items())) for sample in _samples(50)])
        _require(
            first.read_bytes() == second.read_bytes(), "the order of columns changes the bytes"
        )

    def test_thousands_of_samples_are_written(
        self, shard_format: ShardFormat, tmp_path: Path
    ) -> None:
        samples = _samples(3000, num_bytes=10)
        rows = [0, 1023, 1024, 2999]
        check_round_trip(shard_format, tmp_path, samples, rows=rows, columns=_COLUMNS)

    def test_a_shard_without_samples_is_refused(
        self, shard_format: ShardFormat, tmp_path: Path
    ) -> None:
        with _expect(InputError, "no samples"):
            shard_format.write(_path(shard_format, tmp_path), [])

    def test_a_truncated_shard_is_detected(self, shard_format: ShardFormat, tmp_path: Path) -> None:
        path = _path(shard_format, tmp_path)
        for num_samples in (200, 2):
            shard_format.write(path, _samples(num_samples))
            data = path.read_bytes()
            # A tar ends in zeros; one that lacks only some of them is complete.
            size = len(data.rstrip(b"\0"))
            for end in (*range(0, size, max(512, size // 16)), size - 1):
                path.write_bytes(data[:end])
                with _expect(InputError, re.escape(path.name)):
                    shard_format.inspect(str(path))

    def test_other_files_are_refused(self, shard_format: ShardFormat, tmp_path: Path) -> None:
        path = _path(shard_format, tmp_path)
        path.write_bytes(b"neither a table nor an archive\n" * 100)
        with _expect(InputError, re.escape(path.name)):
            shard_format.inspect(str(path))

    def test_an_unknown_column_is_refused(self, shard_format: ShardFormat, tmp_path: Path) -> None:
        shard = ingest(shard_format, _path(shard_format, tmp_path), _samples(3))
        with _expect(InputError, r"'picture'.*image, label, text"):
            shard_format.read(shard, rows=[0], columns=["label", "picture"])
        with _expect(InputError, "'picture'"):
            shard_format.plan(shard, rows=[0], columns=["picture"])

    def test_invalid_rows_are_refused(self, shard_format: ShardFormat, tmp_path: Path) -> None:
        shard = ingest(shard_format, _path(shard_format, tmp_path), _samples(3))
        for rows in ([3], [0, 7], [-1, 0], [1, 0], [1, 1]):
            for method in (shard_format.read, shard_format.plan):
                with _expect(InputError, r"has no row|strictly increasing"):
                    method(shard, rows=rows, columns=["label"])

    def test_a_deleted_shard_is_missing(self, shard_format: ShardFormat, tmp_path: Path) -> None:
        for is_warm in (False, True):
            path = tmp_path / f"{is_warm}{shard_format.suffixes[0]}"
            shard = ingest(shard_format, path, _samples(3))
            if is_warm:
                shard_format.read(shard, rows=[0], columns=["label"])
            path.unlink()
            with _expect(MissingError, re.escape(path.name)):
                shard_format.read(shard, rows=[0], columns=["label"])
            with _expect(MissingError, re.escape(path.name)):
                shard_format.inspect(str(path))

    def test_a_changed_shard_is_a_mismatch(self, shard_format: ShardFormat, tmp_path: Path) -> None:
        for is_warm in (False, True):
            path = tmp_path / f"{is_warm}{shard_format.suffixes[0]}"
            shard = ingest(shard_format, path, _samples(300))
            if is_warm:
                shard_format.read(shard, rows=[0], columns=["label"])
            os.utime(path, ns=(1, 1))
            with _expect(CorpusMismatchError, re.escape(path.name)):
                shard_format.read(shard, rows=[5], columns=["label"])

    def test_reading_costs_what_is_needed(self, shard_format: ShardFormat, tmp_path: Path) -> None:
        shard = _noise_shard(shard_format, tmp_path)
        _require(shard.num_bytes > 60 * _MIB, "a shard of 1000 × 64 KiB of noise is too small")
        for row in (700, 701):
            reading = shard_format.read(shard, rows=[row], columns=["image", "label"])
            _require(reading.bytes_read < 12 * _MIB, "one row costs more than 12 MiB")
            _require(reading.num_requests <= 4, "two columns of a row cost more than 4 requests")
        narrow = shard_format.read(shard, rows=range(1000), columns=["label"])
        _check_equal(narrow.values["label"], list(range(1000)), "labels")
        _require(narrow.bytes_read < _MIB, "a narrow column costs the wide one")
        _require(narrow.bytes_selected < 2 * _MIB, "bytes_selected counts the wide column")

    def test_a_whole_shard_is_read_in_one_request(
        self, shard_format: ShardFormat, tmp_path: Path
    ) -> None:
        shard = ingest(shard_format, _path(shard_format, tmp_path), _samples(500, num_bytes=2000))
        shard_format.read(shard, rows=[0], columns=["label"])
        reading = shard_format.read(shard, rows=range(500), columns=_COLUMNS)
        _check_equal(reading.num_requests, 1, "requests")
        _require(reading.bytes_read <= shard.num_bytes, "more bytes than the shard has are read")
        _require(0 < reading.bytes_selected <= shard.num_bytes, "bytes_selected exceeds the shard")

    def test_a_plan_knows_the_decoded_size(self, shard_format: ShardFormat, tmp_path: Path) -> None:
        shard = _noise_shard(shard_format, tmp_path, num_samples=3000, image_bytes=10_000)

        def decoded_bytes(rows: Sequence[int], column: str) -> int:
            return shard_format.plan(shard, rows=rows, columns=[column]).decoded_bytes

        _check_equal(decoded_bytes([], "image"), 0, "decoded_bytes of no rows")
        many = decoded_bytes(range(1000), "image")
        _require(10_000_000 <= many < 25_000_000, f"decoded_bytes of 10 MB is {many}")
        _require(decoded_bytes([5], "image") >= 10_000, "decoded_bytes is less than the sample")
        _require(
            decoded_bytes(range(1000), "label") < 50_000, "decoded_bytes counts another column"
        )

    def test_a_plan_is_what_is_read(self, shard_format: ShardFormat, tmp_path: Path) -> None:
        shard = _noise_shard(shard_format, tmp_path)
        for rows in (range(1000), range(0, 1000, 7), [5], []):
            plan = shard_format.plan(shard, rows=rows, columns=["image", "label"])
            meter = storage.ReadMeter()
            with storage.use_read_policy(storage.ReadPolicy(meter=meter)):
                reading = shard_format.read(shard, rows=rows, columns=["image", "label"])
            planned = (plan.num_bytes, len(plan.ranges), plan.bytes_selected)
            actual = (reading.bytes_read, reading.num_requests, reading.bytes_selected)
            _check_equal(actual, planned, f"bytes, requests, selected bytes of {len(rows)} rows")
            _check_equal(
                (meter.num_bytes, meter.num_requests), planned[:2], "metered bytes, requests"
            )
            is_whole = plan.method == "whole file"
            _require(is_whole if len(rows) == 1000 else len(rows) > 1 or not is_whole, plan.method)

    def test_expensive_requests_are_fewer(self, shard_format: ShardFormat, tmp_path: Path) -> None:
        shard = ingest(shard_format, _path(shard_format, tmp_path), _samples(4000, num_bytes=3000))
        requests, num_bytes = [], []
        for latency in (0.0, 1e-5, 1.0):
            cost = storage.ReadCost(latency_seconds=latency, bytes_per_second=1e9)
            with storage.use_read_policy(storage.ReadPolicy(cost=cost)):
                plan = shard_format.plan(shard, rows=range(0, 4000, 2), columns=["image"])
            requests.append(len(plan.ranges))
            num_bytes.append(plan.num_bytes)
        _check_equal(requests, sorted(requests, reverse=True), "requests by increasing latency")
        _check_equal(num_bytes, sorted(num_bytes), "bytes by increasing latency")
        _check_equal(requests[-1], 1, "requests at a latency of 1 s")

    def test_row_groups_are_ascending_or_refused(
        self, shard_format: ShardFormat, tmp_path: Path
    ) -> None:
        shard = _noise_shard(shard_format, tmp_path)
        try:
            first_rows = list(shard_format.row_groups(shard))
        except InputError as error:
            _require(shard.uri in str(error), f"the refusal does not name the shard: {error}")
            return
        _check_equal(first_rows[0], 0, "first row of the first row group")
        _check_equal(first_rows, sorted(set(first_rows)), "first rows of row groups")
        _require(
            1 < len(first_rows) <= first_rows[-1] < shard.num_samples, "expected many row groups"
        )

    def test_no_rows_cost_nothing(self, shard_format: ShardFormat, tmp_path: Path) -> None:
        shard = ingest(shard_format, _path(shard_format, tmp_path), _samples(3))
        reading = shard_format.read(shard, rows=[], columns=["label"])
        cost = (reading.samples, reading.bytes_read, reading.num_requests)
        _check_equal(cost, ([], 0, 0), "samples, bytes and requests of no rows")

    def test_threads_share_one_shard(self, shard_format: ShardFormat, tmp_path: Path) -> None:
        shard = ingest(shard_format, _path(shard_format, tmp_path), _samples(400))

        def labels(first: int) -> list[Any]:
            rows = range(first, 400, 8)
            return shard_format.read(shard, rows=rows, columns=["label"]).values["label"]

        results = list(ordered_map(labels, range(8), num_threads=8))
        _check_equal(results, [list(range(first, 400, 8)) for first in range(8)], "labels")

    def test_shards_at_other_urls_are_read(self, shard_format: ShardFormat, tmp_path: Path) -> None:
        path, samples = _path(shard_format, tmp_path), _samples(40)
        shard = ingest(shard_format, path, samples)
        url = f"memory://attent-conformance/{path.name}"
        storage.publish(url, path)
        try:
            stored = storage.info(url)
            assert stored is not None, f"{url} was published"
            _check_equal(shard_format.inspect(url).num_samples, 40, "num_samples")
            remote = replace(shard, uri=url, etag=stored.etag)
            expected = [samples[1], samples[39]]
            _check_equal(_read(shard_format, remote, [1, 39], _COLUMNS), expected, "remote samples")
        finally:
            storage.delete(url)


def _path(shard_format: ShardFormat, folder: Path) -> Path:
    return folder / f"shard{shard_format.suffixes[0]}"


def _samples(count: int, *, num_bytes: int = 64) -> list[Sample]:
    return [
        {"image": bytes([index % 251]) * num_bytes, "label": index, "text": f"number {index}"}
        for index in range(count)
    ]


def _noise_shard(
    shard_format: ShardFormat, folder: Path, *, num_samples: int = 1000, image_bytes: int = 64 << 10
) -> Shard:
    noise = random.Random(0)  # noqa: S311 - not a secret
    samples = [
        {"image": noise.randbytes(image_bytes), "label": index} for index in range(num_samples)
    ]
    return ingest(shard_format, _path(shard_format, folder), samples)


def _inspect(shard_format: ShardFormat, path: Path, *, members: Path | None = None) -> Shard:
    stored = storage.info(str(path))
    assert stored is not None, f"{path} was written"
    inspection = shard_format.inspect(stored.url)
    members_uri = None
    if inspection.members is not None and members is not None:
        members_uri = str(members)
        save_members(members_uri, inspection.members)
    return Shard(
        shard_id=0,
        uri=stored.url,
        format="conformance",
        num_samples=inspection.num_samples,
        num_bytes=stored.num_bytes,
        etag=stored.etag,
        members_uri=members_uri,
    )


def _read(
    shard_format: ShardFormat, shard: Shard, rows: Sequence[int], columns: Sequence[str]
) -> list[Sample]:
    return shard_format.read(shard, rows=rows, columns=columns).samples


def _require(condition: bool, problem: str) -> None:  # noqa: FBT001
    if not condition:
        raise AssertionError(problem)


def _check_equal(actual: object, expected: object, what: str) -> None:
    _require(actual == expected, f"{what}: expected {expected!r:.500}, got {actual!r:.500}")


@contextlib.contextmanager
def _expect(kind: type[Exception], pattern: str) -> Iterator[None]:
    try:
        yield
    except kind as error:
        _require(
            re.search(pattern, str(error)) is not None,
            f"expected {pattern!r} in the error: {error}",
        )
    else:
        raise AssertionError(f"expected {kind.__name__}, but nothing was raised")
