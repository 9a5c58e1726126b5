"""Cost and quality of annotations without a model, and the speed of selecting by them.

A raw pool of 20,000 rows is made from the files of this machine's packages, with 15 % prose hidden
in it (`raw_pool.py`). Measured are:

* `rates`: megabytes of text per processor second, of hashing and of tokenizing;
* `filters`: the wanted share of the top of the pool by each kind and setting, with its processor
  seconds, tokenizing included;
* `cost`: hashing and exact duplicates against training a small language model on the top 20 %;
* `selection`: time, processor time and peak memory of selecting by an annotation and by the loss,
  in subprocesses that alternate, over files of the same layout. 10^8 rows take about 1 GB of disk.

    python benchmarks/annotations.py
    python benchmarks/annotations.py --only selection --rows 1e8
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import machine
import numpy as np
import polars as pl
import raw_pool

from attent_select import schema, select
from attent_select.selection.composition import Composition
from attent_select.strategies.key import Key
from catalogs import IndexFile
from catalogs.tables import frames
from catalogs.tables.joined import JoinedScan, JoinedTable
from catalogs.tables.scan import File, Scan
from pipeline.selection.select_command import peak_rss_bytes
from trainers.annotation import AnnotationKind, Examples, FitContext, Fitted, Samples
from trainers.annotations.classifier import Classifier
from trainers.annotations.duplicates import Duplicates
from trainers.annotations.ngram import Ngram
from trainers.inputs.text_batches import small_batches
from trainers.inputs.text_ngrams import TextNgrams
from trainers.inputs.token_ids import token_ids
from trainers.inputs.tokenizer import train_tokenizer

RESULTS: Final = Path(__file__).parent / "results"
BATCH_ROWS: Final = 2000
SHARES: Final = (0.15, 0.2)
# The training that costs are compared with.
STEPS, SEQUENCES, TOKENS, MEASURED_STEPS = 300, 16, 256, 15
VOCABULARY: Final = 2048
# Rows of a shard and of a part, of selection.
SHARD_ROWS, PART_ROWS = 50_000, 500_000
SELECTIONS: Final = ("loss", "annotation")


class Pool:
    """The pool and the target in memory; `tokenizer` is trained on a part of the pool."""

    def __init__(self, folder: Path, *, num_rows: int) -> None:
        raw_pool.write(folder, num_rows=num_rows, num_examples=min(1000, num_rows // 10))
        rows = pl.read_parquet(folder / "shards" / "*.parquet")
        self.texts: list[str] = rows["text"].to_list()
        self.is_wanted = (rows["source"] == raw_pool.PROSE).to_numpy()
        self.num_bytes = int(rows["text"].str.len_bytes().sum())
        examples = pl.read_parquet(folder / "target" / "*.parquet")["text"].to_list()
        # As `attent annotate` does, half of the examples make the annotation.
        self.target = Examples({"text": examples[: len(examples) // 2]}, len(examples) // 2)
        train_tokenizer(self.texts[:2000], folder / "tokenizer", vocab_size=VOCABULARY)
        self.tokenizer = str(folder / "tokenizer")

    def batches(self) -> Iterator[Samples]:
        for first in range(0, len(self.texts), BATCH_ROWS):
            yield {"text": self.texts[first : first + BATCH_ROWS]}

    def values(self, kind: AnnotationKind) -> tuple[np.ndarray, float]:
        """Return the values of all rows, and the processor seconds of fitting and measuring."""
        started = time.process_time()
        target = self.target if kind.needs_target else None
        fitted = kind.fit(FitContext(target, lambda _: self.batches()))
        values = [kind.measure(batch, fitted).rows["value"] for batch in self.batches()]
        seconds = time.process_time() - started
        return pl.concat(values).fill_null(-np.inf).to_numpy(), seconds


def rates(pool: Pool) -> dict[str, Any]:
    """Return megabytes per processor second; hashing is that of words, sums included."""
    kind = Ngram()
    fitted = kind.fit(FitContext(pool.target, lambda _: iter([next(pool.batches())])))

    def hashing() -> None:
        for batch in pool.batches():
            kind.measure(batch, fitted)

    def counting() -> None:
        for batch in pool.batches():
            for ngrams in TextNgrams(None, kind.bits).batches(batch["text"]):
                ngrams.counts(1 << kind.bits)

    def tokenizing() -> None:
        for batch in small_batches(pool.texts):
            token_ids(pool.tokenizer, batch)

    works = {"hashing": hashing, "counting": counting, "tokenizing": tokenizing}
    megabytes = {}
    for name, work in works.items():
        runs = []
        for _ in range(3 if name != "tokenizing" else 1):
            started = time.process_time()
            work()
            runs.append(time.process_time() - started)
        megabytes[name] = round(pool.num_bytes / 1e6 / statistics.median(runs), 1)
    return {"pool_megabytes": round(pool.num_bytes / 1e6, 1), "megabytes_per_second": megabytes}


def filters(pool: Pool) -> list[dict[str, Any]]:
    """Return the wanted share of the top of the pool, by each kind and setting."""
    tried: dict[str, AnnotationKind] = {}
    for smoothing in (0.02, 0.1, 0.3):
        tried[f"ngram, words, smoothing {smoothing}"] = Ngram(smoothing=smoothing)
        tokens = Ngram(smoothing=smoothing, tokenizer=pool.tokenizer)
        tried[f"ngram, tokens, smoothing {smoothing}"] = tokens
    tried["classifier, words"] = Classifier()
    tried["classifier, tokens"] = Classifier(tokenizer=pool.tokenizer)
    results: list[dict[str, Any]] = []
    for name, kind in tried.items():
        values, seconds = pool.values(kind)
        order = np.argsort(-values, kind="stable")
        tops = {share: order[: round(share * len(order))] for share in SHARES}
        results.append(
            {
                "filter": name,
                "seconds": round(seconds, 2),
                **{
                    f"wanted_share_of_top_{share}": round(float(pool.is_wanted[top].mean()), 4)
                    for share, top in tops.items()
                },
            }
        )
        print(results[-1], file=sys.stderr)
    return results


def cost(pool: Pool) -> dict[str, Any]:
    """Return processor seconds of hashing and duplicates, and of training on the top 20 %."""
    values, ngram_seconds = pool.values(Ngram())
    started = time.process_time()
    kind, number = Duplicates(), 0
    rows = []
    for batch in pool.batches():
        measured = kind.measure(batch, Fitted()).rows
        ids = pl.int_range(number, number + len(measured), dtype=pl.UInt32, eager=True)
        rows.append(measured.with_columns(shard_id=pl.lit(0, pl.UInt32), row=ids))
        number += len(measured)
    kind.resolve(pl.concat(rows))
    duplicates_seconds = time.process_time() - started
    top = np.argsort(-values, kind="stable")[: len(values) // 5]
    training = training_seconds(pool, [pool.texts[row] for row in top.tolist()])
    hashing = ngram_seconds + duplicates_seconds
    return {
        "ngram_seconds": round(ngram_seconds, 2),
        "duplicates_seconds": round(duplicates_seconds, 2),
        **training,
        "hashing_share_of_training": round(hashing / training["training_seconds"], 4),
    }


def training_seconds(pool: Pool, texts: Sequence[str]) -> dict[str, Any]:
    """Train a small Llama for some steps of the regime; the others are as long."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=256,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ids = torch.from_numpy(token_ids(pool.tokenizer, texts)[0].astype(np.int64))
    size, warmup = SEQUENCES * TOKENS, 3
    started = time.process_time()
    for step in range(warmup + MEASURED_STEPS):
        if step == warmup:
            started = time.process_time()
        first = step * size % (len(ids) - size)
        batch = ids[first : first + size].reshape(SEQUENCES, TOKENS)
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    seconds = (time.process_time() - started) / MEASURED_STEPS * STEPS
    return {
        "training": f"{STEPS} steps of {SEQUENCES} × {TOKENS} tokens",
        "parameters": sum(each.numel() for each in model.parameters()),
        "training_seconds": round(seconds, 1),
        "tokens_in_top": len(ids),
    }


