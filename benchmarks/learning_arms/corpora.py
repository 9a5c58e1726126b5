"""The data of each regime: Parquet files derived deterministically from public data."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

_ROW_GROUP = 1_000


def write_once(path: Path, make: Callable[[], pl.DataFrame]) -> str:
    """The Parquet file at `path`, written if missing."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        make().write_parquet(unfinished, row_group_size=_ROW_GROUP)
        unfinished.rename(path)
    return str(path)


def shuffle(rows: pl.DataFrame, *, seed: int = 0) -> pl.DataFrame:
    """The rows in a fixed random order."""
    return rows[np.random.default_rng(seed).permutation(len(rows))]


def web_like(
    rows: pl.DataFrame,
    *,
    num_samples: int,
    seed: int = 0,
    tail: float = 0.02,
    copied: float = 0.5,
    mislabelled: float = 0.05,
    nudge: Callable[[bytes, np.random.Generator], bytes] | None = None,
) -> pl.DataFrame:
    """`num_samples` rows with duplicates, rare classes and wrong labels, like a crawl.

    Args:
        rows: balanced rows with `image` and `label`, the source of all draws.
        num_samples: number of rows of the result.
        seed: seed of all draws.
        tail: frequency of the rarest class relative to the most frequent; the others are spaced
            geometrically between them in a random order.
        copied: share of the rows that are near-duplicates of another row of the result.
        mislabelled: share of the rows with another class's label.
        nudge: function that returns a near-duplicate of an image.

    Returns:
        `image`, `label`, and the changes of the row: `is_copy`, `is_mislabelled`.
    """
    rng = np.random.default_rng(seed)
    nudge = nudge or nudge_image
    num_originals = num_samples - round(copied * num_samples)
    classes = rng.permutation(rows["label"].unique().sort().to_numpy())
    counts = class_counts(len(classes), total=num_originals, tail=tail)
    originals = pl.concat(
        _draw_rows(rows.filter(pl.col("label") == label), count, rng=rng)
        for label, count in zip(classes, counts, strict=True)
    )
    # The number of copies of a row is proportional to 1/rank.
    weights = 1 / np.arange(1, len(originals) + 1)
    order = rng.permutation(len(originals))
    picks = order[
        rng.choice(len(originals), size=num_samples - len(originals), p=weights / weights.sum())
    ]
    copies = originals[picks].with_columns(
        image=pl.Series([nudge(image, rng) for image in originals[picks]["image"]])
    )
    table = pl.concat(
        [originals.with_columns(is_copy=False), copies.with_columns(is_copy=True)]
    ).with_row_index("place")
    wrong = rng.choice(len(table), size=round(mislabelled * len(table)), replace=False)
    shift = rng.integers(1, len(classes), size=len(wrong))
    labels = table["label"].to_numpy().copy()
    labels[wrong] = (labels[wrong] + shift) % len(classes)
    spoiled = table.with_columns(
        label=pl.Series(labels),
        is_mislabelled=pl.col("place").is_in(wrong.tolist()),
    )
    return spoiled.drop("place")[rng.permutation(len(spoiled))]


def class_counts(num_classes: int, *, total: int, tail: float) -> list[int]:
    """Geometrically falling counts with the sum `total`; the last is `tail` times the first."""
    shares = tail ** (np.arange(num_classes) / max(1, num_classes - 1))
    edges = np.round(np.concatenate([[0], np.cumsum(shares / shares.sum())]) * total).astype(int)
    return np.diff(edges).tolist()


def nudge_image(image: bytes, rng: np.random.Generator) -> bytes:
    """The PNG shifted by up to one pixel, slightly lighter or darker, with faint noise."""
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(image)), dtype=np.float64)
    moved = np.roll(pixels, shift=tuple(rng.integers(-1, 2, size=2)), axis=(0, 1))
    lit = moved * rng.uniform(0.9, 1.1) + rng.normal(0, 4, size=moved.shape) * (moved > 0)
    buffer = io.BytesIO()
    Image.fromarray(lit.clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _draw_rows(rows: pl.DataFrame, count: int, *, rng: np.random.Generator) -> pl.DataFrame:
    if count > len(rows):
        raise SystemExit(f"a class needs {count} images and has {len(rows)}: lower --samples")
    return rows[np.sort(rng.choice(len(rows), size=count, replace=False))]


def fashion(source: Path, part: str) -> pl.DataFrame:
    """`image` and `label` of Fashion-MNIST, `train` or `test`."""
    path = source / f"fashion_mnist_{part}.parquet"
    return pl.read_parquet(path, columns=["image", "label"]).cast({"label": pl.Int64})


def pixels(images: pl.Series) -> np.ndarray:
    """float32[images, 1, height, width] in [−1, 1] of PNGs of one size."""
    from PIL import Image

    stacked = np.stack([np.asarray(Image.open(io.BytesIO(image))) for image in images])
    return (stacked[:, None] / 127.5 - 1).astype(np.float32)
