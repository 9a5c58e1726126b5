"""The base model: a small Llama, trained once for each folder until more training adds little."""

import json
import shutil
from pathlib import Path
from time import process_time
from typing import Any, Final

import polars as pl

from pipeline import stages
from pipeline.config import run_config
from pipeline.runs.export import export
from trainers.hf.saved_files import files_digest
from trainers.inputs.tokenizer import train_tokenizer

LENGTH: Final = 1024
_VOCABULARY: Final = 2048
# Rounds of equal size: the mean training loss of each shows how near the plateau is.
_TENTHS: Final = 10


def make_base(texts: str, folder: Path, *, gpu: bool) -> tuple[str, dict[str, Any]]:
    """Return the folder of the base with its tokenizer, and facts about its training.

    Trained on each text of the Parquet file once, unless that is done.
    """
    saved, record = folder / "base", folder / "base.json"
    if not record.exists():
        rows = pl.read_parquet(texts)["text"]
        tokenizer = folder / "tokenizer"
        train_tokenizer(rows[:8_000], tokenizer, vocab_size=_VOCABULARY)
        settings = _settings(texts, folder, num_samples=len(rows), gpu=gpu)
        started = process_time()
        rounds = stages.run(run_config.parse(settings))["rounds"]
        seconds = process_time() - started
        shutil.rmtree(saved, ignore_errors=True)
        export(settings["run"], out=str(saved))
        facts = {
            "loss_of_each_tenth": [each["train_loss"] for each in rounds],
            "units_seen": sum(each["units_seen"] for each in rounds),
            "cpu_seconds": seconds,
            "digest": files_digest(saved, ("*.safetensors",))[:16],
        }
        record.write_text(json.dumps(facts))
    return str(saved), json.loads(record.read_text())


def _settings(texts: str, folder: Path, *, num_samples: int, gpu: bool) -> dict[str, Any]:
    return {
        "run": str(folder / "base-run"),
        "corpus": {"shards": [texts]},
        "task": {
            "name": "causal_lm",
            "tokenizer": str(folder / "tokenizer"),
            "text": "text",
            "max_length": LENGTH,
            "packing": True,
        },
        "model": {"config": _llama(gpu=gpu)},
        "selection": {"strategy": "uniform"},
        "schedule": {"budget": {"samples": num_samples}, "rounds": _TENTHS},
        "scoring": {"max_failed_share": 0.2},  # texts of one token have no loss
        "training": {
            "batch_size": 128 if gpu else 16,
            "learning_rate": 1e-3 if gpu else 4e-3,
            "weight_decay": 0.1,
            "warmup_steps": min(50, num_samples // 100),
            **({"dtype": "bfloat16"} if gpu else {"torch_threads": 1}),
        },
        "cluster": {"workers": 1},
    }


def _llama(*, gpu: bool) -> dict[str, Any]:
    width = 512 if gpu else 128
    return {
        "model_type": "llama",
        "vocab_size": _VOCABULARY,
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": 8 if gpu else 3,
        "num_attention_heads": 4,
        "max_position_embeddings": LENGTH,
        "tie_word_embeddings": True,
        # The default is for widths near 1,000: with it a small model begins slowly.
        "initializer_range": 0.02 if gpu else 0.06,
    }