def write_tables(folder: Path, num_rows: int) -> None:
    """Write losses and an annotation of `num_rows` rows: row groups are shards."""
    kinds: Mapping[str, Mapping[str, Any]] = {
        "loss": schema.LOSSES,
        "annotation": {"shard_id": pl.UInt32, "row": pl.UInt32, "value": pl.Float32},
    }
    for number, first in enumerate(range(0, num_rows, PART_ROWS)):
        count = min(PART_ROWS, num_rows - first)
        rng = np.random.default_rng(number)
        values = pl.Series(rng.gamma(1.2 + 0.3 * np.sin(number), 0.7, count), dtype=pl.Float32)
        rows = pl.DataFrame({"n": np.arange(first, first + count)}).select(
            (pl.col("n") // SHARD_ROWS).alias("shard_id"),
            (pl.col("n") % SHARD_ROWS).alias("row"),
            values.alias("loss"),
            values.alias("value"),
            pl.lit(1).alias("num_units"),
            pl.lit(schema.OK).alias("status"),
            pl.lit(0).alias("measured_step"),
            pl.lit(schema.SCORED).alias("origin"),
            pl.lit(0).alias("visits"),
        )
        for name, schema_of in kinds.items():
            typed = rows.select(pl.col(column).cast(kind) for column, kind in schema_of.items())
            tables = [
                frames.to_arrow(each)
                for each in typed.partition_by("shard_id", maintain_order=True)
            ]
            path = folder / name / f"{number:06d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            frames.publish_tables(
                str(path), tables, schema=tables[0].schema, notes=lambda: {frames.DENSE: True}
            )


