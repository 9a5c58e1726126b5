"""`attent antk` on small runs: kernels per checkpoint, figures, and what it says to bad input."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from commands import answer_here
from small_runs import small_run
from typer.testing import CliRunner

from catalogs import IndexFile, LossCatalog, storage
from catalogs.layout import Layout
from pipeline import run
from pipeline.antk.drift_table import drift_table
from pipeline.antk.measurement import KernelSettings, measure
from pipeline.cli.app import app
from pipeline.cluster import Client
from pipeline.config import run_config
from pipeline.reports.html_report import write_report


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, shards: Path, client: Client) -> str:
    """A finished run of three rounds that was selected by the functional gradient."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    settings = small_run(
        folder,
        shards,
        selection__strategy="functional_gradient",
        scoring__functional_gradient=True,
    )
    run(run_config.parse(settings), client=client)
    return str(folder)


def said(*arguments: object) -> tuple[int, str]:
    """Exit code and stderr of a command."""
    done = CliRunner().invoke(app, [*map(str, arguments)])
    return done.exit_code, done.stderr


def test_there_is_a_kernel_of_every_checkpoint_with_its_drift_and_spectrum(finished: str) -> None:
    found = answer_here("antk", finished, "--probe", 12, "--groups")
    assert (found["computed"], found["skipped"], found["output"]) == (4, 0, "target")
    assert "the logit of the right class" in found["meaning"]
    whole = [row for row in found["checkpoints"] if row["group"] == "all"]
    assert [row["checkpoint"] for row in whole] == ["initial", "00000", "00001", "00002"]
    assert [row["step"] for row in whole] == [0, 15, 23, 31]
    assert whole[0]["drift"] is None
    assert all(row["drift"] > 0 and row["resolved"] for row in whole[1:])
    groups = [row["group"] for row in found["checkpoints"][:6]]
    assert groups == ["all", "q", "k", "v", "mlp", "other"]
    assert sum(row["trace_share"] for row in found["checkpoints"][:6]) == pytest.approx(2)
    assert len(whole[0]["eigenvalues"]) == 10
    assert storage.read(found["figure"]).startswith(b"\x89PNG")


def test_the_drift_is_that_of_the_kernels_in_the_files(finished: str) -> None:
    measured = measure(finished, KernelSettings(probe=12))
    tables = [
        pl.read_parquet(Path(finished, "antk/target-12", f"{name}.parquet"))
        for name in ("00000", "00001")
    ]
    before, after = (
        np.sum([np.array(k["kernel"].to_list()) for _, k in t.group_by("group")], axis=0)
        for t in tables
    )
    expected = np.linalg.norm(after - before) / np.linalg.norm(after)
    assert measured.checkpoints[2]["drift"] == pytest.approx(expected)
    probes = [t.select("probe_shard", "probe_row").unique().sort(pl.all()) for t in tables]
    assert probes[0].equals(probes[1])
    assert len(probes[0]) == 12


def test_a_second_call_computes_only_what_is_missing(finished: str) -> None:
    answer_here("antk", finished, "--probe", 12)
    lost = Path(finished, "antk/target-12/00001.parquet")
    before = lost.read_bytes()
    assert answer_here("antk", finished, "--probe", 12)["computed"] == 0
    lost.unlink()
    assert answer_here("antk", finished, "--probe", 12)["computed"] == 1
    assert lost.read_bytes() == before


def test_a_sketch_too_coarse_for_the_drift_says_so(finished: str) -> None:
    coarse = measure(finished, KernelSettings(probe=12, sketch=2))
    assert all(row["error"] > 0.7 for row in coarse.checkpoints)
    assert [row["resolved"] for row in coarse.checkpoints] == [None, *(
        row["drift"] > row["error"] for row in coarse.checkpoints[1:]
    )]  # fmt: skip
    assert not coarse.checkpoints[3]["resolved"]
    done = CliRunner().invoke(app, ["antk", finished, "--probe", "12", "--sketch", "2"])
    assert "not resolved (below " in done.stdout
    fine = measure(finished, KernelSettings(probe=12, sketch=1 << 15))
    exact = measure(finished, KernelSettings(probe=12))
    for one, other in zip(fine.checkpoints[1:], exact.checkpoints[1:], strict=True):
        assert one["drift"] == pytest.approx(other["drift"], abs=2 * one["error"])


