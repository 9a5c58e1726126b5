"""Growing corpora: appended shards, and what was made for an earlier version."""

import json
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import answer_here
from digits import samples, write_corpus
from small_runs import small_run

from attent_select.errors import AttentError, CorpusMismatchError, ExistsError, InputError
from catalogs import AnnotationStore, Corpus, IndexFile, LossCatalog
from catalogs.layout import CorpusLayout, Layout
from catalogs.shard_format import CorpusVersion
from pipeline import run, stages
from pipeline.annotation import make
from pipeline.annotation.make import Request, complete_annotation, make_annotation
from pipeline.cluster import Client, scheduler_address
from pipeline.config import run_config
from pipeline.config.annotation_kinds import kind_of
from pipeline.corpus import append as appending
from pipeline.corpus.append import append_shards
from pipeline.corpus.ingest import ingest
from pipeline.reports.query import query
from pipeline.runs.setup import ingest_corpora

SUFFIX = {"parquet": "parquet", "webdataset": "tar"}


@pytest.fixture(params=["parquet", "webdataset"])
def corpus(request: pytest.FixtureRequest, tmp_path: Path, client: Client) -> str:
    """A corpus of two shards of 10 digits, with three more in `new`."""
    write_corpus(tmp_path / "old", samples(20), kind=request.param, num_shards=2)
    write_corpus(tmp_path / "new", samples(50)[20:], kind=request.param, num_shards=3)
    ingest([str(tmp_path / "old")], folder=str(tmp_path / "corpus"), client=client)
    return str(tmp_path / "corpus")


def labels_of(corpus: str) -> list[int]:
    opened = Corpus.open(corpus)
    return [
        label
        for shard in opened.shards
        for label in opened.read(
            shard.shard_id, rows=range(shard.num_samples), columns=["label"]
        ).values["label"]
    ]


def test_appended_shards_have_the_ids_after_those_of_the_corpus(
    tmp_path: Path, corpus: str, client: Client
) -> None:
    before = Corpus.open(corpus)
    result = append_shards([str(tmp_path / "new")], folder=corpus, client=client)
    grown = Corpus.open(corpus)
    assert (result.num_shards, result.num_samples, result.corpus_id) == (5, 50, grown.corpus_id)
    assert grown.shards[:2] == before.shards
    assert grown.versions == (CorpusVersion(before.corpus_id, 2),)
    assert labels_of(corpus) == [sample["label"] for sample in samples(50)]
    assert before.num_shards_of(grown.corpus_id) is None
    assert [grown.num_shards_of(one.corpus_id) for one in (before, grown)] == [2, 5]
    assert grown.num_shards_of(None) is None


def test_versions_are_listed_however_often_a_corpus_grows(
    tmp_path: Path, corpus: str, client: Client
) -> None:
    ids = [Corpus.open(corpus).corpus_id]
    for path in sorted((tmp_path / "new").iterdir()):
        append_shards([str(path)], folder=corpus, client=client)
        ids.append(Corpus.open(corpus).corpus_id)
    assert len(set(ids)) == 4
    grown = Corpus.open(corpus)
    assert [(each.corpus_id, each.num_shards) for each in grown.versions] == [
        (corpus_id, number) for number, corpus_id in enumerate(ids[:-1], start=2)
    ]
    ingest([str(tmp_path / "old"), str(tmp_path / "new")], folder=corpus, client=client)


def test_shards_that_are_there_changed_or_lack_a_column_are_named(
    tmp_path: Path, corpus: str, client: Client
) -> None:
    def refuse(error: type[Exception], words: str) -> None:
        manifest = Path(CorpusLayout(corpus).manifest).read_bytes()
        with pytest.raises(error, match=words):
            append_shards(urls, folder=corpus, client=client)
        assert Path(CorpusLayout(corpus).manifest).read_bytes() == manifest

    old = sorted((tmp_path / "old").iterdir())
    urls = [str(tmp_path / "new"), str(old[1])]
    refuse(InputError, rf"{old[1].name} is in the corpus already \(1 of 4 shards are\)")
    old[1].write_bytes(next((tmp_path / "new").iterdir()).read_bytes())
    refuse(CorpusMismatchError, rf"{old[1].name} is in the corpus, and has changed since")
    pq.write_table(pa.table({"label": [1]}), tmp_path / "poor.parquet")
    urls = [str(tmp_path / "poor.parquet")]
    refuse(InputError, r"poor\.parquet has no column (image|png)")
    urls = [str(tmp_path / "none-*.parquet")]
    refuse(InputError, "nothing found")


