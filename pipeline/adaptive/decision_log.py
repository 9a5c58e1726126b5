"""What was decided per round, and why: `decisions/<round>.json`.

Writing it before anything of the round is done, reading it back, all of them as one table. A
decision that is there is never made again: a round that was killed goes on as it began.
"""

import json
from dataclasses import asdict, fields
from typing import Any

import polars as pl

from attent_select.errors import InputError
from attent_select.schedule.adaptive import Decision, Signals
from attent_select.schedule.cost import ScoringCost
from attent_select.schedule.rounds import Round
from catalogs import storage
from catalogs.layout import Layout

_REASONS = ("ratio", "explore", "rescore")
# One row per decided round.
DECISIONS: dict[str, Any] = {
    "round": pl.UInt32,
    "ratio": pl.Float64,
    "num_samples": pl.UInt64,
    "epochs": pl.UInt32,
    "explore": pl.Float64,
    "rescore": pl.Float64,
    **{f.name: pl.Boolean if f.name == "is_scored" else pl.Float64 for f in fields(Signals)},
    "phi": pl.Float64,
    "phi_source": pl.String,
    **{f"why_{name}": pl.String for name in _REASONS},
}


def publish(run: str, decision: Decision) -> None:
    """Write a decision."""
    text = json.dumps(asdict(decision), indent=2, ensure_ascii=False)
    storage.publish(Layout(run).decision(decision.round.number), f"{text}\n".encode())


def read_all(run: str) -> dict[int, Decision]:
    """Every decision of a run, by round. Raises `InputError` where a file is not one."""
    found = storage.list_objects(Layout(run).decisions)
    decisions = [_parsed(storage.read(one.url), url=one.url) for one in found]
    return {decision.round.number: decision for decision in decisions}


def table(run: str) -> pl.DataFrame:
    """One row per decided round: what, from which signals, and why."""
    rows = [
        {
            "round": one.round.number,
            "ratio": one.round.ratio,
            "num_samples": one.round.num_samples,
            "epochs": one.round.epochs,
            "explore": one.explore,
            "rescore": one.rescore,
            **asdict(one.signals),
            "phi": one.cost.phi,
            "phi_source": one.cost.source,
            **{f"why_{name}": one.reasons[name] for name in _REASONS},
        }
        for one in read_all(run).values()
    ]
    return pl.DataFrame(rows, schema=DECISIONS, orient="row")


def _parsed(data: bytes, *, url: str) -> Decision:
    try:
        values = json.loads(data)
        return Decision(
            round=Round(**values.pop("round")),
            signals=Signals(**values.pop("signals")),
            cost=ScoringCost(**values.pop("cost")),
            **values,
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{url} is no decision ({error}): expected what `attent run` wrote; delete it, and the "
            "round is decided anew, if it was not begun"
        ) from error
