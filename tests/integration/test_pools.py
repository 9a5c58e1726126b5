"""Runs whose budget is smaller than the corpus: what they draw, score, select and train on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from small_runs import small_run

from attent_select.errors import InputError
from attent_select.schedule import candidate_walk
from catalogs import IndexFile, LossCatalog
from catalogs.layout import Layout
from catalogs.losses import pools
from pipeline import run
from pipeline.candidates.draw import draw_candidates
from pipeline.cluster import Client
from pipeline.config import run_config
from pipeline.runs.state import prepare

IDS = ["shard_id", "row"]


def pool_run(folder: Path, shards: Path, **replaced: Any) -> dict[str, Any]:
    schedule = {
        "budget": {"samples": 64},
        "warmup": {"samples": 16},
        "rounds": 3,
        "pool": {"multiple": 3, "block_rows": 4},
    }
    values = small_run(folder, shards, schedule=schedule, selection__strategy="hard")
    for path, value in replaced.items():
        section, key = path.split("__")
        values.setdefault(section, {})[key] = value
    return values


def rows_of(shard_rows: Sequence[int]) -> set[tuple[int, int]]:
    return {(shard, row) for shard, count in enumerate(shard_rows) for row in range(count)}


def ids(rows: pl.LazyFrame) -> set[tuple[int, int]]:
    return set(rows.select(IDS).collect().iter_rows())


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, shards: Path, client: Client
) -> tuple[str, dict[str, Any]]:
    """A finished run and what `run` returned."""
    folder = tmp_path_factory.mktemp("pools") / "run"
    return str(folder), run(run_config.parse(pool_run(folder, shards)), client=client)


def test_only_the_candidates_are_scored_and_each_row_is_drawn_once(
    finished: tuple[str, dict[str, Any]],
) -> None:
    url, result = finished
    layout, catalog = Layout(url), LossCatalog(url)
    assert [each["samples_seen"] for each in result["rounds"]] == [16, 16, 16, 16]
    drawn = [ids(IndexFile.open(layout.candidates(n)).frame()) for n in range(4)]
    assert [len(rows) for rows in drawn] == [16, 48, 48, 48]
    assert len(set.union(*drawn)) == 160
    assert catalog.rounds() == []
    assert pools.pool_rounds(url) == [1, 2, 3]
    for number in (1, 2, 3):
        assert ids(pools.pool_losses(catalog, number).frame()) == drawn[number]
        assert pools.pool_provenance(catalog, number)["scored"] == 48


def test_the_hardest_candidates_are_selected(finished: tuple[str, dict[str, Any]]) -> None:
    url, _ = finished
    layout, catalog = Layout(url), LossCatalog(url)
    assert ids(IndexFile.open(layout.index(0)).frame()) == ids(
        IndexFile.open(layout.candidates(0)).frame()
    )
    for number in (1, 2, 3):
        losses = pools.pool_losses(catalog, number).frame()
        hardest = losses.sort("loss", descending=True).head(16)
        assert ids(IndexFile.open(layout.index(number)).frame()) == ids(hardest)


def test_the_walk_draws_what_where_allows(
    tmp_path: Path, shards: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A draw looks at a few blocks at a time, and comes back to the same shards.
    monkeypatch.setattr(candidate_walk, "_MAX_ROWS", 8)
    values = pool_run(
        tmp_path / "run", shards, selection__where="label < 5", selection__strategy="uniform"
    )
    del values["schedule"]["pool"]
    run(run_config.parse(values), client=client)
    layout = Layout(values["run"])
    selected = [ids(IndexFile.open(layout.index(number)).frame()) for number in range(4)]
    # Without a choice, a round takes what it draws, and nothing is scored.
    assert [len(rows) for rows in selected] == [16] * 4
    assert selected == [ids(IndexFile.open(layout.candidates(n)).frame()) for n in range(4)]
    assert len(set.union(*selected)) == 64
    labels = pl.concat(
        pl.read_parquet(shards / "parquet" / name, columns=["label"]).with_row_index("row")
        .select(pl.lit(number).alias("shard_id"), "row", "label")
        for number, name in enumerate(sorted(p.name for p in (shards / "parquet").iterdir()))
    )  # fmt: skip
    allowed = {(shard, row) for shard, row, label in labels.iter_rows() if label < 5}
    assert set.union(*selected) <= allowed


@pytest.mark.parametrize("where", ["row % 2 = 0", "shard_id = 1 OR row < 40", "row >= label"])
def test_ids_say_which_rows_are_drawn_and_cost_no_scoring(
    tmp_path: Path, shards: Path, client: Client, where: str
) -> None:
    values = pool_run(tmp_path / "run", shards, selection__where=where)
    values["selection"]["strategy"] = "uniform"
    del values["schedule"]["pool"]
    result = run(run_config.parse(values), client=client)
    assert [each["samples_seen"] for each in result["rounds"]] == [16] * 4
    assert pools.pool_rounds(values["run"]) == []
    files = sorted((shards / "parquet").iterdir())
    rows = pl.concat(
        pl.read_parquet(file, columns=["label"]).with_row_index("row")
        .select(pl.lit(number).alias("shard_id"), "row", "label")
        for number, file in enumerate(files)
    )  # fmt: skip
    allowed = ids(rows.lazy().sql(f"SELECT * FROM self WHERE {where}"))
    layout = Layout(values["run"])
    drawn = [ids(IndexFile.open(layout.index(number)).frame()) for number in range(4)]
    assert set.union(*drawn) <= allowed


def test_candidates_that_were_not_taken_compete_again(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    values = pool_run(tmp_path / "run", shards)
    values["schedule"]["pool"] |= {"multiple": 2, "keep_rounds": 2}
    run(run_config.parse(values), client=client)
    layout, catalog = Layout(values["run"]), LossCatalog(values["run"])
    taken: set[tuple[int, int]] = set()
    fresh: list[pl.DataFrame] = []
    for number in (1, 2, 3):
        fresh.append(pools.pool_losses(catalog, number).frame().collect())
        kinds = {"shard_id": pl.UInt32, "row": pl.UInt32}
        rows = pl.concat(fresh).join(pl.DataFrame(list(taken), kinds, orient="row"), IDS, "anti")
        hardest = rows.sort("loss", descending=True).head(16)
        selected = ids(IndexFile.open(layout.index(number)).frame())
        assert selected == ids(hardest.lazy())
        taken |= selected
    earlier = ids(IndexFile.open(layout.candidates(1)).frame())
    assert earlier & ids(IndexFile.open(layout.index(3)).frame()) | earlier & ids(
        IndexFile.open(layout.index(2)).frame()
    ), "none of the kept candidates was taken: the test shows nothing"


def test_whole_row_groups_are_drawn_whatever_their_sizes(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    folder = tmp_path / "parquet"
    folder.mkdir()
    for file, num_rows in zip(sorted((shards / "parquet").iterdir()), (20, 30, 7), strict=True):
        rows = pq.read_table(file)
        pq.write_table(rows, folder / file.name, row_group_size=num_rows)
    values = pool_run(tmp_path / "run", shards, corpus__shards=[str(folder)])
    values["selection"]["strategy"] = "uniform"
    values["schedule"]["pool"] = {"multiple": 4, "block_rows": "row_group"}
    config = run_config.parse(values)
    prepared = prepare(config, cluster=lambda: client)
    draws = [draw_candidates(prepared, round_) for round_ in prepared.rounds]
    drawn = [ids(each.frame()) for each in draws]
    assert len(set.union(*drawn)) == sum(map(len, drawn)) == 16 + 3 * 64
    # Blocks are the row groups that begin in the same 20 rows, the size of the first row group.
    sizes = (20, 30, 7)
    blocks: dict[tuple[int, int], set[tuple[int, int]]] = {}
    for shard, row in rows_of((80, 80, 80)):
        block = (shard, row // sizes[shard] * sizes[shard] // 20)
        blocks.setdefault(block, set()).add((shard, row))
    cut = [sum(0 < len(block & rows) < len(block) for block in blocks.values()) for rows in drawn]
    assert max(cut) <= 2, "only the blocks where a round begins and ends are cut"


def test_tar_files_have_no_row_groups(tmp_path: Path, shards: Path, client: Client) -> None:
    values = pool_run(tmp_path / "run", shards, corpus__shards=[str(shards / "webdataset")])
    values["schedule"]["pool"]["block_rows"] = "row_group"
    with pytest.raises(InputError, match=r"has no row groups: choose rows per block, such as 256"):
        prepare(run_config.parse(values), cluster=lambda: client)


@pytest.mark.parametrize(
    ("schedule", "selection", "message"),
    [
        ({"pool": {"multiple": 0.5}, "budget": {"samples": 8}}, {}, "multiple: 0.5 is less than 1"),
        ({"pool": {"multiple": 2}}, {}, "pool: only used with `budget`"),
        ({"budget": {"samples": 8, "epochs": 1}}, {}, "exactly one of samples, units and epochs"),
        ({"budget": {"samples": 0}}, {}, "samples: 0 is not positive"),
        ({"budget": {"samples": 8}, "epochs": 3}, {}, "epochs: not used with `budget`"),
        ({"budget": {"samples": 8}, "warmup_epochs": 1}, {}, "set `warmup` instead"),
        (
            {"budget": {"samples": 8}, "ratio": {"kind": "adaptive", "start": 0.1}},
            {},
            "an adaptive ratio is the share of the candidates that a round takes",
        ),
        (
            {"budget": {"samples": 8}, "ratio": {"kind": "adaptive"}},
            {},
            "an adaptive ratio starts at 1 / pool.multiple: add `pool: {multiple: 3}`",
        ),
        (
            {"budget": {"samples": 8}, "ratio": {"start": 0.1}},
            {},
            "ratio: not used with `budget`: omit it, set `rounds` instead",
        ),
        (
            {"budget": {"samples": 8}, "rescore": {"kind": "auto"}},
            {},
            "omit it, set `pool: {multiple: auto}` instead",
        ),
        (
            {"budget": {"samples": 64}, "pool": {"multiple": "auto"}},
            {"strategy": "key", "key": "label"},
            "schedule.pool.multiple: auto weighs the losses of candidates",
        ),
        (
            {"budget": {"samples": 64}, "pool": {"multiple": 3}},
            {"granularity": "row_group"},
            "selection.granularity: rounds with a pool select single samples",
        ),
        (
            {"budget": {"samples": 64}, "rounds": 2},
            {"strategy": "key", "key": "label"},
            "schedule.rounds: each round would choose from the whole corpus",
        ),
        (
            {"budget": {"samples": 64}, "pool": {"multiple": 1}},
            {"strategy": "uniform", "by": "label"},
            "selection.by and quotas would do nothing",
        ),
        ({"budget": {"units": 64}}, {}, "selection.budget_unit is samples"),
    ],
)
def test_what_contradicts_itself_is_refused(
    tmp_path: Path,
    shards: Path,
    schedule: dict[str, Any],
    selection: dict[str, Any],
    message: str,
) -> None:
    values = small_run(tmp_path / "run", shards, schedule=schedule, selection=selection)
    with pytest.raises(InputError) as error:
        run_config.parse(values)
    assert message in str(error.value)


def test_another_pool_is_refused_when_a_run_is_resumed(
    finished: tuple[str, dict[str, Any]], shards: Path, client: Client
) -> None:
    values = pool_run(Path(finished[0]), shards)
    values["schedule"]["pool"]["multiple"] = 4
    message = r"schedule\.pool\.multiple: the run was started with 3\.0, now it is 4\.0; to c"
    with pytest.raises(InputError, match=message):
        run(run_config.parse(values), client=client)


def test_a_budget_beyond_what_is_eligible_is_refused(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    values = pool_run(tmp_path / "run", shards, schedule__budget={"samples": 300})
    with pytest.raises(InputError, match=r"draws 282 candidates, and only 240 of 240 samples"):
        run(run_config.parse(values), client=client)
    few = pool_run(tmp_path / "few", shards, schedule__budget={"samples": 17})
    with pytest.raises(InputError, match=r"17 samples, of which warm-up takes 16 .* 3 rounds"):
        run(run_config.parse(few), client=client)
