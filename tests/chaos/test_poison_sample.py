"""A sample that ends the worker's process is found; the others are scored."""

from pathlib import Path

import pytest
from digits import samples, write_corpus
from poisonous import POISON
from small_runs import small_run

from catalogs import LossCatalog
from pipeline import score
from pipeline.cluster import connect
from pipeline.config import run_config
from pipeline.config.cluster_settings import ClusterSettings


def test_a_poison_sample_is_found_and_the_others_are_scored(
    tmp_path: Path, shards: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = samples(120)
    rows[71]["image"] = POISON + rows[71]["image"]
    write_corpus(tmp_path / "parquet", rows)
    write_corpus(tmp_path / "held-out", rows[:10], num_shards=1)
    values = small_run(tmp_path / "run", tmp_path, schedule__warmup_epochs=0)
    values["task"]["name"] = "poisonous.Poisonous"
    values["task"]["num_channels"] = 1
    # On a busy machine a worker takes minutes to restart.
    values["cluster"] = {"patience_seconds": 600}
    with connect(ClusterSettings(workers=1)) as client:
        caplog.set_level("WARNING")  # a local cluster has raised the level of the handler
        result = score(run_config.parse(values), client=client)
    assert (result.scored, result.failed) == (120, {"killed": 1})
    losses = LossCatalog(str(tmp_path / "run")).latest().collect()
    killed = losses.filter(losses["status"] == "killed")
    assert killed.select("shard_id", "row", "loss").rows() == [(1, 31, None)]
    log = caplog.text
    assert log.count("001.parquet ended: trying again") == 3, "once, alone, and alone again"
    assert "row 31 of shard 1" in log
    assert "gets the status `killed`" in log
    assert list((tmp_path / "run/losses/journals").iterdir()) == []
