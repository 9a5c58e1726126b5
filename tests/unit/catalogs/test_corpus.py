"""The corpus and its manifest."""

import pickle
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_select import plugins
from attent_select.errors import CorpusMismatchError, InputError, MissingError
from catalogs import Corpus, storage
from catalogs.corpus import check_corpus
from catalogs.layout import Layout
from catalogs.shard_format import Inspection, Sample, Shard, ShardFormat
from catalogs.shards import format_of, inspect_shard, read_shard
from catalogs.storage.objects import ObjectInfo

SUFFIXES = {"parquet": ".parquet", "webdataset": ".tar"}


def written(folder: Path, counts: list[int], *, kind: str = "parquet") -> list[str]:
    """Shards with `counts` samples; sample r of shard s has the label 100 s + r."""
    format_: ShardFormat = plugins.load_plugin("catalogs.formats", kind)()
    urls = []
    folder.mkdir(parents=True, exist_ok=True)
    for shard, count in enumerate(counts):
        path = folder / f"{shard}{SUFFIXES[kind]}"
        samples: list[Sample] = [
            {"image": b"x" * 10, "label": 100 * shard + row} for row in range(count)
        ]
        format_.write(path, samples)
        urls.append(str(path))
    return urls


def inspected(urls: list[str]) -> list[tuple[ObjectInfo, str, Inspection]]:
    return [
        (one, format_of(one.url), inspect_shard(one.url, format_of(one.url)))
        for one in storage.expand(urls)
    ]


def test_a_saved_corpus_is_the_same_when_opened(tmp_path: Path) -> None:
    urls = [*written(tmp_path / "p", [3, 5]), *written(tmp_path / "w", [4], kind="webdataset")]
    corpus = Corpus.from_inspections(inspected(urls))
    corpus.save(str(tmp_path / "run"))
    opened = Corpus.open(str(tmp_path / "run"))
    assert opened.corpus_id == corpus.corpus_id
    assert (opened.num_samples, len(opened.shards)) == (12, 3)
    assert opened.num_bytes == sum(Path(url).stat().st_size for url in urls)
    assert opened.columns == ("image", "label")
    assert [shard.uri for shard in opened.shards] == urls
    assert [shard.members_uri is None for shard in opened.shards] == [True, True, False]
    for shard_id, row in ((0, 2), (1, 4), (2, 3)):
        reading = opened.read(shard_id, rows=[row], columns=["label"])
        assert reading.samples == [{"label": 100 * (shard_id % 2) + row}]


def test_inspection_may_publish_the_member_index(tmp_path: Path) -> None:
    (url,) = written(tmp_path, [4], kind="webdataset")
    members = Layout(str(tmp_path / "run")).corpus.members(0)
    inspection = inspect_shard(url, "webdataset", members_url=members)
    assert inspection.members is None
    stored = storage.info(url)
    assert stored is not None
    Corpus.from_inspections([(stored, "webdataset", inspection)]).save(str(tmp_path / "run"))
    shard = pickle.loads(pickle.dumps(Corpus.open(str(tmp_path / "run")).shard(0)))
    assert shard.members_uri == members
    samples = read_shard(shard, rows=[1, 3], columns=["label"]).samples
    assert samples == [{"label": 1}, {"label": 3}]


def test_a_run_opened_by_a_relative_path_works_in_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = written(tmp_path / "w", [4], kind="webdataset")
    monkeypatch.chdir(tmp_path)
    Corpus.from_inspections(inspected(urls)).save("run")
    corpus = Corpus.open("run")
    monkeypatch.chdir("/")
    assert corpus.read(0, rows=[2], columns=["label"]).samples == [{"label": 2}]


def test_a_run_without_a_corpus_says_to_ingest_first(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="run `attent ingest` first"):
        Corpus.open(str(tmp_path))


def test_a_manifest_that_another_program_rewrote_is_an_input_error(tmp_path: Path) -> None:
    Corpus.from_inspections(inspected(written(tmp_path / "p", [3]))).save(str(tmp_path))
    manifest = Layout(str(tmp_path)).corpus.manifest
    pl.read_parquet(manifest).write_parquet(manifest)
    with pytest.raises(InputError, match=r"manifest\.parquet was not written by `attent ingest`"):
        Corpus.open(str(tmp_path))


def test_shards_without_samples_are_left_out_and_remembered(tmp_path: Path) -> None:
    shards = inspected(written(tmp_path, [3, 5, 2, 4]))
    for position in (0, 2):
        stored, kind, inspection = shards[position]
        shards[position] = (stored, kind, replace(inspection, num_samples=0, columns=()))
    Corpus.from_inspections(shards).publish(str(tmp_path / "corpus"))
    corpus = Corpus.open(str(tmp_path / "corpus"))
    assert [shard.num_samples for shard in corpus.shards] == [5, 4]
    assert [shard.shard_id for shard in corpus.shards] == [0, 1]
    assert set(corpus.columns) == {"image", "label"}
    assert [each.uri for each in corpus.skipped] == [shards[0][0].url, shards[2][0].url]
    labels = corpus.read(1, rows=[0, 3], columns=["label"]).values["label"]
    assert labels == [300, 303]


