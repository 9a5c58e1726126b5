"""Annotations of a corpus, made by real clusters: values, kills, the command line, bad input."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import ROOT, answer, answer_here, attent
from gated import POISON, Gated, until
from raw_text import prose, write_pool, write_texts

import pipeline
from catalogs import AnnotationStore
from pipeline.annotation.command import load_kind
from pipeline.annotation.make import Request, make_annotation
from pipeline.annotation.targets import TargetSettings, read_target
from pipeline.cluster import Client, connect
from pipeline.config.cluster_settings import ClusterSettings
from pipeline.corpus.ingest import ingest
from trainers.annotations.duplicates import Duplicates

NUM_ROWS, NUM_WANTED, NUM_EXAMPLES = 2000, 300, 300


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`shards`: a raw pool with 15 % prose; `target`: examples of prose; `corpus`: ingested."""
    folder = tmp_path_factory.mktemp("raw")
    texts = prose(NUM_WANTED + NUM_EXAMPLES)
    write_pool(folder / "shards", num_rows=NUM_ROWS, wanted=texts[:NUM_WANTED])
    examples = [(text, "prose") for text in texts[NUM_WANTED:]]
    write_texts(folder / "target" / "000.parquet", examples)
    answer_here("ingest", folder / "shards", "--out", folder / "corpus")
    return folder


def values_of(corpus: Path, name: str) -> pl.DataFrame:
    return AnnotationStore(str(corpus)).scan(name).frame().collect()


def ngram(raw: Path, **changes: Any) -> Request:
    kind = load_kind("ngram", ["pool_samples=1000"])
    target = read_target(TargetSettings((str(raw / "target"),)), columns=kind.columns)
    return replace(Request(str(raw / "corpus"), "words", "ngram", kind, target), **changes)


@pytest.mark.parametrize("name", ["target.jsonl", "target.jsonl.gz", "target.csv"])
def test_examples_of_any_file_that_can_be_ingested_are_the_same_target(
    raw: Path, tmp_path: Path, name: str
) -> None:
    examples = pl.read_parquet(raw / "target" / "000.parquet")
    text = examples.write_csv() if name.endswith("csv") else examples.write_ndjson()
    assert text is not None
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    targets = [
        read_target(TargetSettings((str(url),), kind_column="source"), columns=["text"])
        for url in (raw / "target", tmp_path / name)
    ]
    assert targets[0].digest == targets[1].digest
    assert targets[0].making == targets[1].making


def test_an_annotation_is_made_from_python(raw: Path, client: Client) -> None:
    made = pipeline.annotate(
        str(raw / "corpus"),
        name="from_python",
        kind="ngram",
        settings={"pool_samples": 1000},
        target=[str(raw / "target")],
        scheduler=client.scheduler.address,
    )
    assert (made.name, made.kind, made.num_rows) == ("from_python", "ngram", NUM_ROWS)
    pipeline.annotate(
        str(raw / "corpus"),
        name="source",
        kind="column",
        settings=["column=source"],
        scheduler=client.scheduler.address,
    )
    top = values_of(raw / "corpus", "from_python").top_k(NUM_WANTED, by="value")
    sources = top.join(values_of(raw / "corpus", "source"), on=["shard_id", "row"])
    assert (sources["value_right"] == "prose").mean() > 0.8  # type: ignore[operator]
    for name in ("source", "from_python"):
        answer_here("annotate", raw / "corpus", "--name", name, "--drop")


def test_a_raw_pool_is_narrowed_to_what_resembles_the_examples(raw: Path) -> None:
    corpus = raw / "corpus"
    target = ["--target", raw / "target"]
    made = answer("annotate", corpus, "--name", "relevance", "--kind", "ngram", *target)
    assert (made["name"], made["kind"], made["num_rows"]) == ("relevance", "ngram", NUM_ROWS)
    assert made["coverage"] > 0.99
    assert made["seconds"].keys() == {"fit", "measure", "tokenise", "total"}
    answer_here(
        "annotate", corpus, "--name", "source", "--kind", "column", "--set", "column=source"
    )
    index = raw / "top.parquet"
    by_key = ["--strategy", "key", "--set", "key=relevance", "--set", "explore=0"]
    answer_here("select", corpus, *by_key, "--ratio", "0.15", "--out", index)
    selected = pl.read_parquet(index).join(values_of(corpus, "source"), on=["shard_id", "row"])
    assert len(selected) == NUM_ROWS * 15 // 100
    assert (selected["value"] == "prose").mean() >= 0.8  # type: ignore[operator]

    listed = {entry["name"]: entry for entry in answer_here("annotations", corpus)["annotations"]}
    expected = listed["relevance"]
    assert expected["ceiling"] == 5
    assert 4 < expected["low"] <= expected["enrichment"] <= expected["high"] <= 5
    assert listed["source"]["enrichment"] is None
    answer_here("annotate", corpus, "--name", "source", "--drop")
    assert AnnotationStore(str(corpus)).names() == ["relevance"]


