"""All rounds of a run, in one process with a shared cluster."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from digits import samples, write_corpus
from shared_cluster import ORDINARY, SharedCluster
from small_runs import small_run

from attent_select.errors import InputError, MissingError
from attent_select.schedule.rounds import plan_rounds
from catalogs import Corpus, IndexFile, LossCatalog, storage
from catalogs.layout import Layout
from pipeline import metrics, run, stages
from pipeline.cluster import Client
from pipeline.config import run_config
from pipeline.loop import select_and_train
from pipeline.runs.state import prepare
from pipeline.selection.choice import SelectionRequest, SubsetChoice, choose
from pipeline.selection.select_stage import select_stage
from pipeline.training.stream_check import read_stream
from trainers import OrderSettings, RankShare, checkpoint

CHOOSE = "pipeline.selection.select_stage.choose"


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, shards: Path, client: Client
) -> tuple[str, dict[str, Any]]:
    """A finished run and what `run` returned."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return str(folder), run(run_config.parse(small_run(folder, shards)), client=client)


def test_a_run_leaves_every_file_of_every_round(finished: tuple[str, dict[str, Any]]) -> None:
    url, result = finished
    layout = Layout(url)
    assert [r["phase"] for r in result["rounds"]] == ["warmup", "teach", "teach"]
    for number in range(3):
        assert storage.info(layout.index(number)) is not None
        assert checkpoint.open(layout.checkpoint(number)) is not None
    assert LossCatalog(url).rounds() == [1, 2], "a warm-up round needs no losses"
    assert result["checkpoint"] == layout.checkpoint(2)
    assert storage.list_objects(layout.spans) == []


def test_tests_of_a_process_share_a_cluster_also_after_a_run(
    finished: tuple[str, dict[str, Any]], shared: SharedCluster
) -> None:
    assert not shared.changes()
    with shared.start(ORDINARY) as one, shared.start(ORDINARY) as other:
        assert one is other


def test_warm_up_trains_on_all_rows_and_a_teaching_round_on_its_ratio(
    finished: tuple[str, dict[str, Any]],
) -> None:
    url, result = finished
    sizes = [IndexFile.open(Layout(url).index(number)).num_samples for number in range(3)]
    assert sizes == [240, 120, 120]
    assert [r["samples_seen"] for r in result["rounds"]] == sizes
    everything = IndexFile.open(Layout(url).index(0)).frame().collect()
    assert everything["weight"].unique().to_list() == [1.0]


def test_results_have_metrics_and_seconds_per_stage(finished: tuple[str, dict[str, Any]]) -> None:
    _, result = finished
    for round_ in result["rounds"]:
        assert 0 <= round_["accuracy"] <= 1
        assert round_["eval_loss"] > 0
        seconds = round_["seconds"]
        assert set(seconds) == {"score", "select", "train", "evaluate", "total"}
        assert min(seconds["select"], seconds["evaluate"], round_["bytes_read"]) > 0
        costs = seconds["score"] + seconds["select"] + seconds["train"]
        assert seconds["total"] == pytest.approx(costs), "evaluating is not part of the cost"
    assert result["rounds"][0]["seconds"]["score"] == 0
    assert result["rounds"][1]["seconds"]["score"] > 0


def test_each_round_continues_the_steps_of_the_round_before(
    finished: tuple[str, dict[str, Any]],
) -> None:
    url, _ = finished
    settings = run_config.load(url)
    planned = plan_rounds(settings.schedule, num_samples=240, batch_size=16)
    steps = [checkpoint.open(Layout(url).checkpoint(number)).step for number in range(3)]
    assert steps == [round_.first_step + round_.num_steps for round_ in planned]
    scored_at = LossCatalog(url).latest(2).collect()["measured_step"].unique().to_list()
    assert scored_at == [planned[2].first_step]


def test_observed_losses_are_kept_and_counted_as_visits(
    finished: tuple[str, dict[str, Any]],
) -> None:
    url, _ = finished
    catalog = LossCatalog(url)
    for number, rows in enumerate([240, 120, 120]):
        assert len(catalog.observed_losses(number).collect()) == rows
    visits = catalog.latest(2).collect()
    taught = IndexFile.open(Layout(url).index(1)).frame().collect()
    expected = 1 + visits.join(taught, on=["shard_id", "row"], how="left")[
        "weight"
    ].is_not_null().cast(pl.UInt16)
    assert visits["visits"].to_list() == expected.to_list()


