"""The moving quotas of a run and their reasons: `quotas/<round>.json`.

A decision is published before the round's index is written, and is never made again.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from attent_select.errors import InputError
from catalogs import checked_json, storage
from catalogs.layout import Layout

# One row per round and stratum.
QUOTAS: dict[str, Any] = {
    "round": pl.UInt32,
    "stratum": pl.String,
    "before": pl.Float64,
    "share": pl.Float64,
    "samples": pl.UInt32,
    "loss": pl.Float64,
    "reference": pl.Float64,
    "excess": pl.Float64,
    "why": pl.String,
}


@dataclass(frozen=True)
class StratumQuota:
    """The share of a stratum in a round.

    Attributes:
        before: share in the round before.
        share: share in this round.
        samples: random samples that were compared.
        loss, reference, excess: means over them, in nats; None without any.
        why: the reason for the share, in words.
    """

    before: float
    share: float
    samples: int
    loss: float | None
    reference: float | None
    excess: float | None
    why: str


@dataclass(frozen=True)
class QuotaDecision:
    """The shares of all strata in a round."""

    round_number: int
    strata: Mapping[str, StratumQuota]

    @property
    def shares(self) -> dict[str, float]:
        return {name: stratum.share for name, stratum in self.strata.items()}

    def __str__(self) -> str:
        lines = [f"  {name} {one.share:.1%}: {one.why}" for name, one in self.strata.items()]
        return "\n".join([f"quotas of round {self.round_number}:", *lines])


def publish(run: str, decision: QuotaDecision) -> None:
    """Write a decision."""
    url = Layout(run).round_quotas(decision.round_number)
    storage.publish(url, checked_json.dump(asdict(decision)))


def read(run: str, round_number: int) -> QuotaDecision | None:
    """Return the decision of a round; None if there is none.

    Raises:
        InputError: the file is damaged.
    """
    url = Layout(run).round_quotas(round_number)
    if storage.info(url) is None:
        return None
    try:
        values = checked_json.load(storage.read(url), url=url)
        strata = {name: StratumQuota(**one) for name, one in values["strata"].items()}
        return QuotaDecision(values["round_number"], strata)
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{url} is not a valid decision ({error}): restore it") from error


def read_all(run: str) -> list[QuotaDecision]:
    """Return every decision of a run in the order of rounds."""
    names = (file.url.rpartition("/")[2] for file in storage.list_objects(Layout(run).quotas))
    numbers = sorted(int(n.removesuffix(".json")) for n in names if n[:-5].isdecimal())
    return [each for number in numbers if (each := read(run, number)) is not None]


def table(run: str) -> pl.DataFrame:
    """Return one row per round and stratum."""
    rows = [
        {"round": each.round_number, "stratum": name, **asdict(stratum)}
        for each in read_all(run)
        for name, stratum in each.strata.items()
    ]
    return pl.DataFrame(rows, schema=QUOTAS, orient="row")
