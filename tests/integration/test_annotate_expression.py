"""Annotations computed from others: values, records, readers, garbage, bad input."""

from pathlib import Path

import polars as pl
import pytest
from annotated import annotate, rows_of, write_corpus
from commands import answer_here, attent

from catalogs import AnnotationStore
from pipeline.annotation.command import load_kind
from pipeline.annotation.make import Request, make_annotation
from pipeline.cluster import Client

SHARD_ROWS = [3, 2, 4]
PRIOR = [1.0, 2.0, None, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    """A corpus with the annotations `prior` and `conditional`, of two and three parts."""
    url = write_corpus(tmp_path, SHARD_ROWS)
    rows = rows_of(SHARD_ROWS, {"value": pl.Series(PRIOR, dtype=pl.Float32)})
    annotate(url, "prior", rows)
    halves = pl.Series(range(9), dtype=pl.Float32) / 2
    annotate(url, "conditional", rows_of(SHARD_ROWS, {"value": halves}), shards_per_part=1)
    return url


def test_a_difference_of_two_annotations_is_selected_by_like_any_other(
    corpus: str, tmp_path: Path, client: Client
) -> None:
    before = AnnotationStore(corpus).read("prior"), AnnotationStore(corpus).read("conditional")
    for shard in Path(corpus).parent.glob("data/*.parquet"):
        shard.chmod(0)  # no shard is read
    made = answer_here(
        *("annotate", corpus, "--name", "gain", "--kind", "expression"),
        *("--set", "expression=prior - conditional"),
        *("--scheduler", client.scheduler.address),  # type: ignore[union-attr]
    )
    assert (made["coverage"], made["statuses"]) == (8 / 9, {"empty": 1, "ok": 8})
    record = AnnotationStore(corpus).read("gain")
    assert record.annotations == {each.name: each.digest for each in before}
    values = AnnotationStore(corpus).scan("gain").frame().collect()
    expected = [None if p is None else p - n / 2 for n, p in enumerate(PRIOR)]
    assert values["value"].to_list() == expected
    index = tmp_path / "top.parquet"
    by_gain = ["--strategy", "key", "--set", "key=gain", "--set", "explore=0"]
    answer_here("select", corpus, *by_gain, "--num-samples", "2", "--out", index)
    assert pl.read_parquet(index).select("shard_id", "row").rows() == [(2, 2), (2, 3)]


def test_the_digest_does_not_depend_on_the_parts(corpus: str, client: Client) -> None:
    kind = load_kind("expression", ["expression=prior > conditional"])
    request = Request(corpus, "gains", "expression", kind)
    one = make_annotation(request, client=client)
    several = Request(corpus, "others", "expression", kind, part_samples=3)
    made = make_annotation(several, client=client)
    assert (len(one.parts), len(made.parts)) == (1, 3)
    assert (made.digest, made.value_type) == (one.digest, "Boolean")


def test_a_constant_expression_is_a_warning(
    corpus: str, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    kind = load_kind("expression", ["expression=prior * 0"])
    make_annotation(Request(corpus, "same", "expression", kind), client=client)
    assert "all values of same are equal" in caplog.text


def test_a_condition_that_no_sample_fulfils_is_no_warning(
    corpus: str, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    kind = load_kind("expression", ["expression=prior <> prior"])
    made = make_annotation(Request(corpus, "never", "expression", kind), client=client)
    assert made.value_type == "Boolean"
    assert "never" not in caplog.text


def test_a_reader_of_the_replaced_annotation_is_undisturbed_until_gc(
    corpus: str, client: Client
) -> None:
    store = AnnotationStore(corpus)
    kinds = [load_kind("expression", [f"expression=prior * {n}"]) for n in (1, 2)]
    old = make_annotation(Request(corpus, "p", "expression", kinds[0]), client=client)
    replacing = Request(corpus, "p", "expression", kinds[1], overwrite=True)
    new = make_annotation(replacing, client=client)
    assert store.scan(old).frame().collect()["value"].sum() == 42
    assert answer_here("gc", corpus)["annotation_parts"] == 1
    assert store.scan("p").frame().collect()["value"].sum() == 84
    assert store.verify("p") == new
    with pytest.raises(Exception, match="was deleted"):
        store.scan(old)


@pytest.mark.parametrize(
    ("name", "expression", "message"),
    [
        ("gain", "priors - conditional", "unknown column 'priors', did you mean prior?"),
        ("gain", "prior + 'a'", "is not a value"),
        ("prior", "prior * 2", "cannot be computed from itself"),
        ("conditional", "prior * 2", "exists: choose another name, or give --overwrite"),
    ],
)
def test_bad_input_is_one_line(corpus: str, name: str, expression: str, message: str) -> None:
    kind = ["--kind", "expression", "--set", f"expression={expression}"]
    done = attent("annotate", corpus, "--name", name, *kind)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
