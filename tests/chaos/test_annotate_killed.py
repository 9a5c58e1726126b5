"""Annotations of WebDataset shards on S3, made while processes are killed."""

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from digits import samples, write_corpus
from killable import WORKERS, Cluster, finished, wait_for_spans
from servers import BUCKET

from catalogs import AnnotationStore, storage
from pipeline.annotation.make import Request, make_annotation
from pipeline.cluster import Client
from pipeline.corpus.ingest import ingest
from trainers.annotations.near_duplicates import NearDuplicates

NUM_SHARDS = 20
# Spans that a killed driver's workers finish after the next driver has looked may be written twice.
IN_FLIGHT = 4
VICTIMS: list[tuple[str, ...]] = [
    ("worker 0",),
    ("driver",),
    ("scheduler", *WORKERS),
    ("driver", "store", "scheduler", *WORKERS),
]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with contextlib.ExitStack() as stack:
        started = Cluster(tmp_path / "store", stack)
        for name in ("store", "scheduler", *WORKERS):
            started.start(name)
        yield started


def test_whatever_is_killed_the_annotation_is_that_of_an_undisturbed_command(
    cluster: Cluster, tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in cluster.server.environment.items():
        monkeypatch.setenv(name, value)
    shards = str(tmp_path / "webdataset")
    write_corpus(Path(shards), samples(400), kind="webdataset", num_shards=NUM_SHARDS)
    ingesting = cluster.driver(
        "ingest", shards, "--out", "s3://bucket/corpus", "--scheduler", cluster.address
    )
    said = ingesting.wait()
    assert ingesting.returncode == 0, said
    ingest([shards], folder=str(tmp_path / "undisturbed"), client=client)
    same = Request(
        str(tmp_path / "undisturbed"), "near", "near_duplicates", NearDuplicates("image")
    )
    expected = make_annotation(same, client=client)

    options = ["--name", "near", "--kind", "near_duplicates", "--set", "column=image"]
    command = ["annotate", "s3://bucket/corpus", *options, "--scheduler", cluster.address]
    spans = cluster.folder / BUCKET / "corpus/annotations/near/spans"
    moments = sorted(random.Random(4).sample(range(1, NUM_SHARDS + 12), len(VICTIMS)))
    written: dict[str, int] = {}
    driver = cluster.driver(*command)
    for victims, moment in zip(VICTIMS, moments, strict=True):
        if not wait_for_spans(spans, moment, driver=driver):  # it was quicker than this process
            break
        for victim in victims:
            driver.kill() if victim == "driver" else cluster.kill(victim)
        found = finished(spans)
        assert len(written.items() - found.items()) <= IN_FLIGHT, "finished spans were measured"
        written = found
        for name in cluster.running:
            cluster.restart(name)
        if "scheduler" in victims or "driver" in victims:
            driver.wait()
            driver = cluster.driver(*command)
    said = driver.wait()
    # One that was killed may have finished before.
    assert driver.returncode == 0 or "the annotation near exists" in said, said
    store = AnnotationStore("s3://bucket/corpus")
    made = store.verify("near")
    assert (made.digest, len(made.parts)) == (expected.digest, len(expected.parts))
    assert made.statuses == {"ok": 400}
    assert store.span_digests("near") == set()
    assert storage.list_objects(store.layout("near").journals) == []
