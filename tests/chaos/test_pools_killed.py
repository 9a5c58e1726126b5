"""A run with pools, killed with SIGKILL in each stage, ends like an undisturbed run."""

from pathlib import Path

import yaml
from run_process import finish, kill_when
from small_runs import often_saved

from catalogs import LossCatalog
from catalogs.layout import Layout
from catalogs.losses import pools
from pipeline import metrics, run
from pipeline.cluster import Client
from pipeline.config import run_config
from pipeline.runs.garbage_collection import collect_garbage


def test_a_run_with_pools_killed_in_each_stage_ends_like_an_undisturbed_run(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    values = {
        "schedule": {"budget": {"samples": 48}, "rounds": 2, "pool": {"multiple": 4}},
        "selection__strategy": "soft",
        "scoring__span_samples": 8,
    }
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    run(run_config.parse(often_saved(undisturbed, shards, **values)), client=client)
    file, layout = tmp_path / "killed.yaml", Layout(str(killed))
    cluster = {"scheduler": client.scheduler.address}  # type: ignore[union-attr]
    file.write_text(yaml.safe_dump(often_saved(killed, shards, cluster=cluster, **values)))
    spans = Path(layout.spans)
    kill_when(file, lambda: spans.is_dir() and any(spans.glob("*.parquet")))
    assert Path(layout.candidates(0)).exists(), "killed while scoring"
    assert not Path(layout.pool(0)).exists(), "killed while scoring"
    assert collect_garbage(str(killed)).spans == 0, "the run goes on with them"
    kill_when(file, Path(layout.pool(1)).exists)
    assert not Path(layout.checkpoint(1), "checkpoint.json").exists(), "killed before training"
    finish(file)
    names = [getattr(layout, kind)(n) for kind in ("candidates", "index") for n in (0, 1)]
    for name in names:
        other = name.replace(str(killed), str(undisturbed))
        assert Path(name).read_bytes() == Path(other).read_bytes()
    for number in (0, 1):
        digests = [
            pools.pool_digest(LossCatalog(str(each)), number) for each in (killed, undisturbed)
        ]
        assert digests[0] == digests[1]
        measured = [metrics.read(str(each), number) or {} for each in (killed, undisturbed)]
        assert measured[0]["train_loss"] == measured[1]["train_loss"]
    collect_garbage(str(killed))
    assert not any(spans.glob("*.parquet"))
