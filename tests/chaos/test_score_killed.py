"""Scoring while processes are killed: the store, workers, the scheduler, the driver."""

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from digits import samples, write_corpus
from killable import WORKERS, Cluster, finished, wait_for_spans
from servers import BUCKET
from small_runs import often_saved

from catalogs import LossCatalog, storage
from pipeline import score
from pipeline.cluster import Client
from pipeline.config import run_config


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with contextlib.ExitStack() as stack:
        started = Cluster(tmp_path / "store", stack)
        for name in ("store", "scheduler", "worker 0", "worker 1"):
            started.start(name)
        yield started


VICTIMS: list[tuple[str, ...]] = [
    ("worker 0",),
    ("store",),
    WORKERS,
    ("scheduler", *WORKERS),
    ("driver",),
    ("driver", "store", "scheduler", *WORKERS),
]


def test_whatever_is_killed_the_losses_are_those_of_an_undisturbed_run(
    cluster: Cluster, tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path / "parquet", samples(1200), num_shards=4)
    write_corpus(tmp_path / "held-out", samples(10), num_shards=1)
    values = often_saved("s3://bucket/run", tmp_path, schedule__warmup_epochs=0)
    values["scoring"] = {"span_samples": 10, "part_samples": 500}
    values["cluster"] = {"scheduler": cluster.address, "patience_seconds": 600}
    file = tmp_path / "killed.yaml"
    file.write_text(yaml.safe_dump(values))
    spans = cluster.folder / BUCKET / "run/losses/spans"
    moments = sorted(random.Random(4).sample(range(2, 100), len(VICTIMS)))
    written: dict[str, int] = {}
    driver = cluster.driver("score", str(file))
    for victims, moment in zip(VICTIMS, moments, strict=True):
        assert wait_for_spans(spans, moment, driver=driver), driver.wait()
        for victim in victims:
            driver.kill() if victim == "driver" else cluster.kill(victim)
        found = finished(spans)
        assert found.items() >= written.items(), "a span that was finished was measured again"
        written = found
        for name in cluster.running:
            cluster.restart(name)
        if "scheduler" in victims or "driver" in victims:
            said = driver.wait()
            if "driver" not in victims:
                assert driver.returncode == 130, said
                assert "run the same command again" in said
            driver = cluster.driver("score", str(file))
    said = driver.wait()
    assert driver.returncode == 0, said
    for name, value in cluster.server.environment.items():
        monkeypatch.setenv(name, value)
    assert LossCatalog("s3://bucket/run").span_digests() == set(), "compacted, then deleted"
    assert LossCatalog("s3://bucket/run").digest(0) == undisturbed(values, tmp_path, client)
    assert storage.list_objects("s3://bucket/run/losses/journals") == []
    assert storage.list_objects("s3://bucket/run/drivers") == []


def undisturbed(values: dict[str, Any], tmp_path: Path, client: Client) -> str:
    values = values | {"run": str(tmp_path / "undisturbed"), "cluster": {"workers": 2}}
    return score(run_config.parse(values), client=client).catalog_digest