def test_an_index_records_corpus_strategy_round_and_weights(
    finished: tuple[str, dict[str, Any]],
) -> None:
    url, _ = finished
    provenance = IndexFile.open(Layout(url).index(2)).provenance
    assert provenance["corpus_id"] == Corpus.open(url).corpus_id
    assert provenance["selection"]["strategy"] == "soft"
    assert provenance["round"]["number"] == 2
    start = checkpoint.open(Layout(url).checkpoint(1))
    assert start is not None
    assert provenance["losses"] == start.weights_digest


def test_running_a_finished_run_again_starts_no_cluster_and_changes_nothing(
    finished: tuple[str, dict[str, Any]],
) -> None:
    url, result = finished
    before = [(item.url, item.etag) for item in storage.list_objects(url)]
    # No scheduler has this address: connecting would be an error.
    again = run(url, overrides=["cluster.scheduler=tcp://127.0.0.1:9"])
    assert again == result
    assert [(item.url, item.etag) for item in storage.list_objects(url)] == before


def test_a_run_is_not_resumed_with_other_settings(
    finished: tuple[str, dict[str, Any]], shards: Path, client: Client
) -> None:
    url, _ = finished
    changed = run_config.parse(small_run(url, shards, seed=1))
    with pytest.raises(InputError, match="seed: the run was started with 0, now it is 1") as error:
        run(changed, client=client)
    assert f"name the run (attent run {url})" in str(error.value)


def test_training_from_compact_shards_gives_the_same_run(
    finished: tuple[str, dict[str, Any]], tmp_path: Path, shards: Path, client: Client
) -> None:
    url, _ = finished
    file = tmp_path / "config.yaml"
    again = str(tmp_path / "again")
    file.write_text(yaml.safe_dump(small_run(again, shards, streaming__materialise="always")))
    run(str(file), client=client)
    assert storage.list_objects(Layout(again).all_compact) == [], (
        "compact shards are deleted after the round"
    )
    for number in range(3):
        one, other = (IndexFile.open(Layout(u).index(number)).digest for u in (url, again))
        assert one == other
        first, second = metrics.read(url, number), metrics.read(again, number)
        assert first is not None
        assert second is not None
        assert first["train_loss"] == second["train_loss"]
        assert first["eval_loss"] == second["eval_loss"]


