"""Cards of notebooks: escaped, well-formed, one line, with a bar for every part of the plot."""

from xml.etree import ElementTree

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from attent_select import select
from attent_select.html_cards import bars, card, histogram, shard_bars, text_of

HOSTILE = '</div><script>alert("1")</script>&'


def heights(svg: str) -> list[str]:
    """The titles of the bars."""
    return [title.text or "" for title in ElementTree.fromstring(svg).iter("title")]


def test_text_of_data_is_escaped() -> None:
    plot = bars([1, 2], names=[HOSTILE, "b"], ends=(HOSTILE, HOSTILE), caption=HOSTILE)
    html = card(HOSTILE, {HOSTILE: [HOSTILE], "missing": None}, plot=plot)
    tree = ElementTree.fromstring(html)
    assert not list(tree.iter("script"))
    assert "missing" not in html
    assert "\n" not in html


@given(arrays.arrays(np.float32, st.integers(0, 50)))
def test_a_histogram_counts_the_finite_values(values: np.ndarray) -> None:
    svg = histogram(values, caption="losses")
    num_finite = int(np.isfinite(values).sum())
    assert bool(svg) == bool(num_finite)
    if svg:
        counts = [int(name.rpartition(": ")[2].replace(",", "")) for name in heights(svg)]
        assert sum(counts) == num_finite


@given(st.lists(st.integers(0, 2**31), min_size=1, max_size=200))
def test_every_sample_is_in_the_bar_of_its_shard(num_samples: list[int]) -> None:
    num_shards = len(num_samples)
    svg = shard_bars(range(num_shards), num_samples, num_shards=num_shards, caption="samples")
    counts = [int(name.rpartition(": ")[2].replace(",", "")) for name in heights(svg)]
    assert len(counts) == min(24, num_shards)
    assert sum(counts) == sum(num_samples)


def test_numbers_are_easy_to_read() -> None:
    assert text_of(1234567) == "1,234,567"
    assert text_of(0.123456) == "0.1235"
    assert text_of({"number": 3, "phase": "teach"}) == "number 3, phase teach"
    assert text_of(np.float32(0.5)) == "0.5"
    assert text_of(True) == "True"


def test_a_selection_shows_its_size_without_reading_its_rows() -> None:
    losses = pl.DataFrame(
        {"shard_id": [0] * 10, "row": range(10), "loss": [float(i) for i in range(10)]},
        schema={"shard_id": pl.UInt32, "row": pl.UInt32, "loss": pl.Float32},
    )
    num_reads = 0

    def count(frame: pl.DataFrame) -> pl.DataFrame:
        nonlocal num_reads
        num_reads += 1
        return frame

    counted = losses.lazy().map_batches(count, schema=losses.schema)
    selection = select(counted, strategy="hard", ratio=0.3)
    before = num_reads
    html = selection._repr_html_()
    assert num_reads == before
    assert ElementTree.fromstring(html).findtext("strong") == "Selection"
    assert "selected 30.0%" in html
    assert "eligible 100.0%" in html
