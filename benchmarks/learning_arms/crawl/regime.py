"""The regime `crawl`: its model, its files, and the losses that it is judged by."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import polars as pl

from learning_arms.arms import Horizon
from learning_arms.crawl.annotations import (
    annotate,
    annotate_by_surrogate,
    fitted_surrogate,
    surrogate_annotations,
)
from learning_arms.crawl.arms import FITTED, crawl_arms, uniform_name
from learning_arms.crawl.pool import REST, TARGETS, WANTED, Pool, Sizes, make_pool
from learning_arms.regime import Data, Regime
from learning_arms.trial import held_out
from trainers.inputs.tokenizer import train_tokenizer

_VOCABULARY: Final = 2048
_LENGTH: Final = 256
# Samples of a policy; some 190 tokens each.
_SAMPLES: Final = 2_500


def crawl(*, gpu: bool, sizes: Sizes | None = None, samples: int | None = None) -> Regime:
    """Return the regime; `sizes` and `samples` of a small one for tests."""
    samples = samples or (400_000 if gpu else _SAMPLES)
    sizes = sizes or (Sizes(pool=20_000_000) if gpu else Sizes())

    def data(source: Path, folder: Path) -> Data:
        folder.mkdir(parents=True, exist_ok=True)
        pool = make_pool(source, folder, sizes=sizes)
        return _data(pool, folder, sections=_sections(gpu=gpu), samples=samples)

    return Regime(
        Horizon(epochs=1, same_cost=1, rounds=1),
        data=data,
        sections=_sections(gpu=gpu),
        quality="eval_loss",
        probe=_Losses,
        named_arms=crawl_arms(samples),
        is_judged_by_curves=True,
        is_charged_by_token=True,
        learning_rates=(2e-3, 4e-3, 8e-3),
        tuned=uniform_name(1),
    )


def _sections(*, gpu: bool) -> dict[str, Any]:
    width, layers = (512, 10) if gpu else (128, 4)
    config = {
        "model_type": "llama",
        "vocab_size": _VOCABULARY,
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": _LENGTH,
        "tie_word_embeddings": True,
        # The default is for widths near 1,000: with it a small model begins slowly.
        "initializer_range": 0.02 if gpu else 0.06,
    }
    return {
        "model": {"config": config},
        "scoring": {"max_failed_share": 0.2},  # pieces of one token have no loss
        "training": {
            "batch_size": 128 if gpu else 4,
            "weight_decay": 0.1,
            "warmup_steps": 50,
            **({"dtype": "bfloat16"} if gpu else {"torch_threads": 1}),
        },
    }


def _data(pool: Pool, folder: Path, *, sections: Mapping[str, Any], samples: int) -> Data:
    """Ingest and annotate the pool, unless that is done."""
    corpus = folder / "corpus"
    files = {"task": text_task(pool, folder), "corpus": {"path": str(corpus)}}

    def by_surrogate(data: Data, arms: str) -> Data:
        if not surrogate_annotations(arms):
            return data
        costs = annotate_by_surrogate(
            pool, corpus, arms, sections={**sections, **files}, samples=samples
        )
        stand_ins = {FITTED: fitted_surrogate(corpus)} if FITTED in arms else {}
        return replace(data, costs=costs, stand_ins=stand_ins)

    return Data(
        train=f"{pool.shards}/000.parquet",
        curve=None,
        final=pool.judged["broad"],
        sections=files,
        costs=annotate(pool, corpus),
        digest=pool.digest,
        judged=pool.judged,
        further=by_surrogate,
    )


def text_task(pool: Pool, folder: Path) -> dict[str, Any]:
    """Return the section `task`; the tokenizer is trained unless that is done."""
    tokenizer = folder / "tokenizer"
    if not tokenizer.exists():
        rows = pl.read_parquet(f"{pool.shards}/*.parquet", columns=["text"])
        train_tokenizer(rows["text"][:8_000], tokenizer, vocab_size=_VOCABULARY)
    return {
        "name": "causal_lm",
        "tokenizer": str(tokenizer),
        "text": "text",
        "max_length": _LENGTH,
        "packing": True,
    }


class _Losses:
    """Loss by target, by kind of wanted text, and on the rest, which is what is forgotten."""

    def __init__(self, data: Data) -> None:
        names = [name for name in (*TARGETS, *WANTED, REST) if name not in ("broad", "narrow")]
        self._sets = {name: held_out(data.judged[name], data.sections) for name in names}

    def metrics(self, model: Any) -> dict[str, float]:
        losses = {
            f"{name}_loss": part.metrics(model)["eval_loss"] for name, part in self._sets.items()
        }
        return losses | {"narrow_loss": losses["mathematics_loss"]}
