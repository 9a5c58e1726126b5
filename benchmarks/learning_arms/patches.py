"""Regime of dropped patches: a ViT on Fashion-MNIST, on all patches of an image or on half."""

from pathlib import Path
from typing import Any

import polars as pl

from learning_arms import corpora
from learning_arms.arms import Horizon, Sections, arms
from learning_arms.regime import Data, Regime
from learning_arms.summary import ALL, SHORT

_HALF = {"keep": 0.5, "until": 0.8}
_WRITE_BACK = "write-back (ours)"


def patches(vit: Sections, *, gpu: bool) -> Regime:
    """Half of the patches for 80 % of the steps, alone and together with write-back, against all
    patches for as many epochs, and for the epochs that cost the same.
    """

    def data(source: Path, folder: Path) -> Data:
        rows = corpora.shuffle(corpora.fashion(source, "train"))
        test = corpora.fashion(source, "test")
        num_train = 50_000 if gpu else 3_000
        more = pl.concat([test, rows[50_000 : 60_000 if gpu else 54_000]])
        return Data(
            corpora.write_once(folder / "train.parquet", lambda: rows[:num_train]),
            None,
            corpora.write_once(folder / "final.parquet", lambda: more),
        )

    config = vit["model"]["config"] | {"patch_size": 2 if gpu else 4}
    sections = vit | {"model": {"config": config}}
    horizon = Horizon(epochs=15 if gpu else 10, same_cost=10 if gpu else 7, rounds=12 if gpu else 8)
    return Regime(horizon, data=data, sections=sections, named_arms=_arms(horizon))


def _arms(horizon: Horizon) -> dict[str, Any]:
    known, half = arms(horizon), {"task": {"patches": _HALF}}
    return {
        ALL: known[ALL],
        SHORT: known[SHORT],
        "half of the patches": known[ALL] | half,
        "half of the patches, write-back": known[_WRITE_BACK] | half,
    }
