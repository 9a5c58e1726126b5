"""How well a training order mixes what lay side by side in storage, beside a perfect shuffle.

Pure numpy over an order.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attent_select.stats.permutation import permute


@dataclass(frozen=True)
class ShuffleQuality:
    """Of a training order.

    `rank_correlation` is Spearman's between the place in training and the place in storage, in
    [-1, 1]: 1 in stored order, about 0 where nothing of it is left. `batch_mix` is the mean over
    the batches of the total variation distance between the groups (classes, shards) of a batch and
    of all, in [0, 1]; `perfect_batch_mix` is that of a random order of the same samples, which is
    not 0, as a batch holds few samples.
    """

    rank_correlation: float
    batch_mix: float
    perfect_batch_mix: float


def shuffle_quality(
    places: npt.NDArray[np.int64], groups: npt.NDArray[np.int64], *, batch_size: int
) -> ShuffleQuality:
    """Of samples in training order, whose places in storage and groups these are."""
    perfect = permute(np.arange(len(groups)), size=max(len(groups), 1), key=0)
    return ShuffleQuality(
        rank_correlation=_rank_correlation(places),
        batch_mix=_mean_distance(groups, batch_size=batch_size),
        perfect_batch_mix=_mean_distance(groups[perfect], batch_size=batch_size),
    )


def _rank_correlation(places: npt.NDArray[np.int64]) -> float:
    """0 for fewer than two samples."""
    if len(places) < 2:
        return 0.0
    ranks = np.empty(len(places), np.float64)
    ranks[np.argsort(places)] = np.arange(len(places))
    return float(np.corrcoef(np.arange(len(places)), ranks)[0, 1])


def _mean_distance(groups: npt.NDArray[np.int64], *, batch_size: int) -> float:
    """Mean over the whole batches (over all samples where there is none) of ½·Σ|share − share|."""
    _, codes, totals = np.unique(groups, return_inverse=True, return_counts=True)
    batch_size = min(batch_size, len(groups))
    if not batch_size:
        return 0.0
    num_batches = len(groups) // batch_size
    batches = np.repeat(np.arange(num_batches), batch_size)
    pairs = batches * len(totals) + codes[: len(batches)]
    found, counts = np.unique(pairs, return_counts=True)
    expected = totals[found % len(totals)] / len(groups)
    # Groups that a batch lacks add their whole share: 1 less what those add that it has.
    inside = np.abs(counts / batch_size - expected) - expected
    return float((inside.sum() + num_batches) / 2 / num_batches)