def test_uniform_subsets_differ_between_rounds_and_need_no_scoring(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    url = str(tmp_path / "run")
    run(run_config.parse(small_run(url, shards, selection={"strategy": "uniform"})), client=client)
    assert LossCatalog(url).rounds() == []
    first, second = (IndexFile.open(Layout(url).index(number)).digest for number in (1, 2))
    assert first != second


def test_stages_can_be_called_one_by_one(tmp_path: Path, shards: Path, client: Client) -> None:
    settings = run_config.parse(small_run(tmp_path / "run", shards, schedule__warmup_epochs=0))
    with pytest.raises(MissingError, match=r"was not scored: run `attent score .*--round 0`"):
        stages.train(settings, client=client)
    assert stages.score(settings, client=client).scored == 240
    trained = stages.train(settings, client=client)
    assert [round_["round"] for round_ in trained["rounds"]] == [0]
    assert trained["rounds"][0]["seconds"]["select"] > 0
    assert prepare(settings, cluster=lambda: client).round(None).number == 1


def test_an_index_of_another_size_than_scheduled_is_refused(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    settings = run_config.parse(small_run(tmp_path / "run", shards, schedule__warmup_epochs=0))
    ready = prepare(settings, cluster=lambda: client)
    rows = ready.corpus.rows().head(16).with_columns(weight=1.0, probability=1.0)
    provenance = {"corpus_id": ready.corpus.corpus_id}
    IndexFile.write(ready.layout.index(0), rows, provenance=provenance)
    with pytest.raises(InputError, match="selects 16 samples, round 0 of the schedule has 120"):
        select_and_train(ready, 0)


def test_a_round_with_too_few_eligible_rows_trains_on_all_of_them(
    tmp_path: Path, client: Client
) -> None:
    rows = samples(120)
    rows[5]["image"] = rows[40]["image"] = b"no image"
    write_corpus(tmp_path / "shards" / "parquet", rows)
    write_corpus(tmp_path / "shards" / "held-out", samples(20), num_shards=1)
    schedule = {"epochs": 3, "ratio": {"kind": "incremental", "start": 0.5, "end": 1.0}}
    # 118 of 120 samples are two batches of 59 instead of three: the next round begins earlier.
    settings = run_config.parse(
        small_run(
            tmp_path / "run",
            tmp_path / "shards",
            schedule=schedule | {"interval": {"epochs": 1}, "anneal_epochs": 0},
            training__batch_size=59,
        )
    )
    planned = plan_rounds(settings.schedule, num_samples=120, batch_size=59)
    assert [(each.num_samples, each.num_steps) for each in planned] == [(60, 2), (90, 2), (120, 3)]
    result = run(settings, client=client)
    assert [each["num_samples"] for each in result["rounds"]] == [60, 90, 118]
    assert [each["num_steps"] for each in result["rounds"]] == [2, 2, 2]
    assert IndexFile.open(Layout(settings.run).index(2)).provenance["eligible"] == 118
    assert run(settings, client=client) == result


def test_a_round_after_a_shortened_round_starts_where_it_ended(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    where = {"strategy": "hard", "where": "row < 20"}
    settings = run_config.parse(small_run(tmp_path / "run", shards, selection=where))
    result = run(settings, client=client)
    assert [each["num_samples"] for each in result["rounds"]] == [240, 60, 60]
    steps = [checkpoint.open(Layout(settings.run).checkpoint(n)).step for n in range(3)]
    assert steps == [15, 19, 23]
    again = prepare(settings, cluster=lambda: client)
    assert [each.first_step for each in again.rounds] == [0, 15, 19]
    assert again.total_steps == 31, "the learning rate keeps its horizon"


def test_a_model_that_cannot_be_built_does_not_freeze_the_run(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    # A valid integer: only building the model fails.
    wrong = small_run(tmp_path / "run", shards, model__config__hidden_size=-16)
    with pytest.raises(InputError, match="the model cannot be built: "):
        prepare(run_config.parse(wrong), cluster=lambda: client)
    right = run_config.parse(small_run(tmp_path / "run", shards))
    assert prepare(right, cluster=lambda: client).config == right


def test_an_initial_model_built_before_freezing_is_replaced(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    url = Layout(str(tmp_path / "run")).initial_checkpoint
    first = run_config.parse(small_run(tmp_path / "run", shards, seed=1))
    prepare(first, cluster=lambda: client)
    before = checkpoint.open(url).weights_digest
    storage.delete(Layout(first.run).config)  # as if it had been killed before freezing
    prepare(run_config.parse(small_run(tmp_path / "run", shards)), cluster=lambda: client)
    assert checkpoint.open(url).weights_digest != before


def test_of_two_processes_that_select_the_second_uses_the_index_of_the_first(
    tmp_path: Path, shards: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    selection = {"strategy": "uniform"}
    settings = run_config.parse(small_run(tmp_path / "run", shards, selection=selection))
    ready = prepare(settings, cluster=lambda: client)
    firsts = []

    def choose_second(request: SelectionRequest) -> SubsetChoice:
        # While this process selects, another one selects and finishes first.
        monkeypatch.setattr(CHOOSE, choose)
        firsts.append(select_stage(ready, ready.rounds[1]))
        return choose(request)

    monkeypatch.setattr(CHOOSE, choose_second)
    assert [select_stage(ready, ready.rounds[1])] == firsts


def test_numbers_lost_with_a_killed_process_are_missing_not_zero(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    settings = run_config.parse(small_run(tmp_path / "run", shards, schedule={"epochs": 1}))
    before = run(settings, client=client)["rounds"][0]
    storage.delete(Layout(settings.run).round_metrics(0))  # as if killed after the checkpoint
    after = run(settings, client=client)["rounds"][0]
    assert set(before["seconds"]) - set(after["seconds"]) == {"evaluate"}
    assert "bytes_read" in before
    assert "bytes_read" not in after
    assert after["train_loss"] == before["train_loss"]


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_dry_run_counts_the_same_samples_with_and_without_reading_them(
    finished: tuple[str, dict[str, Any]], world_size: int
) -> None:
    url, _ = finished
    results = [
        read_stream(
            url,
            index=Layout(url).index(1),
            order=OrderSettings(seed=0, batch_size=32),
            share=RankShare(world_size - 1, world_size),
            digest_only=digest_only,
        )
        for digest_only in (False, True)
    ]
    assert [each.num_samples for each in results] == [120 // world_size] * 2
