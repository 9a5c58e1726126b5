"""Runs with a budget that decide how many candidates each round draws."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from run_process import finish, kill_when
from small_runs import small_run

from attent_select.errors import InputError
from catalogs import Corpus, IndexFile, LossCatalog
from catalogs.layout import Layout
from catalogs.losses import pools
from pipeline import run, score
from pipeline.adaptive import decision_log
from pipeline.cluster import Client
from pipeline.config import run_config
from pipeline.reports.html_report import write_report
from pipeline.reports.query import query
from trainers import checkpoint

BUDGET = {"budget": {"samples": 64}, "warmup": {"samples": 16}, "rounds": 3}
ADAPTIVE = BUDGET | {"ratio": {"kind": "adaptive"}, "pool": {"multiple": 3, "block_rows": 4}}
AUTO = BUDGET | {"pool": {"multiple": "auto", "block_rows": 4}}
# Losses are cheap in two ways.
CHEAP = {"span_samples": 16, "part_samples": 100, "dtype": "bfloat16", "units_share": 0.5}


def pool_run(folder: Path, shards: Path, schedule: dict[str, Any]) -> dict[str, Any]:
    return small_run(
        folder,
        shards,
        schedule=schedule,
        selection__strategy="hard",
        scoring=CHEAP,
        training__save_steps=1,
        training__batch_size=8,
    )


def sizes(url: str) -> list[int]:
    """Return the candidates of each teaching round."""
    return [IndexFile.open(Layout(url).candidates(n)).num_samples for n in (1, 2, 3)]


def test_a_moving_ratio_decides_the_candidates_within_the_budget(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    values = pool_run(tmp_path / "run", shards, ADAPTIVE)
    result = run(run_config.parse(values), client=client)
    assert [each["samples_seen"] for each in result["rounds"]] == [16] * 4
    made = decision_log.read_all(values["run"])
    assert sorted(made) == [1, 2, 3]
    assert made[1].multiple == pytest.approx(3)
    assert made[3].multiple != pytest.approx(3)
    assert "per sample trained" in made[3].reasons["multiple"]
    assert [made[n].signals.gain is None for n in (1, 2, 3)] == [True, False, False]
    assert sizes(values["run"]) == [-(-16 * made[n].multiple // 1) for n in (1, 2, 3)]
    table = query(values["run"], "SELECT round, multiple, why_multiple FROM decisions")
    assert table["multiple"].to_list() == [made[n].multiple for n in (1, 2, 3)]
    assert made[3].reasons["multiple"] in Path(write_report(values["run"])).read_text()
    with pytest.raises(InputError, match="--fraction: a round with a pool scores its candidates"):
        score(values["run"], round_number=3, fraction=0.5, client=client)


def test_the_cost_model_chooses_the_candidates_by_the_last_losses(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    values = pool_run(tmp_path / "run", shards, AUTO)
    run(run_config.parse(values), client=client)
    made = decision_log.read_all(values["run"])
    assert made[1].multiple == 3
    assert made[2].cost.source == "measured"
    losses = pools.pool_losses(LossCatalog(values["run"]), 1).frame().collect()["loss"]
    assert made[2].multiple == made[2].cost.best_multiple(losses.cast(float).to_numpy())[0]
    assert sizes(values["run"])[1] == -(-16 * made[2].multiple // 1)


def final_state(url: str) -> dict[str, Any]:
    """Return what must not depend on how often a run was killed: all but seconds."""
    corpus, layout, catalog = Corpus.open(url), Layout(url), LossCatalog(url)
    decisions = [json.loads(file.read_text()) for file in sorted(Path(layout.decisions).iterdir())]
    checkpoints = [checkpoint.open(layout.checkpoint(n)) for n in range(4)]
    fidelity = [pools.pool_provenance(catalog, n)["fidelity"] for n in (1, 2, 3)]
    return {
        "decisions": [each | {"cost": None, "content_digest": None} for each in decisions],
        "drawn": [IndexFile.open(layout.candidates(n), corpus=corpus).digest for n in range(4)],
        "losses": [pools.pool_digest(catalog, n) for n in (1, 2, 3)],
        "fidelity": [each["rank_correlation"] for each in fidelity],
        "indexes": [IndexFile.open(layout.index(n), corpus=corpus).digest for n in range(4)],
        "weights": [each.weights_digest for each in checkpoints if each is not None],
    }


def written(folder: Path, shards: Path, client: Client, schedule: dict[str, Any]) -> Path:
    values = pool_run(folder, shards, schedule)
    values["cluster"] = {"scheduler": client.scheduler.address}
    file = folder.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(values))
    return file


def test_a_run_killed_in_each_stage_ends_with_the_same_pools_losses_and_weights(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    run(run_config.parse(pool_run(undisturbed, shards, ADAPTIVE)), client=client)
    file, layout = written(killed, shards, client, ADAPTIVE), Layout(str(killed))
    drawn, spans, scored = (
        Path(layout.candidates(2)),
        Path(layout.spans),
        Path(layout.pool(2)),
    )
    kill_when(file, Path(layout.decision(2)).exists)
    assert not scored.exists(), "killed after deciding"
    kill_when(file, lambda: drawn.exists() and any(spans.glob("*.parquet")))
    assert not scored.exists(), "killed while scoring"
    trained = Path(layout.checkpoint(2))
    kill_when(file, lambda: any(trained.glob("step-*/checkpoint.json")))
    assert not (trained / "checkpoint.json").exists(), "killed while training"
    finish(file)
    assert final_state(str(killed)) == final_state(str(undisturbed))


def test_a_multiple_that_depends_on_speed_is_not_decided_again(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    files = [written(each, shards, client, AUTO) for each in (first, second)]
    kill_when(files[0], Path(Layout(str(first)).decision(3)).exists)
    shutil.copytree(first, second)
    for file in files:
        finish(file)
    assert final_state(str(first)) == final_state(str(second))
