"""Cost of a partial round against a full one: the same run, checkpoint and cluster.

Trains one round of a small ViT on images in 30 shards, then scores the next round in alternation:
all samples, a tenth by staleness, a tenth by threshold, nothing. Each call is timed as a whole:
choosing rows, loading the new checkpoint, measuring, merging observed losses, publishing. The
processor time of driver and worker, which depends little on other load, is measured too. Writes a
table, and JSON to benchmarks/results/.

    python benchmarks/partial_rounds.py                       # scikit-learn's digits, repeated
    python benchmarks/partial_rounds.py --data train.parquet  # columns `image` (PNG) and `label`
"""

import argparse
import io
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from time import monotonic, process_time
from typing import Any

import machine
import polars as pl

from catalogs import storage
from catalogs.layout import Layout
from pipeline import stages
from pipeline.cluster import Client, connect, on_every_worker
from pipeline.config import run_config
from pipeline.config.cluster_settings import ClusterSettings
from pipeline.loop import select_and_train
from pipeline.runs.state import prepare
from pipeline.scoring.driver import ScoringJob, score_round
from pipeline.scoring.full_scoring import FullScoring
from pipeline.scoring.partial_rescoring import PartialRescoring

RESULTS = Path(__file__).parent / "results"
NUM_SHARDS, RATIO, SHARE = 30, 0.2, 0.1
WAYS = ("full", "staleness", "threshold", "none")


def images(data: Path | None, num_samples: int) -> pl.DataFrame:
    if data is not None:
        return pl.read_parquet(data, columns=["image", "label"]).head(num_samples)
    from PIL import Image
    from sklearn.datasets import load_digits

    digits, pictures = load_digits(), []
    for pixels in digits.images:
        buffer = io.BytesIO()
        Image.fromarray((pixels * 15).astype("uint8")).resize((28, 28)).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    rows = pl.DataFrame({"image": pictures, "label": digits.target})
    return pl.concat([rows] * -(-num_samples // len(rows))).head(num_samples)


def settings(folder: Path, *, by: str) -> Any:
    return run_config.parse(
        {
            "run": str(folder / "run"),
            "corpus": {"path": str(folder / "corpus")},
            "task": {"name": "image_classification", "image_size": 28, "num_channels": 1},
            "model": {
                "config": {
                    "model_type": "vit",
                    "image_size": 28,
                    "patch_size": 4,
                    "num_channels": 1,
                    "num_labels": 10,
                    "hidden_size": 64,
                    "intermediate_size": 256,
                    "num_hidden_layers": 4,
                    "num_attention_heads": 4,
                }
            },
            "selection": {"strategy": "hard"},
            "schedule": {
                "epochs": 2,
                "ratio": {"start": RATIO},
                "rescore": {"kind": "partial", "share": SHARE, "by": by},
            },
            "training": {"batch_size": 128, "torch_threads": 1},
        }
    )


def measure(way: str, folder: Path, client: Client) -> dict[str, Any]:
    config = settings(folder, by="threshold" if way == "threshold" else "staleness")
    layout = Layout(config.run)
    job = ScoringJob(config, client, round_number=1, checkpoint=layout.checkpoint(0))
    on_every_worker(client, _forget_models)
    started, cpu_started = monotonic(), _cpu_seconds(client)
    if way == "full":
        result = score_round(job, FullScoring(job))
    else:
        share = 0 if way == "none" else SHARE
        result = score_round(job, PartialRescoring(job, share, ratio=RATIO))
    seconds, cpu_seconds = monotonic() - started, _cpu_seconds(client) - cpu_started
    for url in (layout.snapshot(1), layout.rescored(1)):
        storage.delete(url)
    return asdict(result) | {"seconds": seconds, "cpu_seconds": cpu_seconds}


def _cpu_seconds(client: Client) -> float:
    """Processor seconds of the driver and the workers, which depend little on other load."""
    return process_time() + sum(client.run(process_time).values())


def _forget_models() -> None:
    from pipeline.scoring import worker

    worker._models.clear()  # noqa: SLF001 - a real round has a new checkpoint


def compare(folder: Path, client: Client, *, repeats: int) -> Iterator[dict[str, Any]]:
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way in WAYS:
            runs[way].append(measure(way, folder, client))
    full = {key: median(run[key] for run in runs["full"]) for key in ("seconds", "cpu_seconds")}
    for way, each in runs.items():
        medians = {key: median(run[key] for run in each) for key in full}
        yield {
            "round": way,
            "scored": each[0]["scored"],
            **{key: round(value, 3) for key, value in medians.items()},
            "of_full": round(medians["seconds"] / full["seconds"], 4),
            "cpu_of_full": round(medians["cpu_seconds"] / full["cpu_seconds"], 4),
            "all_seconds": [round(run["seconds"], 3) for run in each],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a Parquet file of images")
    parser.add_argument("--samples", type=int, default=60_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder")
    parser.add_argument("--name", default="partial_rounds", help="of the result file")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="attent-bench-") as temporary,
        connect(ClusterSettings(workers=1)) as client,
    ):
        folder = Path(temporary)
        images(options.data, options.samples).write_parquet(folder / "images.parquet")
        stages.ingest_shards(
            [str(folder / "images.parquet")],
            out=str(folder / "corpus"),
            convert="parquet",
            shard_samples=-(-options.samples // NUM_SHARDS),
        )
        config = settings(folder, by="staleness")
        stages.score(config, client=client)
        run = prepare(config, cluster=lambda: client)
        select_and_train(run, 0)
        results = list(compare(folder, client, repeats=options.repeats))
    where = machine.describe() | {"workers": 1, "torch_threads": 1}
    data = {"data": options.data.name if options.data else "digits", "samples": options.samples}
    text = json.dumps({"machine": where, **data, "share": SHARE, "results": results}, indent=1)
    options.results.mkdir(exist_ok=True)
    (options.results / f"{options.name}.json").write_text(text + "\n")
    print(pl.DataFrame(results).drop("all_seconds"))


if __name__ == "__main__":
    main()
