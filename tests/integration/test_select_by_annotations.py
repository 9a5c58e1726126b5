"""`attent select` by annotations: quotas per kind of reference, and what it cannot select by."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from annotated import annotate, rows_of, write_corpus
from commands import answer_here
from typer.testing import CliRunner

from attent_select.errors import CorpusMismatchError
from catalogs import AnnotationStore
from pipeline.cli.app import app

SHARD_ROWS = [8, 4]
KINDS = ["prose", "code", "prose", "prose", None, "code", "prose", "prose", *["prose"] * 4]
VALUES = [1.0, 9.0, 3.0, 4.0, None, 2.0, float("nan"), 8.0, 5.0, 6.0, 7.0, 0.0]
ONLY_CODE = ["--by", "relevance_kind", "--set", "quotas={code: 1}"]


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    """A corpus with the annotation `relevance`, whose kinds of reference are prose and code."""
    url = write_corpus(tmp_path, SHARD_ROWS)
    values = pl.Series(VALUES, dtype=pl.Float32)
    annotate(url, "relevance", rows_of(SHARD_ROWS, {"value": values, "kind": pl.Series(KINDS)}))
    annotate(url, "same", rows_of(SHARD_ROWS, {"value": pl.Series([1.0] * 12, dtype=pl.Float32)}))
    return url


def select(corpus: str, out: Path, *options: str) -> Any:
    command = ["select", corpus, "--strategy", "key", "--set", "explore=0", "--out", str(out)]
    return CliRunner().invoke(app, [*command, *options])


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [
        ("proportional", {"prose": 5, "code": 1}),
        ("equal", {"prose": 4, "code": 2}),
        ("{prose: 1, code: 2}", {"prose": 4, "code": 2}),
        ("{prose: 1}", {"prose": 6}),
    ],
)
def test_each_kind_of_reference_gets_its_quota_of_the_best_samples(
    corpus: str, tmp_path: Path, quotas: str, expected: dict[str, int]
) -> None:
    out = tmp_path / "index.parquet"
    by_kind = ["--by", "relevance_kind", "--set", f"quotas={quotas}"]
    explore = ["--strategy", "key", "--set", "explore=0", "--set", "key=relevance"]
    answer_here("select", corpus, *explore, *by_kind, "--num-samples", "6", "--out", out)
    rows = AnnotationStore(corpus).scan("relevance").frame().collect()
    taken = rows.join(pl.read_parquet(out), on=["shard_id", "row"])
    for kind, count in expected.items():
        best = rows.filter(kind=kind)["value"].drop_nulls().sort(descending=True).head(count)
        assert taken.filter(kind=kind)["value"].sort(descending=True).to_list() == best.to_list()
    assert len(taken) == sum(expected.values())


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("row >= 2 AND shard_id = 1", [(1, 2), (1, 3)]),
        ("row < 2 AND relevance_kind = 'code'", [(0, 1)]),
    ],
)
def test_ids_need_no_losses(
    corpus: str, tmp_path: Path, where: str, expected: list[tuple[int, int]]
) -> None:
    out = tmp_path / "index.parquet"
    options = ("--strategy", "uniform", "--ratio", "1", "--at-most", "--where", where)
    answer_here("select", corpus, *options, "--out", out)
    assert pl.read_parquet(out, columns=["shard_id", "row"]).rows() == expected


def test_rows_whose_key_is_not_a_number_are_not_eligible(corpus: str, tmp_path: Path) -> None:
    without = ["--strategy", "key", "--set", "explore=0", "--ratio", "1", "--at-most"]
    for key, left_out in (("relevance", {4, 6}), ("relevance / relevance", {4, 6, 11})):
        out = tmp_path / f"{len(left_out)}.parquet"
        made = answer_here("select", corpus, *without, "--set", f"key={key}", "--out", out)
        assert made["eligible"] == 12 - len(left_out)
        index = pl.read_parquet(out)
        taken = {8 * shard + row for shard, row in index.select("shard_id", "row").rows()}
        assert taken == set(range(12)) - left_out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--set", "key=relevanse", "--num-samples", "2"],
            "unknown column 'relevanse', did you mean relevance?",
        ),
        (
            ["--set", "key=relevance", "--where", "relevance_kin = 'code'", "--num-samples", "2"],
            "unknown column 'relevance_kin', did you mean relevance_kind?",
        ),
        (
            ["--set", "key=relevance", "--num-samples", "20"],
            "20 samples requested, but only 10 are eligible: request at most 10, or give --at-most",
        ),
        (
            ["--set", "key=relevance", *ONLY_CODE, "--num-samples", "3"],
            "3 requested, but the strata with a quota have only 2: request at most 2",
        ),
        (
            ["--set", "key=relevance", "--where", "relevance > 1000", "--num-samples", "2"],
            "no row is eligible: expected rows that fulfil `where`, with a finite value of the key",
        ),
        (["--set", "key=relevance_kind", "--num-samples", "2"], "gives String, expected a number"),
    ],
)
def test_what_cannot_be_selected_is_one_line(
    corpus: str, tmp_path: Path, options: list[str], message: str
) -> None:
    out = tmp_path / "index.parquet"
    done = select(corpus, out, *options)
    assert done.exit_code == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not out.exists()


def test_a_key_with_one_value_is_a_warning(
    corpus: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done = select(corpus, tmp_path / "index.parquet", "--set", "key=same", "--num-samples", "2")
    assert done.exit_code == 0, done.stderr
    assert "key: 'same' is 1 in all of 12 rows" in caplog.text
    caplog.clear()
    for number, options in enumerate(("key=relevance", "key=same noise=gumbel")):
        given = [word for option in options.split() for word in ("--set", option)]
        done = select(corpus, tmp_path / f"{number}", *given, "--num-samples", "2")
        assert done.exit_code == 0, done.stderr
    assert "key:" not in caplog.text


def test_an_annotation_of_another_version_of_the_corpus_is_refused(
    corpus: str, tmp_path: Path
) -> None:
    newer = write_corpus(tmp_path / "newer", [*SHARD_ROWS, 5])
    folder = Path(newer) / "annotations"
    (Path(corpus) / "annotations").rename(folder)
    done = select(newer, tmp_path / "i", "--set", "key=relevance", "--num-samples", "2")
    assert done.exit_code == 2, done.stderr
    assert f"make it again with `attent annotate {newer} --name relevance --over" in done.stderr
    with pytest.raises(CorpusMismatchError, match="annotation relevance was made for corpus"):
        AnnotationStore(newer).read("relevance")
