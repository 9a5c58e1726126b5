"""attent export-subset: the chosen rows, read back by the libraries that own the formats."""

import json
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import answer_here
from digits import png, samples, stream_of, write_corpus, write_index
from mds_reader import read_mds
from scored_runs import score
from typer.testing import CliRunner

from catalogs import Corpus, IndexFile, storage
from catalogs.shards import inspect_shard
from pipeline.cli.app import app
from pipeline.cluster import Client
from pipeline.cluster.connection import scheduler_address

NUM_ROWS = 30
ADDED = ["weight", "loss", "shard_id", "row"]
FILES = {"parquet": "*.parquet", "jsonl": "*.jsonl", "webdataset": "*.tar", "mds": "*.mds"}


def typed_table(first: int) -> pa.Table:
    """Columns of types that Python has no equal of, and a schema with metadata."""
    numbers = range(first, first + NUM_ROWS)
    return pa.table(
        {
            "text": [f"text {n} ü\n" for n in numbers],
            "big": pa.array([2**63 + n for n in numbers], pa.uint64()),
            "price": pa.array([Decimal(n) / 4 for n in numbers], pa.decimal128(12, 2)),
            "at": pa.array([10**18 + n for n in numbers], pa.timestamp("ns")),
            "tags": pa.array([["a"] * (n % 3) for n in numbers], pa.list_(pa.string())),
            "kind": pa.array(["x", "y"] * (NUM_ROWS // 2)).dictionary_encode(),
            "nested": [{"a": n, "b": [{"c": float(n)}]} for n in numbers],
            "row": pa.array([None if n % 5 == 0 else n for n in numbers], pa.int16()),
        }
    ).replace_schema_metadata({"origin": "a test"})


def corpus_of(folder: Path, paths: Sequence[Path], kind: str = "parquet") -> Corpus:
    inspected = []
    for path in paths:
        stored = storage.info(str(path))
        assert stored is not None
        inspected.append((stored, kind, inspect_shard(str(path), kind)))
    Corpus.from_inspections(inspected).save(str(folder))
    return Corpus.open(str(folder))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of typed columns, their losses, and an index of every third row."""
    folder = tmp_path_factory.mktemp("run")
    paths = [folder / f"{shard}.parquet" for shard in range(3)]
    for shard, path in enumerate(paths):
        pq.write_table(typed_table(shard * NUM_ROWS), path, row_group_size=7)
    corpus = corpus_of(folder, paths)
    score(folder, [[shard + row / 100 for row in range(NUM_ROWS)] for shard in range(3)])
    (folder / "index").mkdir()
    weights = 0.5 + pl.col("row") % 4
    write_index(folder / "index" / "00000.parquet", corpus, every=3, weights=weights)
    return folder


def export(target: Path, out: Path, *options: object) -> dict[str, Any]:
    return answer_here("export-subset", target, "--out", out, "--part-samples", 8, *options)


def refusal(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["export-subset", *map(str, arguments)])
    assert result.exit_code == 2, result.output
    return " ".join(result.stderr.split())


def expected_rows(run: Path) -> list[dict[str, Any]]:
    rows = []
    for shard_id in range(3):
        values = typed_table(shard_id * NUM_ROWS).to_pylist()
        for row in range(0, NUM_ROWS, 3):
            values[row]["row_column"] = values[row].pop("row")
            added = {"weight": 0.5 + row % 4, "loss": shard_id + row / 100}
            rows.append(values[row] | added | {"shard_id": shard_id, "row": row})
    return rows


def read_parts(out: Path, pattern: str = "*.parquet") -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted(out.glob(pattern))])


def bytes_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_parquet_keeps_types_metadata_and_order(run: Path, tmp_path: Path) -> None:
    answer = export(run, tmp_path / "out", "--to", "parquet", "--order", "stored")
    assert (answer["num_samples"], answer["num_parts"], answer["num_losses"]) == (30, 4, 30)
    table = read_parts(tmp_path / "out")
    source = typed_table(0).schema
    for name in source.names:
        exported = "row_column" if name == "row" else name
        assert table.schema.field(exported).type == source.field(name).type
    assert table.schema.metadata[b"origin"] == b"a test"
    assert table.column_names[-4:] == ADDED
    for value, expected in zip(table.to_pylist(), expected_rows(run), strict=True):
        assert value | {"loss": round(value["loss"], 2)} == expected


@pytest.mark.parametrize("shuffle_seed", [0, 5])
def test_the_teaching_order_is_that_of_training(
    run: Path, tmp_path: Path, shuffle_seed: int
) -> None:
    export(run, tmp_path / "out", "--to", "parquet", "--seed", shuffle_seed, "--columns", "text")
    corpus = Corpus.open(str(run))
    index = IndexFile.open(str(run / "index" / "00000.parquet"), corpus=corpus)
    trained = [
        (shard_id, row)
        for batch in stream_of(index, corpus, None, seed=shuffle_seed, batch_size=4)
        for shard_id, row in zip(batch["shard_id"].tolist(), batch["row"].tolist(), strict=True)
    ][:30]
    table = read_parts(tmp_path / "out")
    exported = list(zip(table["shard_id"].to_pylist(), table["row"].to_pylist(), strict=True))
    assert exported == trained
    assert exported != sorted(exported)
    texts = {(row["shard_id"], row["row"]): row["text"] for row in expected_rows(run)}
    assert table["text"].to_pylist() == [texts[key] for key in exported]


def test_json_lines_hold_what_json_has(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "out", "--to", "jsonl", "--order", "stored")
    lines = [
        json.loads(line)
        for path in sorted((tmp_path / "out").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    for line, expected in zip(lines, expected_rows(run), strict=True):
        expected |= {"price": str(expected["price"]), "loss": line["loss"]}
        at = expected.pop("at")
        assert datetime.fromisoformat(line.pop("at")[:26]) == datetime.fromisoformat(str(at)[:26])
        assert line == expected


def test_mds_shards_are_read_by_a_reader_of_the_format(run: Path, tmp_path: Path) -> None:
    columns = ("--columns", "text,big,tags,nested,kind")
    export(run, tmp_path / "out", "--to", "mds", "--order", "stored", *columns)
    read = list(read_mds(tmp_path / "out"))
    for sample, expected in zip(read, expected_rows(run), strict=True):
        for name in ("price", "at", "row_column"):
            del expected[name]
        assert sample | {"loss": round(sample["loss"], 2)} == expected


@pytest.mark.parametrize("to", ["parquet", "hf", "webdataset", "mds"])
def test_files_that_a_kill_left_out_are_written_with_the_same_bytes(
    run: Path, tmp_path: Path, to: str
) -> None:
    out = tmp_path / "out"
    options = ("--to", to, "--columns", "text,big")
    export(run, out, *options)
    before = bytes_of(out)
    parts = sorted(path for path in out.rglob("*") if path.suffix in (".parquet", ".tar", ".mds"))
    lost, *kept = parts
    record = tmp_path / "out.json"
    complete = record.read_bytes()
    plan = {name: value for name, value in json.loads(complete).items() if name != "parts"}
    record.write_text(json.dumps(plan, indent=1))
    # The state after a kill: parts are missing, and everything that follows them.
    for path in out.rglob("*"):
        if path == lost or (path.is_file() and path not in parts):
            path.unlink()
    inodes = [path.stat().st_ino for path in kept]
    answer = export(run, out, *options)
    assert (answer["num_written"], answer["num_parts"]) == (1, 4)
    assert bytes_of(out) == before
    assert record.read_bytes() == complete
    assert [path.stat().st_ino for path in kept] == inodes
    assert export(run, out, *options)["num_written"] == 0


def test_workers_of_a_cluster_write_the_same_bytes(
    run: Path, tmp_path: Path, client: Client
) -> None:
    export(run, tmp_path / "here", "--to", "parquet")
    scheduler = ("--scheduler", scheduler_address(client))
    export(run, tmp_path / "there", "--to", "parquet", *scheduler)
    assert bytes_of(tmp_path / "here") == bytes_of(tmp_path / "there")


@pytest.mark.parametrize("kind", ["parquet", "webdataset", "lance"])
def test_the_webdataset_library_reads_images_and_weights(tmp_path: Path, kind: str) -> None:
    import webdataset

    rows = samples(24)
    corpus = write_corpus(tmp_path / "corpus", rows, kind=kind)
    corpus.save(str(tmp_path / "run"))
    index = write_index(tmp_path / "index.parquet", corpus, every=2)
    out = tmp_path / "out"
    source = ("--corpus", tmp_path / "run", "--order", "stored")
    answer = export(Path(index.url), out, "--to", "webdataset", *source)
    assert answer["num_losses"] == 0
    urls = sorted(map(str, out.glob("*.tar")))
    read = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert len({sample["__key__"] for sample in read}) == len(read) == index.num_samples
    for sample in read:
        facts = sample["attent.json"]
        assert set(facts) == set(ADDED)
        assert (facts["weight"], facts["loss"]) == (1.0, None)
        position = sum(s.num_samples for s in corpus.shards[: facts["shard_id"]]) + facts["row"]
        assert sample["image.png"] == rows[position]["image"]
        assert int(sample["label.cls"]) == rows[position]["label"]


def test_members_of_tar_files_are_copied_with_every_byte(tmp_path: Path) -> None:
    import webdataset

    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "a.tar"
    with webdataset.TarWriter(str(path), encoder=False) as archive:
        for number in range(4):
            meta = b'{"b": 1.0,  "a": [%d]}' % number
            extra = {"txt": b"only in one"} if number == 2 else {}
            members = {"jpg": png_bytes(number), "json": meta, "cls": b"007", **extra}
            archive.write({"__key__": f"k{number}", **members})
    corpus = corpus_of(tmp_path / "run", [path], "webdataset")
    index = write_index(tmp_path / "index.parquet", corpus)
    export(Path(index.url), tmp_path / "out", "--to", "webdataset", "--corpus", tmp_path / "run")
    tars = sorted(map(str, (tmp_path / "out").glob("*.tar")))
    read = {s["attent.json"]: s for s in webdataset.WebDataset(tars, shardshuffle=False)}
    for facts, sample in read.items():
        number = json.loads(facts)["row"]
        assert sample["jpg"] == png_bytes(number)
        assert sample["json"] == b'{"b": 1.0,  "a": [%d]}' % number
        assert sample["cls"] == b"007"
        assert ("txt" in sample) == (number == 2)
    assert len(read) == 4
    # As a table, values of JSON members are text.
    options = ("--corpus", tmp_path / "run", "--to", "parquet", "--columns", "json,cls,jpg")
    export(Path(index.url), tmp_path / "table", *options, "--order", "stored")
    table = read_parts(tmp_path / "table")
    assert [json.loads(text) for text in table["json"].to_pylist()][3] == {"b": 1.0, "a": [3]}
    assert table["jpg"].to_pylist() == [png_bytes(number) for number in range(4)]


def png_bytes(number: int) -> bytes:
    import numpy as np

    return png(np.full((4, 4), number, np.uint8))


def load(answer: dict[str, Any], folder: Path) -> Any:
    """Run the line that the answer has for Python, with a cache of its own."""
    import datasets

    line = answer["load"].removesuffix(")") + f", cache_dir={str(folder / 'cache')!r})"
    return eval(line, {"datasets": datasets})


def test_datasets_loads_the_folder_with_images(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = samples(24)
    corpus = write_corpus(tmp_path / "corpus", rows)
    index = write_index(tmp_path / "index.parquet", corpus)
    corpus.save(str(tmp_path / "run"))
    out = tmp_path / "out"
    source = ("--corpus", tmp_path / "run", "--order", "stored")
    answer = export(Path(index.url), out, "--to", "hf", *source)
    loaded = load(answer, tmp_path)
    assert isinstance(loaded.features["image"], datasets.Image)
    assert loaded["label"][:] == [row["label"] for row in rows]
    assert loaded[3]["image"].size == (8, 8)
    raw = loaded.cast_column("image", datasets.Image(decode=False))
    assert [image["bytes"] for image in raw["image"]] == [row["image"] for row in rows]


def test_files_of_datasets_come_back_with_their_features(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "words": datasets.List(datasets.Value("string")),
            "grid": datasets.Array2D((2, 2), "float32"),
        }
    )
    rows = [
        {
            "image": {"bytes": png_bytes(number), "path": f"{number}.png"},
            "label": number % 2,
            "words": ["a", "b"][: number % 3],
            "grid": [[number, 1.5], [2.0, 3.0]],
        }
        for number in range(6)
    ]
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "a.parquet"
    datasets.Dataset.from_list(rows, features=features).to_parquet(path)
    index = write_index(tmp_path / "index.parquet", corpus_of(tmp_path / "run", [path]))
    source = ("--corpus", tmp_path / "run", "--order", "stored")
    answer = export(Path(index.url), tmp_path / "out", "--to", "hf", *source)
    loaded = load(answer, tmp_path)
    assert {name: loaded.features[name] for name in features} == features
    raw = loaded.cast_column("image", datasets.Image(decode=False))
    assert raw.select_columns(list(features)).to_list() == rows


@pytest.mark.parametrize("to", ["parquet", "jsonl", "hf"])
def test_datasets_loads_what_the_answer_says(run: Path, tmp_path: Path, to: str) -> None:
    datasets = pytest.importorskip("datasets")
    answer = export(run, tmp_path / "out", "--to", to, "--order", "stored")
    loaded = load(answer, tmp_path)
    assert isinstance(loaded, datasets.Dataset)
    expected = expected_rows(run)
    assert loaded["text"][:] == [row["text"] for row in expected]
    assert loaded["row"][:] == [row["row"] for row in expected]
    assert loaded["nested"][:] == [row["nested"] for row in expected]


def test_the_answer_has_entries_for_other_trainers(run: Path, tmp_path: Path) -> None:
    answer = export(run, tmp_path / "out", "--to", "jsonl", "--columns", "text")
    entry = json.loads(answer["llama_factory"])["out"]
    assert entry == {"file_name": str(tmp_path / "out"), "columns": {"prompt": "text"}}
    assert "type: completion" in answer["axolotl"]
    options = ("--to", "jsonl", "--columns", "text", "--part-samples", "8")
    shown = CliRunner().invoke(
        app, ["export-subset", str(run), "--out", str(tmp_path / "out"), *options]
    )
    assert answer["axolotl"] in shown.stdout
    assert answer["load"] in shown.stdout


def test_a_folder_with_another_export_is_refused(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(run, out, "--to", "parquet", "--columns", "text")
    assert "another export" in refusal(run, "--to", "jsonl", "--out", out)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    assert "other programs" in refusal(run, "--to", "jsonl", "--out", tmp_path / "other")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--to", "parquet", "--columns", "nosuch"), "nosuch"),
        (("--to", "parquet", "--columns", ","), "--columns is empty"),
        (("--to", "mds", "--columns", "row"), "null"),
        (("--to", "csv"), "csv"),
        (("--to", "parquet", "--round", "7"), "round 7"),
        (("--to", "parquet", "--corpus", "x"), "its own corpus"),
        (("--to", "parquet", "--order", "random"), "random"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(
    run: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    message = refusal(run, "--out", tmp_path / "out", *options)
    assert words in message
    assert str(tmp_path / "tmp") not in message


def test_bytes_in_json_lines_are_refused_with_the_column(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", samples(6), num_shards=1)
    corpus.save(str(tmp_path / "run"))
    index = write_index(tmp_path / "index.parquet", corpus)
    options = ("--to", "jsonl", "--out", tmp_path / "out", "--corpus", tmp_path / "run")
    assert "'image' of shard 0, row" in refusal(index.url, *options)
    assert "is not in a run" in refusal(index.url, "--to", "jsonl", "--out", tmp_path / "out")
    assert "neither a run nor an index" in refusal(
        tmp_path / "nothing", "--to", "jsonl", "--out", tmp_path / "out"
    )
