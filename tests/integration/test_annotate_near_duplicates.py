"""Near duplicates of a corpus, made by a real cluster: any buckets and parts, and selection."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from commands import answer_here

from catalogs import AnnotationStore
from pipeline.annotation.make import Request, make_annotation
from pipeline.cluster import Client
from pipeline.corpus.ingest import ingest
from trainers.annotations.near_duplicates import NearDuplicates

STORY = " ".join(f"the {n}th sentence of a long story is here" for n in range(40))
OTHER = " ".join(f"another text has line {n * 7} about the sea" for n in range(40))


def test_clusters_across_shards_are_the_same_for_any_buckets_and_parts(
    tmp_path: Path, client: Client
) -> None:
    (tmp_path / "shards").mkdir()
    texts = [["x y", STORY, OTHER], [STORY + " the end", None], [OTHER, STORY.upper(), "z"]]
    for shard, rows in enumerate(texts):
        pq.write_table(pa.table({"text": rows}), tmp_path / "shards" / f"{shard}.parquet")
    corpus = str(tmp_path / "corpus")
    ingest([str(tmp_path / "shards")], folder=corpus, client=client)
    request = Request(corpus, "near", "near_duplicates", NearDuplicates())
    made = make_annotation(request, client=client)
    assert made.statuses == {"empty": 1, "ok": 7}
    store = AnnotationStore(corpus)
    rows = store.scan("near").frame().collect()
    assert rows["rank"].to_list() == [0, 0, 0, 1, None, 1, 2, 0]
    assert rows["size"].to_list() == [1, 3, 2, 3, None, 2, 3, 1]
    assert rows["value"].to_list() == [0, 1, 2, 1, None, 2, 1, 2 << 32 | 2]
    assert store.span_digests("near") == set()
    small = replace(request, overwrite=True, bucket_rows=2, part_samples=3, span_samples=2)
    again = make_annotation(small, client=client)
    assert (again.digest, len(again.parts)) == (made.digest, 3)
    index = tmp_path / "index.parquet"
    distinct = ["--strategy", "key", "--set", "key=0 - near_rank", "--set", "distinct=near"]
    answer_here("select", corpus, *distinct, "--num-samples", "4", "--out", index)
    selected = pl.read_parquet(index).select("shard_id", "row").rows()
    assert sorted(selected) == [(0, 0), (0, 1), (0, 2), (2, 2)]
