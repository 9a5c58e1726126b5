"""Which prepared samples go through a model together: longest first, within a budget of units. The
batches depend only on the samples and the settings: a loss can differ in its last bits with its
company.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol

from trainers.task import Item


class Batching(Protocol):
    """What `ScoringSettings` says; whoever has the same fields will do."""

    @property
    def batch_units(self) -> int: ...
    @property
    def max_batch_samples(self) -> int: ...
    @property
    def window_samples(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def compile(self) -> bool: ...
    @property
    def functional_gradient(self) -> bool: ...


def batches(
    prepared: Iterable[list[tuple[int, Item]]], settings: Batching
) -> Iterator[list[tuple[int, Item]]]:
    """(row, item) in batches: longest first among the samples of a window."""
    window: list[tuple[int, Item]] = []
    for piece in prepared:
        window += piece
        while len(window) >= settings.window_samples:
            yield from _of_window(window[: settings.window_samples], settings)
            window = window[settings.window_samples :]
    yield from _of_window(window, settings)


def _of_window(
    window: list[tuple[int, Item]], settings: Batching
) -> Iterator[list[tuple[int, Item]]]:
    longest_first = sorted(window, key=lambda entry: (-entry[1]["num_units"], entry[0]))
    batch: list[tuple[int, Item]] = []
    for entry in longest_first:
        # The first is the longest: all others are padded to it.
        padded_units = (len(batch) + 1) * (batch or [entry])[0][1]["num_units"]
        if batch and (
            padded_units > settings.batch_units or len(batch) == settings.max_batch_samples
        ):
            yield batch
            batch = []
        batch.append(entry)
    if batch:
        yield batch
