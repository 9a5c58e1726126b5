"""`attent explore`: what the newest checkpoint of a run says about a sample."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from explored import Explored, explored
from small_runs import small_run

from catalogs import LossCatalog
from pipeline import run
from pipeline.cluster import Client
from pipeline.config import run_config


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, shards: Path, client: Client
) -> Iterator[Explored]:
    folder = tmp_path_factory.mktemp("explored") / "run"
    run(run_config.parse(small_run(folder, shards)), client=client)
    with explored(folder) as running:
        yield running


def test_the_model_predicts_classes_of_a_sample_beside_its_label(server: Explored) -> None:
    assert server.ask("state")["predicts"] == "classes"
    answer = server.ask("predict", shard_id=0, row=3)
    assert answer["checkpoint"] == "00002"
    (_, most), *_ = answer["classes"]
    assert 0.1 < most <= 1
    label = next(
        field["text"]
        for field in server.ask("sample", shard_id=0, row=3)["fields"]
        if field["name"] == "label"
    )
    assert answer["label"] == label


def test_samples_nearest_to_the_cut_and_most_forgotten_are_listed(server: Explored) -> None:
    for order in ("cut", "forgotten", "labels"):
        assert len(server.ask("samples", order=order, count=5)["samples"]) == 5


def test_the_losses_of_a_round_are_those_of_the_catalog(server: Explored) -> None:
    url = server.ask("state")["url"]
    losses = LossCatalog(url).latest(1).collect()["loss"]
    chart = server.ask("distributions", columns=["loss_round_1"])["charts"][0]
    assert sum(chart["all"]) == len(losses)
