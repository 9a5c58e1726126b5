"""`attent select`: finding losses, and errors about files that have none."""

from pathlib import Path

import polars as pl
import pytest
from digits import samples, write_corpus

from attent_select import schema
from attent_select.errors import ExistsError, InputError
from catalogs import Corpus, IndexFile, LossCatalog
from pipeline.selection.choice import Budget
from pipeline.selection.select_command import select_losses
from pipeline.selection.selection_options import SelectionOptions

HARD = SelectionOptions("hard")
KINDS = {"shard_id": pl.UInt32, "row": pl.UInt32, "loss": pl.Float32}


def write(path: Path, losses: list[float], *, shard_id: int = 0) -> None:
    frame = pl.DataFrame({"row": range(len(losses)), "loss": losses})
    frame.with_columns(shard_id=shard_id).select(
        pl.col(name).cast(kind) for name, kind in KINDS.items()
    ).write_parquet(path)


def chosen(index: Path) -> list[tuple[int, int]]:
    return IndexFile.open(str(index)).frame().select("shard_id", "row").collect().rows()


@pytest.fixture
def run(tmp_path: Path) -> str:
    """Make a run scored twice: in round 0 the last rows are the hardest, in round 1 the first."""
    run = str(tmp_path / "run")
    corpus = write_corpus(tmp_path / "shards", samples(30))
    corpus.save(run)
    catalog = LossCatalog(run)
    for number in (0, 1):  # the catalog holds a superseded part too
        rows = corpus.rows().collect().with_row_index("loss")
        table = rows.with_columns(
            num_units=1, status=pl.lit("ok"), measured_step=number, origin=pl.lit("scored"),
            visits=0, loss=pl.col("loss").cast(pl.Float32) * (1 - 2 * number),
        )  # fmt: skip
        catalog.write_span("all", table.select(*schema.LOSSES))
        catalog.publish(number, [catalog.compact(["all"], round_number=number)], provenance={})
    return run


def test_a_run_and_its_catalog_give_the_same_losses(tmp_path: Path, run: str) -> None:
    for name, losses in (("run", run), ("catalog", f"{run}/losses"), ("slash", f"{run}/losses/")):
        out = tmp_path / f"{name}.parquet"
        select_losses(losses, out=str(out), options=HARD, budget=Budget(num_samples=3))
        # In the newest round the first rows are the hardest.
        assert chosen(out) == [(0, 0), (0, 1), (0, 2)]
        assert IndexFile.open(str(out), corpus=Corpus.open(run)).num_samples == 3


def test_a_run_is_selected_by_the_losses_of_the_given_round(tmp_path: Path, run: str) -> None:
    for number, expected in ((0, (2, 9)), (1, (0, 0)), (7, (0, 0))):
        out = tmp_path / f"{number}.parquet"
        select_losses(
            run, out=str(out), options=HARD, budget=Budget(num_samples=1), round_number=number
        )
        assert chosen(out) == [expected]


def test_staleness_uses_the_step_of_each_measurement(tmp_path: Path) -> None:
    frame = pl.DataFrame({"row": [0, 1, 2], "loss": [1.0, 1.5, 2.0], "measured_step": [0, 10, 20]})
    frame.with_columns(shard_id=0).write_parquet(tmp_path / "foreign.parquet")
    out = tmp_path / "index.parquet"
    settings = ("bonus=1.0",)
    losses = str(tmp_path / "foreign.parquet")
    select_losses(
        losses,
        out=str(out),
        options=SelectionOptions("staleness", settings),
        budget=Budget(num_samples=2),
    )
    # 1.0 + √2, 1.5 + √1, 2.0
    assert chosen(out) == [(0, 0), (0, 1)]


