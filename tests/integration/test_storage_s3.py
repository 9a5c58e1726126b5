"""Storage, formats and catalog on two real S3 servers with different behaviour."""

import multiprocessing
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import boto3
import polars as pl
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from servers import BUCKET, S3Server, moto_s3, rclone_s3

from attent_select import plugins
from attent_select.errors import CorpusMismatchError, InputError, MissingError, StorageError
from catalogs import Corpus, IndexFile, LossCatalog, storage
from catalogs.layout import Layout
from catalogs.losses.catalog import PartSummary
from catalogs.shard_format import Sample, ShardFormat
from catalogs.shards import format_of, inspect_shard
from catalogs.storage.fsspec_files import FsspecFiles

SERVERS = {"moto": moto_s3, "rclone": rclone_s3}


@pytest.fixture(scope="module", params=sorted(SERVERS))
def server(request: pytest.FixtureRequest) -> Iterator[S3Server]:
    with SERVERS[request.param]() as running:
        yield running


@pytest.fixture
def folder(
    server: S3Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> str:
    """A separate folder for each test."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return f"{server.url}/{request.node.originalname}"


def test_a_published_object_is_read_whole_and_in_ranges(folder: str) -> None:
    data = random.Random(0).randbytes(300_000)
    storage.publish(f"{folder}/with a space.bin", data)
    ranges = [(0, 5), (299_990, 10), (1000, 100_000), (7, 1)]
    for _ in range(2):
        data_ranges = storage.read_ranges(f"{folder}/with a space.bin", ranges)
        assert data_ranges == [data[offset : offset + size] for offset, size in ranges]
    assert storage.read(f"{folder}/with a space.bin") == data


def test_ranges_are_read_from_many_threads(folder: str) -> None:
    data = random.Random(0).randbytes(50_000)
    storage.publish(f"{folder}/one.bin", data)

    def second_range(offset: int) -> bytes:
        return storage.read_ranges(f"{folder}/one.bin", [(offset, 50), (offset + 50, 50)])[1]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(second_range, range(0, 1000, 50))) == [
            data[offset + 50 : offset + 100] for offset in range(0, 1000, 50)
        ]


def test_listing_head_and_expanding_agree_on_names_sizes_and_etags(folder: str) -> None:
    for name in ("b/2.bin", "b/1.bin", "a.bin", "b/_SUCCESS"):
        storage.publish(f"{folder}/{name}", name.encode())
    objects = storage.list_objects(folder)
    names = [f"{folder}/{name}" for name in ("a.bin", "b/1.bin", "b/2.bin", "b/_SUCCESS")]
    assert [one.url for one in objects] == names
    assert [storage.info(name) for name in names] == objects
    assert len({one.etag for one in objects}) == 4
    assert storage.expand([f"{folder}/b/*.bin", f"{folder}/b"]) == objects[1:3]
    assert storage.expand([f"{folder}/b/{{1..2}}.bin"]) == objects[1:3]
    assert storage.list_objects(f"{folder}/b/1") == []
    assert storage.info(f"{folder}/b") is None


def test_the_marker_of_a_folder_is_not_an_object(server: S3Server, folder: str) -> None:
    storage.publish(f"{folder}/a.bin", b"a")
    storage.publish(f"{folder}/empty.bin", b"")
    client = boto3.client(
        "s3", endpoint_url=server.endpoint, config=Config(retries={"total_max_attempts": 1})
    )
    # The consoles of cloud providers create such markers.
    try:
        client.put_object(Bucket=BUCKET, Key=f"{folder.rpartition('/')[2]}/", Body=b"")
    except ClientError:
        pytest.skip("this server has real folders and refuses markers")
    names = [f"{folder}/a.bin", f"{folder}/empty.bin"]
    assert [one.url for one in storage.expand([folder])] == names
    assert storage.info(folder) is None


def test_keys_with_two_slashes_disturb_no_listing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with moto_s3() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=server.endpoint)
        for key in ("f/a.parquet", "f//b.parquet", "f/", "f/g/", "f/g/c.parquet", "fa.parquet"):
            client.put_object(Bucket=BUCKET, Key=key, Body=key.encode() * (key[-1] != "/"))
        listed = storage.list_objects(f"{server.url}/f")
        urls = [f"{server.url}/f/{name}.parquet" for name in ("a", "g/c")]
        assert [stored.url for stored in listed] == urls
        assert "ignored 1 objects with `//`" in caplog.text
        for stored in listed:
            assert storage.info(stored.url) == stored
            key = stored.url.removeprefix(f"{server.url}/")
            assert storage.read(stored.url, etag=stored.etag) == key.encode()


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, str]]]:
    """Headers of the requests to a server of S3 that has no object."""
    headers: list[dict[str, str]] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers.append({name.lower(): value for name, value in self.headers.items()})
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    yield headers
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("client", [storage, FsspecFiles()])
def test_a_public_bucket_is_read_without_credentials(
    client: Any, requests: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    with pytest.raises(MissingError):
        client.read("s3://open-data/a.parquet")
    assert ["authorization" in each for each in requests] == [False] * len(requests) != []


@pytest.mark.parametrize("client", [storage, FsspecFiles()])
def test_a_requester_pays_bucket_is_read_at_the_readers_cost(
    client: Any, requests: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    with pytest.raises(MissingError):
        client.read("s3://paid-data/a.parquet")
    assert requests
    assert all(each["x-amz-request-payer"] == "requester" for each in requests)
    assert all("x-amz-request-payer" in each["authorization"] for each in requests)


def test_an_absent_object_is_missing(folder: str) -> None:
    for read in (storage.read, lambda url: storage.read_ranges(url, [(0, 1)])):
        with pytest.raises(MissingError, match=r"nothing\.bin"):
            read(f"{folder}/nothing.bin")
    with pytest.raises(InputError, match="nothing found at"):
        storage.expand([f"{folder}/no/*.tar"])
    storage.delete(f"{folder}/nothing.bin")


def test_an_absent_bucket_is_an_input_error_for_patterns(folder: str) -> None:
    assert folder
    with pytest.raises(InputError, match="s3://no-such-bucket/x"):
        storage.expand(["s3://no-such-bucket/x"])


def test_a_range_beyond_the_end_is_a_storage_error(folder: str) -> None:
    storage.publish(f"{folder}/short.bin", b"0123456789")
    for extent in ((5, 6), (20, 5)):
        with pytest.raises(StorageError, match=r"short\.bin"):
            storage.read_ranges(f"{folder}/short.bin", [extent])


def test_a_changed_object_is_detected_when_it_is_read(folder: str) -> None:
    url = f"{folder}/changing.bin"
    storage.publish(url, b"before")
    before = storage.info(url)
    assert before is not None
    assert storage.read_ranges(url, [(0, 3)], etag=before.etag) == [b"bef"]
    storage.publish(url, b"after!")
    with pytest.raises(CorpusMismatchError, match=r"changing\.bin"):
        storage.read_ranges(url, [(0, 3)], etag=before.etag)
    with pytest.raises(CorpusMismatchError, match=r"changing\.bin"):
        storage.read(url, etag=before.etag)


def test_a_folder_with_a_large_file_is_uploaded_and_downloaded(folder: str, tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    (source / "deep").mkdir(parents=True)
    # Large enough for a multipart upload.
    (source / "deep" / "large.bin").write_bytes(random.Random(0).randbytes(12 << 20))
    (source / "small.txt").write_text("small")
    storage.upload_folder(source, folder)
    storage.download_folder(folder, copy)
    for name in ("deep/large.bin", "small.txt"):
        assert (copy / name).read_bytes() == (source / name).read_bytes()
    with storage.local_copy(f"{folder}/small.txt") as path:
        assert path.read_text() == "small"
    assert not path.exists()
    storage.delete_folder(folder)
    assert storage.list_objects(folder) == []


def test_an_unreachable_server_is_a_storage_error_that_names_the_url(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in S3Server("http://127.0.0.1:1").environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("catalogs.storage.retry.RETRY_SECONDS", 0.0)
    with pytest.raises(StorageError, match=r"s3://bucket/x\.bin: .*127\.0\.0\.1:1"):
        storage.read("s3://bucket/x.bin")


def test_refused_credentials_are_a_storage_error_that_does_not_reveal_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with rclone_s3() as own:
        for name, value in own.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mistyped-secret")
        refused = r"s3://bucket/x\.bin: .*lack permission"
        with pytest.raises(StorageError, match=refused) as caught:
            storage.publish("s3://bucket/x.bin", b"data")
        assert caught.value.exit_code == 2
    assert "mistyped-secret" not in str(caught.value)


@pytest.mark.parametrize("name", plugins.plugin_names("catalogs.formats"))
def test_a_run_works_on_the_server_as_it_does_on_a_disk(
    folder: str, tmp_path: Path, name: str
) -> None:
    on_server = whole_run(f"{folder}-{name}", name=name, scratch=tmp_path / "a")
    on_disk = whole_run(str(tmp_path / "disk"), name=name, scratch=tmp_path / "b")
    assert on_server == on_disk


def test_a_spawned_process_reads_what_this_one_published(folder: str, server: S3Server) -> None:
    storage.publish(f"{folder}/shared.bin", b"shared")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(storage.read, (f"{folder}/shared.bin",)) == b"shared"


def whole_run(base: str, *, name: str, scratch: Path) -> object:
    """Ingest, score, select and read on storage at `base`; what came out."""
    scratch.mkdir()
    format_: ShardFormat = plugins.load_plugin("catalogs.formats", name)()
    for shard_id in range(3):
        path = scratch / f"{shard_id}{format_.suffixes[0]}"
        format_.write(path, samples(shard_id))
        storage.publish(f"{base}/data/{path.name}", path)
    run = f"{base}/run"
    found = storage.expand([f"{base}/data"])
    inspected = [
        (one, format_of(one.url), inspect_shard(one.url, name, members_url=members))
        for shard_id, one in enumerate(found)
        for members in [Layout(run).corpus.members(shard_id)]
    ]
    Corpus.from_inspections(inspected).save(run)
    corpus = Corpus.open(run)
    catalog = LossCatalog(run)
    parts = [scored(catalog, corpus, [0, 1]), scored(catalog, corpus, [2])]
    catalog.publish(0, parts, provenance={"checkpoint": "c"})
    selected = (
        catalog.latest()
        .filter(pl.col("loss") > 6)
        .select("shard_id", "row", pl.lit(1.0).alias("weight"), pl.lit(0.5).alias("probability"))
    )
    url = Layout(run).index(0)
    IndexFile.write(url, selected, provenance={"corpus_id": corpus.corpus_id})
    index = IndexFile.open(url, corpus=corpus)
    read = [
        corpus.read(shard_id, rows=rows.tolist(), columns=["image", "label"]).samples
        for shard_id, (rows, _) in index.rows_by_shard().items()
    ]
    latest = catalog.latest().drop("measured_step").collect()
    return index.digest, catalog.digest(0), read, latest.rows(), catalog.span_digests()


def samples(shard_id: int) -> list[Sample]:
    return [{"image": bytes([shard_id, row]) * 40, "label": row} for row in range(9 + shard_id)]


def scored(catalog: LossCatalog, corpus: Corpus, shard_ids: list[int]) -> PartSummary:
    for shard_id in shard_ids:
        count = corpus.shard(shard_id).num_samples
        rows = pl.DataFrame({"row": range(count)}).with_columns(
            shard_id=pl.lit(shard_id),
            loss=pl.col("row").cast(pl.Float32),
            num_units=1,
            status=pl.lit("ok"),
            measured_step=0,
            origin=pl.lit("scored"),
            visits=0,
        )
        catalog.write_span(f"span-{shard_id}", rows)
    return catalog.compact([f"span-{shard_id}" for shard_id in shard_ids], round_number=0)
