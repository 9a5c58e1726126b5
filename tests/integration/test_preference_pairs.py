"""Preference pairs from scoring to the selected rows: by their margin, without training."""

import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from commands import ROOT, answer_here
from digits import write_corpus
from small_runs import small_run
from task_cases import LLAMA, TEXTS

from attent_select.errors import InputError
from catalogs import Corpus, IndexFile, LossCatalog, storage
from pipeline import run, score
from pipeline.cluster import Client
from pipeline.config import run_config
from trainers.inputs.tokenizer import train_tokenizer

PAIRS = [
    {"chosen": f"{prompt}: {response}{n}", "rejected": f"{prompt}: {n} {response[::-1]}"}
    for n in range(6)
    for prompt, response in TEXTS
]


def pair_run(folder: Path) -> dict[str, Any]:
    train_tokenizer([pair["chosen"] for pair in PAIRS], folder / "tokenizer", vocab_size=300)
    write_corpus(folder / "data/parquet", PAIRS)
    task = {"name": "preference_pairs", "tokenizer": str(folder / "tokenizer"), "max_length": 96}
    values = small_run(
        folder / "run",
        folder / "data",
        task=task,
        model=LLAMA,
        selection={"strategy": "key", "key": "-margin"},
    )
    del values["evaluation"]
    return values


def test_pairs_are_scored_selected_by_their_margin_and_streamed(
    tmp_path: Path, client: Client
) -> None:
    config = run_config.parse(pair_run(tmp_path))
    with pytest.raises(InputError, match=r"does not train: .* with trl"):
        run(config, client=client)
    assert storage.info(f"{config.run}/run.yaml") is None, "refused before the run is created"
    assert score(config, client=client).scored == len(PAIRS)
    losses = LossCatalog(config.run).latest().collect()
    assert losses.select("loss_chosen", "loss_rejected", "margin").null_count().row(0) == (0, 0, 0)

    index = tmp_path / "pairs.parquet"
    key = ("--strategy", "key", "--set", "key=-margin")
    answer_here("select", config.run, *key, "--num-samples", 8, "--out", index)
    rows = IndexFile.open(str(index), corpus=Corpus.open(config.run)).frame().collect()
    smallest = losses.sort("margin", "shard_id", "row").head(8).sort("shard_id", "row")
    assert rows.select("shard_id", "row").equals(smallest.select("shard_id", "row"))
    streamed = answer_here("stream", config.run, "--index", index, "--batch-size", 4)
    assert streamed["num_samples"] == 8
    exported = ("export-subset", index, "--corpus", config.run, "--to", "jsonl")
    assert answer_here(*exported, "--out", tmp_path / "exported")["num_samples"] == 8
    asked = answer_here("query", config.run, "SELECT max(margin) AS margin FROM losses")
    assert asked["rows"] == [[losses.select(pl.max("margin")).item()]]

    page = (ROOT / "docs/preference_pairs.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    snippet = snippet.replace("runs/pairs", config.run).replace("hard_pairs", str(index)[:-8])
    exec(snippet, {})
    written = pl.read_ndjson(index.with_suffix(".jsonl"))
    shard_samples = len(PAIRS) // 3
    positions = [shard_id * shard_samples + row for shard_id, row, *_ in rows.rows()]
    assert written.to_dicts() == [PAIRS[position] for position in positions]


def test_an_annotation_with_the_name_of_a_score_is_refused(tmp_path: Path) -> None:
    values = pair_run(tmp_path)
    values["annotations"] = {"margin": {"kind": "column", "column": "chosen"}}
    with pytest.raises(InputError, match=r"annotations.margin: the losses .* another name"):
        run_config.parse(values)
