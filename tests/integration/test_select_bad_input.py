"""`attent select` on what it cannot use: one message, exit code 2, and nothing half-written.

A message names the file and what to do next.
"""

import contextlib
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from commands import ENVIRONMENT, ROOT
from scored_runs import score, scored_run
from typer.testing import CliRunner

from catalogs import LossCatalog
from pipeline.cli.app import app

KINDS = {"shard_id": pl.UInt32, "row": pl.UInt32, "loss": pl.Float32}


def write(path: Path, rows: list[tuple[Any, ...]], **more: Any) -> Path:
    """Losses (shard_id, row, loss) in one Parquet file, and constant columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pl.DataFrame(rows, schema=KINDS, orient="row")
    frame.with_columns(**{name: pl.lit(value) for name, value in more.items()}).write_parquet(path)
    return path


def plain(folder: Path, **more: Any) -> Path:
    """A file of ten losses, 0.0 … 4.5."""
    return write(folder / "losses.parquet", [(0, row, row / 2) for row in range(10)], **more)


def refusal(losses: object, *options: object, out: Path, strategy: str = "hard") -> str:
    """What the command says when it ends with exit code 2, having written nothing."""
    before = everything(out.parent)
    done = CliRunner().invoke(
        app, ["select", str(losses), "--strategy", strategy, "--out", str(out), "--json"]
        + [str(option) for option in options],
    )  # fmt: skip
    assert done.exit_code == 2, done.stderr
    assert done.stdout == ""
    assert everything(out.parent) == before
    assert done.stderr.startswith("attent: ")
    assert "Traceback" not in done.stderr
    return done.stderr


def everything(folder: Path) -> dict[str, bytes]:
    """Every file under `folder`, hidden ones too, with its bytes."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "index.parquet"


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        (("--ratio", 0.5, "--by", "domain"), "domain"),
        (("--num-units", 5), "num_units"),
        (("--ratio", 0.5, "--set", "max_visits=2"), "visits"),
    ],
)
def test_a_column_that_is_not_there(
    tmp_path: Path, out: Path, options: tuple[object, ...], missing: str
) -> None:
    losses = plain(tmp_path)
    message = refusal(losses, *options, out=out)
    assert f"{losses} has no column {missing}: it has shard_id, row, loss" in message
    run = scored_run(tmp_path / "run", [[1.0, 2.0]])
    message = refusal(run, "--ratio", 1, "--by", "domain", out=out)
    assert f"{run}: its losses have no column domain" in message
    assert "Make an annotation of that name" in message


def test_a_column_that_one_file_of_many_lacks_is_missing_there(tmp_path: Path, out: Path) -> None:
    plain(tmp_path / "in", domain="web")
    lacking = write(tmp_path / "in" / "more.parquet", [(1, 0, 1.0)])
    message = refusal(tmp_path / "in", "--ratio", 0.5, "--by", "domain", out=out)
    assert f"{lacking} has no column domain" in message


def test_losses_that_are_all_null(tmp_path: Path, out: Path) -> None:
    losses = tmp_path / "losses.parquet"
    write(losses, [(0, row, None) for row in range(4)], num_units=5)
    for options in (("--ratio", 0.5), ("--ratio", 0.5, "--at-most"), ("--num-units", 3)):
        message = refusal(losses, *options, out=out)
        assert f"{losses}: no row is eligible (rows without a finite loss: 4 null)" in message
    untyped = pl.DataFrame({"shard_id": [0], "row": [0], "loss": [None]})
    untyped.write_parquet(losses)
    assert "the column loss is Null, expected numbers" in refusal(losses, "--ratio", 1, out=out)


def test_a_budget_of_units_into_which_nothing_fits(tmp_path: Path, out: Path) -> None:
    losses = plain(tmp_path, num_units=5)
    assert f"{losses}: no sample fits into 4 units" in refusal(losses, "--num-units", 4, out=out)


def test_fewer_eligible_rows_than_asked_for(tmp_path: Path, out: Path) -> None:
    losses = plain(tmp_path)
    for granularity in ("sample", "4"):
        options = ("--num-samples", 8, "--where", "loss > 1", "--granularity", granularity)
        message = refusal(losses, *options, out=out)
        assert f"{losses}: 8 samples requested, but only 7 are eligible" in message
        assert "give --at-most" in message


