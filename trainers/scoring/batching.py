"""Batches of prepared samples for scoring: longest first, within a budget of units.

Batches depend only on the samples and the settings: a loss can differ in its last bits with the
batch it was computed in.
"""

from collections.abc import Iterable, Iterator

from trainers.filling import fill
from trainers.settings import ScoringSettings
from trainers.task import Item


def batches(
    prepared: Iterable[list[tuple[int, Item]]],
    settings: ScoringSettings,
    *,
    is_packed: bool = False,
) -> Iterator[list[tuple[int, Item]]]:
    """Yield (row, item) in batches: longest first among the samples of a window."""
    window: list[tuple[int, Item]] = []
    for items in prepared:
        window += items
        while len(window) >= settings.window_samples:
            yield from _split_window(
                window[: settings.window_samples], settings, is_packed=is_packed
            )
            window = window[settings.window_samples :]
    yield from _split_window(window, settings, is_packed=is_packed)


def _split_window(
    window: list[tuple[int, Item]], settings: ScoringSettings, *, is_packed: bool
) -> Iterator[list[tuple[int, Item]]]:
    window = sorted(window, key=lambda entry: entry[0])
    lengths = [item["num_units"] for _, item in window]
    filled = fill(
        lengths,
        units=settings.batch_units,
        max_samples=settings.max_batch_samples,
        is_packed=is_packed,
    )
    for positions in filled:
        yield [window[position] for position in positions]