def test_no_model_and_no_torch_is_loaded_for_words(raw: Path, tmp_path: Path) -> None:
    arguments = ["annotate", str(raw / "corpus"), "--name", "light", "--kind", "ngram"]
    arguments += ["--target", str(raw / "target")]
    program = (
        "import sys\n"
        "from pipeline.cli.app import app\n"
        "if __name__ == '__main__':\n"
        f"    app({arguments!r}, standalone_mode=False)\n"
        "    assert 'torch' not in sys.modules\n"
        "    assert 'transformers' not in sys.modules\n"
    )
    script = tmp_path / "light.py"
    script.write_text(program)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, str(script)], env=environment, cwd=tmp_path, check=True)


def test_values_are_the_same_for_any_number_of_workers_spans_and_parts(
    raw: Path, client: Client
) -> None:
    first = make_annotation(ngram(raw), client=client)
    request = ngram(raw, overwrite=True, span_samples=37, part_samples=600)
    second = make_annotation(request, client=client)
    assert first.digest == second.digest
    assert (len(first.parts), len(second.parts)) == (1, 4)
    for workers in (1, 3):
        with connect(ClusterSettings(workers=workers)) as other:
            assert make_annotation(request, client=other).digest == first.digest
    other_seed = make_annotation(replace(request, seed=1), client=client)
    assert other_seed.digest != first.digest, "other random samples of the corpus are counted"


def test_a_classifier_tells_the_examples_from_the_corpus(raw: Path, client: Client) -> None:
    corpus = raw / "corpus"
    made = answer_here(
        *("annotate", corpus, "--name", "quality", "--kind", "classifier"),
        *("--target", raw / "target", "--set", "pool_samples=1000"),
        *("--scheduler", client.scheduler.address),  # type: ignore[union-attr]
    )
    assert made["enrichment"]["auc"] > 0.9
    listed = {entry["name"]: entry for entry in answer_here("annotations", corpus)["annotations"]}
    assert listed["quality"]["auc"] == made["enrichment"]["auc"]
    assert 4 < listed["quality"]["enrichment"] <= 5
    kind = load_kind("classifier", ["pool_samples=1000"])
    request = ngram(raw, name="again", kind_name="classifier", kind=kind, span_samples=37)
    assert make_annotation(request, client=client).digest == made["digest"]


def write_numbered(folder: Path, *, num_shards: int, rows: int) -> None:
    """Each text starts with the number of its shard."""
    folder.mkdir(parents=True)
    for shard in range(num_shards):
        texts = [f"{shard} {'x' * row}" for row in range(rows)]
        pq.write_table(pa.table({"text": texts}), folder / f"{shard:03d}.parquet")