@pytest.mark.parametrize(
    ("rows", "num_samples"),
    [
        # Both selected; only the harder one; tied at the threshold; neither.
        ([(0, 0, 5.0), (0, 1, 4.0), (0, 1, 4.5), (0, 2, 1.0)], 3),
        ([(0, 0, 5.0), (0, 1, 0.5), (0, 1, 4.5), (0, 2, 1.0)], 2),
        ([(0, 0, 5.0), (0, 1, 4.0), (0, 1, 4.0), (0, 2, 1.0)], 2),
        ([(0, 0, 5.0), (0, 1, 0.0), (0, 1, 0.0), (0, 2, 1.0)], 2),
    ],
)
@pytest.mark.parametrize("order", ["sorted", "mixed", "two files"])
def test_a_sample_that_is_there_twice(
    tmp_path: Path, out: Path, rows: list[tuple[int, int, float]], num_samples: int, order: str
) -> None:
    folder = tmp_path / "in"
    if order == "two files":
        write(folder / "a.parquet", rows[:2])
        write(folder / "b.parquet", rows[2:])
    else:
        write(folder / "a.parquet", rows if order == "sorted" else [rows[i] for i in (2, 0, 3, 1)])
    for more in ((), ("--dry-run",)):
        message = refusal(folder, "--num-samples", num_samples, *more, out=out)
        assert f"{folder}: row 1 of shard 0 occurs twice" in message
        assert "a file that was given twice" in message


def test_a_catalog_that_has_a_sample_twice(tmp_path: Path, out: Path) -> None:
    """Only a part that somebody changed has: its ids are in order, so the index shows it."""
    run = scored_run(tmp_path / "run", [[1.0, 2.0, 3.0]])
    (part,) = (Path(run) / "losses" / "parts").glob("*.parquet")
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(part)
    rows = table.set_column(1, "row", pa.array([0, 1, 1], pa.uint32()))
    pq.write_table(rows.replace_schema_metadata(pq.read_metadata(part).metadata), part)
    assert "row 1 of shard 0 occurs twice" in refusal(run, "--num-samples", 2, out=out)


@pytest.mark.parametrize("damage", ["cut", "noise"])
@pytest.mark.parametrize("what", ["run", "files"])
def test_a_part_that_is_cut_off_or_damaged(
    tmp_path: Path, out: Path, damage: str, what: str
) -> None:
    run = scored_run(tmp_path / "run", [[row / 7 for row in range(900)]] * 3)
    parts = sorted((Path(run) / "losses" / "parts").glob("*.parquet"))
    data = parts[1].read_bytes()
    parts[1].write_bytes(data[: len(data) // 2] if damage == "cut" else damaged(data))
    if what == "files":
        # Parts of one run are named alike by their content; as files they can be anybody's.
        shutil.copytree(parts[0].parent, tmp_path / "in")
        parts[1] = tmp_path / "in" / parts[1].name
    message = refusal(run if what == "run" else tmp_path / "in", "--ratio", 0.5, out=out)
    assert str(parts[1]) in message
    assert "is damaged" in message or "is not a complete Parquet file" in message


def damaged(data: bytes) -> bytes:
    """Page headers of the first column chunks are overwritten, the footer is whole."""
    return data[:4] + bytes(range(255, 155, -1)) * 10 + data[1004:]


def test_a_part_that_is_gone_or_holds_too_few_rows(tmp_path: Path, out: Path) -> None:
    run = scored_run(tmp_path / "run", [[1.0, 2.0], [3.0, 4.0, 5.0]])
    small, large = sorted(
        (Path(run) / "losses" / "parts").glob("*.parquet"), key=lambda p: len(pl.read_parquet(p))
    )
    whole = large.read_bytes()
    large.write_bytes(small.read_bytes())
    message = refusal(run, "--ratio", 0.5, out=out)
    assert f"{large} has 2 rows, but 3 in the snapshot" in message
    large.unlink()
    assert f"{large} was deleted: restore the part" in refusal(run, "--ratio", 0.5, out=out)
    large.write_bytes(whole)
    assert CliRunner().invoke(app, ["select", run, "--ratio", "1", "--dry-run"]).exit_code == 0


def test_losses_of_another_corpus(tmp_path: Path, out: Path) -> None:
    """A run's catalog copied under another run: as a whole, or only a part of it."""
    mine = scored_run(tmp_path / "mine", [[1.0, 2.0]])
    other = scored_run(tmp_path / "other", [[1.0, 2.0, 3.0]])
    shutil.copytree(f"{mine}/losses", f"{tmp_path}/kept")
    shutil.rmtree(f"{mine}/losses")
    shutil.copytree(f"{other}/losses", f"{mine}/losses")
    message = refusal(mine, "--ratio", 0.5, out=out)
    assert f"the snapshot {mine}/losses/snapshots/00000.parquet was made from corpus" in message
    assert "num_samples was 3, is 2" in message
    shutil.rmtree(f"{mine}/losses")
    shutil.copytree(f"{tmp_path}/kept", f"{mine}/losses")
    (part,) = Path(f"{mine}/losses/parts").glob("*.parquet")
    (foreign,) = Path(f"{other}/losses/parts").glob("*.parquet")
    shutil.copy(foreign, part)
    message = refusal(f"{mine}/losses", "--ratio", 0.5, out=out)
    assert f"the part {part} was made from corpus" in message


def test_losses_that_no_round_has(tmp_path: Path, out: Path) -> None:
    run = scored_run(tmp_path / "run", [[1.0, 2.0]])
    shutil.rmtree(Path(run) / "losses")
    message = refusal(run, "--ratio", 0.5, out=out)
    assert f"{run} has no losses: run `attent score` first" in message
    score(Path(run), [[1.0, 2.0]], round_number=3)
    assert "no losses up to round 2" in refusal(run, "--ratio", 0.5, "--round", 2, out=out)
    assert LossCatalog(run).rounds() == [3]


def test_a_quota_for_a_stratum_that_is_not_there(tmp_path: Path, out: Path) -> None:
    losses = plain(tmp_path, domain="web")
    options = ("--ratio", 0.5, "--by", "domain", "--set", "quotas={web: 1, code: 2}")
    assert "quotas: unknown stratum code; expected web" in refusal(losses, *options, out=out)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("loss >", "'loss >' is not an SQL expression: unable to parse"),
        ("losss > 1", "has no column losss: it has"),
        ("loss + 1", "gives Float32, expected a condition"),
        ("loss > avg(loss)", "compares several rows"),
        ("row in (select row from read_parquet('x'))", "'select' is not allowed"),
        ("domain > 1", "is not a condition"),
        ("cast(domain as int) > 1", "conversion from `str` to `i32` failed"),
    ],
)
def test_sql_that_is_no_condition(tmp_path: Path, out: Path, where: str, message: str) -> None:
    losses = plain(tmp_path, domain="web")
    assert message in refusal(losses, "--ratio", 0.5, "--where", where, out=out)


