"""A run of digits with some wrong labels: a model that learned the right ones, and its losses."""

import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from digits import TASK, VIT, samples, write_corpus
from scored_runs import score

from catalogs.layout import Layout
from trainers import checkpoint

NUM_SAMPLES = 300
# Every 30th label is the next digit.
WRONG = range(0, NUM_SAMPLES, 30)
SHARD_ROWS = 100


def mislabelled_run(run: Path) -> Path:
    """Three shards, losses of two rounds, the initial checkpoint; no round is trained."""
    rows = samples(NUM_SAMPLES)
    model = _trained(rows)
    for number in WRONG:
        rows[number]["label"] = (rows[number]["label"] + 1) % 10
    write_corpus(run / "shards", rows).save(str(run))
    losses = _losses(model, rows)
    by_shard = [losses[first : first + SHARD_ROWS] for first in range(0, NUM_SAMPLES, SHARD_ROWS)]
    for number in (0, 1):
        score(run, by_shard, round_number=number)
    layout = Layout(str(run))
    with tempfile.TemporaryDirectory() as folder:
        models = TASK.models(VIT)
        models.save(model, Path(folder))
        digest = checkpoint.digest_of(model, models)
        checkpoint.publish(
            Path(folder), url=layout.initial_checkpoint, step=0, weights_digest=digest
        )
    config = {
        "run": str(run),
        "corpus": {"shards": [f"{run}/shards"]},
        "task": {"name": "image_classification", "image_size": 8, "num_channels": 1},
        "model": VIT,
        "selection": {"strategy": "hard"},
    }
    Path(layout.config).write_text(yaml.safe_dump(config))
    return run


def _trained(rows: list[dict[str, Any]]) -> torch.nn.Module:
    model = TASK.models(VIT).build(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    batch = TASK.collate([TASK.prepare(row, generator=None) for row in rows])
    for _ in range(150):
        optimizer.zero_grad()
        TASK.per_sample_loss(model, batch)[0].mean().backward()
        optimizer.step()
    return model.eval()


def _losses(model: torch.nn.Module, rows: list[dict[str, Any]]) -> list[float | None]:
    batch = TASK.collate([TASK.prepare(row, generator=None) for row in rows])
    with torch.no_grad():
        return list(TASK.per_sample_loss(model, batch)[0].tolist())
