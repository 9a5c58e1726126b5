"""The requests of small stages, as an S3 server counts them, against the model of growth."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from faults import faulty
from servers import moto_s3

from catalogs import storage
from pipeline.annotation.make import Request, make_annotation
from pipeline.cluster import Client, connect
from pipeline.config.cluster_settings import ClusterSettings
from pipeline.corpus.ingest import ingest
from pipeline.doctor.scale import annotate_cost, ingest_cost
from pipeline.doctor.stage_cost import CorpusSize, Machines, Requests
from trainers.annotations.column import Column

SPAN_SAMPLES, PART_SAMPLES = 40, 80
BUCKET = "s3://bucket"


class Counting:
    """The requests of a server since the last answer; a rule of `Faults` without faults."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def __call__(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        is_list = method == "GET" and "list-type=2" in path
        self._counts["LIST" if is_list else method] += 1

    def answer(self) -> Requests:
        counts, self._counts = self._counts, Counter()
        # obstore deletes by POST.
        deletes = counts["DELETE"] + counts["POST"]
        return Requests(counts["GET"] + counts["HEAD"], counts["PUT"] + counts["LIST"], deletes)


@pytest.fixture(scope="module")
def counted(shards: Path) -> Iterator[Counting]:
    """Count the requests to a bucket that has the shards of `small_runs`."""
    with (
        moto_s3() as server,
        faulty(server) as (shown, faults),
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in shown.environment.items():
            patch.setenv(name, value)
        for path in shards.glob("*/*"):
            storage.publish(f"{BUCKET}/{path.parent.name}/{path.name}", path)
        faults.rule = counting = Counting()
        yield counting


@pytest.fixture(scope="module")
def worker(counted: Counting) -> Iterator[Client]:
    """One worker, which uses the server."""
    with connect(ClusterSettings(workers=1)) as client:
        yield client


def size(kind: str) -> CorpusSize:
    num_bytes = sum(stored.num_bytes for stored in storage.list_objects(f"{BUCKET}/{kind}"))
    return CorpusSize(3, 240, num_bytes / 240, group_rows=80, has_members=kind == "webdataset")


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_ingesting_asks_for_what_the_model_says(
    counted: Counting, worker: Client, kind: str
) -> None:
    cost = ingest_cost(size(kind))
    counted.answer()
    ingest([f"{BUCKET}/{kind}"], folder=f"{BUCKET}/of-{kind}", client=worker)
    assert counted.answer() == cost.requests


def test_an_annotation_asks_for_what_the_model_says(counted: Counting, worker: Client) -> None:
    corpus = f"{BUCKET}/annotated"
    ingest([f"{BUCKET}/parquet"], folder=corpus, client=worker)
    cost = annotate_cost(
        size("parquet"), Machines(), span_samples=SPAN_SAMPLES, part_samples=PART_SAMPLES
    )
    kind = Column("label", value_type="int64")
    request = Request(
        corpus, "label", "column", kind, span_samples=SPAN_SAMPLES, part_samples=PART_SAMPLES
    )
    counted.answer()
    make_annotation(request, client=worker)
    assert counted.answer() == cost.requests
