"""Ingestion and conversion on a real cluster."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from digits import samples

from attent_select.errors import CorpusMismatchError, ExistsError, InputError
from attent_select.plugins import load_plugin
from catalogs import Corpus
from catalogs.layout import CorpusLayout
from pipeline.cluster import Client
from pipeline.corpus.conversion import Conversion, convert
from pipeline.corpus.ingest import ingest

COLUMNS = ["image", "label"]


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_a_corpus_has_every_sample_in_the_order_of_the_urls(
    tmp_path: Path, shards: Path, client: Client, kind: str
) -> None:
    run = str(tmp_path / "run")
    result = ingest([str(shards / kind)], folder=run, client=client)
    corpus = Corpus.open(run)
    assert (result.num_shards, result.num_samples) == (3, 240)
    assert (result.corpus_id, result.num_bytes) == (corpus.corpus_id, corpus.num_bytes)
    read = [
        sample
        for shard in corpus.shards
        for sample in corpus.read(
            shard.shard_id, rows=range(shard.num_samples), columns=COLUMNS
        ).samples
    ]
    assert [sample["label"] for sample in read] == [s["label"] for s in samples(240)]
    assert read[17]["image"] == samples(240)[17]["image"]


def test_ingesting_again_changes_nothing(tmp_path: Path, shards: Path, client: Client) -> None:
    run = str(tmp_path / "run")
    first = ingest([str(shards / "parquet")], folder=run, client=client)
    before = Path(CorpusLayout(run).manifest).stat()
    again = ingest([f"{shards}/parquet/*.parquet"], folder=run, client=client)
    assert again.corpus_id == first.corpus_id
    assert Path(CorpusLayout(run).manifest).stat() == before


def test_a_run_never_changes_its_corpus(tmp_path: Path, shards: Path, client: Client) -> None:
    run = str(tmp_path / "run")
    ingest([str(shards / "parquet")], folder=run, client=client)
    with pytest.raises(ExistsError, match=r"other shards .* --append"):
        ingest([str(shards / "webdataset")], folder=run, client=client)


def test_a_shard_that_changed_since_ingestion_is_named(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    run, folder = str(tmp_path / "run"), tmp_path / "shards"
    folder.mkdir()
    for path in (shards / "parquet").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    ingest([str(folder)], folder=run, client=client)
    os.utime(folder / "001.parquet", ns=(1, 1))
    with pytest.raises(CorpusMismatchError, match=r"001\.parquet is not the object"):
        ingest([str(folder)], folder=run, client=client)


def test_a_damaged_shard_is_named_and_leaves_no_corpus(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    data = (shards / "parquet" / "000.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"cut\.parquet"):
        ingest([str(tmp_path / "cut.parquet")], folder=str(tmp_path / "run"), client=client)
    assert not (tmp_path / "run" / "corpus" / "manifest.parquet").exists()


def blemished(folder: Path, kind: str) -> list[str]:
    """Write shards a to e of which b has no sample, c is truncated and d has no bytes."""
    folder.mkdir()
    suffix = {"parquet": ".parquet", "webdataset": ".tar"}[kind]
    writer = load_plugin("catalogs.formats", kind)()
    for name in "abcde":
        rows = [{"text": f"{name}{number}"} for number in range(3)]
        writer.write(folder / f"{name}{suffix}", rows)
    no_rows = pa.table({"other": pa.array([], pa.string())})
    if kind == "parquet":
        pq.write_table(no_rows, folder / f"b{suffix}")
    else:
        (folder / f"b{suffix}").write_bytes(bytes(10240))
    whole = (folder / f"c{suffix}").read_bytes().rstrip(b"\0")
    (folder / f"c{suffix}").write_bytes(whole[:-1])
    (folder / f"d{suffix}").write_bytes(b"")
    return [str(folder / f"{name}{suffix}") for name in "abcde"]


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_a_corpus_with_blemishes_is_ingested_without_them(
    tmp_path: Path, client: Client, kind: str
) -> None:
    urls = blemished(tmp_path / "shards", kind)
    folder = str(tmp_path / "corpus")
    with pytest.raises(InputError, match=r"/[cd]\.(parquet|tar)"):
        ingest(urls, folder=folder, client=client)
    result = ingest(urls, folder=folder, client=client, skip_damaged=True)
    assert (result.num_shards, result.num_samples, result.empty) == (2, 6, 1)
    assert list(result.damaged) == urls[2:4]
    assert all(url in reason for url, reason in result.damaged.items())
    corpus = Corpus.open(folder)
    assert [shard.uri for shard in corpus.shards] == [urls[0], urls[4]]
    assert corpus.read(1, rows=[0, 2], columns=["text"]).values["text"] == ["e0", "e2"]
    # What was left out counts when the same shards are ingested again.
    again = ingest(urls, folder=folder, client=client)
    assert (again.corpus_id, again.empty, again.damaged) == (
        result.corpus_id,
        result.empty,
        result.damaged,
    )
    Path(urls[3]).write_bytes(b"other")
    with pytest.raises(CorpusMismatchError, match=r"/d\.(parquet|tar) is not the object"):
        ingest(urls, folder=folder, client=client)


# Three sources of the same nine samples: label n, and a text.
ROWS = [{"label": number, "text": f"text {number}"} for number in range(9)]


def json_lines(folder: Path) -> str:
    folder.mkdir()
    for name, rows in (("a", ROWS[:4]), ("b", ROWS[4:])):
        lines = "\n".join(json.dumps(row) for row in rows)
        (folder / f"{name}.jsonl").write_text(lines + "\n\n")
    return str(folder / "*.jsonl")


def one_parquet(folder: Path) -> str:
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "all.parquet", row_group_size=2)
    return str(folder / "all.parquet")


@pytest.mark.parametrize("source", [json_lines, one_parquet])
@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_conversion_writes_shards_of_the_requested_size(
    tmp_path: Path, client: Client, source: Any, kind: str
) -> None:
    run = str(tmp_path / "run")
    url = source(tmp_path / "source")
    urls = convert([url], to=str(tmp_path / "shards"), settings=Conversion(kind, shard_samples=4))
    result = ingest(urls, folder=run, client=client)
    corpus = Corpus.open(run)
    assert [shard.num_samples for shard in corpus.shards] == [4, 4, 1]
    assert result.num_samples == 9
    read = [
        dict(sample)
        for shard in corpus.shards
        for sample in corpus.read(
            shard.shard_id, rows=range(shard.num_samples), columns=["label", "text"]
        ).samples
    ]
    assert read == ROWS


def test_an_image_folder_becomes_images_with_class_labels(tmp_path: Path) -> None:
    pictures = samples(4)
    for number, name in enumerate(["cat", "dog", "cat", "ant"]):
        path = tmp_path / "images" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pictures[number]["image"])
    urls = convert(
        [str(tmp_path / "images")],
        to=str(tmp_path / "shards"),
        settings=Conversion("parquet", shard_samples=10),
    )
    table = pq.read_table(urls[0]).to_pylist()
    assert [(row["class_name"], row["label"]) for row in table] == [
        ("ant", 0),
        ("cat", 1),
        ("cat", 1),
        ("dog", 2),
    ]
    assert table[0]["image"] == pictures[3]["image"]


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_a_second_conversion_writes_the_same_bytes(tmp_path: Path, kind: str) -> None:
    url = json_lines(tmp_path / "source")
    runs = [
        convert([url], to=str(tmp_path / name), settings=Conversion(kind, shard_samples=5))
        for name in ("one", "two")
    ]
    first, second = ([Path(url).read_bytes() for url in urls] for urls in runs)
    assert first == second


def test_unsupported_sources_are_refused_with_one_line(tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "a.jsonl").write_text('{"a": 1}\n[2]\n')
    to, settings = str(tmp_path / "out"), Conversion("parquet", shard_samples=5)
    with pytest.raises(InputError, match=r"a\.jsonl, line 2: expected a JSON object, found list"):
        convert([str(mixed)], to=to, settings=settings)
    (mixed / "b.parquet").touch()
    with pytest.raises(InputError, match="found json and parquet"):
        convert([str(mixed)], to=to, settings=settings)
    with pytest.raises(InputError, match="not a positive number"):
        convert([str(mixed)], to=to, settings=Conversion("parquet", shard_samples=0))


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_an_interrupted_conversion_resumes_and_keeps_finished_shards(
    tmp_path: Path, kind: str
) -> None:
    url = json_lines(tmp_path / "source")
    settings = Conversion(kind, shard_samples=4)
    urls = convert([url], to=str(tmp_path / "shards"), settings=settings)
    shard_bytes = [Path(url).read_bytes() for url in urls]
    first_stat = Path(urls[0]).stat()
    Path(urls[1]).unlink()
    assert convert([url], to=str(tmp_path / "shards"), settings=settings) == urls
    assert [Path(url).read_bytes() for url in urls] == shard_bytes
    assert Path(urls[0]).stat() == first_stat


def test_shards_of_other_sources_or_settings_are_never_mixed(tmp_path: Path) -> None:
    url, to = json_lines(tmp_path / "source"), str(tmp_path / "shards")
    convert([url], to=to, settings=Conversion("parquet", shard_samples=4))
    with pytest.raises(ExistsError, match="other sources or settings"):
        convert([url], to=to, settings=Conversion("parquet", shard_samples=5))
    (tmp_path / "source" / "a.jsonl").write_text('{"label": 1}')
    with pytest.raises(ExistsError, match="other sources or settings"):
        convert([url], to=to, settings=Conversion("parquet", shard_samples=4))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', r"a\.jsonl, line 2 is not UTF-8: .*0xff"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl, line 1: not JSON"),
        ("a.parquet", b"PAR1 and nothing else", r"a\.parquet: not a readable Parquet file"),
    ],
)
def test_a_damaged_source_is_an_input_error_that_names_it(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    out = str(tmp_path / "out")
    with pytest.raises(InputError, match=message):
        convert([str(tmp_path / name)], to=out, settings=Conversion("parquet", shard_samples=5))
