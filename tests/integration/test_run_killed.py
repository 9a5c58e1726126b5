"""`attent run`, killed with SIGKILL in each stage, ends like an undisturbed run."""

from pathlib import Path
from typing import Any

import yaml
from run_process import finish, kill_when
from small_runs import often_saved

from catalogs import Corpus, IndexFile, LossCatalog
from catalogs.layout import Layout
from pipeline import metrics, run
from pipeline.cluster import Client
from pipeline.config import run_config


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
    run(run_config.parse(often_saved(undisturbed, shards)), client=client)

    killed = tmp_path / "killed"
    layout = Layout(str(killed))
    file = tmp_path / "killed.yaml"
    cluster = {"scheduler": client.scheduler.address}  # type: ignore[union-attr]
    file.write_text(yaml.safe_dump(often_saved(killed, shards, cluster=cluster)))
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
