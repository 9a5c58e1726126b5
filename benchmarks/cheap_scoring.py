"""Cheap scoring: rank correlation with whole losses in float32, and the share of their seconds.

A small Llama learns texts and a small ViT learns images for some steps. Then each cheap method and
the whole one measure the same samples in turn, in one process with one thread; seconds are those
of the model, the least of five turns, as other programs may use the machine. Writes a table, and
JSON to benchmarks/results/.

    python benchmarks/cheap_scoring.py --data FOLDER   # eltec_prose_train, dolly15k, gsm8k_train,
                                                       # all three mixed, fashion_mnist_train
    python benchmarks/cheap_scoring.py --data FOLDER --quick
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import machine
import numpy as np
import polars as pl
import torch

from attent_select.stats.agreement import correlation_interval, rank_correlation
from trainers.inputs.tokenizer import train_tokenizer
from trainers.scoring.precision import has_fast_bfloat16
from trainers.scoring.scorer import ScoringNotes, score_rows
from trainers.settings import ScoringSettings
from trainers.task import Task
from trainers.tasks.causal_lm import CausalLm
from trainers.tasks.image_classification import ImageClassification

RESULTS = Path(__file__).parent / "results"
SEED, VOCABULARY, TURNS = 7, 4096, 5
TEXT: dict[str, dict[str, str]] = {
    "eltec_prose_train": {"text": "text"},
    "dolly15k": {"response": "output", "template": "{instruction}\n{input}\n"},
    "gsm8k_train": {"response": "answer", "template": "{question}\n"},
    "mixture": {"text": "text"},
}
MIXTURE = "mixture"
WHOLE = ScoringSettings(dtype="float32")
ARMS = {
    "half": replace(WHOLE, units_share=0.5),
    "bfloat16": replace(WHOLE, dtype="bfloat16"),
    "half_bfloat16": replace(WHOLE, units_share=0.5, dtype="bfloat16"),
}


def llama(width: int, layers: int) -> dict[str, Any]:
    """Return the settings of a small language model."""
    return {
        "config": {
            "model_type": "llama",
            "hidden_size": width,
            "intermediate_size": 3 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": width // 32,
            "num_key_value_heads": width // 32,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 512,
        }
    }


def vit(width: int, layers: int) -> dict[str, Any]:
    """Return the settings of a small vision transformer."""
    return {
        "config": {
            "model_type": "vit",
            "hidden_size": width,
            "intermediate_size": 3 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": width // 32,
            "image_size": 28,
            "patch_size": 2,
            "num_channels": 1,
            "num_labels": 10,
        }
    }


def learn(task: Task, model: torch.nn.Module, samples: list[dict[str, Any]], *, steps: int) -> None:
    """Train the model for some steps of 16 random samples."""
    generator = np.random.default_rng(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    for _ in range(steps):
        rows = generator.choice(len(samples), 16, replace=False).tolist()
        items = [task.prepare(samples[row], generator=None) for row in rows]
        loss = task.per_sample_loss(model, task.collate(items))[0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


def compare(
    task: Task,
    models: Mapping[str, torch.nn.Module],
    samples: list[dict[str, Any]],
) -> dict[str, dict[str, float]]:
    """Return correlation, interval and cost share of each cheap method."""
    arms = {"whole": ("student", WHOLE)} | {name: ("student", arm) for name, arm in ARMS.items()}
    arms["proxy"] = ("proxy", WHOLE)
    losses: dict[str, np.ndarray] = {}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(TURNS):
        for name, (model, settings) in arms.items():
            notes = ScoringNotes()
            rows = enumerate(samples)
            scores = score_rows(task, models[model], rows, settings=settings, notes=notes)
            losses[name] = scores["loss"].fill_null(float("nan")).to_numpy()
            seconds[name].append(notes.busy_seconds)
    compared = {}
    for name in (name for name in arms if name != "whole"):
        correlation = rank_correlation(losses[name], losses["whole"])
        assert correlation is not None
        low, high = correlation_interval(correlation, count=len(samples))
        cost = min(seconds[name]) / min(seconds["whole"])
        compared[name] = {"correlation": correlation, "low": low, "high": high, "cost_share": cost}
    return compared


def mixture(data: Path) -> pl.DataFrame:
    """Return equal numbers of whole texts of each data set, in a column `text`."""
    parts = []
    for name, columns in (
        ("eltec_prose_train", ["text"]),
        ("dolly15k", ["instruction", "input", "output"]),
        ("gsm8k_train", ["question", "answer"]),
    ):
        rows = pl.read_parquet(data / f"{name}.parquet", columns=columns)
        texts = rows.select(text=pl.concat_str(columns, separator="\n"))
        parts.append(texts.filter(pl.col("text").str.len_chars() > 200).head(4000))
    return pl.concat(parts)


def measure(data: Path, name: str, folder: Path, *, steps: int, count: int) -> dict[str, Any]:
    """Train on a data set and compare on other samples of it."""
    rows = mixture(data) if name == MIXTURE else pl.read_parquet(data / f"{name}.parquet")
    samples = rows.sample(4000 + count, shuffle=True, seed=SEED).to_dicts()
    task: Task
    if name in TEXT:
        texts = [" ".join(str(v) for v in sample.values()) for sample in samples[:2000]]
        train_tokenizer(texts, folder, vocab_size=VOCABULARY)
        task = CausalLm(tokenizer=str(folder), max_length=192, **TEXT[name])
        settings = {"student": llama(128, 3), "proxy": llama(64, 2)}
        samples = [s for s in samples if _is_usable(task, s)]
    else:
        task = ImageClassification(image_size=28, num_channels=1)
        settings = {"student": vit(96, 3), "proxy": vit(64, 1)}
    models = {each: task.models(values).build(SEED) for each, values in settings.items()}
    for model in models.values():
        learn(task, model, samples[:-count], steps=steps)
    return {"steps": steps, "samples": count, "methods": compare(task, models, samples[-count:])}


def _is_usable(task: Task, sample: dict[str, Any]) -> bool:
    try:
        return bool(task.prepare(sample, generator=None))
    except ValueError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--only", nargs="+", default=[*TEXT, "fashion_mnist_train"])
    parser.add_argument("--quick", action="store_true", help="few steps and samples")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    steps, count = (2, 40) if options.quick else (options.steps, options.samples)
    results = {}
    for name in options.only:
        with tempfile.TemporaryDirectory(prefix="attent-cheap-") as folder:
            results[name] = measure(options.data, name, Path(folder), steps=steps, count=count)
        for method, numbers in results[name]["methods"].items():
            print(
                name, method, {key: round(value, 3) for key, value in numbers.items()}, flush=True
            )
    report = {
        "machine": machine.describe(),
        "fast_bfloat16": has_fast_bfloat16(),
        "whole": asdict(WHOLE),
        "results": results,
    }
    path = options.results / "cheap_scoring.json"
    path.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
