"""Regime of different lengths: instructions and word problems, padded, sorted by length, packed."""

from pathlib import Path
from typing import Any

import polars as pl

from learning_arms import corpora
from learning_arms.arms import Horizon, arms
from learning_arms.regime import Data, Regime
from learning_arms.summary import ALL

_BATCH_SIZE, _VOCABULARY = 16, 4096
_TASK = {"name": "causal_lm", "template": "Instruction: {prompt}\nResponse: ", "response": "answer"}


def lengths(*, gpu: bool) -> Regime:
    """The same updates of a Llama with three ways to fill its forward passes.

    The first arm is the reference: each step is padded to its longest text.
    """
    rows, length = (12_000, 2_048) if gpu else (800, 512)

    def data(source: Path, folder: Path) -> Data:
        texts = corpora.shuffle(pl.concat([_dolly(source), _gsm8k(source)]))
        tokenizer = _tokenizer(texts[:10_000], folder / "tokenizer")
        task = _TASK | {"tokenizer": tokenizer, "max_length": length}
        return Data(
            corpora.write_once(folder / "train.parquet", lambda: texts[:rows]),
            None,
            corpora.write_once(folder / "final.parquet", lambda: texts[-400:]),
            {"task": task},
        )

    sections = {
        "model": {"config": _llama(gpu=gpu, length=length)},
        "scoring": {"max_failed_share": 0.2},  # prompts that fill max_length leave no response
        "training": {
            "batch_size": _BATCH_SIZE,
            "learning_rate": 1e-3,
            "warmup_steps": 20,
            **({"dtype": "bfloat16"} if gpu else {"torch_threads": 1}),
        },
    }
    horizon = Horizon(epochs=1, same_cost=1, rounds=1)
    all_data = arms(horizon)[ALL]
    named_arms = {
        ALL: all_data | {"training": {"micro_batch_size": _BATCH_SIZE}},
        "all data, sorted by length": all_data,
        "all data, packed": all_data | {"task": {"packing": True}},
    }
    return Regime(horizon, data=data, sections=sections, quality="eval_loss", named_arms=named_arms)


def _dolly(source: Path) -> pl.DataFrame:
    rows = pl.read_parquet(source / "dolly15k.parquet")
    return rows.select(
        prompt=pl.concat_str("instruction", "input", separator="\n"), answer="output"
    )


def _gsm8k(source: Path) -> pl.DataFrame:
    rows = pl.read_parquet(source / "gsm8k_train.parquet")
    return rows.select(prompt="question", answer="answer")


def _tokenizer(texts: pl.DataFrame, folder: Path) -> str:
    from trainers.inputs.tokenizer import train_tokenizer

    if not folder.exists():
        both = texts.select(pl.concat_str("prompt", "answer", separator="\n")).to_series()
        train_tokenizer(both.to_list(), folder, vocab_size=_VOCABULARY)
    return str(folder)


def _llama(*, gpu: bool, length: int) -> dict[str, Any]:
    width = 512 if gpu else 96
    return {
        "model_type": "llama",
        "vocab_size": _VOCABULARY,
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": 8 if gpu else 3,
        "num_attention_heads": 4,
        "max_position_embeddings": length,
        "tie_word_embeddings": True,
    }
