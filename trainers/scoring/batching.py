"""Batches of prepared samples for scoring: longest first, within a budget of units.

Batches depend only on the samples and the settings: a loss can differ in its last bits with the
batch it was computed in.
"""

from collections.abc import Iterable, Iterator

from trainers.settings import ScoringSettings
from trainers.task import Item


def batches(
    prepared: Iterable[list[tuple[int, Item]]], settings: ScoringSettings
) -> Iterator[list[tuple[int, Item]]]:
    """Yield (row, item) in batches: longest first among the samples of a window."""
    window: list[tuple[int, Item]] = []
    for items in prepared:
        window += items
        while len(window) >= settings.window_samples:
            yield from _split_window(window[: settings.window_samples], settings)
            window = window[settings.window_samples :]
    yield from _split_window(window, settings)


def _split_window(
    window: list[tuple[int, Item]], settings: ScoringSettings
) -> Iterator[list[tuple[int, Item]]]:
    longest_first = sorted(window, key=lambda entry: (-entry[1]["num_units"], entry[0]))
    batch: list[tuple[int, Item]] = []
    for entry in longest_first:
        # The first is the longest; the others are padded to it.
        padded_units = (len(batch) + 1) * (batch or [entry])[0][1]["num_units"]
        if batch and (
            padded_units > settings.batch_units or len(batch) == settings.max_batch_samples
        ):
            yield batch
            batch = []
        batch.append(entry)
    if batch:
        yield batch