def test_a_killed_driver_resumes_without_measuring_finished_spans_again(
    tmp_path: Path, client: Client
) -> None:
    write_numbered(tmp_path / "shards", num_shards=6, rows=20)
    corpus = tmp_path / "corpus"
    ingest([str(tmp_path / "shards")], folder=str(corpus), client=client)
    options = ["--kind", "gated.Gated", "--set", f"folder={tmp_path}"]
    options += ["--scheduler", client.scheduler.address, "--json"]  # type: ignore[union-attr]
    command = [sys.executable, "-m", "attent_select", "annotate", str(corpus), "--name", "n"]
    python_path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    start: Callable[[], subprocess.Popen[str]] = lambda: subprocess.Popen(  # noqa: E731
        [*command, *options],
        env=os.environ | {"PYTHONPATH": python_path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    store, driver = AnnotationStore(str(corpus)), start()
    until(lambda: len(store.span_digests("n")) == 2 or driver.poll() is not None)
    assert driver.poll() is None, driver.communicate()
    driver.kill()
    driver.communicate()
    assert store.names() == [], "an unfinished annotation does not exist"
    finished = (tmp_path / "measured").read_text().splitlines()
    (tmp_path / "open").touch()
    driver = start()
    stdout, stderr = driver.communicate()
    assert driver.returncode == 0, stderr
    measured = (tmp_path / "measured").read_text().splitlines()
    assert all(measured.count(batch) == 1 for batch in finished), "measured again"
    request = Request(str(corpus), "m", "gated.Gated", Gated(str(tmp_path)))
    assert json.loads(stdout)["digest"] == make_annotation(request, client=client).digest
    assert store.span_digests("n") == set()


def test_a_poison_sample_is_found_and_the_others_are_measured(
    tmp_path: Path, client: Client
) -> None:
    texts = ["0 a", "0 bb", POISON, "0 dddd"]
    (tmp_path / "shards").mkdir()
    pq.write_table(pa.table({"text": texts}), tmp_path / "shards" / "0.parquet")
    corpus = str(tmp_path / "corpus")
    ingest([str(tmp_path / "shards")], folder=corpus, client=client)
    request = Request(corpus, "n", "gated.Gated", Gated(str(tmp_path)))
    made = make_annotation(request, client=client)
    assert made.statuses == {"killed": 1, "ok": 3}
    assert values_of(Path(corpus), "n")["value"].to_list() == [3, 4, None, 6]


TARGET = ["--target", "TARGET"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--name", "a"], "--kind is missing"),
        (["--name", "a", "--kind", "ngrams", *TARGET], "ngrams: expected c"),
        (["--name", "a", "--kind", "ngram"], "give --target URL…, a few hundred"),
        (["--name", "a", "--kind", "ngram", "--target", "FEW"], "has 3 examples: a few hundred"),
        (["--name", "a", "--kind", "ngram", "--target", "NONE"], "nothing found at"),
        (["--name", "A b", "--kind", "ngram", *TARGET], "expected a name of lower-case letters"),
        (
            ["--name", "a", "--kind", "ngram", *TARGET, "--set", "text=txt"],
            "the corpus has no column 'txt': did you mean 'text'?",
        ),
        (["--name", "a", "--kind", "ngram", *TARGET, "--set", "bits=99"], "bits: "),
        (["--name", "a", "--kind", "ngram", *TARGET, "--set", "bit=18"], "did you mean 'bits'"),
        (
            ["--name", "a", "--kind", "ngram", *TARGET, "--kind-column", "sort"],
            "the target has no column 'sort'",
        ),
        (
            ["--name", "a", "--kind", "ngram", *TARGET, "--judge-share", "1"],
            "judge_share: expected less than 1",
        ),
        (
            ["--name", "a", "--kind", "column", "--set", "column=source", *TARGET],
            "does not use a target: leave out --target",
        ),
        (
            ["--name", "a", "--kind", "column"],
            "the kind column needs the setting column: give --set column=…",
        ),
        (["--name", "a", "--kind", "length", "--tokenizer", "/nothing"], "there is no such folder"),
        (["--name", "taken", "--kind", "column", "--set", "column=source"], "give --overwrite"),
        (["--name", "a", "--drop"], "no annotation 'a'"),
        (["--name", "a", "--drop", "--kind", "ngram"], "leave out what makes one"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(
    raw: Path, tmp_path: Path, client: Client, arguments: list[str], message: str
) -> None:
    corpus = raw / "corpus"
    if "taken" not in AnnotationStore(str(corpus)).names():
        kind = load_kind("column", ["column=source"])
        make_annotation(Request(str(corpus), "taken", "column", kind), client=client)
    write_texts(tmp_path / "few" / "0.parquet", [("text", "prose")] * 3)
    places = {"TARGET": raw / "target", "FEW": tmp_path / "few", "NONE": tmp_path / "none"}
    before = sorted(corpus.rglob("*"))
    address = client.scheduler.address  # type: ignore[union-attr]
    given = [str(places.get(argument, argument)) for argument in arguments]
    done = attent("annotate", corpus, *given, *scheduler_for(arguments, address))
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    lines = [line for line in done.stderr.splitlines() if "kernels" not in line]
    assert len(lines) == 1, "besides what a library says about its own kernels"
    assert sorted(corpus.rglob("*")) == before


def scheduler_for(arguments: list[str], address: str) -> list[str]:
    return [] if "--drop" in arguments else ["--scheduler", address]


def test_a_column_of_numbers_is_read_as_it_is(tmp_path: Path, client: Client) -> None:
    (tmp_path / "shards").mkdir()
    table = pa.table({"score": [0.5, None, float("nan"), -1.0], "text": ["a", "b", "c", "d"]})
    pq.write_table(table, tmp_path / "shards" / "0.parquet")
    corpus = str(tmp_path / "corpus")
    ingest([str(tmp_path / "shards")], folder=corpus, client=client)
    made = answer_here(
        *("annotate", corpus, "--name", "score", "--kind", "column", "--set", "column=score"),
        *("--scheduler", client.scheduler.address),  # type: ignore[union-attr]
    )
    assert made["coverage"] == 0.5
    assert made["statuses"] == {"empty": 1, "nonfinite": 1, "ok": 2}
    assert values_of(Path(corpus), "score")["value"].to_list() == [0.5, None, None, -1.0]


def test_duplicates_of_all_shards_are_found_for_any_number_of_buckets(
    tmp_path: Path, client: Client
) -> None:
    (tmp_path / "shards").mkdir()
    texts = [["a", "b", "c"], ["b", "d"], ["e", "B ", "a", None]]
    for shard, rows in enumerate(texts):
        pq.write_table(pa.table({"text": rows}), tmp_path / "shards" / f"{shard}.parquet")
    corpus = str(tmp_path / "corpus")
    ingest([str(tmp_path / "shards")], folder=corpus, client=client)
    request = Request(corpus, "same", "duplicates", Duplicates(), part_samples=4)
    made = make_annotation(request, client=client)
    rows = values_of(Path(corpus), "same")
    assert rows["rank"].to_list() == [0, 0, 0, 1, 0, 0, 2, 1, None]
    assert rows["size"].to_list() == [2, 3, 1, 3, 1, 1, 3, 2, None]
    assert AnnotationStore(corpus).span_digests("same") == set()
    small = replace(request, overwrite=True, bucket_rows=2)
    assert make_annotation(small, client=client).digest == made.digest
