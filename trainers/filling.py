"""Fill batches: samples of similar length together, longest first, within a budget of units.

Batches depend only on the lengths and the limits, so that they can be made again.
"""

from collections.abc import Sequence

# Largest share of padding, over all batches that are filled together.
MAX_PADDING = 0.05


def cost(lengths: Sequence[int], *, is_packed: bool) -> int:
    """Return the units of a batch: with its padding, unless its samples are packed."""
    return sum(lengths) if is_packed else len(lengths) * max(lengths, default=0)


def computed_units(lengths: Sequence[int], *, is_packed: bool, pads: bool = False) -> int:
    """Return the units that a model computes for a batch.

    `pads`: it cannot keep packed samples apart, and pads parts of similar length instead.
    """
    if not (is_packed and pads):
        return cost(lengths, is_packed=is_packed)
    parts = fill_in_order(lengths, units=sum(lengths))
    return sum(cost(lengths[part], is_packed=False) for part in parts)


def fill(
    lengths: Sequence[int], *, units: int, max_samples: int | None = None, is_packed: bool = False
) -> list[list[int]]:
    """Return the positions in `lengths` of each batch's samples, longest first.

    A batch costs at most `units`, unless a single sample is longer. Where samples are padded,
    padding is at most `MAX_PADDING` of the cost of all batches. Samples of equal length stay in
    order.
    """
    longest_first = sorted(range(len(lengths)), key=lambda position: -lengths[position])
    in_order = [lengths[position] for position in longest_first]
    slices = fill_in_order(in_order, units=units, max_samples=max_samples, is_packed=is_packed)
    return [longest_first[part] for part in slices]


def fill_in_order(
    lengths: Sequence[int], *, units: int, max_samples: int | None = None, is_packed: bool = False
) -> list[slice]:
    """Divide samples into batches as `fill` does, in the order that they have."""
    slices: list[slice] = []
    first, longest, num_units = 0, 0, 0
    # Of all samples so far, and of those in finished batches.
    total, finished_cost = 0, 0
    for position, length in enumerate(lengths):
        number = position - first + 1
        longest, num_units, total = max(longest, length), num_units + length, total + length
        batch_cost = num_units if is_packed else number * longest
        all_cost = finished_cost + batch_cost
        fits = (
            batch_cost <= units
            and number <= (max_samples or number)
            and all_cost - total <= MAX_PADDING * all_cost
        )
        if number > 1 and not fits:
            slices.append(slice(first, position))
            finished_cost += cost(lengths[first:position], is_packed=is_packed)
            first, longest, num_units = position, length, length
    return [*slices, slice(first, len(lengths))] if lengths else []