def test_staleness_uses_the_snapshots_of_a_run(tmp_path: Path) -> None:
    """Shard 0 keeps the losses of round 0 for two rounds, which round 1 alone does not show."""
    run = str(tmp_path / "run")
    corpus = write_corpus(tmp_path / "shards", samples(4), num_shards=2)
    corpus.save(run)
    catalog = LossCatalog(run)
    for number in (0, 1, 2):
        rows = corpus.rows().filter(pl.lit(number == 0) | (pl.col("shard_id") == 1)).collect()
        table = rows.with_columns(
            num_units=1, status=pl.lit("ok"), measured_step=10 * number, origin=pl.lit("scored"),
            visits=0, loss=pl.col("shard_id").cast(pl.Float32) * 1.2,
        )  # fmt: skip
        catalog.write_span("some", table.select(*schema.LOSSES))
        part = catalog.compact(["some"], round_number=number)
        keep = number - 1 if number else None
        catalog.publish(number, [part], provenance={"measured_step": 10 * number}, keep=keep)
    out = tmp_path / "index.parquet"
    settings = ("bonus=1.0",)
    select_losses(
        run,
        out=str(out),
        options=SelectionOptions("staleness", settings),
        budget=Budget(num_samples=2),
    )
    # 0 + √2 is more than 1.2, as 0 + √1 would not be.
    assert chosen(out) == [(0, 0), (0, 1)]


def test_an_existing_output_is_refused_before_losses_are_read(tmp_path: Path) -> None:
    out = tmp_path / "index.parquet"
    out.touch()
    with pytest.raises(ExistsError, match="already exists"):
        select_losses("/nowhere", out=str(out), budget=Budget(ratio=0.5))


@pytest.mark.parametrize(
    ("strategy", "setting", "message"),
    [
        ("soft", "temperature=[", r"--set temperature=\[: not YAML"),
        ("soft", "temperature=&x [*x]", "--set temperature=&x .*: a value contains itself"),
        ("soft", "settings={temperature: 1}", "settings is not a setting of a strategy"),
        ("soft", "explore=2", r"selection: explore: 2\.0 is outside"),
        ("soft", "strategy=hard", "strategy is not a setting of a strategy"),
        ("os.path", "", "is a module, expected a class"),
        ("builtins.dict", "", "--strategy builtins.dict: expected a strategy's class"),
    ],
)
def test_invalid_settings_are_an_input_error(
    tmp_path: Path, strategy: str, setting: str, message: str
) -> None:
    write(tmp_path / "a.parquet", [1.0, 2.0])
    options = SelectionOptions(strategy, [setting] if setting else [])
    with pytest.raises(InputError, match=message):
        select_losses(
            str(tmp_path / "a.parquet"),
            out=str(tmp_path / "i"),
            budget=Budget(ratio=0.5),
            options=options,
        )


def test_foreign_files_may_have_any_row_order_and_wider_types(tmp_path: Path) -> None:
    frame = pl.DataFrame({"shard_id": [1, 0, 0], "row": [5, 7, 2], "loss": [3.0, 2.0, 1.0]})
    frame.write_parquet(tmp_path / "foreign.parquet")
    out = tmp_path / "index.parquet"
    result = select_losses(str(tmp_path), out=str(out), options=HARD, budget=Budget(num_samples=2))
    assert chosen(out) == [(0, 7), (1, 5)]
    assert result.threshold == 2.0


def test_a_file_with_other_columns_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [1.0, 2.0])
    pl.DataFrame({"x": [1]}).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"b\.parquet has no column row, shard_id"):
        select_losses(
            str(tmp_path), out=str(tmp_path / "i"), options=HARD, budget=Budget(num_samples=1)
        )
    write(tmp_path / "b.parquet", [1.0], shard_id=1)
    pl.read_parquet(tmp_path / "b.parquet").with_columns(loss=pl.lit("high")).write_parquet(
        tmp_path / "b.parquet"
    )
    with pytest.raises(InputError, match=r"b\.parquet: the column loss is String"):
        select_losses(
            str(tmp_path), out=str(tmp_path / "i"), options=HARD, budget=Budget(num_samples=1)
        )


def test_the_same_row_in_two_files_is_an_input_error_and_leaves_no_index(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [1.0, 2.0])
    write(tmp_path / "b.parquet", [3.0, 4.0])
    out = tmp_path / "out" / "index.parquet"
    with pytest.raises(InputError, match="duplicate rows"):
        select_losses(str(tmp_path), out=str(out), options=HARD, budget=Budget(num_samples=4))
    assert not out.exists()
