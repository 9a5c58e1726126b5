"""The metrics of a round, `metrics/<round>.parquet`, one row per number.

Publishing them marks the round as finished. The statistics of its scoring and of its selection are
separate files, `metrics/scoring/<round>.parquet` and `metrics/selecting/<round>.parquet`.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from catalogs import storage
from catalogs.layout import Layout
from catalogs.losses.unusable import Unusable
from catalogs.tables import frames

# Key of the notes in the footer of a round's metrics.
_NOTE = "unusable"

METRICS = {"round": pl.UInt32, "name": pl.String, "value": pl.Float64}


def publish(
    run: str,
    round_number: int,
    values: Mapping[str, float],
    *,
    unusable: Mapping[str, Unusable] | None = None,
    notes: frames.Notes | None = None,
) -> None:
    """Publish the metrics of a round, and the samples that each of its stages could not use.

    `notes` are further facts in the footer of the file, see `read_notes`.
    """
    left_out = {stage: samples.to_dict() for stage, samples in (unusable or {}).items() if samples}
    footer = {**(notes or {}), _NOTE: left_out}
    _publish(Layout(run).round_metrics(round_number), round_number, values, notes=footer)


def publish_scoring(run: str, round_number: int, values: Mapping[str, float]) -> None:
    """Publish the statistics of a round's scoring."""
    _publish(Layout(run).scoring_metrics(round_number), round_number, values, notes={})


def publish_selection(run: str, round_number: int, values: Mapping[str, float]) -> None:
    """Publish what the selection of a round cost, for a process that resumes the round."""
    _publish(Layout(run).selection_metrics(round_number), round_number, values, notes={})


def _publish(
    url: str, round_number: int, values: Mapping[str, float], *, notes: frames.Notes
) -> None:
    table = pl.DataFrame(
        [(round_number, name, float(value)) for name, value in values.items()],
        schema=METRICS,
        orient="row",
    )
    frames.publish_frame(url, table, notes=notes)


def read(run: str, round_number: int) -> dict[str, float] | None:
    """Return the metrics of a round; None if it is not finished."""
    return _read(Layout(run).round_metrics(round_number))


def read_selection(run: str, round_number: int) -> dict[str, float]:
    """Return what the selection of a round cost; nothing if that was not measured."""
    return _read(Layout(run).selection_metrics(round_number)) or {}


def _read(url: str) -> dict[str, float] | None:
    if storage.info(url) is None:
        return None
    table, _ = frames.read_frame(url, schema=METRICS)
    return dict(zip(table["name"], table["value"], strict=True))


def read_unusable(run: str, round_number: int) -> dict[str, Unusable]:
    """Return the samples that each stage of a finished round could not use, where there are any."""
    notes = read_notes(run, round_number)
    return {stage: Unusable.of(values) for stage, values in notes.get(_NOTE, {}).items()}


def read_notes(run: str, round_number: int) -> frames.Notes:
    """Return the notes in the footer of a finished round's metrics."""
    return frames.notes_of(frames.footer_of(Layout(run).round_metrics(round_number)))


def table(run: str) -> pl.DataFrame:
    """Return one row per finished round: `round` u32 and a float64 column for each name."""
    layout = Layout(storage.normalise(run))
    files = storage.list_objects(layout.metrics)
    stages = (f"{layout.scoring}/", f"{layout.selecting}/")
    return _table([file for file in files if not file.url.startswith(stages)])


def scoring_table(run: str) -> pl.DataFrame:
    """Return one row per scored round: `round` u32 and a float64 column for each name."""
    return _table(storage.list_objects(Layout(run).scoring))


def _table(files: Sequence[storage.ObjectInfo]) -> pl.DataFrame:
    rounds = [frames.read_frame(file.url, schema=METRICS)[0] for file in files]
    if not rounds:
        return pl.DataFrame(schema={"round": pl.UInt32})
    return pl.concat(rounds).pivot("name", index="round", values="value").sort("round")
