"""Storage and a corpus on a plain web server on loopback."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from attent_select.errors import InputError, MissingError, StorageError
from catalogs import Corpus, storage
from catalogs.formats.parquet import Parquet
from catalogs.formats.webdataset import Webdataset
from catalogs.shards import format_of, inspect_shard


class Quiet(SimpleHTTPRequestHandler):
    """Server that ignores ranges, and sends `/endless` without a length."""

    def do_GET(self) -> None:
        if self.path == "/endless":
            self.send_response(200)
            self.end_headers()
            return
        super().do_GET()

    def do_HEAD(self) -> None:
        self.do_GET() if self.path == "/endless" else super().do_HEAD()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """URL of a server for the files in `tmp_path`."""
    handler = partial(Quiet, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_corpus_is_read_from_a_web_server(served: str, tmp_path: Path) -> None:
    samples = [{"image": bytes(3000), "label": number} for number in range(100)]
    Webdataset().write(tmp_path / "a-0.tar", samples)
    Parquet().write(tmp_path / "a-1.parquet", samples)
    urls = [f"{served}/a-{{0..0}}.tar?signature=", f"{served}/a-1.parquet"]
    objects = storage.expand(urls)
    assert [stored.url for stored in objects] == [
        f"{served}/a-0.tar?signature=",
        f"{served}/a-1.parquet",
    ]
    kinds = [format_of(stored.url) for stored in objects]
    corpus = Corpus.from_inspections(
        (stored, kind, inspect_shard(stored.url, kind))
        for stored, kind in zip(objects, kinds, strict=True)
    )
    for shard in corpus.shards:
        corpus.verify(shard)
        reading = corpus.read(shard.shard_id, rows=[1, 99], columns=["label"])
        assert reading.samples == [{"label": 1}, {"label": 99}]


def test_a_range_is_read_from_a_server_that_ignores_ranges(served: str, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"0123456789")
    assert storage.read_ranges(f"{served}/a.bin", [(8, 2), (0, 1)]) == [b"89", b"0"]
    with pytest.raises(StorageError, match=r"a\.bin: requested 6 bytes"):
        storage.read_ranges(f"{served}/a.bin", [(5, 6)])


def test_an_absent_file_on_a_web_server_is_missing(served: str) -> None:
    assert storage.info(f"{served}/no.tar") is None
    with pytest.raises(MissingError, match=r"no\.tar"):
        storage.read(f"{served}/no.tar")
    with pytest.raises(InputError, match="nothing found at"):
        storage.expand([f"{served}/no-{{0..1}}.tar"])
    with pytest.raises(InputError, match="Name each"):
        storage.expand([f"{served}/*.tar"])


def test_a_file_of_unknown_size_is_a_storage_error(served: str) -> None:
    with pytest.raises(StorageError, match="/endless: the server does not report its size"):
        storage.info(f"{served}/endless")
