"""Cards of notebooks: HTML with a title, a table of facts, and a small plot as inline SVG. Pure.

Text and bars have the colour of the surrounding text, so that light and dark notebooks show them.
"""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

import numpy as np
import numpy.typing as npt

_NUM_BARS = 24
_WIDTH, _HEIGHT = 320, 64


def card(title: str, facts: Mapping[str, object], *, plot: str = "") -> str:
    """Return one line of HTML. Facts that are None are left out; `plot` is HTML already."""
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(text_of(value))}</td></tr>'
        for name, value in facts.items()
        if value is not None
    )
    table = f'<table style="color:inherit">{rows}</table>'
    return f"<div><strong>{escape(title)}</strong>{table}{plot}</div>"


def text_of(value: object) -> str:
    """Return a fact as text: integers with separators, floats with four digits, lists joined."""
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {text_of(each)}" for name, each in value.items())
    if isinstance(value, Sequence):
        return ", ".join(map(text_of, value))
    return str(value)


def histogram(values: npt.ArrayLike, *, caption: str) -> str:
    """Return the histogram of the finite values as SVG; nothing if there are none."""
    numbers = np.asarray(values, np.float64)
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        return ""
    low, high = float(numbers.min()), float(numbers.max())
    # Bars of nearly equal values must have a width.
    scale = 1e-6 * max(abs(low), abs(high))
    margin = 0.0 if high - low > max(scale, 1e-300) else max(scale, 1e-6)
    counts, edges = np.histogram(numbers, bins=_NUM_BARS, range=(low - margin, high + margin))
    names = [f"{edges[i]:.4g} to {edges[i + 1]:.4g}" for i in range(_NUM_BARS)]
    ends = (text_of(numbers.min()), text_of(numbers.max()))
    return bars(counts, names=names, ends=ends, caption=caption)


def shard_bars(
    shard_ids: npt.ArrayLike, num_samples: npt.ArrayLike, *, num_shards: int, caption: str
) -> str:
    """Return the number of samples by shard as SVG, a bar for each shard or several in a row."""
    edges = np.linspace(0, num_shards, min(_NUM_BARS, num_shards) + 1).round().astype(np.int64)
    heights, _ = np.histogram(shard_ids, bins=edges, weights=num_samples)
    names = [
        f"shard {first}" if last == first + 1 else f"shards {first} to {last - 1}"
        for first, last in pairwise(edges.tolist())
    ]
    ends = ("shard 0", f"shard {num_shards - 1:,}" if num_shards > 1 else "")
    return bars(heights.astype(np.int64), names=names, ends=ends, caption=caption)


def bars(
    heights: npt.ArrayLike, *, names: Sequence[str], ends: tuple[str, str], caption: str
) -> str:
    """Return bars as SVG.

    Args:
        heights: of the bars; none is negative.
        names: of the bars, shown with the height under the mouse.
        ends: what the ends of the axis are called.
        caption: what the bars show.
    """
    numbers = np.nan_to_num(np.asarray(heights, np.float64))
    tallest, width = max(float(numbers.max(initial=0)), 1e-30), _WIDTH / max(1, len(numbers))
    shapes = []
    for place, (name, number) in enumerate(zip(names, numbers, strict=True)):
        height = _HEIGHT * float(number) / tallest
        exact = int(number) if number == int(number) else float(number)
        shapes.append(
            f'<rect x="{place * width:.1f}" y="{_HEIGHT - height:.1f}" width="{width * 0.9:.1f}"'
            f' height="{height:.1f}"><title>{escape(f"{name}: {text_of(exact)}")}</title></rect>'
        )
    return (
        f'<svg role="img" aria-label="{escape(caption)}" width="{_WIDTH}" height="{_HEIGHT + 34}"'
        f' fill="currentColor" font-size="11"><g fill-opacity="0.55">{"".join(shapes)}</g>'
        f'<text x="0" y="{_HEIGHT + 13}">{escape(ends[0])}</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT + 13}" text-anchor="end">{escape(ends[1])}</text>'
        f'<text x="0" y="{_HEIGHT + 29}">{escape(caption)}</text></svg>'
    )


def share_bar(shares: Mapping[str, float]) -> str:
    """Return horizontal bars as SVG, one for each share in [0, 1] with its name."""
    shapes = []
    for place, (name, share) in enumerate(shares.items()):
        top = place * 20
        shapes.append(
            f'<rect x="0" y="{top}" width="{_WIDTH}" height="14" fill-opacity="0.12"/>'
            f'<rect x="0" y="{top}" width="{_WIDTH * share:.1f}" height="14" fill-opacity="0.55"/>'
            f'<text x="{_WIDTH + 8}" y="{top + 11}">{escape(f"{name} {share:.1%}")}</text>'
        )
    caption = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    return (
        f'<svg role="img" aria-label="{escape(caption)}" width="{_WIDTH + 140}"'
        f' height="{20 * len(shares)}" fill="currentColor" font-size="11">{"".join(shapes)}</svg>'
    )