def test_the_report_and_a_query_show_what_is_there(finished: str) -> None:
    answer_here("antk", finished, "--probe", 12)
    page = storage.read(write_report(finished)).decode()
    assert "Drift of the kernel (target-12)" in page
    assert "Spectrum of the kernel (target-12)" in page
    sql = "SELECT checkpoint FROM antk WHERE kind = 'target-12' AND \"group\" = 'all'"
    rows = answer_here("query", finished, sql)["rows"]
    assert rows == [["initial"], ["00000"], ["00001"], ["00002"]]


def test_the_teaching_subset_is_where_the_functional_gradient_is_largest(finished: str) -> None:
    losses = LossCatalog(finished).latest(2).collect()
    assert losses["functional_gradient"].is_between(0, 2**0.5).all()
    chosen = IndexFile.open(Layout(finished).index(2)).frame().collect()
    top = losses.top_k(len(chosen), by="functional_gradient")
    keys = ["shard_id", "row"]
    assert chosen.select(keys).sort(keys).equals(top.select(keys).sort(keys))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--probe", 241], "the corpus has only 240 samples"),
        (["--round", 7], "no finished checkpoint 00007"),
        (["--output", "logit"], "expected one of target, logits, loss"),
        (["--dtype", "bfloat16"], "expected float32 or float64"),
    ],
)
def test_what_cannot_be_done_is_bad_input(
    arguments: list[object], message: str, finished: str
) -> None:
    code, error = said("antk", finished, *arguments)
    assert code == 2
    assert message in error


def test_a_lost_checkpoint_is_named_and_the_others_can_still_be_asked_for(
    finished: str, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    shutil.rmtree(copy / "checkpoints/00001")
    shutil.rmtree(copy / "antk", ignore_errors=True)
    code, error = said("antk", copy, "--probe", 5)
    assert code == 2
    assert "there is no finished checkpoint 00001" in error
    assert "finished rounds: 0, 2" in error
    found = answer_here("antk", copy, "--probe", 5, "--round", 2)
    assert [row["checkpoint"] for row in found["checkpoints"]] == ["initial", "00002"]


def test_before_any_training_it_says_what_to_do(tmp_path: Path, shards: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(small_run(tmp_path / "run", shards)))
    code, error = said("antk", path)
    assert code == 2
    assert "`attent run` makes it" in error


def test_a_task_without_logits_says_what_it_has(tmp_path: Path, shards: Path) -> None:
    settings = small_run(tmp_path / "run", shards)
    settings["task"] = {"name": "masked_image_modeling", "image_size": 8, "num_channels": 1}
    settings["model"] = {"config": MAE}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    code, error = said("antk", path, "--output", "target")
    assert code == 2
    assert (
        "the task MaskedImageModeling has no logits of a right class: expected one of loss" in error
    )


MAE = {
    "model_type": "vit_mae", "image_size": 8, "patch_size": 4, "num_channels": 1,
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}  # fmt: skip


def test_samples_that_cannot_be_used_are_no_part_of_the_probe(
    finished: str, tmp_path: Path, client: Client
) -> None:
    from digits import samples, write_corpus

    rows: list[dict[str, Any]] = samples(30)
    for row in rows[:20]:
        row["label"] = 99  # the model has ten classes
    rows[20]["image"] = b"no image"
    write_corpus(tmp_path / "shards", rows)
    settings = small_run(tmp_path / "run", tmp_path, corpus__shards=[str(tmp_path / "shards")])
    settings |= {"evaluation": None, "schedule": {"epochs": 1, "ratio": {"start": 1.0}}}
    settings |= {"selection": {"strategy": "uniform"}, "training": {"batch_size": 8}}
    settings["scoring"] |= {"max_failed_share": 1.0}
    run(run_config.parse(settings), client=client)
    found = measure(str(tmp_path / "run"), KernelSettings(probe=9))
    assert found.computed == 2
    table = drift_table(str(tmp_path / "run"))
    assert table["kind"].unique().to_list() == ["target-9"]
    code, error = said("antk", tmp_path / "run", "--probe", 10)
    assert code == 2
    assert "can use only 9 of the 30 samples" in error


def test_a_strategy_that_needs_the_gradient_asks_for_it_beforehand(
    tmp_path: Path, shards: Path
) -> None:
    path = tmp_path / "config.yaml"
    settings = small_run(tmp_path / "run", shards, selection__strategy="functional_gradient")
    path.write_text(yaml.safe_dump(settings))
    code, error = said("run", path)
    assert code == 2
    assert "the strategy needs `scoring.functional_gradient: true`" in error
