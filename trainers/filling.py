"""Fill batches: samples of similar length together, longest first, within a budget of units.

Batches depend only on the lengths and the limits, so that they can be made again.
"""

from collections.abc import Sequence

# Largest share of padding, over all batches that are filled together.
MAX_PADDING = 0.05


def padded(lengths: Sequence[int]) -> int:
    """Return the units of a batch, padding included."""
    return len(lengths) * max(lengths, default=0)


def fill(lengths: Sequence[int], *, units: int, max_samples: int | None = None) -> list[list[int]]:
    """Return the positions in `lengths` of each batch's samples.

    A batch costs its number of samples times its longest one, because the others are padded to it:
    at most `units`, unless a single sample is longer. Padding is at most `MAX_PADDING` of the
    cost of all batches. Samples of equal length stay in order.
    """
    longest_first = sorted(range(len(lengths)), key=lambda position: -lengths[position])
    batches: list[list[int]] = []
    longest, cost, padding = 0, 0, 0
    for position in longest_first:
        added = longest - lengths[position]
        fits = (
            batches
            and (len(batches[-1]) + 1) * longest <= units
            and len(batches[-1]) != max_samples
            and padding + added <= MAX_PADDING * (cost + longest)
        )
        if not fits:
            batches.append([])
            longest, added = lengths[position], 0
        batches[-1].append(position)
        cost, padding = cost + longest, padding + added
    return batches
