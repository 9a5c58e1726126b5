"""Ratios of units: what is selected, and the learning rate over rounds of other lengths."""

import json
import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from digits import write_corpus
from small_runs import small_run
from task_cases import LLAMA
from typer.testing import CliRunner

from attent_select.errors import InputError
from catalogs import AnnotationStore, IndexFile, LossCatalog
from catalogs.layout import Layout
from catalogs.losses import pools
from pipeline import run
from pipeline.cli.app import app
from pipeline.cluster import Client
from pipeline.config import run_config
from pipeline.runs.state import prepare
from trainers.inputs.tokenizer import train_tokenizer

# Long texts are rare, and harder: hard samples by number are many more tokens than their share.
TEXTS = ["na" * (1 + n % 7) if n % 8 else "xq vz kj " * (4 + n % 5) for n in range(96)]
RATIO = 0.25


def text_run(folder: Path, **replaced: Any) -> dict[str, Any]:
    data = folder / "data/parquet"
    if not data.exists():
        train_tokenizer(TEXTS, folder / "tokenizer", vocab_size=280)
        write_corpus(data, [{"text": text} for text in TEXTS])
    task = {
        "name": "causal_lm",
        "tokenizer": str(folder / "tokenizer"),
        "text": "text",
        "max_length": 96,
    }
    values = small_run(
        folder / "run",
        folder / "data",
        task=task,
        model=LLAMA,
        selection__strategy="hard",
        schedule={"epochs": 4, "warmup_epochs": 1, "ratio": {"start": RATIO}},
        training__batch_size=8,
        training__save_steps=1,
        cluster__workers=1,
    )
    del values["evaluation"]
    for key, value in replaced.items():
        section, _, name = key.partition("__")
        values[section] = {**values[section], name: value}
    return values


def units_of(url: str, number: int) -> pl.DataFrame:
    """Return the index of a round beside the units of its samples."""
    losses = LossCatalog(url).latest(number).select("shard_id", "row", "num_units")
    index = IndexFile.open(Layout(url).index(number)).frame()
    return index.join(losses, on=["shard_id", "row"]).collect()


def test_a_text_is_selected_by_its_tokens_and_the_learning_rate_decays_fully(
    tmp_path: Path, client: Client
) -> None:
    settings = run_config.parse(text_run(tmp_path, training__lr_scheduler="linear"))
    rounds = run(settings, client=client)["rounds"]
    total = LossCatalog(settings.run).latest().select(pl.col("num_units").sum()).collect().item()
    longest = LossCatalog(settings.run).latest().select(pl.col("num_units").max()).collect().item()
    budget = math.floor(RATIO * total + 0.5)
    for number in (1, 2, 3):
        selected = units_of(settings.run, number)
        assert budget - longest < selected["num_units"].sum() <= budget
        assert rounds[number]["num_units"] == selected["num_units"].sum()
        assert rounds[number]["num_samples"] == len(selected) < RATIO * len(TEXTS)
        assert rounds[number]["num_steps"] == math.ceil(len(selected) / 8)
    ready = prepare(settings, cluster=lambda: client)
    assert [ready.on_schedule(each) for each in ready.rounds] == [
        (0, 12),
        (12, 15),
        (15, 18),
        (18, 21),
    ]
    # Linear from 1e-3 to 0 at the end; each round moves over as much of it as its ratio says.
    ends = [learning_rate_after(settings.run, number) for number in range(4)]
    assert ends == pytest.approx([1e-3 * (21 - end) / 21 for end in (12, 15, 18, 21)], abs=1e-12)


def learning_rate_after(url: str, number: int) -> float:
    state = torch.load(Path(Layout(url).checkpoint(number)) / "scheduler.pt", weights_only=True)
    rate: float = state["_last_lr"][0]
    return rate


def test_samples_are_counted_where_the_configuration_or_the_task_says_so(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    settings = run_config.parse(text_run(tmp_path, selection__budget_unit="samples"))
    rounds = run(settings, client=client)["rounds"]
    assert [each["num_samples"] for each in rounds] == [96, 24, 24, 24]
    assert "num_units" not in rounds[1]
    assert run_config.parse(small_run(tmp_path / "x", shards)).selection.budget_unit == "samples"
    assert run_config.parse(text_run(tmp_path)).selection.budget_unit is None


def test_units_of_an_annotation_are_a_budget_without_scoring(
    tmp_path: Path, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    corpus, values = str(tmp_path / "corpus"), text_run(tmp_path, selection__strategy="uniform")
    done = CliRunner().invoke(app, ["ingest", str(tmp_path / "data/parquet"), "--out", corpus])
    assert done.exit_code == 0, done.stderr
    values["corpus"] = {"path": corpus}
    rounds = run(run_config.parse(values), client=client)["rounds"]
    assert rounds[1]["num_samples"] == 24, "nothing counts units"
    own = values | {"corpus": {"shards": [str(tmp_path / "data")]}, "run": str(tmp_path / "asked")}
    own["selection"] = {"strategy": "uniform", "budget_unit": "units"}
    asked = run(run_config.parse(own), client=client)["rounds"]
    counted = AnnotationStore(own["run"]).scan("length").frame().collect()
    total = counted["num_units"].sum()
    assert asked[1]["num_units"] <= RATIO * total < asked[1]["num_units"] + 96
    assert "annotation length: 100.0% of 96 samples have a value" in caplog.text
    assert "s of one core tokenizing" in caplog.text
    assert not LossCatalog(own["run"]).rounds()

    options = ["--kind", "length", "--set", f"tokenizer={tmp_path}/tokenizer"]
    done = CliRunner().invoke(app, ["annotate", corpus, "--name", "length", *options, "--json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)
    values["run"] = str(tmp_path / "counted")
    rounds = run(run_config.parse(values), client=client)["rounds"]
    assert rounds[1]["num_units"] > 0
    assert not LossCatalog(values["run"]).rounds()


def test_an_adaptive_ratio_has_no_budget_in_units(tmp_path: Path) -> None:
    values = text_run(tmp_path, schedule__ratio={"kind": "adaptive", "start": 0.5})
    with pytest.raises(InputError, match="an adaptive ratio has a budget of optimizer steps"):
        run_config.parse(values | {"selection": {"budget_unit": "units"}})
    assert run_config.parse(values).selection.budget_unit is None


def test_a_budget_in_units_is_divided_into_rounds_of_equal_units(
    tmp_path: Path, client: Client
) -> None:
    values = text_run(tmp_path)
    values["schedule"] = {"budget": {"units": 90}, "rounds": 3, "pool": {"multiple": 2}}
    run(run_config.parse(values), client=client)
    layout, catalog = Layout(values["run"]), LossCatalog(values["run"])
    for number in range(3):
        index = IndexFile.open(layout.index(number))
        units = pools.pool_losses(catalog, number).frame().select("shard_id", "row", "num_units")
        rows = index.frame().collect().join(units.collect(), on=["shard_id", "row"])
        assert len(rows) == index.num_samples
        # As many of the hardest as fit: the next one would not.
        assert 30 - 24 < rows["num_units"].sum() <= 30
    assert units.select(pl.col("num_units").max()).collect().item() <= 24
    # Rounds have other numbers of samples than estimated, and the learning rate still ends at 0.
    assert [learning_rate_after(values["run"], n) for n in range(3)] == pytest.approx(
        [1e-3 * 2 / 3, 1e-3 / 3, 0], abs=2e-4
    )
    assert learning_rate_after(values["run"], 2) == 0