def test_a_duplicate_shard_is_an_input_error(tmp_path: Path) -> None:
    shards = inspected(written(tmp_path, [3, 5]))
    with pytest.raises(InputError, match=r"duplicate shard .*1\.parquet"):
        Corpus.from_inspections([*shards, shards[1]])


def test_a_corpus_needs_shards_samples_and_a_common_column(tmp_path: Path) -> None:
    (stored, kind, inspection), other = inspected(written(tmp_path, [3, 5]))
    with pytest.raises(InputError, match="at least one shard"):
        Corpus.from_inspections([])
    with pytest.raises(InputError, match=r"at least one shard .*0\.parquet: no samples"):
        Corpus.from_inspections([(stored, kind, replace(inspection, num_samples=0))])
    with pytest.raises(InputError, match="no column in common"):
        Corpus.from_inspections([(stored, kind, replace(inspection, columns=("text",))), other])


def test_the_columns_are_those_of_every_shard(tmp_path: Path) -> None:
    (stored, kind, inspection), other = inspected(written(tmp_path, [3, 5]))
    wide = (stored, kind, replace(inspection, columns=("text", "label", "image")))
    assert Corpus.from_inspections([wide, other]).columns == ("label", "image")


def test_the_corpus_id_depends_on_the_order_and_every_property_of_shards(tmp_path: Path) -> None:
    corpus = Corpus.from_inspections(inspected(written(tmp_path, [3, 5])))
    first, second = corpus.shards
    others = [
        (second, first),
        (first,),
        *(
            (replace(first, **change), second)
            for change in (
                {"uri": "/x"},
                {"num_samples": 4},
                {"num_bytes": 1},
                {"etag": "x"},
            )
        ),
    ]
    ids = {replace(corpus, shards=shards).corpus_id for shards in others}
    assert len(ids | {corpus.corpus_id}) == 7
    assert replace(corpus, columns=("label",)).corpus_id == corpus.corpus_id


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.data())
def test_the_rows_are_every_sample_once_in_order(counts: list[int], data: st.DataObject) -> None:
    corpus = synthetic(counts)
    expected = [(shard, row) for shard, count in enumerate(counts) for row in range(count)]
    assert corpus.rows().collect(engine="streaming").rows() == expected
    limit = data.draw(st.integers(0, len(expected)))
    assert corpus.rows().head(limit).collect().rows() == expected[:limit]
    some = corpus.rows().filter(pl.col("row") >= 5).select("shard_id").collect()
    assert some["shard_id"].to_list() == [shard for shard, row in expected if row >= 5]


def test_the_rows_are_counted_in_bounded_memory() -> None:
    corpus = synthetic([5_000_000, 1, 3_000_000])
    counts = corpus.rows().select(
        pl.len().alias("count"), pl.col("row").cast(pl.UInt64).max().alias("last")
    )
    assert counts.collect(engine="streaming").row(0) == (8_000_001, 4_999_999)


def test_verification_detects_changed_and_deleted_shards(tmp_path: Path) -> None:
    urls = written(tmp_path, [3, 5])
    corpus = Corpus.from_inspections(inspected(urls))
    corpus.verify(corpus.shard(1))
    with pytest.raises(CorpusMismatchError, match=r"0\.parquet has changed .* expected 5"):
        corpus.verify(replace(corpus.shard(0), num_bytes=5))
    written(tmp_path, [3, 6])
    with pytest.raises(CorpusMismatchError, match=r"1\.parquet has changed"):
        corpus.verify(corpus.shard(1))
    Path(urls[1]).unlink()
    with pytest.raises(MissingError, match=r"shard 1 was not found: .*1\.parquet"):
        corpus.verify(corpus.shard(1))


@pytest.mark.parametrize("shard_id", [-1, 2])
def test_a_shard_id_outside_the_corpus_is_an_input_error(shard_id: int) -> None:
    with pytest.raises(InputError, match=f"unknown shard {shard_id}"):
        synthetic([1, 2]).read(shard_id, rows=[0], columns=["label"])


def test_the_suffix_determines_the_format() -> None:
    assert format_of("s3://b/x.TAR") == "webdataset"
    assert format_of("/d/x.parquet") == "parquet"
    assert format_of("https://h/d/x.tar?key=y") == "webdataset"
    with pytest.raises(InputError, match=r"x\.jsonl is not a shard.*\.parquet or \.tar"):
        format_of("/d/x.jsonl")


def test_notes_of_another_corpus_are_a_mismatch_with_the_differences() -> None:
    corpus = synthetic([3, 5])
    check_corpus({"corpus_id": corpus.corpus_id}, corpus=corpus, what="it")
    notes = {"corpus_id": "other", "num_shards": 2, "num_samples": 9}
    with pytest.raises(CorpusMismatchError, match=r"it was made .*num_samples was 9, is 8"):
        check_corpus(notes, corpus=corpus, what="it")
    with pytest.raises(CorpusMismatchError, match="URI, size or etag"):
        check_corpus({"corpus_id": "other"}, corpus=corpus, what="it")


def synthetic(counts: list[int]) -> Corpus:
    shards = (
        Shard(shard_id, f"/d/{shard_id}.parquet", "parquet", count, 10, "e")
        for shard_id, count in enumerate(counts)
    )
    return Corpus(shards=tuple(shards), columns=("label",))