def test_an_output_that_cannot_be_written_there(tmp_path: Path, out: Path) -> None:
    losses = plain(tmp_path / "in")
    out.write_bytes(b"mine")
    message = refusal(losses, "--ratio", 0.5, out=out)
    assert f"{out} already exists" in message
    assert "--overwrite" in message
    assert "is a folder: name a file" in refusal(losses, "--ratio", 0.5, out=out.parent)
    message = refusal(losses, "--ratio", 0.5, "--overwrite", out=losses)
    assert f"{losses} is one of the files with the losses" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--ratio", 0.5, "--granularity", "page"), "expected sample, row_group, shard, or rows"),
        (("--ratio", 0.5, "--granularity", "0"), "rows per block, found 0"),
        (("--ratio", 0.5, "--granularity", "row_group"), "row_group needs a run"),
        (("--ratio", 0.5, "--granularity", "shard", "--by", "row"), "rows of several strata"),
        (("--ratio", 0.5, "--granularity", 4, "--set", "explore=0.1"), "draws single samples"),
        (("--ratio", 0.5, "--num-units", 3), "give one of --ratio, --num-samples and --num-units"),
        ((), "give one of --ratio, --num-samples and --num-units"),
    ],
)
def test_options_that_make_no_sense(
    tmp_path: Path, out: Path, options: tuple[object, ...], message: str
) -> None:
    assert message in refusal(plain(tmp_path), *options, out=out)


def test_without_an_output_it_has_to_be_a_dry_run(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["select", str(plain(tmp_path)), "--ratio", "1"])
    assert done.exit_code == 2
    assert "--out is missing: the index file to write (or give --dry-run)" in done.stderr


def many(folder: Path) -> Path:
    """Losses of which an index takes about 400 kB."""
    rows = [(0, row, row % 997 / 100) for row in range(0, 1 << 20, 5)]
    return write(folder / "losses.parquet", rows)


def selecting(losses: Path, out: Path, *, temporary: Path, **options: Any) -> list[str]:
    """Error lines of a process that fails; it writes its files to `temporary` first."""
    command = [sys.executable, "-m", "attent_select", "select", str(losses), "--ratio", "0.5"]
    environment = ENVIRONMENT | {"TMPDIR": str(temporary)}
    done = subprocess.run(
        [*command, "--out", str(out)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, **options,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr.splitlines()


def test_files_that_may_not_grow_leave_nothing_behind(tmp_path: Path, out: Path) -> None:
    losses, temporary = many(tmp_path), tmp_path / "tmp"
    temporary.mkdir()

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))

    said = selecting(losses, out, temporary=temporary, preexec_fn=limit)
    assert len(said) == 1
    assert said[0].startswith(f"attent: {out} was not written: file too large. Free some space")
    assert str(temporary) in said[0]
    assert everything(temporary) == everything(out.parent) == {}


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 128 kB, where this process may mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("full", ["where it is made", "where it is published"])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, out: Path, full: str) -> None:
    losses = many(tmp_path)
    with small_disk(tmp_path / "small") as disk:
        is_out = full == "where it is published"
        target, temporary = (disk / "index.parquet", out.parent) if is_out else (out, disk)
        said = selecting(losses, target, temporary=temporary)
        assert len(said) == 1
        assert said[0].startswith(f"attent: {target} was not written: no space left on device")
        assert everything(disk) == everything(out.parent) == {}
