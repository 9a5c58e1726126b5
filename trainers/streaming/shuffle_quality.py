"""Quality of a shuffle: how well it mixes neighbours in storage, against a perfect shuffle."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attent_select.stats.permutation import permute


@dataclass(frozen=True)
class ShuffleQuality:
    """Quality of a training order.

    Attributes:
        rank_correlation: Spearman's, between the positions in training and in storage, in [-1, 1]:
            1 in stored order, about 0 for a perfect shuffle.
        batch_mix: total variation distance between the groups (classes, shards) of a batch and of
            all samples, mean over batches, in [0, 1].
        perfect_batch_mix: the same for a random order of these samples; not 0, because a batch
            has few samples.
    """

    rank_correlation: float
    batch_mix: float
    perfect_batch_mix: float


def shuffle_quality(
    positions: npt.NDArray[np.int64], groups: npt.NDArray[np.int64], *, batch_size: int
) -> ShuffleQuality:
    """Measure an order, from the storage positions and the groups of samples in training order."""
    perfect = permute(np.arange(len(groups)), size=max(len(groups), 1), key=0)
    return ShuffleQuality(
        rank_correlation=_rank_correlation(positions),
        batch_mix=_mean_distance(groups, batch_size=batch_size),
        perfect_batch_mix=_mean_distance(groups[perfect], batch_size=batch_size),
    )


def _rank_correlation(positions: npt.NDArray[np.int64]) -> float:
    """Spearman's rank correlation with the training order; 0 for fewer than two samples."""
    if len(positions) < 2:
        return 0.0
    ranks = np.empty(len(positions), np.float64)
    ranks[np.argsort(positions)] = np.arange(len(positions))
    return float(np.corrcoef(np.arange(len(positions)), ranks)[0, 1])


def _mean_distance(groups: npt.NDArray[np.int64], *, batch_size: int) -> float:
    """Return the mean of ½·Σ|share − share| over full batches, or over all samples without one."""
    _, codes, totals = np.unique(groups, return_inverse=True, return_counts=True)
    batch_size = min(batch_size, len(groups))
    if not batch_size:
        return 0.0
    num_batches = len(groups) // batch_size
    batches = np.repeat(np.arange(num_batches), batch_size)
    pairs = batches * len(totals) + codes[: len(batches)]
    present, counts = np.unique(pairs, return_counts=True)
    expected = totals[present % len(totals)] / len(groups)
    # Groups missing in a batch add their whole share: 1 minus the shares of those present.
    inside = np.abs(counts / batch_size - expected) - expected
    return float((inside.sum() + num_batches) / 2 / num_batches)
