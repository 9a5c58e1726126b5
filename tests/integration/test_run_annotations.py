"""Annotations in a run: made before its first round, checked when they exist, used by selection."""

import re
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from commands import ROOT
from raw_text import prose, write_pool, write_texts
from small_runs import small_run

from attent_select.errors import CorpusMismatchError, InputError
from catalogs import AnnotationStore, Corpus, IndexFile
from catalogs.layout import Layout
from pipeline import run
from pipeline.annotation.command import annotate
from pipeline.annotation.targets import read_target
from pipeline.cluster import Client
from pipeline.config import run_config
from pipeline.config.sections import RunConfig
from pipeline.config.shard_settings import TargetSettings
from pipeline.config.yaml_values import read_yaml
from pipeline.corpus.ingest import ingest
from pipeline.doctor.checks import examine
from pipeline.doctor.evaluation_cost import evaluated_samples
from pipeline.reports.html_report import write_report
from pipeline.stages import train
from trainers.inputs.tokenizer import train_tokenizer

LLAMA = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
NUM_ROWS, NUM_WANTED = 400, 80


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`shards`: raw texts, a fifth of them prose; `target`: examples of prose; `tokenizer`."""
    folder = tmp_path_factory.mktemp("texts")
    wanted = prose(NUM_WANTED + 200)
    write_pool(folder / "shards", num_rows=NUM_ROWS, wanted=wanted[:NUM_WANTED])
    write_texts(folder / "target" / "0.parquet", [(text, "prose") for text in wanted[NUM_WANTED:]])
    train_tokenizer(wanted, folder / "tokenizer", vocab_size=300)
    return folder


def text_run(folder: Path, texts: Path, **replaced: Any) -> RunConfig:
    """Return a run of two teaching rounds whose model scores nothing."""
    values: dict[str, Any] = {
        "run": str(folder),
        "corpus": {"shards": [str(texts / "shards")]},
        "target": {"shards": [str(texts / "target")]},
        "annotations": {"relevance": {"kind": "ngram", "pool_samples": 1000}},
        "task": {
            "name": "causal_lm",
            "text": "text",
            "max_length": 32,
            "tokenizer": str(texts / "tokenizer"),
        },
        "model": {"config": LLAMA},
        "selection": {"strategy": "key", "key": "relevance"},
        "schedule": {"epochs": 2, "ratio": {"start": 0.2}},
        "training": {"batch_size": 16, "torch_threads": 1},
    }
    return run_config.parse({**values, **replaced})


def make_relevance(corpus: str, texts: Path, client: Client, *settings: str) -> str:
    """Make or replace the annotation `relevance` as `attent annotate` does; return its digest."""
    return annotate(
        corpus,
        name="relevance",
        kind="ngram",
        settings=["pool_samples=1000", *settings],
        target=TargetSettings((str(texts / "target"),)),
        overwrite=True,
        scheduler=client.scheduler.address,  # type: ignore[union-attr]
    ).digest


def selected(config: RunConfig, number: int) -> pl.DataFrame:
    return pl.read_parquet(Layout(config.run).index(number))


def values_of(config: RunConfig, name: str) -> pl.DataFrame:
    return AnnotationStore(config.run).scan(name).frame().collect()


def test_a_run_in_the_folder_of_its_shards_resumes(
    tmp_path: Path, texts: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(texts / "shards", shards)
    config = text_run(shards / "run", texts, corpus={"shards": [str(shards)]})

    def interrupted(config: RunConfig) -> None:
        raise RuntimeError("interrupted")

    with monkeypatch.context() as patched:
        patched.setattr(run_config, "freeze", interrupted)
        with pytest.raises(RuntimeError, match="interrupted"):
            run(config, client=client)
    for _ in range(2):  # the second time, there is nothing to do
        assert len(run(config, client=client)["rounds"]) == 2
    assert Corpus.open(config.run).num_samples == NUM_ROWS


def test_a_run_makes_its_annotations_and_trains_on_what_they_select_without_scoring(
    tmp_path: Path, texts: Path, client: Client
) -> None:
    config = text_run(tmp_path / "run", texts)
    result = run(config, client=client)
    assert [one["seconds"]["score"] for one in result["rounds"]] == [0, 0]
    assert not (tmp_path / "run" / "losses" / "parts").exists(), "nothing is scored by a model"
    assert not (tmp_path / "run" / "losses" / "snapshots").exists()
    best = values_of(config, "relevance").sort("value", descending=True).head(70)
    for number in (0, 1):
        rows = selected(config, number)
        assert len(rows) == NUM_ROWS // 5
        by_key = rows.filter(origin=0).select("shard_id", "row")
        assert by_key.rows() == sorted(best.select("shard_id", "row").rows())
    index = IndexFile.open(Layout(config.run).index(1))
    store = AnnotationStore(config.run)
    digests = {name: store.read(name).digest for name in ("duplicates", "relevance")}
    assert index.provenance["annotations"] == digests
    assert store.names() == ["contamination", "duplicates", "relevance"]
    frozen = run_config.load(config.run)
    assert frozen == config
    assert frozen.annotations == {"relevance": {"kind": "ngram", "pool_samples": 1000}}


def test_half_of_the_target_judges_each_round_and_a_random_sample_shows_what_is_forgotten(
    tmp_path: Path, texts: Path, client: Client
) -> None:
    wanted = pl.read_parquet(texts / "target" / "0.parquet")["text"]
    examples = [(text, "ab"[len(text) % 2]) for text in wanted]
    write_texts(tmp_path / "target" / "0.parquet", examples)
    target = TargetSettings((str(tmp_path / "target"),), kind_column="source")
    judging = read_target(target, columns=["text"]).judging
    kinds = judging.kinds or ()
    pairs = list(zip(judging.samples["text"], kinds, strict=True))
    write_texts(tmp_path / "all" / "0.parquet", pairs)
    lines = tmp_path / "target.jsonl"
    pl.read_parquet(tmp_path / "target" / "0.parquet").write_ndjson(lines)
    config = text_run(
        tmp_path / "run",
        texts,
        target={"shards": [str(lines)], "kind_column": "source", "corpus_samples": 50},
        evaluation={"shards": [str(tmp_path / "all")]},
        selection={"strategy": "key", "key": "relevance", "by": "relevance_kind"},
    )
    first, last = run(config, client=client)["rounds"]
    assert last["target_loss"] == pytest.approx(last["eval_loss"], rel=1e-6)
    assert last["target_loss"] < first["target_loss"]
    low, high = sorted([last["target_a_loss"], last["target_b_loss"]])
    assert low <= last["target_loss"] <= high
    assert last["corpus_loss"] != last["target_loss"]
    rows = pl.read_parquet(Layout(config.run).judging)
    assert rows["part"].value_counts().sort("part").rows() == [
        ("corpus", 50),
        ("target", len(pairs)),
    ]
    assert rows.n_unique() == len(rows)
    # The evaluation has the judging examples again.
    assert evaluated_samples(config) == pytest.approx(len(rows) + len(pairs), abs=2)
    judges = rows.filter(part="target")["kind"].value_counts(sort=True).rows()
    assert judges == pl.Series("kind", kinds).value_counts(sort=True).rows()
    page = Path(write_report(config.run)).read_text()
    assert "target loss" in page
    assert "corpus loss" in page
    assert re.search(r"<p>relevance: the top 20% has \d+% of the held-out examples", page)


def test_samples_that_overlap_with_held_out_examples_are_reported_and_excluded(
    tmp_path: Path, texts: Path, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    raw = pl.read_parquet(texts / "shards" / "000.parquet")["text"]
    longest = int(raw.str.len_chars().arg_max() or 0)
    copied = [raw[3].upper(), f" {raw[7]}  "]
    wanted = pl.read_parquet(texts / "target" / "0.parquet")["text"].to_list()
    write_texts(tmp_path / "target" / "0.parquet", [(text, "") for text in [*copied, *wanted]])
    # A line is added to the longest text: that is a near duplicate.
    write_texts(tmp_path / "held_out" / "0.parquet", [(f"Another line.\n{raw[longest]}", "")])
    config = text_run(
        tmp_path / "run",
        texts,
        target={"shards": [str(tmp_path / "target")]},
        evaluation={"shards": [str(tmp_path / "held_out")]},
        annotations={},
        selection={"strategy": "uniform", "where": "not contamination"},
        schedule={"epochs": 1, "ratio": {"start": 1.0}},
    )
    run(config, client=client)
    rows = AnnotationStore(config.run).scan("contamination").frame().collect()
    seen = rows.filter(pl.col("value"))
    exact = seen.filter(pl.col("exact")).select("shard_id", "row").rows()
    assert {(0, 3), (0, 7)} <= {*exact}
    assert (0, longest) in {*seen.select("shard_id", "row").rows()} - {*exact}
    assert selected(config, 0).height == NUM_ROWS - len(seen)
    line = (
        f"contamination: {len(seen)} of 400 samples of the corpus ({len(seen) / 400:.2%}) are"
        f" held-out examples ({len(exact)}), or near duplicates of them ({len(seen) - len(exact)})"
    )
    assert f"{line}: exclude them with `where: not contamination`" in caplog.text
    assert line in Path(write_report(config.run)).read_text()
    diagnosis = examine(config.run)
    (found,) = [each for each in diagnosis.findings if each.name == "annotations"]
    assert line in found.detail


def test_a_shared_corpus_whose_overlap_was_measured_with_others_says_so(
    tmp_path: Path, texts: Path, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    shared = str(tmp_path / "corpus")
    ingest([str(texts / "shards")], folder=shared, client=client)
    other = TargetSettings((str(texts / "shards" / "000.parquet"),))
    annotate(
        shared,
        name="contamination",
        kind="contamination",
        target=other,
        scheduler=client.scheduler.address,  # type: ignore[union-attr]
    )
    values = {"corpus": {"path": shared}, "annotations": {}, "schedule": {"epochs": 1}}
    selection = {"strategy": "uniform", "where": "not contamination"}
    with pytest.raises(InputError, match=r"target was \w+, is \w+.*--kind contamination"):
        run(text_run(tmp_path / "a", texts, selection=selection, **values), client=client)
    run(text_run(tmp_path / "b", texts, selection={"strategy": "uniform"}, **values), client=client)
    assert "the overlap of the corpus with the target is not known: annotations.con" in caplog.text


def test_static_keys_skip_exact_duplicates_unless_that_is_switched_off(
    tmp_path: Path, texts: Path, client: Client
) -> None:
    raw = pl.read_parquet(texts / "shards" / "000.parquet").unique("text", maintain_order=True)
    rows = raw.head(90).rows()
    write_texts(tmp_path / "data" / "0.parquet", [*rows, *rows[:20]])
    shared = str(tmp_path / "corpus")
    ingest([str(tmp_path / "data")], folder=shared, client=client)
    once = {"corpus": {"path": shared}, "target": None, "annotations": {}}
    once["schedule"] = {"epochs": 1, "ratio": {"start": 1.0}}
    for name, distinct, expected in (("a", {}, 90), ("b", {"distinct": None}, 110)):
        selection = {"strategy": "key", "key": "LENGTH(source)", "explore": 0, **distinct}
        config = text_run(tmp_path / name, texts, selection=selection, **once)
        run(config, client=client)
        assert len(selected(config, 0)) == expected
    assert set(AnnotationStore(shared).names()) == {"duplicates", "source"}
    selection = {"strategy": "key", "key": "relevance", "distinct": "none"}
    assert text_run(tmp_path / "c", texts, selection=selection).selection.columns == ("relevance",)
    config = text_run(tmp_path / "c", texts, selection={"strategy": "uniform"})
    assert config.selection.composition.distinct is None


def test_the_example_selects_from_a_raw_corpus_without_scoring(
    tmp_path: Path, texts: Path, client: Client
) -> None:
    values = read_yaml(str(ROOT / "examples" / "raw_text.yaml"))
    values["run"] = str(tmp_path / "run")
    values["corpus"]["shards"] = [str(texts / "shards")]
    values["target"]["shards"] = [str(texts / "target")]
    values["task"] |= {"tokenizer": str(texts / "tokenizer"), "max_length": 32}
    values["model"]["config"] = LLAMA
    config = run_config.parse(values)
    first, last = run(config, client=client)["rounds"]
    assert last["target_loss"] < first["target_loss"]
    assert first["seconds"]["score"] == 0
    rows = selected(config, 1)
    assert len(rows) == NUM_ROWS // 5
    assert rows.filter(origin=1).height == NUM_ROWS // 5 // 8
    ranks = rows.join(values_of(config, "duplicates"), on=["shard_id", "row"])["rank"]
    assert set(ranks) == {0}
    sources = pl.concat(
        pl.read_parquet(path, columns=["source"]).with_columns(
            shard_id=pl.lit(shard, pl.UInt32), row=pl.int_range(pl.len(), dtype=pl.UInt32)
        )
        for shard, path in enumerate(sorted((texts / "shards").iterdir()))
    )
    by_key = rows.filter(origin=0).join(sources, on=["shard_id", "row"])
    assert (by_key["source"] == "prose").mean() > 0.8  # type: ignore[operator]


def test_a_column_of_the_shards_filters_without_scoring(
    tmp_path: Path, texts: Path, client: Client
) -> None:
    config = text_run(
        tmp_path / "run",
        texts,
        annotations={},
        target=None,
        selection={"strategy": "uniform", "where": "source = 'prose'"},
        schedule={"epochs": 2, "warmup_epochs": 1, "rescore": {"kind": "observed"}},
    )
    run(config, client=client)
    assert not (tmp_path / "run" / "losses" / "parts").exists(), "nothing is scored by a model"
    rows = selected(config, 1).join(values_of(config, "source"), on=["shard_id", "row"])
    assert len(rows) == NUM_WANTED
    assert set(rows["value"]) == {"prose"}


def test_two_runs_share_a_corpus_and_its_annotations(
    tmp_path: Path, texts: Path, client: Client
) -> None:
    shared = tmp_path / "corpus"
    ingest([str(texts / "shards")], folder=str(shared), client=client)
    for name in ("a", "b"):
        config = text_run(tmp_path / name, texts, corpus={"path": str(shared)}, seed=ord(name))
        run(config, client=client)
        record = (shared / "annotations" / "relevance" / "annotation.json").stat()
        if name == "a":
            first = record
        assert not (tmp_path / name / "corpus" / "annotations").exists()
    assert record.st_mtime_ns == first.st_mtime_ns, "the second run uses what the first one made"
    changed = {"relevance": {"kind": "ngram", "pool_samples": 1000, "bits": 16}}
    config = text_run(tmp_path / "c", texts, corpus={"path": str(shared)}, annotations=changed)
    with pytest.raises(InputError) as error:
        run(config, client=client)
    assert "bits was 18, is 16" in str(error.value)
    assert "--name relevance --kind ngram --overwrite" in str(error.value)
    assert "--set bits=16 --target" in str(error.value)
    assert not (tmp_path / "c" / "run.yaml").exists(), "the configuration can still be corrected"
    target = {"shards": [str(texts / "target")], "judge_share": 0.4}
    config = text_run(tmp_path / "c", texts, corpus={"path": str(shared)}, target=target)
    with pytest.raises(InputError, match=r"target was \w+, is \w+.*--judge-share 0\.4"):
        run(config, client=client)


def test_a_replaced_annotation_selects_later_rounds_only_if_it_is_accepted(
    tmp_path: Path, texts: Path, client: Client
) -> None:
    shared = str(tmp_path / "corpus")
    ingest([str(texts / "shards")], folder=shared, client=client)
    before = make_relevance(shared, texts, client)
    by_hand = {"annotations": {}, "target": None, "corpus": {"path": shared}}
    config = text_run(tmp_path / "run", texts, **by_hand)
    train(config, round_number=0, client=client)
    after = make_relevance(shared, texts, client, "smoothing=0.2")
    with pytest.raises(CorpusMismatchError, match=f"is now {after}, but round 0 .* {before}: res"):
        run(config, client=client)
    assert len(run(config, client=client, accept_annotations=True)["rounds"]) == 2
    index = IndexFile.open(Layout(config.run).index(1))
    assert index.provenance["annotations"]["relevance"] == after


def test_a_reference_loss_may_be_an_annotation(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    values = small_run(
        tmp_path / "run",
        shards,
        annotations={"reference_loss": {"kind": "column", "column": "label"}},
        selection={"strategy": "learnability"},
        schedule={"epochs": 1, "ratio": {"start": 0.25}},
    )
    config = run_config.parse(values)
    run(config, client=client)
    store = AnnotationStore(config.run)
    losses = pl.read_parquet(tmp_path / "run" / "losses" / "parts" / "*.parquet")
    ids = ["shard_id", "row"]
    reference = store.scan("reference_loss").frame().collect()
    keys = losses.join(reference, on=ids).with_columns(key=pl.col("loss") - pl.col("value"))
    best = keys.sort("key", descending=True).head(60).select(ids)
    assert selected(config, 0).select(ids).rows() == sorted(best.rows())


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        (
            {"selection": {"strategy": "key", "key": "relevanse"}},
            "selection.key: unknown column 'relevanse', did you mean relevance?",
        ),
        (
            {"selection": {"strategy": "uniform", "where": "sorce = 'a'"}},
            "selection.where: unknown column 'sorce', did you mean source?",
        ),
        ({"annotations": {"relevance": {"bits": 18}}}, "annotations.relevance.kind: is missing"),
        ({"annotations": {"row": {"kind": "ngram"}}}, "that is not a column of the losses"),
        (
            {"annotations": {"relevance": {"kind": "ngram", "bit": 18}}},
            "bit: unknown key, did you mean 'bits'?",
        ),
        ({"annotations": {"relevance": {"kind": "ngrams"}}}, "kind ngrams: expected "),
        ({"target": None}, "annotations.relevance: the kind ngram compares with examples"),
        ({"target": {"shards": ["/nothing"]}}, "target.shards: nothing found at /nothing"),
        (
            {"target": {"shards": ["/nothing"], "judge_share": 1.0}},
            "target.judge_share: expected less than 1",
        ),
    ],
)
def test_wrong_sections_are_found_before_any_work(
    tmp_path: Path, texts: Path, replaced: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as error:
        text_run(tmp_path / "run", texts, **replaced)
    assert message in str(error.value)


def test_an_annotation_that_the_selection_cannot_use_is_found_before_the_run_is_frozen(
    tmp_path: Path, texts: Path, client: Client
) -> None:
    config = text_run(tmp_path / "run", texts, selection={"strategy": "key", "key": "source"})
    with pytest.raises(InputError, match="key: 'source' gives String, expected a number"):
        run(config, client=client)
    assert not (tmp_path / "run" / "run.yaml").exists()


def test_an_annotation_made_by_hand_is_the_one_of_the_configuration(
    tmp_path: Path, texts: Path, client: Client
) -> None:
    config = text_run(tmp_path / "run", texts)
    ingest([str(texts / "shards")], folder=str(tmp_path / "run" / "corpus"), client=client)
    digest = make_relevance(config.run, texts, client)
    run(config, client=client)
    index = IndexFile.open(Layout(config.run).index(0))
    assert index.provenance["annotations"]["relevance"] == digest


def test_a_length_is_counted_by_the_tokenizer_of_the_task_before_expressions_that_read_it(
    tmp_path: Path, texts: Path, client: Client
) -> None:
    config = text_run(
        tmp_path / "run",
        texts,
        annotations={
            "long": {"kind": "expression", "expression": "length_num_units > 20"},
            "length": {"kind": "length"},
        },
        selection={"strategy": "uniform", "where": "long > 0"},
    )
    assert config.annotations["length"]["tokenizer"] == str(texts / "tokenizer")
    run(config, client=client)
    rows = selected(config, 0).join(values_of(config, "length"), on=["shard_id", "row"])
    assert rows["num_units"].min() > 20  # type: ignore[operator]
