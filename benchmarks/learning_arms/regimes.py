"""The regimes by name, and those of image classification; sizes for two cores and for a GPU."""

from pathlib import Path
from typing import Any

import polars as pl

from learning_arms import corpora, dense, language
from learning_arms.arms import Horizon
from learning_arms.crawl.images import crawl_images
from learning_arms.crawl.regime import crawl
from learning_arms.lengths import lengths
from learning_arms.patches import patches
from learning_arms.regime import Data, Regime
from learning_arms.sft.regime import sft_noisy
from pipeline.demo import data as demo_data


def regimes(*, gpu: bool) -> dict[str, Regime]:
    """All regimes by name."""
    return {
        "digits": _digits(),
        "vision": _vision(gpu=gpu),
        "web": _web(gpu=gpu),
        "crawl": crawl(gpu=gpu),
        "crawl_images": crawl_images(_web(gpu=gpu), target=_target),
        "patches": patches(_vit(gpu=gpu), gpu=gpu),
        "lengths": lengths(gpu=gpu),
        "lora_gsm8k": language.gsm8k(gpu=gpu),
        "lora_dolly": language.dolly(gpu=gpu),
        "sft_noisy": sft_noisy(gpu=gpu),
        "mae": dense.mae(gpu=gpu),
        "segmentation": dense.segmentation(gpu=gpu),
    }


def _digits() -> Regime:
    """Data of `attent demo`; a small regime for tests."""

    def data(_: Path, folder: Path) -> Data:
        train, test = (pl.DataFrame(rows) for rows in demo_data.digits(seed=0))
        return Data(
            corpora.write_once(folder / "train.parquet", lambda: train),
            corpora.write_once(folder / "curve.parquet", lambda: test),
            corpora.write_once(folder / "final.parquet", lambda: test),
        )

    sections = _vit(gpu=False)
    sections["task"] = sections["task"] | {"image_size": 8}
    sections["model"] = {"config": sections["model"]["config"] | {"image_size": 8, "patch_size": 2}}
    sections["training"] = sections["training"] | {"batch_size": 32, "warmup_steps": 20}
    horizon = Horizon(epochs=10, same_cost=6, rounds=8, anneal=1)
    return Regime(horizon, data=data, sections=sections)


def _vision(*, gpu: bool) -> Regime:
    def data(source: Path, folder: Path) -> Data:
        rows = corpora.shuffle(corpora.fashion(source, "train"))
        num_train = 50_000 if gpu else 20_000
        test = corpora.fashion(source, "test")
        more = pl.concat([test, rows[50_000 : 60_000 if gpu else 54_000]])
        return Data(
            corpora.write_once(folder / "train.parquet", lambda: rows[:num_train]),
            corpora.write_once(folder / "curve.parquet", lambda: rows[48_000 if gpu else 59_000 :]),
            corpora.write_once(folder / "final.parquet", lambda: more),
        )

    horizon = Horizon(epochs=15, same_cost=9, rounds=12, anneal=2)
    return Regime(horizon, data=data, sections=_vit(gpu=gpu))


def _web(*, gpu: bool) -> Regime:
    def data(source: Path, folder: Path) -> Data:
        rows = corpora.shuffle(corpora.fashion(source, "train"))
        num_samples = 200_000 if gpu else 14_000
        more = pl.concat(
            [corpora.fashion(source, "test"), rows[50_000 : 60_000 if gpu else 54_000]]
        )
        return Data(
            corpora.write_once(
                folder / "train.parquet",
                lambda: corpora.web_like(rows[:48_000], num_samples=num_samples),
            ),
            corpora.write_once(folder / "curve.parquet", lambda: rows[49_000:50_000]),
            corpora.write_once(folder / "final.parquet", lambda: more),
        )

    horizon = Horizon(epochs=5, same_cost=3, rounds=12, is_raw=True)
    return Regime(horizon, data=data, sections=_vit(gpu=gpu))


def _target(source: Path) -> pl.DataFrame:
    """Images without their labels, of none of the other parts of `web`."""
    return corpora.shuffle(corpora.fashion(source, "train"))[48_000:48_400].select("image")


def _vit(*, gpu: bool) -> dict[str, Any]:
    width = 192 if gpu else 48
    return {
        "task": {"name": "image_classification", "image_size": 28, "num_channels": 1},
        "model": {
            "config": {
                "model_type": "vit",
                "image_size": 28,
                "patch_size": 4 if gpu else 7,
                "num_channels": 1,
                "num_labels": 10,
                "hidden_size": width,
                "intermediate_size": 2 * width,
                "num_hidden_layers": 6 if gpu else 2,
                "num_attention_heads": 4,
                "hidden_dropout_prob": 0.0,
                "attention_probs_dropout_prob": 0.0,
            }
        },
        "training": {
            "batch_size": 256 if gpu else 64,
            "learning_rate": 1e-3 if gpu else 2e-3,
            "weight_decay": 0.05,
            "warmup_steps": 100,
            **({"dtype": "bfloat16"} if gpu else {"torch_threads": 1}),
        },
    }
