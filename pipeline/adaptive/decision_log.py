"""The decisions of a run and their reasons: `decisions/<round>.json`.

A decision is published before the round's work starts, and is never made again: a round that was
killed resumes as it began.
"""

from dataclasses import asdict, fields
from typing import Any

import polars as pl

from attent_select.errors import InputError
from attent_select.schedule.adaptive import Decision, Signals
from attent_select.schedule.cost import ScoringCost
from attent_select.schedule.rounds import Round
from catalogs import checked_json, storage
from catalogs.layout import Layout

_REASONS = ("ratio", "explore", "rescore", "multiple")
# One row per decided round.
DECISIONS: dict[str, Any] = {
    "round": pl.UInt32,
    "ratio": pl.Float64,
    "num_samples": pl.UInt64,
    "epochs": pl.UInt32,
    "explore": pl.Float64,
    "rescore": pl.Float64,
    "multiple": pl.Float64,
    **{f.name: pl.Boolean if f.name == "is_scored" else pl.Float64 for f in fields(Signals)},
    "phi": pl.Float64,
    "phi_source": pl.String,
    **{f"why_{name}": pl.String for name in _REASONS},
}


def publish(run: str, decision: Decision) -> None:
    """Write a decision."""
    url = Layout(run).decision(decision.round.number)
    storage.publish(url, checked_json.dump(asdict(decision)))


def read_all(run: str) -> dict[int, Decision]:
    """Return every decision of a run by round number.

    Raises:
        InputError: a file is damaged.
    """
    files = storage.list_objects(Layout(run).decisions)
    decisions = [_parse(storage.read(file.url), url=file.url) for file in files]
    return {decision.round.number: decision for decision in decisions}


def table(run: str) -> pl.DataFrame:
    """Return one row per decided round: the decision, its signals and its reasons."""
    rows = [
        {
            "round": each.round.number,
            "ratio": each.round.ratio,
            "num_samples": each.round.num_samples,
            "epochs": each.round.epochs,
            "explore": each.explore,
            "rescore": each.rescore,
            "multiple": each.multiple,
            **asdict(each.signals),
            "phi": each.cost.phi,
            "phi_source": each.cost.source,
            **{f"why_{name}": each.reasons.get(name) for name in _REASONS},
        }
        for each in read_all(run).values()
    ]
    return pl.DataFrame(rows, schema=DECISIONS, orient="row")


def _parse(data: bytes, *, url: str) -> Decision:
    try:
        values = checked_json.load(data, url=url)
        return Decision(
            round=Round(**values.pop("round")),
            signals=Signals(**values.pop("signals")),
            cost=ScoringCost(**values.pop("cost")),
            **values,
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{url} is not a valid decision ({error}): delete it and the round is decided again, "
            "unless work on the round has started"
        ) from error