def test_empty_and_damaged_shards_are_left_out_and_may_come_later(
    tmp_path: Path, corpus: str, client: Client
) -> None:
    new = sorted((tmp_path / "new").iterdir())
    good = new[0].read_bytes()
    new[0].write_bytes(good[: len(good) // 2])
    with pytest.raises(InputError, match=new[0].name):
        append_shards([str(tmp_path / "new")], folder=corpus, client=client)
    append_shards([str(tmp_path / "new")], folder=corpus, client=client, skip_damaged=True)
    assert [each.uri for each in Corpus.open(corpus).skipped] == [str(new[0])]
    assert labels_of(corpus) == [s["label"] for s in [*samples(20), *samples(50)[30:]]]
    new[0].write_bytes(good)
    append_shards([str(new[0])], folder=corpus, client=client)
    assert Corpus.open(corpus).skipped == ()
    assert labels_of(corpus)[-10:] == [sample["label"] for sample in samples(30)[20:]]


def test_of_two_appends_at_the_same_time_one_wins_and_the_other_is_told(
    tmp_path: Path, corpus: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = sorted((tmp_path / "new").iterdir())
    inspect, both_are_here = appending.inspect_corpus, threading.Barrier(2)

    def inspect_together(*arguments: Any, **settings: Any) -> Corpus:
        both_are_here.wait(60)  # both have opened the same version
        first = settings["client"] is client and arguments[0][0].url == str(new[0])
        if not first:
            finished.wait(60)
        return inspect(*arguments, **settings)

    monkeypatch.setattr(appending, "inspect_corpus", inspect_together)
    finished, errors = threading.Event(), []

    def append(path: Path) -> None:
        try:
            append_shards([str(path)], folder=corpus, client=client)
        except AttentError as error:
            errors.append(error)
        finally:
            finished.set()

    threads = [threading.Thread(target=append, args=(path,)) for path in new[:2]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [type(error) for error in errors] == [ExistsError]
    assert "another process has appended" in str(errors[0])
    assert [shard.uri for shard in Corpus.open(corpus).shards[2:]] == [str(new[0])]


def test_a_kill_before_the_manifest_leaves_the_corpus_as_it_was(
    tmp_path: Path, corpus: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Corpus.open(corpus)

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Corpus, "publish", end)
    with pytest.raises(KeyboardInterrupt):
        append_shards([str(tmp_path / "new")], folder=corpus, client=client)
    monkeypatch.undo()
    assert Corpus.open(corpus) == before
    assert labels_of(corpus) == [sample["label"] for sample in samples(20)]
    append_shards([str(tmp_path / "new")], folder=corpus, client=client)
    assert labels_of(corpus) == [sample["label"] for sample in samples(50)]


def request_of(corpus: str, name: str, kind: str, **settings: Any) -> Request:
    return Request(corpus, name, kind, kind_of({"kind": kind, **settings}), part_samples=15)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("column", {"column": "label"}), ("duplicates", {"column": "image"})],
)
def test_an_annotation_is_completed_with_the_new_shards(
    tmp_path: Path,
    client: Client,
    kind: str,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_corpus(tmp_path / "old", samples(20), num_shards=2)
    # Half of the new ones are copies of the old ones.
    write_corpus(tmp_path / "new", [*samples(10), *samples(30)[20:]], num_shards=2)
    corpus, run_folder = str(tmp_path / "corpus"), str(tmp_path / "run")
    ingest([str(tmp_path / "old")], folder=corpus, client=client)
    made = make_annotation(request_of(corpus, "value", kind, **settings), client=client)
    Corpus.open(corpus).share_with(run_folder)
    append_shards([str(tmp_path / "new")], folder=corpus, client=client)
    store = AnnotationStore(corpus)
    with pytest.raises(CorpusMismatchError, match=r"20 samples of the 2 shards .*--complete"):
        store.read("value")
    assert store.records() == []
    measured: list[int] = []
    monkeypatch.setattr(make, "_measure_spans", watched(make._measure_spans, measured))
    completed = complete_annotation(request_of(corpus, "value", kind, **settings), client=client)
    assert measured == ([2, 3] if kind == "column" else [0, 1, 2, 3])
    request = request_of(corpus, "again", kind, **settings)
    again = make_annotation(request, client=client)
    assert completed.digest == again.digest
    assert (completed.num_rows, completed.coverage) == (again.num_rows, again.coverage)
    # A run that has the earlier version reads the values of that.
    assert AnnotationStore(run_folder).read("value") == made
    assert complete_annotation(request, client=client) == again


def watched(measure: Any, measured: list[int]) -> Any:
    def measure_and_note(client: Any, tasks: Any, **settings: Any) -> Any:
        measured.extend(task.shard.shard_id for task in tasks)
        return measure(client, tasks, **settings)

    return measure_and_note


def test_the_command_completes_an_annotation_from_its_record(
    tmp_path: Path, corpus: str, client: Client
) -> None:
    make_annotation(request_of(corpus, "class", "column", column="label"), client=client)
    append_shards([str(tmp_path / "new")], folder=corpus, client=client)
    scheduler = ("--scheduler", scheduler_address(client))
    answer = answer_here("annotate", corpus, "--name", "class", "--complete", *scheduler)
    assert answer["num_rows"] == 50
    values = AnnotationStore(corpus).scan("class").frame().collect()["value"]
    assert values.to_list() == [sample["label"] for sample in samples(50)]


def test_converted_files_are_appended_beside_those_of_earlier_calls(
    tmp_path: Path, client: Client
) -> None:
    def write_lines(name: str, numbers: range) -> Path:
        lines = "".join(json.dumps({"text": f"text {n}", "n": n}) + "\n" for n in numbers)
        (tmp_path / name).write_text(lines)
        return tmp_path / name

    def ingest_lines(path: Path, *options: str) -> dict[str, Any]:
        convert = ("--convert", "parquet", "--shard-samples", 4)
        scheduler = ("--scheduler", scheduler_address(client))
        return answer_here("ingest", path, "--out", corpus, *convert, *options, *scheduler)

    corpus = str(tmp_path / "corpus")
    # The names of the shards of each call are the same.
    ends = (6, 10, 13)
    ingest_lines(write_lines("0.jsonl", range(ends[0])))
    for first, end in pairwise(ends):
        lines = write_lines(f"{end}.jsonl", range(first, end))
        assert ingest_lines(lines, "--append")["num_samples"] == end
    opened = Corpus.open(corpus)
    assert [shard.num_samples for shard in opened.shards] == [4, 2, 4, 3]
    read = [
        number
        for shard in opened.shards
        for number in opened.read(
            shard.shard_id, rows=range(shard.num_samples), columns=["n"]
        ).values["n"]
    ]
    assert read == list(range(13))


@pytest.mark.parametrize("source", ["path", "shards"])
def test_a_run_continues_with_the_new_version(
    tmp_path: Path, shards: Path, client: Client, source: str
) -> None:
    folder = tmp_path / "run"
    write_corpus(tmp_path / "new", samples(300)[240:280], num_shards=1)
    corpus: dict[str, Any] = {"shards": [str(shards / "parquet")]}
    if source == "path":
        ingest(corpus["shards"], folder=str(tmp_path / "corpus"), client=client)
        corpus = {"path": str(tmp_path / "corpus")}
    values = small_run(folder, shards, selection__strategy="hard", schedule__epochs=2)
    config = run_config.parse(values | {"corpus": corpus})
    # The warm-up round and one that teaches.

    stages.train(config, round_number=0, client=client)
    before = Corpus.open(str(folder))
    grows = corpus.get("path", str(folder))
    append_shards([str(tmp_path / "new")], folder=grows, client=client)
    result = run(config, client=client)
    after = Corpus.open(str(folder))
    assert (before.num_samples, after.num_samples) == (240, 280)
    catalog = LossCatalog(str(folder))
    number = catalog.rounds()[-1]
    assert catalog.latest(number).collect().height == 280
    teaching = IndexFile.open(Layout(str(folder)).index(number), corpus=after)
    assert teaching.num_samples == 140
    assert teaching.frame().filter(pl.col("shard_id") == 3).collect().height > 0
    warm_up = IndexFile.open(Layout(str(folder)).index(0), corpus=after)
    assert warm_up.num_samples == 240
    assert [each["round"] for each in result["rounds"]] == list(range(number + 1))


def test_losses_of_an_earlier_version_are_read_with_annotations_of_the_new_one(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    folder = tmp_path / "run"
    write_corpus(tmp_path / "new", samples(300)[240:280], num_shards=1)
    config = run_config.parse(small_run(folder, shards, selection__strategy="hard"))

    stages.score(config, round_number=0, client=client)
    append_shards([str(tmp_path / "new")], folder=str(folder), client=client)
    ingest_corpora(config, cluster=lambda: client)
    request = request_of(str(folder), "class", "column", column="label")
    make_annotation(request, client=client)
    counts = query(str(folder), "SELECT COUNT(loss) AS losses, COUNT(class) AS n FROM losses")
    assert counts.row(0) == (240, 240)
    assert query(str(folder), "SELECT COUNT(class) AS n FROM samples").item() == 280
    index = tmp_path / "index.parquet"
    answer_here("select", folder, "--strategy", "hard", "--num-samples", 50, "--out", index)
    assert IndexFile.open(str(index), corpus=Corpus.open(str(folder))).num_samples == 50


def grown_run(
    folder: Path, shards: Path, client: Client, rounds: int, **replaced: Any
) -> tuple[run_config.RunConfig, Corpus]:
    """A run whose corpus grew by a shard of 40 samples after some rounds."""
    write_corpus(folder / "new", samples(300)[240:280], num_shards=1)
    config = run_config.parse(small_run(folder / "run", shards, **replaced))
    for number in range(rounds):
        stages.score(config, round_number=number, client=client)
        stages.train(config, round_number=number, client=client)
    append_shards([str(folder / "new")], folder=config.run, client=client)
    return config, Corpus.open(config.run)


def test_a_partial_rescoring_measures_every_row_of_new_shards(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    schedule = {
        "epochs": 3,
        "warmup_epochs": 0,
        "ratio": {"start": 0.5},
        "rescore": {"kind": "partial", "share": 0.25},
    }
    config, corpus = grown_run(
        tmp_path, shards, client, 1, schedule=schedule, selection__strategy="hard"
    )
    stages.score(config, round_number=1, client=client)
    rows = IndexFile.open(Layout(config.run).rescored(1), corpus=corpus).frame().collect()
    assert rows.filter(pl.col("shard_id") == 3).height == 40
    assert rows.filter(pl.col("shard_id") < 3).height == 60
    losses = LossCatalog(config.run).latest(1).collect()
    assert (losses.height, losses["loss"].null_count()) == (280, 0)


def test_a_pool_draws_rows_of_new_shards_in_the_next_pass_and_none_twice(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    schedule = {
        "budget": {"samples": 240},
        "warmup": {"samples": 48},
        "rounds": 3,
        "pool": {"multiple": 2, "block_rows": 4},
    }
    config, corpus = grown_run(
        tmp_path, shards, client, 2, schedule=schedule, selection__strategy="hard"
    )
    run(config, client=client)
    layout = Layout(config.run)
    draws = [
        IndexFile.open(layout.candidates(number), corpus=corpus).frame().collect()
        for number in range(4)
    ]
    shown = pl.concat(draws).with_row_index("place")
    # The pass over the 240 rows of the earlier version ends before the new shard is visited.
    drawn = [set(each.select("shard_id", "row").iter_rows()) for each in draws]
    first_pass = set.union(*drawn[:2])
    assert len(first_pass) == sum(map(len, drawn[:2]))
    assert {shard for shard, _ in first_pass} == {0, 1, 2}
    assert 3 in shown["shard_id"]
    counts = shown.group_by("shard_id", "row").len()
    assert counts["len"].max() == 2
