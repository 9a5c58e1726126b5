"""What each round measured: `metrics/<round>.parquet`, one row per number.

Here: writing it (which marks a round as finished) and reading all rounds as one table. Not here:
measuring (`rounds.py`).
"""

from collections.abc import Mapping

import polars as pl

from catalogs import frames, storage
from catalogs.layout import Layout

METRICS = {"round": pl.UInt32, "name": pl.String, "value": pl.Float64}


def publish(run: str, round_number: int, values: Mapping[str, float]) -> None:
    """Write the numbers of a round."""
    table = pl.DataFrame(
        [(round_number, name, float(value)) for name, value in values.items()],
        schema=METRICS,
        orient="row",
    )
    frames.publish_frame(Layout(run).round_metrics(round_number), table, notes={})


def read(run: str, round_number: int) -> dict[str, float] | None:
    """The numbers of a round; None if it is not finished."""
    url = Layout(run).round_metrics(round_number)
    if storage.info(url) is None:
        return None
    table, _ = frames.read_frame(url, schema=METRICS)
    return dict(zip(table["name"], table["value"], strict=True))


def table(run: str) -> pl.DataFrame:
    """One row per finished round: `round` u32 and a float64 column for each name."""
    files = storage.list_objects(Layout(run).metrics)
    rounds = [frames.read_frame(file.url, schema=METRICS)[0] for file in files]
    if not rounds:
        return pl.DataFrame(schema={"round": pl.UInt32})
    return pl.concat(rounds).pivot("name", index="round", values="value").sort("round")
