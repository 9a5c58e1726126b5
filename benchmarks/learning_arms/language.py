"""Regimes of LoRA on GSM8K and on Dolly, and their base model, trained on English novels."""

from pathlib import Path
from typing import Any

import polars as pl

from learning_arms import corpora
from learning_arms.arms import Horizon
from learning_arms.regime import Data, Regime

_GSM8K = {
    "template": "Question: {question}\nAnswer: ",
    "response": "answer",
}
_DOLLY = {
    "template": "Instruction: {instruction}\n{input}\nResponse: ",
    "response": "output",
}
_ANSWER = {"answer": "#### (-?[0-9.,]+)"}
_VOCABULARY = 1024


def gsm8k(*, gpu: bool) -> Regime:
    """GSM8K: loss of held-out problems, and generated answers of some."""

    def data(source: Path, folder: Path) -> Data:
        rows = corpora.shuffle(pl.read_parquet(source / "gsm8k_train.parquet"))
        test = pl.read_parquet(source / "gsm8k_test.parquet")
        return _data(
            source, folder, train=rows if gpu else rows[:2_000], test=test, task=_GSM8K, gpu=gpu
        )

    return _regime(data, gpu=gpu)


def dolly(*, gpu: bool) -> Regime:
    """Dolly: loss of held-out instructions; lengths differ widely."""

    def data(source: Path, folder: Path) -> Data:
        # A third of the prompts quote whole articles and leave no room for the response.
        prompt_chars = pl.sum_horizontal(pl.col("instruction", "input").str.len_chars())
        short = pl.read_parquet(source / "dolly15k.parquet").filter(
            prompt_chars <= (750 if gpu else 250)
        )
        rows = corpora.shuffle(short)
        train = rows[1_500:] if gpu else rows[1_500:3_500]
        return _data(source, folder, train=train, test=rows[:1_500], task=_DOLLY, gpu=gpu)

    return _regime(data, gpu=gpu)


def _regime(data: Any, *, gpu: bool) -> Regime:
    sections = {
        "scoring": {"max_failed_share": 0.2},  # prompts that fill max_length leave no response
        "training": {
            "batch_size": 16,
            "learning_rate": 2e-3,
            "warmup_steps": 10,
            **({"dtype": "bfloat16"} if gpu else {"torch_threads": 1}),
        },
    }
    horizon = Horizon(epochs=4, same_cost=3, rounds=2, anneal=1)
    return Regime(horizon, data=data, sections=sections, quality="eval_loss", probe=_Solving)


def _data(
    source: Path,
    folder: Path,
    *,
    train: pl.DataFrame,
    test: pl.DataFrame,
    task: dict[str, Any],
    gpu: bool,
) -> Data:
    base = _base(source, folder.parent / ("base_gpu" if gpu else "base"), gpu=gpu)
    length = 512 if gpu else 192
    return Data(
        corpora.write_once(folder / "train.parquet", lambda: train),
        corpora.write_once(folder / "curve.parquet", lambda: test[-200:]),
        corpora.write_once(folder / "final.parquet", lambda: test[:-200]),
        {
            "task": {"name": "causal_lm", "tokenizer": base, "max_length": length, **task},
            "model": {"path": base, "lora": {"rank": 8, "alpha": 16}},
        },
    )


def _base(source: Path, folder: Path, *, gpu: bool) -> str:
    """A Llama-style model trained on novels for one epoch, made if missing."""
    from pipeline import stages
    from pipeline.config import run_config
    from pipeline.runs.export import export
    from trainers.inputs.tokenizer import train_tokenizer

    if (folder / "base" / "config.json").exists():
        return str(folder / "base")
    novels = corpora.shuffle(pl.read_parquet(source / "eltec_prose_train.parquet"))
    train = corpora.write_once(folder / "novels.parquet", lambda: novels if gpu else novels[:8_000])
    train_tokenizer(novels["text"][:20_000], folder / "tokenizer", vocab_size=_VOCABULARY)
    width = 256 if gpu else 96
    settings = {
        "run": str(folder / "run"),
        "corpus": {"shards": [train]},
        "task": {
            "name": "causal_lm",
            "tokenizer": str(folder / "tokenizer"),
            "text": "text",
            "max_length": 128,
        },
        "model": {
            "config": {
                "model_type": "llama",
                "vocab_size": _VOCABULARY,
                "hidden_size": width,
                "intermediate_size": 3 * width,
                "num_hidden_layers": 6 if gpu else 3,
                "num_attention_heads": 4,
                "max_position_embeddings": 1024,
                "tie_word_embeddings": True,
            }
        },
        "selection": {"strategy": "uniform"},
        "schedule": {"epochs": 1, "ratio": {"start": 1.0}},
        "scoring": {"max_failed_share": 0.2},
        "training": {
            "batch_size": 32,
            "learning_rate": 2e-3,
            "warmup_steps": 50,
            **({} if gpu else {"torch_threads": 1}),
        },
        "cluster": {"workers": 1},
    }
    config = run_config.parse(settings)
    stages.run(config)
    export(config.run, out=str(folder / "base"))
    return str(folder / "base")


class _Solving:
    """`exact_match` of problems whose answers end with a number; no metric otherwise."""

    def __init__(self, data: Data) -> None:
        from learning_arms.trial import held_out

        task = data.sections["task"]
        is_solved = task["response"] == "answer"
        sections = {
            "task": task | _ANSWER | {"max_new_tokens": 100},
            "model": data.sections["model"],
        }
        self._set = held_out(data.final, sections, rows=48) if is_solved else None

    def metrics(self, model: Any) -> dict[str, float]:
        if self._set is None:
            return {}
        return {"exact_match": self._set.metrics(model)["exact_match"]}
