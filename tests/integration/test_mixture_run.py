"""Runs on a mixture: quotas from weights in each round, counts by part, shards that are added."""

import json
import re
from pathlib import Path

from commands import answer_here
from digits import samples, write_corpus
from small_runs import small_run

from catalogs import Corpus
from pipeline import run, stages
from pipeline.cluster import Client, scheduler_address
from pipeline.config import run_config
from pipeline.reports.html_report import write_report
from pipeline.reports.query import query

PARTS = {"web": 160, "code": 80}
ADDED = 40


def num_by_name(folder: str, table: str) -> dict[str, int]:
    counts = query(folder, f"SELECT name, COUNT(*) AS n FROM {table} GROUP BY name")
    return dict(counts.rows())


def num_selected(folder: str, round_number: int) -> dict[str, int]:
    """Return the number of rows of each part in the index of a round."""
    counts = query(
        folder,
        "SELECT corpus.name, COUNT(*) AS n FROM index JOIN corpus ON index.shard_id ="
        f" corpus.shard_id WHERE round = {round_number} GROUP BY corpus.name",
    )
    return dict(counts.rows())


def chart_of_names(page: str) -> dict[str, dict[str, float]]:
    """Return group → part → share of the chart about the annotation `name` of a report."""
    specs = re.search(r"^const specs = (.*);$", page, re.MULTILINE)
    assert specs is not None
    result: dict[str, dict[str, float]] = {}
    for spec in json.loads(specs.group(1)):
        for rows in spec["datasets"].values():
            for row in rows:
                if row.get("value") in PARTS:
                    result.setdefault(row["group"], {})[row["value"]] = row["share"]
    return result


def test_a_run_keeps_the_weights_in_every_round_and_continues_with_added_shards(
    tmp_path: Path, client: Client
) -> None:
    rows = samples(sum(PARTS.values()) + ADDED)
    write_corpus(tmp_path / "web", rows[:160], num_shards=2)
    write_corpus(tmp_path / "code", rows[160:240], num_shards=1)
    write_corpus(tmp_path / "more-code", rows[240:], num_shards=1)
    values = small_run(tmp_path / "run", tmp_path, selection__strategy="hard")
    del values["evaluation"]
    values["corpus"] = [
        {"name": "web", "shards": str(tmp_path / "web"), "weight": 0.75},
        {"name": "code", "shards": str(tmp_path / "code")},
    ]
    config = run_config.parse(values)
    # The warm-up round trains on everything, the next one on half of it.
    for number in range(2):
        stages.score(config, round_number=number, client=client)
        stages.train(config, round_number=number, client=client)
    folder = config.run
    assert num_by_name(folder, "losses") == PARTS
    assert num_selected(folder, 1) == {"web": 90, "code": 30}

    append = ("--append", "--name", "code", "--out", folder)
    scheduler = ("--scheduler", scheduler_address(client))
    answer = answer_here("ingest", tmp_path / "more-code", *append, *scheduler)
    assert (answer["num_shards"], answer["num_samples"]) == (4, 280)
    assert Corpus.open(folder).names == ("code", "web", "web", "code")
    assert num_by_name(folder, "samples") == {"web": 160, "code": 120}

    result = run(config, client=client)
    assert [each["samples_seen"] for each in result["rounds"]] == [240, 120, 140]
    assert num_by_name(folder, "losses") == {"web": 160, "code": 120}
    assert num_selected(folder, 2) == {"web": 105, "code": 35}
    assert run(config, client=client)["checkpoint"] == result["checkpoint"]
    assert chart_of_names(Path(write_report(folder)).read_text())["selected"] == {
        "web": 0.75,
        "code": 0.25,
    }


def test_a_random_draw_with_a_budget_keeps_the_weights(tmp_path: Path, client: Client) -> None:
    rows = samples(sum(PARTS.values()))
    write_corpus(tmp_path / "web", rows[:160], num_shards=2)
    write_corpus(tmp_path / "code", rows[160:], num_shards=1)
    schedule = {"budget": {"samples": 40}}
    values = small_run(tmp_path / "run", tmp_path, schedule=schedule)
    del values["evaluation"]
    values["selection"] = {"strategy": "uniform"}
    values["corpus"] = [
        {"name": "web", "shards": str(tmp_path / "web"), "weight": 0.25},
        {"name": "code", "shards": str(tmp_path / "code")},
    ]
    run(run_config.parse(values), client=client)
    assert num_selected(str(tmp_path / "run"), 0) == {"web": 10, "code": 30}
