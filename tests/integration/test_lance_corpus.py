"""A corpus of Lance shards from conversion to training batches, like the same one in Parquet."""

import decimal
import random
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from commands import answer
from digits import stream_of, write_index
from small_runs import small_run

from catalogs import Corpus, stored_rows
from pipeline.cluster import Client
from pipeline.config import run_config
from pipeline.corpus.conversion import convert
from pipeline.corpus.ingest import ingest
from pipeline.runs.state import prepare
from pipeline.scoring.score_stage import score_stage
from pipeline.selection.select_stage import select_stage
from pipeline.training.planned_reads import plan_reads
from trainers.settings import OrderSettings

pytest.importorskip("lance.file", reason="pylance is not installed")

TYPES = {
    "hash": pa.array([2**63 + 5, None, 1], pa.uint64()),
    "price": pa.array(
        [decimal.Decimal("1.10"), None, decimal.Decimal("2.25")], pa.decimal128(9, 2)
    ),
    "when": pa.array([1700000000123456789, None, 0], pa.timestamp("ns", "UTC")),
    "nested": pa.array([[{"a": [1]}], None, []], pa.list_(pa.struct({"a": pa.list_(pa.int8())}))),
    "kind": pa.array(["x", "y", "x"]).dictionary_encode(),
    "image": pa.array(
        [{"bytes": b"1", "path": "a"}, None, {"bytes": None, "path": "b"}],
        pa.struct({"bytes": pa.binary(), "path": pa.string()}),
    ),
    "long": pa.array(["a", None, "b"], pa.large_string()),
    "duration": pa.array([1, None, 3], pa.duration("us")),
    "half": pa.array([1.5, None, 2.5], pa.float16()),
}


@pytest.fixture
def lance_shards(tmp_path: Path, shards: Path) -> list[str]:
    parquet = str(shards / "parquet")
    return convert([parquet], to=str(tmp_path / "lance"), shard_format="lance", shard_samples=80)


def test_a_converted_corpus_has_the_same_losses_and_selects_the_same_rows(
    tmp_path: Path, shards: Path, lance_shards: list[str], client: Client
) -> None:
    results = {}
    for name, urls in (("parquet", [str(shards / "parquet")]), ("lance", lance_shards)):
        values = small_run(tmp_path / name, shards, selection={"strategy": "soft"})
        values["corpus"] = {"shards": urls}
        values["schedule"]["warmup_epochs"] = 0
        run = prepare(run_config.parse(values), cluster=lambda: client)
        losses = score_stage(run, run.rounds[0], cluster=lambda: client)
        index = select_stage(run, run.rounds[0])
        results[name] = (losses.catalog_digest, index.digest, index.num_samples)
    assert results["parquet"] == results["lance"]


def test_batches_are_those_of_parquet(
    tmp_path: Path, shards: Path, lance_shards: list[str], client: Client
) -> None:
    batches = {}
    for name, urls in (("parquet", [str(shards / "parquet")]), ("lance", lance_shards)):
        ingest(urls, folder=str(tmp_path / name), client=client)
        corpus = Corpus.open(str(tmp_path / name))
        index = write_index(tmp_path / f"{name}.parquet", corpus, every=3)
        batches[name] = list(stream_of(index, corpus))
    for one, other in zip(batches["parquet"], batches["lance"], strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_conversion_writes_the_same_bytes_again_and_keeps_types(tmp_path: Path) -> None:
    table = pa.table(TYPES).replace_schema_metadata({"huggingface": '{"info": 1}'})
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    expected = pq.read_table(tmp_path / "in" / "a.parquet")
    folders = [str(tmp_path / name) for name in ("one", "two")]
    first, second = (
        convert([str(tmp_path / "in")], to=folder, shard_format="lance", shard_samples=2)
        for folder in folders
    )
    assert [Path(url).read_bytes() for url in first] == [Path(url).read_bytes() for url in second]
    ingested = answer("ingest", *first, "--out", tmp_path / "corpus")
    assert (ingested["num_shards"], ingested["num_samples"]) == (2, 3)
    shards = Corpus.open(str(tmp_path / "corpus")).shards
    assert stored_rows.schema_of(shards[0]).equals(expected.schema, check_metadata=True)
    tables = [
        stored_rows.read_table(shard, rows=range(shard.num_samples), columns=expected.column_names)
        for shard in shards
    ]
    assert pa.concat_tables(tables).equals(expected)


def test_a_plan_says_which_layout_its_share_asks_for(tmp_path: Path, client: Client) -> None:
    noise, source = random.Random(0), tmp_path / "large.parquet"
    pq.write_table(pa.table({"image": [noise.randbytes(20_000) for _ in range(1200)]}), source)
    advice = {}
    for name in ("parquet", "lance"):
        folder = str(tmp_path / name)
        urls = convert([str(source)], to=f"{folder}-shards", shard_format=name)
        ingest(urls, folder=folder, client=client)
        index = write_index(tmp_path / f"{name}.parquet", Corpus.open(folder), every=100)
        order = OrderSettings(seed=0, batch_size=4)
        advice[name] = plan_reads(folder, index=index.url, order=order).advice
    assert "asks for lance (attent ingest --convert lance)" in advice["parquet"]
    assert re.search(r"this corpus, 1\.0\d*, is as good as any$", advice["lance"])
