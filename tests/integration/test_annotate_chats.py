"""Annotations of chats: of Parquet on this machine, and of WebDataset in a bucket."""

from pathlib import Path

import pytest
from digits import write_corpus
from raw_text import prose
from servers import moto_s3

from catalogs import AnnotationStore, storage
from pipeline.annotation.command import load_kind
from pipeline.annotation.make import Request, make_annotation
from pipeline.annotation.targets import target_for
from pipeline.cluster import connect
from pipeline.config.cluster_settings import ClusterSettings
from pipeline.config.shard_settings import TargetSettings
from pipeline.corpus.ingest import ingest
from trainers.inputs.tokenizer import train_tokenizer

SETTINGS = {
    "ngram": ["text=COLUMN", "pool_samples=1000"],
    "classifier": ["text=COLUMN", "pool_samples=1000"],
    "duplicates": ["column=COLUMN"],
    "near_duplicates": ["column=COLUMN"],
    "contamination": ["column=COLUMN"],
    "length": ["text=COLUMN"],
}
COLUMNS = {"parquet": "messages", "webdataset": "messages.json"}


def write_chats(folder: Path, texts: list[str]) -> None:
    """Write the same chats in both formats."""
    for kind, column in COLUMNS.items():
        turns = [[("user", "Tell me something."), ("assistant", text)] for text in texts]
        rows = [{column: [{"role": r, "content": c} for r, c in turn]} for turn in turns]
        write_corpus(folder / kind, rows, kind=kind)


def test_chats_have_the_same_annotations_in_any_format_and_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = prose(100)
    train_tokenizer(texts, tmp_path / "tokenizer", vocab_size=300)
    write_chats(tmp_path / "shards", [*texts[:40], texts[3], f"{texts[4]} One more sentence."])
    write_chats(tmp_path / "target", [texts[3], *texts[40:]])
    with moto_s3() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        storage.upload_folder(tmp_path / "shards" / "webdataset", f"{server.url}/tars")
        shards = {"parquet": f"{tmp_path}/shards/parquet", "webdataset": f"{server.url}/tars"}
        corpora = {"parquet": f"{tmp_path}/corpus", "webdataset": f"{server.url}/corpus"}
        made: dict[str, list[str]] = {kind: [] for kind in SETTINGS}
        with connect(ClusterSettings(workers=1)) as client:
            for kind, corpus in corpora.items():
                ingest([shards[kind]], folder=corpus, client=client)
                for name in SETTINGS:
                    request = request_for(corpus, name, tmp_path, shard_format=kind)
                    made[name].append(make_annotation(request, client=client).digest)
            store = AnnotationStore(corpora["webdataset"])
            values = {
                name: store.scan(name).frame().collect()["value"].to_list() for name in SETTINGS
            }
    assert {name for name, digests in made.items() if len(set(digests)) != 1} == set()
    assert values["duplicates"][40] == values["duplicates"][3]
    assert values["near_duplicates"][41] == values["near_duplicates"][4]
    assert [row for row, value in enumerate(values["contamination"]) if value] == [3, 40]
    assert min(values["length"]) > 0


def request_for(corpus: str, name: str, folder: Path, *, shard_format: str) -> Request:
    tokenizer = str(folder / "tokenizer") if name == "length" else None
    given = [each.replace("COLUMN", COLUMNS[shard_format]) for each in SETTINGS[name]]
    kind = load_kind(name, given, tokenizer=tokenizer)
    settings = TargetSettings((str(folder / "target" / shard_format),))
    target = target_for(kind, settings) if kind.needs_target else None
    return Request(corpus, name, name, kind, target)