def select_by(name: str, folder: Path) -> dict[str, float]:
    """Select 20 % by one of the tables, into an index file, and return times and memory."""
    paths = sorted(map(str, (folder / name).glob("*.parquet")))
    started, started_processor = time.perf_counter(), time.process_time()
    rows: Scan | JoinedScan
    if name == "loss":
        rows = Scan.of(paths, schema=schema.LOSSES)
    else:
        kinds = {"shard_id": pl.UInt32, "row": pl.UInt32, "value": pl.Float32}
        files = [File(path, tuple(range(frames.footer_of(path).num_groups))) for path in paths]
        table = JoinedTable(Scan(tuple(files), kinds), {"relevance": "value"})
        rows = JoinedScan.of([table])
    total = sum(int(frames.footer_of(path).starts[-1]) for path in paths)
    key = Key("loss" if name == "loss" else "relevance")
    # By default a static key explores, which takes another pass.
    without = Composition(explore=0.0)
    preview = rows.preview(total=total)
    selection = select(rows, strategy=key, ratio=0.2, preview=preview, composition=without)
    with tempfile.TemporaryDirectory() as out:
        index = IndexFile.write(f"{out}/index.parquet", selection.frames(), provenance={})
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "processor_seconds": time.process_time() - started_processor,
        "peak_rss_mib": peak_rss_bytes() / 2**20,
        "selected": index.num_samples,
    }


def selection(num_rows: int, *, repeats: int) -> dict[str, Any]:
    """Compare selecting by an annotation with selecting by the loss."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in SELECTIONS}
    with tempfile.TemporaryDirectory(prefix="attent-bench-") as folder:
        write_tables(Path(folder), num_rows)
        for _ in range(repeats):
            for name in SELECTIONS:
                command = [sys.executable, __file__, "--one", name, "--folder", folder]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                runs[name].append(json.loads(done.stdout))
                print(name, runs[name][-1], file=sys.stderr)
    medians = {
        name: {key: round(statistics.median(run[key] for run in each), 2) for key in each[0]}
        for name, each in runs.items()
    }
    ratios = {
        key: round(medians["annotation"][key] / medians["loss"][key], 3)
        for key in ("seconds", "processor_seconds", "peak_rss_mib")
    }
    return {"rows": num_rows, "runs": runs, "medians": medians, "annotation / loss": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool-rows", type=int, default=20_000)
    parser.add_argument("--rows", type=float, default=1e8, help="of selection")
    parser.add_argument("--repeats", type=int, default=3, help="of selection")
    parser.add_argument("--only", default="rates,filters,cost,selection")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder")
    parser.add_argument("--name", default="annotations", help="of the result file")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(select_by(options.one, options.folder)))
        return
    path = options.results / f"{options.name}.json"
    # Results of an earlier run are kept for what is not measured now.
    report = json.loads(path.read_text()) if path.exists() else {}
    only = options.only.split(",")
    if {"rates", "filters", "cost"} & set(only):
        with tempfile.TemporaryDirectory(prefix="attent-bench-") as folder:
            pool = Pool(Path(folder), num_rows=options.pool_rows)
            works = {"rates": rates, "filters": filters, "cost": cost}
            report |= {name: work(pool) for name, work in works.items() if name in only}
    if "selection" in only:
        report["selection"] = selection(int(options.rows), repeats=options.repeats)
    report |= {"machine": machine.describe()}
    options.results.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(report, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
