"""`attent select`: what it selects from a run, a catalog or any Parquet files, and what it says."""

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from commands import ENVIRONMENT, ROOT, answer_here
from scored_runs import GROUP_ROWS, scored_run
from servers import moto_s3
from small_runs import small_run
from typer.testing import CliRunner

import pipeline
from attent_select.errors import InputError
from catalogs import Corpus, IndexFile, storage
from pipeline.cli.app import app
from pipeline.cluster import Client
from pipeline.config import run_config


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Losses of two shards in two Parquet files, not in order: 0.00 … 0.99, and one null."""
    folder = tmp_path_factory.mktemp("losses")
    for shard in (0, 1):
        rows = range(50)
        frame = pl.DataFrame(
            {
                "shard_id": [shard] * 50,
                "row": rows,
                "loss": [None if (shard, row) == (1, 0) else shard / 2 + row / 100 for row in rows],
                "source": ["even" if row % 2 == 0 else "odd" for row in rows],
                "num_units": [10] * 50,
            },
            schema_overrides={"shard_id": pl.UInt32, "row": pl.UInt32, "loss": pl.Float32},
        )
        frame.reverse().write_parquet(folder / f"{shard}.parquet")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four shards of 200 rows; some row groups are harder than others, some rows far harder."""
    draw = np.random.default_rng(1)
    hardness = np.repeat(draw.gamma(2, 1, (4, 200 // GROUP_ROWS)), GROUP_ROWS, axis=1)
    values = (hardness + 4 * draw.gamma(0.3, 1, hardness.shape)).astype(np.float32)
    return scored_run(tmp_path_factory.mktemp("scored") / "run", values.tolist())


def test_select_takes_the_hardest_of_any_parquet_files(losses: Path, tmp_path: Path) -> None:
    out = tmp_path / "index.parquet"
    found = answer_here(
        "select", f"{losses}/*.parquet", "--num-samples", 5, "--strategy", "hard", "--out", out
    )
    assert (found["selected"], found["total"], found["eligible"]) == (5, 100, 99)
    assert found["threshold"] == pytest.approx(0.95)
    assert found["peak_rss_bytes"] > 0
    index = pl.read_parquet(out)
    assert index["row"].to_list() == [45, 46, 47, 48, 49]
    assert index["shard_id"].unique().to_list() == [1]


def test_select_passes_settings_seed_and_where_on(losses: Path, tmp_path: Path) -> None:
    def selected(name: str, *more: object) -> dict[str, Any]:
        out = tmp_path / f"{name}.parquet"
        return answer_here("select", losses, "--ratio", "0.2", "--out", out, *more)

    plain, again = selected("plain"), selected("again")
    assert plain["digest"] == again["digest"]
    assert plain["selected"] == 20
    assert selected("seed", "--seed", 1)["digest"] != plain["digest"]
    assert selected("cold", "--set", "temperature=0.01")["digest"] != plain["digest"]
    equal = selected("equal", "--by", "source", "--set", "quotas=equal", "--strategy", "hard")
    assert equal["selected"] == 20
    assert (pl.read_parquet(tmp_path / "equal.parquet")["row"] % 2).sum() == 10
    odd = selected("odd", "--where", "source = 'odd'")
    assert odd["eligible"] == 50
    assert set(pl.read_parquet(tmp_path / "odd.parquet")["row"] % 2) == {1}


def test_a_budget_of_units_takes_as_many_samples_as_fit(losses: Path, tmp_path: Path) -> None:
    out = tmp_path / "index.parquet"
    found = answer_here("select", losses, "--num-units", 75, "--strategy", "hard", "--out", out)
    assert (found["selected"], len(pl.read_parquet(out))) == (7, 7)


def test_at_most_takes_all_that_are_eligible_where_fewer_are_than_asked_for(
    losses: Path, tmp_path: Path
) -> None:
    for name, budget in (("ratio", ("--ratio", 1)), ("count", ("--num-samples", 10_000))):
        out = tmp_path / f"{name}.parquet"
        found = answer_here("select", losses, *budget, "--at-most", "--out", out)
        assert (found["selected"], found["total"]) == (99, 100)
        assert found["excluded"] == {"null": 1}
    quota = ("--by", "source", "--set", "quotas={even: 1}", "--at-most", "--dry-run")
    assert answer_here("select", losses, "--num-samples", 80, *quota)["selected"] == 49
    fewer = answer_here("select", losses, "--num-samples", 5, "--at-most", "--dry-run")
    assert fewer["selected"] == 5


def test_a_dry_run_says_everything_and_writes_nothing(losses: Path, tmp_path: Path) -> None:
    how = ("select", losses, "--ratio", 0.3, "--seed", 4)
    found = answer_here(*how, "--out", tmp_path / "index.parquet")
    before = sorted(tmp_path.rglob("*"))
    for more in ((), ("--out", tmp_path / "other.parquet")):
        dry = answer_here(*how, "--dry-run", *more)
        measured = ("seconds", "peak_rss_bytes", "index")
        assert {k: v for k, v in dry.items() if k not in measured} == {
            k: v for k, v in found.items() if k not in measured
        }
        assert dry["index"] is None
    assert sorted(tmp_path.rglob("*")) == before


def test_an_output_that_is_there_is_replaced_where_asked(losses: Path, tmp_path: Path) -> None:
    out = tmp_path / "index.parquet"
    first = answer_here("select", losses, "--num-samples", 5, "--out", out)
    second = answer_here("select", losses, "--num-samples", 6, "--out", out, "--overwrite")
    assert first["digest"] != second["digest"]
    assert IndexFile.open(str(out)).digest == second["digest"]


def test_why_rows_are_left_out_is_counted(tmp_path: Path) -> None:
    values = [1.0, None, float("nan"), float("inf"), -float("inf"), 2.0, 3.0, None]
    frame = pl.DataFrame({"row": range(8), "loss": values}).with_columns(shard_id=0)
    frame.write_parquet(tmp_path / "losses.parquet")
    how = ("select", tmp_path, "--num-samples", 2, "--dry-run", "--strategy")
    found = answer_here(*how, "hard")
    assert (found["eligible"], found["excluded"]) == (3, {"nonfinite": 3, "null": 2})
    found = answer_here(*how, "hard", "--where", "loss < 2.5")
    assert found["excluded"] == {"nonfinite": 3, "null": 2, "condition": 1}
    # Without looking at losses, all can be selected.
    assert answer_here(*how, "uniform")["excluded"] == {}


def test_of_a_run_the_reason_is_the_status_of_the_sample(tmp_path: Path) -> None:
    run = scored_run(tmp_path / "run", [[1.0, None, 2.0], [3.0, None, None]])
    found = answer_here("select", run, "--num-samples", 2, "--dry-run")
    assert (found["eligible"], found["excluded"]) == (3, {"unreadable": 3})


def test_larger_blocks_cost_fewer_bytes_and_hold_less_of_the_loss(run: str, tmp_path: Path) -> None:
    """What granularity is for: the same budget, read from ever fewer places."""
    selected, walked = [], []
    for granularity in ("sample", "row_group", "shard"):
        out = tmp_path / f"{granularity}.parquet"
        how = ("--ratio", 0.25, "--strategy", "hard", "--granularity", granularity)
        selected.append(answer_here("select", run, *how, "--out", out))
        walked.append(answer_here("stream", run, "--index", out, "--batch-size", 50))
    assert [one["selected"] for one in selected] == [200] * 3
    assert [one["num_samples"] for one in walked] == [200] * 3
    read = [one["bytes_read"] for one in walked]
    assert read[0] > 2 * read[1]
    # Whole row groups take the same bytes as whole shards, except for the footers.
    assert read[1] == pytest.approx(read[2], rel=1e-3)
    amplification = [one["read_amplification"] for one in walked]
    assert amplification[0] > 2
    assert amplification[1] < 1.1
    by_samples = selected[1]["loss_share_by_samples"]
    assert by_samples == selected[2]["loss_share_by_samples"]
    assert selected[0]["loss_share"] is None
    assert by_samples > selected[1]["loss_share"] > selected[2]["loss_share"] > 0.25


def test_row_groups_are_those_of_the_corpus_and_only_the_last_is_cut_short(
    run: str, tmp_path: Path
) -> None:
    starts = [(shard << 32) + row for shard in range(4) for row in range(0, 200, GROUP_ROWS)]
    assert Corpus.open(run).row_groups().tolist() == starts
    out = tmp_path / "index.parquet"
    how = ("--num-samples", 3 * GROUP_ROWS + 7, "--granularity", "row_group", "--out", out)
    found = answer_here("select", run, *how, "--strategy", "hard", "--set", "weights=none")
    counts = (
        pl.read_parquet(out)
        .group_by("shard_id", pl.col("row") // GROUP_ROWS)
        .agg(pl.len().alias("n"))
    )
    assert sorted(counts["n"]) == [7, GROUP_ROWS, GROUP_ROWS, GROUP_ROWS]
    assert found["selected"] == 67


def test_a_run_trains_on_whole_blocks_where_its_configuration_says_so(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    values = small_run(
        tmp_path / "run",
        shards,
        selection__granularity=10,
        selection__strategy="hard",
        schedule__epochs=1,
        schedule__warmup_epochs=0,
        evaluation=None,
    )
    result = pipeline.run(run_config.parse(values), client=client)
    assert result["rounds"][0]["samples_seen"] == 120
    index = IndexFile.open(str(tmp_path / "run" / "index" / "00000.parquet"))
    assert index.provenance["selection"]["granularity"] == 10
    assert 0.5 < index.provenance["loss_share"] < 1
    blocks = index.frame().collect().group_by("shard_id", pl.col("row") // 10).len()
    assert sorted(blocks["len"]) == [10] * 12


def test_row_groups_of_tars_are_refused_before_any_work(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    tars = {"shards": [str(shards / "webdataset")]}
    values = small_run(tmp_path / "run", shards, corpus=tars, selection__granularity="row_group")
    with pytest.raises(
        InputError, match=r"\.tar is a tar file and has no row groups: choose rows per"
    ):
        pipeline.run(run_config.parse(values), client=client)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_losses_and_index_may_lie_on_s3(
    losses: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = answer_here("select", losses, "--ratio", 0.3, "--out", tmp_path / "index.parquet")
    with moto_s3() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        for file in losses.iterdir():
            storage.publish(f"{server.url}/losses/{file.name}", file)
        url = f"{server.url}/index.parquet"
        how = ("select", f"{server.url}/losses/*.parquet", "--ratio", 0.3)
        there = answer_here(*how, "--out", url)
        assert there["digest"] == here["digest"] == IndexFile.open(url).digest
        data = storage.read(f"{server.url}/losses/1.parquet")
        storage.publish(f"{server.url}/losses/1.parquet", data[:4] + bytes(100) + data[104:])
        done = CliRunner().invoke(app, [*map(str, how), "--out", url, "--overwrite"])
        assert done.exit_code == 2
        assert f"{server.url}/losses/1.parquet is damaged" in done.stderr
        assert IndexFile.open(url).digest == here["digest"]


def test_people_see_what_goes_on_on_a_terminal_and_nothing_else(losses: Path) -> None:
    command = [sys.executable, "-m", "attent_select", "select", str(losses), "--ratio", "0.5"]
    command += ["--dry-run", "--json"]
    main, terminal = pty.openpty()
    with subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=terminal
    ) as process:
        os.close(terminal)
        shown = _all_of(main)
        assert process.stdout is not None
        assert len(process.stdout.read().splitlines()) == 1
    assert process.returncode == 0
    for stage in ("finding the threshold", "duplicate samples", "reading"):
        assert stage in shown
    quiet = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, check=True)
    assert quiet.stderr == b""


def _all_of(descriptor: int) -> str:
    """What comes until the other side of a terminal is closed (an error on Linux)."""
    pieces = []
    try:
        while piece := os.read(descriptor, 1 << 16):
            pieces.append(piece)
    except OSError:
        pass
    finally:
        os.close(descriptor)
    return b"".join(pieces).decode()


def test_people_read_only_what_there_is_to_say(losses: Path) -> None:
    done = CliRunner().invoke(app, ["select", str(losses), "--num-samples", "5", "--dry-run"])
    assert done.exit_code == 0
    assert "selected: 5\n" in done.stdout
    assert "excluded: null 1\n" in done.stdout
    assert "None" not in done.stdout
