"""Workers that are lost while an adaptive cluster grows and shrinks, or at their memory limit."""

import contextlib
import os
import random
import signal
import threading
from pathlib import Path

from campaign import Campaign, Scenario, result
from digits import samples, write_corpus
from killable import finished
from poisonous import POISON
from small_runs import often_saved

from catalogs import LossCatalog
from catalogs.layout import Layout
from pipeline import run, score
from pipeline.cluster import Client, connect
from pipeline.config import run_config
from pipeline.config.cluster_settings import Adaptive, ClusterSettings

MOST_KILLS = 4


class Killer(threading.Thread):
    """Kills a worker each time that another span is finished, at most `MOST_KILLS` times."""

    def __init__(self, client: Client, spans: Path, *, seed: int) -> None:
        super().__init__()
        self._client, self._spans, self._draw = client, spans, random.Random(seed)
        self.has_ended = threading.Event()
        self.sizes: list[int] = []

    def run(self) -> None:
        seen: set[str] = set()
        while not self.has_ended.wait(0.01) and len(self.sizes) < MOST_KILLS:
            if not (new := finished(self._spans).keys() - seen):
                continue
            seen |= new
            pids = [p for p in self._client.run(os.getpid, on_error="ignore").values() if p]
            if pids:
                self.sizes.append(len(pids))
                with contextlib.suppress(ProcessLookupError):  # it was retired
                    os.kill(self._draw.choice(pids), signal.SIGKILL)


def test_an_adaptive_cluster_that_loses_workers_gives_the_result_of_an_undisturbed_run(
    campaign: Campaign, tmp_path: Path, seed: int
) -> None:
    url = tmp_path / "run"
    values = often_saved(url, campaign.folder / "shards", cluster={"patience_seconds": 300})
    with connect(ClusterSettings(adaptive=Adaptive(minimum=2, maximum=3))) as client:
        killer = Killer(client, Path(Layout(str(url)).spans), seed=seed)
        killer.start()
        try:
            run(run_config.parse(values), client=client)
        finally:
            killer.has_ended.set()
            killer.join()
    print(f"killed one of {killer.sizes} workers")
    assert killer.sizes
    assert result(str(url)) == campaign.undisturbed(Scenario("full", {}))[0]


def test_a_sample_that_takes_a_worker_beyond_its_memory_limit_is_found(tmp_path: Path) -> None:
    rows = samples(120)
    rows[71]["image"] = POISON + rows[71]["image"]
    write_corpus(tmp_path / "parquet", rows)
    write_corpus(tmp_path / "held-out", rows[:10], num_shards=1)
    values = often_saved(tmp_path / "run", tmp_path, schedule__warmup_epochs=0)
    values["task"]["name"] = "poisonous.Gluttonous"
    values["cluster"] = {"patience_seconds": 600}
    with connect(ClusterSettings(workers=1, memory_limit="1500MB")) as client:
        scored = score(run_config.parse(values), client=client)
    assert (scored.scored, scored.failed) == (120, {"killed": 1})
    losses = LossCatalog(str(tmp_path / "run")).latest().collect()
    killed = losses.filter(losses["status"] == "killed")
    assert killed.select("shard_id", "row", "loss").rows() == [(1, 31, None)]
