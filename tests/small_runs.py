"""Configurations of small runs: a warm-up round, two teaching rounds, 240 digits."""

import copy
from pathlib import Path
from typing import Any

from digits import VIT, samples, write_corpus


def write_shards(folder: Path) -> Path:
    """Write 240 digits in three shards, as `parquet` and as `webdataset`, and 60 in `held-out`."""
    rows = samples(300)
    for kind in ("parquet", "webdataset"):
        write_corpus(folder / kind, rows[:240], kind=kind)
    write_corpus(folder / "held-out", rows[240:], num_shards=1)
    return folder


def small_run(run: Path | str, shards: Path, **replaced: Any) -> dict[str, Any]:
    """Return the plain values of a configuration; `section__key=value` replaces one."""
    result: dict[str, Any] = {
        "run": str(run),
        "corpus": {"shards": [str(shards / "parquet")]},
        "evaluation": {"shards": [str(shards / "held-out")]},
        "task": {"name": "image_classification", "image_size": 8, "num_channels": 1},
        "model": copy.deepcopy(VIT),
        "schedule": {"epochs": 3, "warmup_epochs": 1, "ratio": {"start": 0.5}},
        "scoring": {"span_samples": 50, "part_samples": 100, "dtype": "float32"},
        "training": {"batch_size": 16, "torch_threads": 1},
        "cluster": {"workers": 2},
    }
    for path, value in replaced.items():
        *sections, key = path.split("__")
        section = result
        for name in sections:
            section = section.setdefault(name, {})
        section[key] = value
    return result


def often_saved(run: Path | str, shards: Path, **replaced: Any) -> dict[str, Any]:
    """Return a small run with checkpoints inside its rounds, for runs that are disturbed."""
    return small_run(run, shards, training__save_steps=2, **replaced)
