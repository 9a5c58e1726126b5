"""Scoring what is damaged, gone or does not fit: one message that names it and says what to do."""

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from digits import samples, write_corpus
from small_runs import small_run
from task_cases import LLAMA, TEXTS

from attent_select.errors import ClusterError, InputError, MissingError
from catalogs import LossCatalog
from catalogs.layout import Layout
from pipeline import score
from pipeline.cluster import Client, connect
from pipeline.config import run_config
from pipeline.config.cluster_settings import ClusterSettings
from pipeline.runs.state import Run, prepare
from pipeline.scoring.score_stage import score_stage
from trainers import checkpoint
from trainers.hf import HuggingFaceModels
from trainers.inputs.tokenizer import train_tokenizer

QUICK = {"selection__strategy": "hard", "schedule__warmup_epochs": 0}


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Sixty digits in three shards of each format."""
    for kind in ("parquet", "webdataset"):
        write_corpus(tmp_path / "data" / kind, samples(60), kind=kind)
    write_corpus(tmp_path / "data" / "held-out", samples(10), num_shards=1)
    return tmp_path / "data"


def prepared(tmp_path: Path, data: Path, client: Client, **replaced: Any) -> Run:
    values = small_run(tmp_path / "run", data, **QUICK, **replaced)
    return prepare(run_config.parse(values), cluster=lambda: client)


def scored(run: Run, client: Client, **options: Any) -> Any:
    return score_stage(run, run.rounds[0], cluster=lambda: client, **options)


def overwritten(path: Path, offset: int, data: bytes) -> None:
    """Damage inside a file, before it is ingested."""
    whole = bytearray(path.read_bytes())
    whole[offset : offset + len(data)] = data
    path.write_bytes(bytes(whole))


def test_a_parquet_shard_with_a_damaged_page_is_named(
    tmp_path: Path, digits: Path, client: Client
) -> None:
    overwritten(digits / "parquet/001.parquet", 30, b"\xff" * 400)
    with pytest.raises(InputError, match=r"001\.parquet is damaged: .*[Ww]rite or copy it again"):
        prepared(tmp_path, digits, client)
    assert not Path(Layout(str(tmp_path / "run")).config).exists()


@pytest.mark.parametrize(("kind", "name"), [("parquet", "001.parquet"), ("webdataset", "001.tar")])
def test_a_shard_that_is_cut_off_is_named_when_it_is_ingested(
    tmp_path: Path, digits: Path, client: Client, kind: str, name: str
) -> None:
    path = digits / kind / name
    path.write_bytes(path.read_bytes()[:-12_000])
    values = {"corpus": {"shards": [str(digits / kind)]}}
    with pytest.raises(InputError, match=name):
        prepared(tmp_path, digits, client, **values)


@pytest.mark.parametrize(("kind", "name"), [("parquet", "001.parquet"), ("webdataset", "001.tar")])
def test_a_shard_that_was_cut_off_since_is_named(
    tmp_path: Path, digits: Path, client: Client, kind: str, name: str
) -> None:
    run = prepared(tmp_path, digits, client, corpus__shards=[str(digits / kind)])
    path = digits / kind / name
    path.write_bytes(path.read_bytes()[:-12_000])
    with pytest.raises(InputError, match=rf"{name} has changed since it was ingested: its etag"):
        scored(run, client)


def test_a_shard_that_is_gone_is_named(tmp_path: Path, digits: Path, client: Client) -> None:
    run = prepared(tmp_path, digits, client)
    (digits / "parquet/002.parquet").unlink()
    with pytest.raises(MissingError, match=r"002\.parquet was not found"):
        scored(run, client)


def test_a_column_that_one_shard_lacks_names_the_shard(
    tmp_path: Path, digits: Path, client: Client
) -> None:
    path = digits / "parquet/001.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["label"]), path)
    with pytest.raises(InputError, match=r"has no column label; .*shard 1, .*001\.parquet, lacks"):
        prepared(tmp_path, digits, client)


def test_a_checkpoint_that_is_not_there_or_does_not_fit_the_task_is_named(
    tmp_path: Path, digits: Path, client: Client
) -> None:
    run = prepared(tmp_path, digits, client)
    with pytest.raises(MissingError, match=r"no finished checkpoint at .*nowhere"):
        scored(run, client, checkpoint=str(tmp_path / "nowhere"))
    other = str(tmp_path / "language")
    checkpoint.save_initial(HuggingFaceModels("AutoModelForCausalLM", LLAMA), seed=0, url=other)
    with pytest.raises(InputError, match=r"the model in .*language cannot be loaded"):
        scored(run, client, checkpoint=other)
    weights = Path(run.layout.initial_checkpoint) / "model.safetensors"
    overwritten(weights, weights.stat().st_size - 64, b"\x00" * 64)
    with pytest.raises(InputError, match=r"weights loaded from .*initial have digest"):
        scored(run, client)


def test_texts_that_are_empty_or_too_long_have_a_status_and_others_are_cut_and_counted(
    tmp_path: Path, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    train_tokenizer((f"{p}\n{r}" for p, r in TEXTS), tmp_path / "tokenizer", vocab_size=300)
    rows = [{"prompt": p, "response": r} for p, r in TEXTS]
    rows += [
        {"prompt": "f()", "response": ""},
        {"prompt": "long " * 200, "response": "never reached"},
        {"prompt": "f()", "response": "and so on " * 100},
    ]
    write_corpus(tmp_path / "data/parquet", rows, num_shards=1)
    values = small_run(tmp_path / "run", tmp_path / "data", **QUICK, model=LLAMA)
    del values["evaluation"]
    values["scoring"] = {"max_failed_share": 0.9}
    values["task"] = {
        "name": "causal_lm",
        "tokenizer": str(tmp_path / "tokenizer"),
        "prompt": "prompt",
        "response": "response",
        "max_length": 96,
    }
    caplog.set_level("WARNING")  # a local cluster has raised the level of the handler
    result = score(run_config.parse(values), client=client)
    # A prompt of the maximum length leaves no counted token.
    assert result.failed == {"empty": 2}
    assert "1 samples were cut to the length" in caplog.text
    assert result.numbers["num_truncated"] == 1
    last = LossCatalog(str(tmp_path / "run")).latest().collect()["status"].to_list()[-3:]
    assert last == ["empty", "empty", "ok"]


def test_too_many_failures_stop_a_run_before_the_whole_corpus_is_read(
    tmp_path: Path, client: Client
) -> None:
    rows = samples(200)
    for row in rows[1:]:  # with none that is usable, there is no run
        row["image"] = b"no image"
    write_corpus(tmp_path / "data/parquet", rows, num_shards=20)
    write_corpus(tmp_path / "data/held-out", samples(10), num_shards=1)
    run = prepared(tmp_path, tmp_path / "data", client, scoring__span_samples=10)
    with pytest.raises(InputError, match=r"of 200 samples have no loss.*max_failed_share 0\.1"):
        scored(run, client)
    done = list(Path(Layout(run.config.run).spans).glob("*.parquet"))
    assert 3 <= len(done) < 20
    statuses = pl.concat([pl.read_parquet(path) for path in done])["status"]
    assert set(statuses) <= {"ok", "unreadable"}


def test_a_scheduler_without_workers_says_how_to_start_some(client: Client) -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as empty:
        address = empty.scheduler_address
        settings = ClusterSettings(scheduler=address, worker_timeout_seconds=0.2)
        with (
            pytest.raises(ClusterError, match=rf"had no worker for 0\.2 s.*dask worker {address}"),
            connect(settings),
        ):
            pass
