"""`attent run`, killed with SIGKILL in each stage, ends like an undisturbed run."""

from pathlib import Path
from typing import Any

import yaml
from run_process import finish, kill_when
from small_runs import small_run

from catalogs import Corpus, IndexFile, LossCatalog
from catalogs.layout import Layout
from catalogs.losses import pools
from pipeline import metrics, run
from pipeline.cluster import Client
from pipeline.config import run_config
from pipeline.runs.garbage_collection import collect_garbage


def result(url: str) -> dict[str, Any]:
    """Return what must not depend on how often a run was killed."""
    corpus, layout = Corpus.open(url), Layout(url)
    rounds = range(3)
    measured = [metrics.read(url, number) or {} for number in rounds]
    return {
        "indexes": [IndexFile.open(layout.index(n), corpus=corpus).digest for n in rounds],
        "index_files": [Path(layout.index(n)).read_bytes() for n in rounds],
        "losses": [LossCatalog(url).digest(number) for number in LossCatalog(url).rounds()],
        "visits": LossCatalog(url).latest().collect()["visits"].to_list(),
        "train_loss": [values["train_loss"] for values in measured],
        "eval_loss": [values["eval_loss"] for values in measured],
        "samples_seen": [values["samples_seen"] for values in measured],
    }


def test_a_run_killed_in_each_stage_ends_like_an_undisturbed_run(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    undisturbed = tmp_path / "undisturbed"
    run(run_config.parse(small_run(undisturbed, shards)), client=client)

    killed = tmp_path / "killed"
    layout = Layout(str(killed))
    file = tmp_path / "killed.yaml"
    file.write_text(yaml.safe_dump(small_run(killed, shards)))
    spans, snapshot = Path(layout.spans), Path(layout.snapshot(1))
    checkpoint = Path(layout.checkpoint(1))

    kill_when(file, lambda: spans.is_dir() and any(spans.glob("*.parquet")))
    assert not snapshot.exists(), "killed while scoring"
    kill_when(file, snapshot.exists)
    assert not checkpoint.exists(), "killed between scoring and training"
    kill_when(file, lambda: any(checkpoint.glob("step-*/checkpoint.json")))
    assert not (checkpoint / "checkpoint.json").exists(), "killed while training"

    finish(file)
    assert result(str(killed)) == result(str(undisturbed))


def test_a_run_with_pools_killed_in_each_stage_ends_like_an_undisturbed_run(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    values = {
        "schedule": {"budget": {"samples": 48}, "rounds": 2, "pool": {"multiple": 4}},
        "selection__strategy": "soft",
        "scoring__span_samples": 8,
    }
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    run(run_config.parse(small_run(undisturbed, shards, **values)), client=client)
    file, layout = tmp_path / "killed.yaml", Layout(str(killed))
    file.write_text(yaml.safe_dump(small_run(killed, shards, **values)))
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
