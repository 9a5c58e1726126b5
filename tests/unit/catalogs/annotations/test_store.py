"""The annotation store: spans, parts, the record that commits them, and what readers see."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_select.errors import CorpusMismatchError, ExistsError, InputError, MissingError
from catalogs import AnnotationStore, Corpus
from catalogs.annotations.record import Annotation
from catalogs.annotations.row_digest import RowDigest
from catalogs.annotations.store import sql_columns
from tests.annotated import annotate, rows_of, write_corpus

SHARD_ROWS = [3, 2, 4]
VALUES = [0.5, None, -1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    return write_corpus(tmp_path, SHARD_ROWS)


def relevance(values: list[float | None] = VALUES) -> pl.DataFrame:
    return rows_of(SHARD_ROWS, {"value": pl.Series(values, dtype=pl.Float32)})


def test_an_annotation_is_read_back_with_its_record(corpus: str) -> None:
    published = annotate(corpus, "relevance", relevance(), settings={"buckets": 16}, units=40)
    store = AnnotationStore(corpus)
    assert store.names() == ["relevance"]
    assert store.read("relevance") == published
    assert (published.num_rows, published.coverage, published.units) == (9, 8 / 9, 40)
    assert published.value_type == "Float32"
    assert [(part.first_shard, part.last_shard) for part in published.parts] == [(0, 1), (2, 2)]
    assert store.scan("relevance").frame().collect().equals(relevance())
    assert store.verify("relevance") == published


def test_spans_become_parts_and_are_deleted_when_the_record_is_published(corpus: str) -> None:
    store, rows = AnnotationStore(corpus), relevance()
    rows = rows.with_columns(
        status=pl.when(pl.col("value").is_null()).then(pl.lit("killed")).otherwise(pl.lit("ok"))
    )
    store.write_span("relevance", "a", rows[:2])
    store.write_span("relevance", "b", rows[2:5])
    store.write_span("relevance", "c", rows[5:])
    assert store.span_digests("relevance") == {"a", "b", "c"}
    parts = [store.build_part("relevance", ["a", "b"]), store.build_part("relevance", ["c"])]
    published = store.publish("relevance", kind="ngram", parts=parts)
    assert published.statuses == {"killed": 1, "ok": 8}
    assert store.span_digests("relevance") == set()
    assert published.digest == annotate(corpus, "other", relevance()).digest


def test_the_digest_does_not_depend_on_how_rows_are_cut(corpus: str) -> None:
    digests = {
        annotate(corpus, f"relevance{n}", relevance(), shards_per_part=n).digest for n in (1, 2, 3)
    }
    assert len(digests) == 1
    assert annotate(corpus, "other", relevance([9.0, *VALUES[1:]])).digest not in digests


@given(
    values=st.lists(st.none() | st.text(max_size=3), min_size=1, max_size=12),
    cut=st.integers(0, 12),
)
def test_the_digest_of_strings_depends_on_rows_only(values: list[str | None], cut: int) -> None:
    frame = pl.DataFrame({"value": pl.Series(values, dtype=pl.String)})
    whole, halves = RowDigest(["value"]), RowDigest(["value"])
    whole.update(frame)
    halves.update(frame[:cut])
    halves.update(frame[cut:])
    assert whole.hexdigest() == halves.hexdigest()
    other = RowDigest(["value"])
    other.update(frame.with_columns(pl.col("value").fill_null("").str.to_uppercase()))
    changed = frame["value"].fill_null("").str.to_uppercase().to_list() != values
    assert (other.hexdigest() != whole.hexdigest()) == changed


def test_numbers_that_are_not_finite_become_null(corpus: str) -> None:
    values = [np.nan, np.inf, -0.0, *VALUES[3:]]
    annotation = annotate(corpus, "relevance", relevance(values))
    stored = AnnotationStore(corpus).scan(annotation).frame().collect()["value"]
    assert stored[:3].to_list() == [None, None, 0.0]
    assert (
        annotation.digest
        == annotate(corpus, "same", relevance([None, None, 0.0, *VALUES[3:]])).digest
    )


def test_another_annotation_of_the_same_name_needs_overwrite(corpus: str) -> None:
    first = annotate(corpus, "relevance", relevance())
    assert annotate(corpus, "relevance", relevance()).digest == first.digest
    with pytest.raises(ExistsError, match="relevance exists with other values"):
        annotate(corpus, "relevance", relevance([1.0] * 9))
    assert AnnotationStore(corpus).read("relevance").digest == first.digest
    second = annotate(corpus, "relevance", relevance([1.0] * 9), overwrite=True)
    # Whoever has read the old record still finds its parts.
    assert AnnotationStore(corpus).scan(first).frame().collect().equals(relevance())
    assert AnnotationStore(corpus).read("relevance") == second


def test_a_removed_annotation_is_unknown_and_its_parts_stay_for_readers(corpus: str) -> None:
    annotation = annotate(corpus, "relevance", relevance())
    store = AnnotationStore(corpus)
    store.remove("relevance")
    assert store.names() == []
    with pytest.raises(MissingError, match="no annotation 'relevance'"):
        store.read("relevance")
    assert store.scan(annotation).frame().collect().equals(relevance())


def test_a_misspelt_annotation_gets_a_suggestion(corpus: str) -> None:
    annotate(corpus, "relevance", relevance())
    with pytest.raises(MissingError, match="Did you mean relevance"):
        AnnotationStore(corpus).read("relevanse")


@pytest.mark.parametrize("name", ["loss", "num_units", "Upper", "a/b", "", "../x", "1st"])
def test_names_that_are_taken_or_not_plain_are_refused(corpus: str, name: str) -> None:
    with pytest.raises(InputError, match="expected a name"):
        AnnotationStore(corpus).layout(name)


def test_parts_must_have_every_row_of_the_corpus_once(corpus: str) -> None:
    store = AnnotationStore(corpus)
    first = store.write_part("relevance", relevance()[:5])
    with pytest.raises(InputError, match="expected 9 rows of 3 shards"):
        store.publish("relevance", kind="ngram", parts=[first])
    assert store.names() == []


def test_an_annotation_of_another_corpus_is_refused(corpus: str, tmp_path: Path) -> None:
    annotate(corpus, "relevance", relevance())
    other = Path(write_corpus(tmp_path / "other", [3, 2, 5]))
    (other / "annotations").symlink_to(Path(corpus) / "annotations")
    with pytest.raises(CorpusMismatchError, match="make it again with `attent annotate"):
        AnnotationStore(str(other)).read("relevance")


def test_a_deleted_or_changed_part_is_named(corpus: str) -> None:
    annotation = annotate(corpus, "relevance", relevance())
    store = AnnotationStore(corpus)
    part = Path(store.layout("relevance").part(annotation.parts[1].part))
    bytes_before = part.read_bytes()
    store.write_part("other", relevance([8.0] * 9)[5:])
    (other,) = Path(store.layout("other").parts).iterdir()
    part.write_bytes(other.read_bytes())
    with pytest.raises(InputError, match="parts were changed"):
        store.verify("relevance")
    part.unlink()
    with pytest.raises(MissingError, match="was deleted: restore the part"):
        store.scan("relevance")
    part.write_bytes(bytes_before)
    store.verify("relevance")


def test_a_record_of_a_newer_version_or_a_damaged_one_is_refused(corpus: str) -> None:
    annotate(corpus, "relevance", relevance())
    path = Path(AnnotationStore(corpus).layout("relevance").record)
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"schema_version": 99}))
    with pytest.raises(InputError, match="schema version 99, expected 1: update attent-select"):
        AnnotationStore(corpus).read("relevance")
    path.write_text("{")
    with pytest.raises(InputError, match="is not the record of an annotation"):
        AnnotationStore(corpus).read("relevance")
    del values["digest"], values["content_digest"]
    with pytest.raises(InputError, match="is not a complete record"):
        Annotation.from_json(json.dumps(values), url="x")


def test_columns_have_the_names_of_their_annotation_in_sql(corpus: str) -> None:
    rows = rows_of(SHARD_ROWS, {"value": pl.int_range(9), "rank": pl.int_range(9)})
    annotation = annotate(corpus, "duplicates", rows)
    assert sql_columns(annotation) == {"duplicates": "value", "duplicates_rank": "rank"}


def test_a_run_shares_the_annotations_of_its_shared_corpus(corpus: str, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    Corpus.open(corpus).share_with(run)
    assert Corpus.open(run).folder == corpus
    annotate(run, "relevance", relevance())
    assert AnnotationStore(corpus).names() == ["relevance"]
