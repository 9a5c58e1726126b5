"""Prospects: what an enrichment promises for training, in numbers and in words. Pure.

A share e of the selection is drawn uniformly (`explore`). Of n samples, the others hold
enrichment times as many wanted samples as n uniform ones, so that training on the selection visits
the wanted samples as often as uniform training on

    k = (1 - e) · enrichment + e

times as many samples. That is a bound on the saving, as long as the wanted samples are not repeated
too often; where they are only a part of what the model has to learn, the saving is smaller.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from attent_select.selection.composition import STATIC_EXPLORE
from pipeline.annotation.enrichment import at_top_share

# A selection that promises less does not pay for making the annotation.
_LEAST_TIMES: Final = 1.2


@dataclass(frozen=True)
class Prospect:
    """What selecting the top share by an annotation promises; the interval is that of 95 %.

    Attributes:
        share: the top share of the corpus.
        recall: share of the held-out examples above the cut.
        enrichment: recall ÷ share, `low` to `high`, at most `ceiling` (1 ÷ share).
        resembling_share: at most which share of the corpus is distributed as the examples are.
        times_uniform: k, `times_low` to `times_high`: how many times as many uniform samples visit
            the wanted ones as often.
        pays: whether the whole interval promises a gain.
        recall_by_kind: recall of each kind of reference; None if the target has no kinds.
    """

    share: float
    recall: float
    enrichment: float
    low: float
    high: float
    ceiling: float
    resembling_share: float | None
    times_uniform: float
    times_low: float
    times_high: float
    pays: bool
    recall_by_kind: Mapping[str, float] | None = None

    @classmethod
    def of(cls, enrichment: Mapping[str, Any]) -> "Prospect | None":
        """Return the prospect at the top share that lists show; None without an enrichment."""
        entry = at_top_share(dict(enrichment))
        if entry is None:
            return None
        times = [_times(entry[name]) for name in ("enrichment", "low", "high")]
        return cls(
            **{name: entry[name] for name in ("share", "recall", "enrichment", "low", "high")},
            ceiling=entry["ceiling"],
            resembling_share=enrichment.get("resembling_share"),
            times_uniform=times[0],
            times_low=times[1],
            times_high=times[2],
            pays=times[1] >= _LEAST_TIMES,
            recall_by_kind=entry.get("recall_by_kind"),
        )

    def __str__(self) -> str:
        by_kind = [f"{name} {recall:.0%}" for name, recall in (self.recall_by_kind or {}).items()]
        kinds = f" ({', '.join(by_kind)})" if by_kind else ""
        facts = (
            f"the top {self.share:.0%} has {self.recall:.0%} of the held-out examples{kinds},"
            f" enrichment {self.enrichment:.1f} ({self.low:.1f} to {self.high:.1f}, at most"
            f" {self.ceiling:.1f})"
        )
        if not self.pays:
            return f"{facts}. Selection by it will not pay here: the corpus is hardly enriched"
        promise = (
            f"{facts}. At most equal to uniform training on {self.times_uniform:.1f} times as many"
            f" samples ({self.times_low:.1f} to {self.times_high:.1f}, exploring"
            f" {STATIC_EXPLORE:.1%})"
        )
        if self.resembling_share is not None and self.resembling_share < self.share / 2:
            promise += (
                f". At most {self.resembling_share:.1%} of the corpus looks like the examples:"
                " a smaller ratio holds fewer other samples"
            )
        return promise


def _times(enrichment: float) -> float:
    return (1 - STATIC_EXPLORE) * enrichment + STATIC_EXPLORE
