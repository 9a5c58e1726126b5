"""Throughput of scoring against a bare loop and other methods, and the cost of a span.

(a) samples/s with one worker against a bare loop of the same model over the same batches, collated
    in advance; (b) driver and scheduler time per span and the driver's memory, for spans without
    work and for spans with files; (c) one worker and two with one torch thread each, and one worker
    on one core; (d) plain Dask `map_partitions` and a Hugging Face `datasets.map` loop. Every
    number is the median over alternating turns, so that variations of the machine's speed affect
    all methods. Writes JSON and a plot to benchmarks/results/.

    python benchmarks/scoring.py --images fashion_mnist_test.parquet --text eltec_prose_val.parquet
        --peer-python /path/to/an/environment/with/datasets/and/pandas/bin/python
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import machine
import polars as pl
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent
RESULTS = HERE / "results"
# Several per worker, so that workers finish at about the same time.
NUM_SHARDS = 8
SPANS = {"window": 100_000, "files": 2_000}


def prepare_corpus(kind: str, source: Path, folder: Path, num_samples: int) -> dict[str, Any]:
    """Write shards of the first samples; return the configuration of a run on them."""
    from trainers.inputs.tokenizer import train_tokenizer

    table = pq.read_table(source).slice(0, num_samples)
    (folder / kind).mkdir(parents=True, exist_ok=True)
    size = -(-table.num_rows // NUM_SHARDS)
    for number in range(NUM_SHARDS):
        piece = table.slice(number * size, size)
        pq.write_table(piece, folder / kind / f"{number}.parquet", row_group_size=256)
    if kind == "images":
        task = {"name": "image_classification", "image_size": 28, "num_channels": 1}
        model = {
            "model_type": "vit",
            "image_size": 28,
            "patch_size": 4,
            "num_channels": 1,
            "hidden_size": 192,
            "num_hidden_layers": 4,
            "num_attention_heads": 3,
            "intermediate_size": 768,
            "num_labels": 10,
        }
    else:
        train_tokenizer(table["text"].to_pylist()[:2000], folder / "tokenizer", vocab_size=2000)
        task = {
            "name": "causal_lm",
            "tokenizer": str(folder / "tokenizer"),
            "text": "text",
            "max_length": 256,
        }
        model = {
            "model_type": "llama",
            "vocab_size": 2000,
            "hidden_size": 192,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "intermediate_size": 512,
            "max_position_embeddings": 256,
        }
    return {
        "corpus": {"shards": [str(folder / kind)]},
        "task": task,
        "model": {"config": model},
        "scoring": {
            "span_samples": size,
            "max_batch_samples": 64,
            "batch_units": 4096,
            "max_failed_share": 1.0,
        },
        "schedule": {"epochs": 1},
    }


@dataclass(frozen=True)
class Rate:
    """Throughput of a method, and the CPU time of the scoring processes, which depends little on
    other load.
    """

    samples_per_second: float
    cpu_ms_per_sample: float


def cpu_seconds(client: Any) -> float:
    return sum(client.run(time.process_time).values())


def ours(values: dict[str, Any], folder: Path, *, workers: int) -> Rate:
    """Samples per second of `attent score` on warm workers, from the first submit to the last
    result, including reading, decoding and writing files.
    """
    from pipeline import score
    from pipeline.cluster import connect
    from pipeline.config import run_config

    with tempfile.TemporaryDirectory(dir=folder) as run:
        settings = run_config.parse(values | {"run": run, "cluster": {"workers": workers}})
        with connect(settings.cluster) as client:
            score(settings, client=client)
            # Run again: the workers keep the model of a checkpoint.
            shutil.rmtree(Path(run) / "losses")
            before = cpu_seconds(client)
            result = score(settings, client=client)
            cpu = cpu_seconds(client) - before
    return Rate(result.numbers["samples_per_second"], 1e3 * cpu / result.scored)


def on_one_core(values: dict[str, Any], folder: Path) -> Rate:
    """One worker on one core with driver and scheduler; otherwise a worker reads and decodes on a
    second core.
    """
    os.sched_setaffinity(0, {0})  # the worker inherits it
    return ours(values, folder, workers=1)


def one_task(values: dict[str, Any], folder: Path) -> Rate:
    """The same spans in this process: the work of a worker, without cluster, plan and parts."""
    from pipeline.cluster import connect_when_needed
    from pipeline.config import run_config
    from pipeline.runs.state import prepare
    from pipeline.scoring.driver import ScoringJob
    from pipeline.scoring.scoring_plan import span_tasks
    from pipeline.scoring.worker import measure_span

    with tempfile.TemporaryDirectory(dir=folder) as run:
        settings = run_config.parse(values | {"run": run, "cluster": {"workers": 1}})
        with connect_when_needed(settings.cluster) as cluster:
            ready = prepare(settings, cluster=cluster)
            start = ready.layout.initial_checkpoint
            job = ScoringJob(settings, cluster(), round_number=0, checkpoint=start)
            tasks = list(span_tasks(ready.corpus, job.measurement))
        measure_span(tasks[0])
        started, cpu = time.perf_counter(), time.process_time()
        count = sum(measure_span(task).num_samples for task in tasks[1:])
        return rate(count, started, time.process_time() - cpu)


def bare(values: dict[str, Any], folder: Path) -> Rate:
    """Samples per second of the model alone, over batches collated in advance."""
    import torch

    task, model, batches = in_batches(values, folder)
    collated = [task.collate(batch) for batch in batches]
    with torch.inference_mode():
        for batch in collated[:4]:
            task.per_sample_loss(model, batch)
        started, cpu = time.perf_counter(), time.process_time()
        for batch in collated:
            losses, units = task.per_sample_loss(model, batch)
            losses.tolist(), units.tolist()
    return rate(sum(len(batch) for batch in batches), started, time.process_time() - cpu)


def rate(count: int, started: float, cpu: float) -> Rate:
    return Rate(count / (time.perf_counter() - started), 1e3 * cpu / count)


def in_batches(values: dict[str, Any], folder: Path) -> tuple[Any, Any, list[Any]]:
    """The task, a model and the batches of each shard, as in scoring."""
    import torch

    from attent_select.errors import SampleError
    from pipeline.config import run_config
    from trainers.scoring.batching import batches

    torch.set_num_threads(1)
    parsed = run_config.parse(values | {"run": str(folder / "none")})
    task, scoring = parsed.task.task, parsed.scoring
    model = task.models(parsed.model).build(0).eval()
    items_of_batches = []
    for path in sorted(Path(values["corpus"]["shards"][0]).glob("*.parquet")):
        items = []
        for row, sample in enumerate(pq.read_table(path).to_pylist()):
            try:
                items.append((row, task.prepare(sample, generator=None)))
            except SampleError:
                continue
        items_of_batches += [[item for _, item in batch] for batch in batches([items], scoring)]
    return task, model, items_of_batches


def frame_scorer(values: dict[str, Any], folder: str) -> Callable[[Any], Any]:
    """Function for a peer: decode, collate and score rows; keeps the model."""
    import torch

    from attent_select.errors import SampleError
    from pipeline.config import run_config

    torch.set_num_threads(1)
    parsed = run_config.parse(values | {"run": f"{folder}/none"})
    task = parsed.task.task
    model = task.models(parsed.model).build(0).eval()

    def losses(samples: list[dict[str, Any]]) -> list[float]:
        items = []
        for sample in samples:
            try:
                items.append(task.prepare(sample, generator=None))
            except SampleError:
                continue
        values: list[float] = []
        with torch.inference_mode():
            for first in range(0, len(items), 64):
                values += task.per_sample_loss(model, task.collate(items[first : first + 64]))[0]
        return [float(loss) for loss in values]

    return losses


def dask_partitions(values: dict[str, Any], folder: Path) -> Rate:
    """Plain Dask: a bag of files, mapped by partition, on one worker of one thread."""
    import dask.bag
    from distributed import Client, LocalCluster

    paths = sorted(str(p) for p in Path(values["corpus"]["shards"][0]).glob("*.parquet"))

    def partition(files: Any) -> list[float]:
        losses = frame_scorer(values, str(folder))
        return [loss for file in files for loss in losses(pq.read_table(file).to_pylist())]

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        dask.bag.from_sequence(paths[:1], npartitions=1).map_partitions(partition).compute()
        started, cpu = time.perf_counter(), cpu_seconds(client)
        bag = dask.bag.from_sequence(paths, npartitions=len(paths))
        count = len(bag.map_partitions(partition).compute())
        return rate(count, started, cpu_seconds(client) - cpu)


def datasets_map(values: dict[str, Any], folder: Path) -> Rate:
    """Hugging Face datasets: `map` in batches in one process."""
    import datasets

    datasets.disable_progress_bars()
    data = datasets.load_dataset(
        "parquet", data_files=f"{values['corpus']['shards'][0]}/*.parquet", cache_dir=str(folder)
    )["train"]
    losses = frame_scorer(values, str(folder))

    def batch(columns: dict[str, list[Any]]) -> dict[str, list[float]]:
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        scored = losses(rows)
        return {"loss": scored + [0.0] * (len(rows) - len(scored))}

    batch({name: data[:64][name] for name in data.column_names})
    started, cpu = time.perf_counter(), time.process_time()
    data.map(batch, batched=True, batch_size=64, load_from_cache_file=False)
    return rate(len(data), started, time.process_time() - cpu)


def spans_cost(kind: str, folder: Path, num_spans: int) -> dict[str, float]:
    """Seconds per span and memory of this process, which runs driver and scheduler without torch,
    like `attent score`.
    """
    import noop_span

    from pipeline.cluster import connect, run_tasks
    from pipeline.runs.setup_process import setup_in_subprocess
    from pipeline.runs.state import prepare
    from pipeline.scoring.driver import ScoringJob
    from pipeline.scoring.score_stage import score_stage
    from pipeline.scoring.scoring_plan import span_tasks

    source = folder / "config.yaml"
    source.write_text(json.dumps(spans_run(folder, num_spans)))
    memory = psutil.Process().memory_full_info
    with (
        setup_in_subprocess(str(source), overrides=()) as (settings, save_initial),
        connect(settings.cluster) as client,
    ):
        run = prepare(settings, cluster=lambda: client, save_initial=save_initial)
        before, cpu, started = memory().rss, time.process_time(), time.perf_counter()
        if kind == "files":
            score_stage(run, run.rounds[0], cluster=lambda: client)
        else:
            start = run.layout.initial_checkpoint
            job = ScoringJob(settings, client, round_number=0, checkpoint=start)
            tasks = span_tasks(run.corpus, job.measurement)
            done = run_tasks(
                client, noop_span.measure_nothing, tasks, window_per_thread=settings.cluster.window
            )
            assert sum(1 for _ in done) == num_spans
        return {
            "num_spans": num_spans,
            "wall_ms_per_span": 1e3 * (time.perf_counter() - started) / num_spans,
            "driver_cpu_ms_per_span": 1e3 * (time.process_time() - cpu) / num_spans,
            "driver_rss_growth_mib": (memory().rss - before) / 2**20,
            "driver_rss_mib": memory().rss / 2**20,
            # Without the pages of libraries, which processes share.
            "driver_private_mib": memory().uss / 2**20,
        }


def spans_run(folder: Path, num_spans: int) -> dict[str, Any]:
    """Write shards for `num_spans` spans of one sample; return the configuration of a run."""
    (folder / "shards").mkdir()
    per_shard = min(1000, num_spans)
    for number in range(num_spans // per_shard):
        table = pa.table({"number": pa.array(range(per_shard))})
        pq.write_table(table, folder / "shards" / f"{number:06d}.parquet")
    return {
        "run": str(folder / "run"),
        "corpus": {"shards": [str(folder / "shards")]},
        "task": {"name": "noop_task.NoOp"},
        "model": {},
        "scoring": {"span_samples": 1},
        "schedule": {"epochs": 1},
        "cluster": {"workers": 2, "window": 32},
        "training": {"batch_size": 1},
    }


METHODS: dict[str, Callable[..., Any]] = {
    "bare loop": bare,
    "ours, one task": one_task,
    "ours, 1 worker": lambda values, folder: ours(values, folder, workers=1),
    "ours, 2 workers": lambda values, folder: ours(values, folder, workers=2),
    "ours, 1 worker, 1 core": on_one_core,
    "dask map_partitions": dask_partitions,
    "datasets map": datasets_map,
}
PEERS = ("dask map_partitions", "datasets map")


def in_process(python: str, *arguments: str) -> Any:
    """Run this script in a subprocess and return what it prints."""
    done = subprocess.run(
        [python, __file__, *arguments],
        env=os.environ | {"PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{arguments}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def turns(kind: str, folder: Path, *, methods: list[str], options: Any) -> list[dict[str, Any]]:
    """Run all methods in alternation; each turn is compared with its own bare loop."""
    rates_of: dict[str, list[Rate]] = {name: [] for name in methods}
    loads: list[float] = []
    for _ in range(options.repeats):
        for name in methods:
            python = options.peer_python if name in PEERS else sys.executable
            loads.append(os.getloadavg()[0])
            answer = in_process(python, "--one", name, "--kind", kind, "--folder", str(folder))
            rates_of[name].append(Rate(**answer))
            print(f"  {kind:7} {name:22} {rates_of[name][-1]}", file=sys.stderr)
    limit = rates_of["bare loop"]

    def share(field: str, name: str) -> float:
        pairs = zip(rates_of[name], limit, strict=True)
        return round(median(getattr(a, field) / getattr(b, field) for a, b in pairs), 3)

    return [
        {
            "data": kind,
            "method": name,
            "samples_per_second": round(median(one.samples_per_second for one in rates), 1),
            "share_of_bare_loop": share("samples_per_second", name),
            "cpu_ms_per_sample": round(median(one.cpu_ms_per_sample for one in rates), 3),
            "cpu_of_bare_loop": share("cpu_ms_per_sample", name),
            "all": [round(one.samples_per_second, 2) for one in rates],
            "load_average": round(median(loads), 1),
        }
        for name, rates in rates_of.items()
    ]


def plot(results: list[dict[str, Any]], path: Path) -> None:
    import altair as alt

    chart = alt.Chart(pl.DataFrame(results)).mark_bar()
    chart.encode(
        x=alt.X("share_of_bare_loop:Q", title="samples/s, as a share of the bare loop"),
        y=alt.Y("method:N", sort=None, title=None),
        row=alt.Row("data:N", title=None),
    ).properties(width=420, title="Scoring").save(path, scale_factor=2)


def one(options: Any) -> Any:
    if options.one in SPANS:
        with tempfile.TemporaryDirectory() as folder:
            return spans_cost(options.one, Path(folder), options.spans)
    values = json.loads((options.folder / f"{options.kind}.json").read_text())
    return asdict(METHODS[options.one](values, options.folder))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, help="Parquet with image and label")
    parser.add_argument("--text", type=Path, help="Parquet with text")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--spans", type=int, help="default: 100 000 and 2 000 with files; 0: none")
    parser.add_argument("--peer-python", help="of an environment with datasets")
    parser.add_argument("--only", default="", help="methods that begin with this, and the limit")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder")
    parser.add_argument("--name", default="scoring", help="of the result files")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure_parts(options: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    methods = [
        name
        for name in METHODS
        if name == "bare loop"
        or (name.startswith(options.only) and (options.peer_python or name not in PEERS))
    ]
    with tempfile.TemporaryDirectory() as scratch:
        folder, rates = Path(scratch), []
        for kind in ("images", "text"):
            if (source := getattr(options, kind)) is None:
                continue
            values = prepare_corpus(kind, source, folder, options.samples)
            (folder / f"{kind}.json").write_text(json.dumps(values))
            rates += turns(kind, folder, methods=methods, options=options)
        if rates:
            yield "throughput", rates
        if options.spans == 0:
            return
        costs = {}
        for kind, count in SPANS.items():
            spans = str(options.spans or count)
            costs[kind] = in_process(sys.executable, "--one", kind, "--spans", spans)
            print(f"  {kind}: {costs[kind]}", file=sys.stderr)
        yield "spans", costs


def main() -> None:
    options = arguments()
    if options.one:
        print(json.dumps(one(options)))
        return
    file = options.results / f"{options.name}.json"
    # Keep earlier results: every rate has the bare loop of its own turn.
    results = json.loads(file.read_text()) if file.exists() else {}
    measurements = dict(measure_parts(options))
    rates = {(each["data"], each["method"]): each for each in results.get("throughput", [])}
    rates |= {(each["data"], each["method"]): each for each in measurements.get("throughput", [])}
    results |= {"machine": machine.describe()} | measurements | {"throughput": list(rates.values())}
    options.results.mkdir(exist_ok=True)
    file.write_text(json.dumps(results, indent=1) + "\n")
    if results["throughput"]:
        plot(results["throughput"], options.results / f"{options.name}.png")
        print(pl.DataFrame(results["throughput"]).drop("all"))
    print(json.dumps(results.get("spans"), indent=1))


if __name__ == "__main__":
    main()
