"""Regimes without class labels: a masked autoencoder with a linear probe, and segmentation of
nuclei.
"""

from pathlib import Path
from typing import Any

import polars as pl

from learning_arms import corpora
from learning_arms.arms import Horizon
from learning_arms.regime import Data, Regime


def mae(*, gpu: bool) -> Regime:
    """ViT-MAE on Fashion-MNIST, evaluated by a linear probe of its features."""

    def data(source: Path, folder: Path) -> Data:
        train, test = corpora.fashion(source, "train"), corpora.fashion(source, "test")
        num_train = 60_000 if gpu else 6_000
        return Data(
            corpora.write_once(
                folder / "train.parquet", lambda: corpora.shuffle(train)[:num_train]
            ),
            corpora.write_once(folder / "curve.parquet", lambda: test[:1_000]),
            corpora.write_once(folder / "final.parquet", lambda: test),
        )

    width = 192 if gpu else 48
    sections = {
        "task": {"name": "masked_image_modeling", "image_size": 28, "num_channels": 1},
        "model": {
            "config": {
                "model_type": "vit_mae",
                "image_size": 28,
                "patch_size": 4 if gpu else 7,
                "num_channels": 1,
                "hidden_size": width,
                "intermediate_size": 2 * width,
                "num_hidden_layers": 6 if gpu else 2,
                "num_attention_heads": 4,
                "decoder_hidden_size": 48,
                "decoder_intermediate_size": 96,
                "decoder_num_hidden_layers": 1,
                "decoder_num_attention_heads": 4,
                "mask_ratio": 0.5,
                "norm_pix_loss": False,
            }
        },
        "training": {
            "batch_size": 64,
            "learning_rate": 2e-3,
            "weight_decay": 0.05,
            "warmup_steps": 50,
            **({"dtype": "bfloat16"} if gpu else {"torch_threads": 1}),
        },
    }
    horizon = Horizon(epochs=12, same_cost=7, rounds=9, anneal=2)
    return Regime(horizon, data=data, sections=sections, quality="probe_accuracy", probe=_Probe)


def segmentation(*, gpu: bool) -> Regime:
    """SegFormer from scratch on nuclei."""

    def data(source: Path, folder: Path) -> Data:
        train = pl.read_parquet(source / "nuclei_seg_train.parquet", columns=["image", "mask"])
        test = pl.read_parquet(source / "nuclei_seg_val.parquet", columns=["image", "mask"])
        return Data(
            corpora.write_once(folder / "train.parquet", lambda: corpora.shuffle(train)),
            None,
            corpora.write_once(folder / "final.parquet", lambda: test),
        )

    sizes = [32, 64, 128, 192] if gpu else [16, 32, 64, 96]
    sections = {
        "task": {"name": "semantic_segmentation", "image_size": 96, "augment": True, "flip": True},
        "model": {
            "config": {
                "model_type": "segformer",
                "num_labels": 3,
                "depths": [1, 1, 1, 1],
                "hidden_sizes": sizes,
                "num_attention_heads": [1, 2, 4, 8],
                "mlp_ratios": [2, 2, 2, 2],
                "decoder_hidden_size": 64,
            }
        },
        "training": {
            "batch_size": 16,
            "learning_rate": 2e-3,
            "weight_decay": 0.01,
            "warmup_steps": 20,
            **({} if gpu else {"torch_threads": 1}),
        },
    }
    epochs = 40 if gpu else 12
    anneal = epochs // 6
    horizon = Horizon(
        epochs, same_cost=round(0.6 * epochs), rounds=epochs - 1 - anneal, anneal=anneal
    )
    return Regime(horizon, data=data, sections=sections, quality="mean_iou")


class _Probe:
    """`probe_accuracy`: logistic regression on the mean of the patches, with none hidden."""

    def __init__(self, data: Data) -> None:
        self._sides = [
            pl.read_parquet(path, columns=["image", "label"]).head(4_000)
            for path in (data.train, data.final)
        ]

    def metrics(self, model: Any) -> dict[str, float]:
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        seen, unseen = (self._features(model, rows) for rows in self._sides)
        scaler = StandardScaler().fit(seen)
        probe = LogisticRegression(max_iter=200).fit(
            scaler.transform(seen), self._sides[0]["label"]
        )
        score = probe.score(scaler.transform(unseen), self._sides[1]["label"])
        return {"probe_accuracy": float(score)}

    def _features(self, model: Any, rows: pl.DataFrame) -> Any:
        import torch

        pixels = corpora.pixels(rows["image"])
        model.eval()
        ratio, model.vit.config.mask_ratio = model.vit.config.mask_ratio, 0.0
        device = next(model.parameters()).device
        with torch.inference_mode():
            pieces = torch.from_numpy(pixels).split(500)
            outputs = [model.vit(piece.to(device)).last_hidden_state for piece in pieces]
        model.vit.config.mask_ratio = ratio
        return torch.cat([hidden[:, 1:].mean(dim=1).cpu() for hidden in outputs]).numpy()
