"""Rows judged by hand, and samples beside the cut."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from attent_select.errors import InputError
from pipeline.annotation.command import list_annotations, list_examples
from tests.annotated import annotate, rows_of, write_corpus

SIZES = (60, 40)


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    """Make a corpus of 100 samples; the values of `relevance` are their numbers."""
    url = write_corpus(tmp_path, SIZES)
    numbers = pl.Series(np.arange(100), dtype=pl.Float32)
    annotate(url, "relevance", rows_of(SIZES, {"value": numbers}))
    annotate(url, "source", rows_of(SIZES, {"value": pl.lit("web")}))
    return url


def judge(folder: Path, answers: dict[int, object]) -> str:
    path = folder / "judged.csv"
    lines = [f"{n // 60},{n if n < 60 else n - 60},{answer}" for n, answer in answers.items()]
    path.write_text("\n".join(["shard_id,row,wanted", *lines]))
    return str(path)


def test_the_enrichment_is_that_of_the_rows_judged_as_wanted(corpus: str, tmp_path: Path) -> None:
    wanted = dict.fromkeys(range(85, 100), "yes") | dict.fromkeys(range(5), 1)
    others = dict.fromkeys(range(20, 60), "False")
    by_name = {
        entry["name"]: entry
        for entry in list_annotations(corpus, judged=judge(tmp_path, wanted | others))
    }
    assert by_name["relevance"]["recall"] == pytest.approx(15 / 20)
    assert by_name["relevance"]["enrichment"] == pytest.approx(15 / 20 / 0.2)
    assert by_name["relevance"]["resembling_share"] == pytest.approx(20 / 60)
    assert by_name["source"]["enrichment"] is None
    assert list_annotations(corpus)[0]["enrichment"] is None, "nothing was stored"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["shard_id,row,want", "0,0,1"], "no column wanted: did you mean 'want'"),
        (["shard_id,row,wanted", "0,60,1"], "line 2: 0, 60, 1 is not"),
        (["shard_id,row,wanted", "0,0,0", "0,1,maybe"], "line 3: 0, 1, maybe is not"),
        (["shard_id,row,wanted", "0,-1,1"], "line 2: 0, -1, 1 is not"),
        (["shard_id,row,wanted", "0,1,1", "0,1,0"], "row 1 of shard 0 occurs twice"),
        (["shard_id,row,wanted", "0,1,1", "0,2,0"], "1 of 2 rows are wanted, at least 10"),
        ([], "is not a CSV file"),
    ],
)
def test_judged_rows_that_cannot_be_used_are_refused(
    corpus: str, tmp_path: Path, lines: list[str], message: str
) -> None:
    path = tmp_path / "judged.csv"
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match=message):
        list_annotations(corpus, judged=str(path))


def test_samples_of_the_top_and_beside_its_cut_are_listed(corpus: str) -> None:
    listed = list_examples(corpus, name="relevance", column="text", count=3)
    by_group = {
        group: [entry["value"] for entry in listed if entry["group"] == group]
        for group in ("top", "above the cut", "below the cut")
    }
    assert by_group["above the cut"] == [80, 81, 82]
    assert by_group["below the cut"] == [79, 78, 77]
    assert len(by_group["top"]) == 3
    assert min(by_group["top"]) >= 80
    assert all(entry["text"] == f"{entry['shard_id']}/{entry['row']}" for entry in listed)


def test_of_a_loss_the_smallest_values_are_the_top(corpus: str) -> None:
    numbers = pl.Series(np.arange(100), dtype=pl.Float32)
    rows = rows_of(SIZES, {"value": numbers})
    annotate(corpus, "reference", rows, enrichment={"largest_first": False})
    listed = list_examples(corpus, name="reference", column="text", count=2)
    assert [entry["value"] for entry in listed[2:]] == [19, 18, 20, 21]
    assert max(entry["value"] for entry in listed[:2]) <= 19


def test_examples_need_numbers_and_a_column(corpus: str) -> None:
    with pytest.raises(InputError, match="source is String, expected numbers"):
        list_examples(corpus, name="source", column="text", count=1)
    with pytest.raises(InputError, match="no column 'txt': did you mean 'text'"):
        list_examples(corpus, name="relevance", column="txt", count=1)
