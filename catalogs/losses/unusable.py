"""Samples without a loss: their number by status, and one example of each cause."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Final

# Causes of one status that are kept; the others are only counted.
MAX_CAUSES: Final = 10

# What differs between two samples with the same cause: numbers, and quoted text.
_DETAILS = re.compile(r"\d+|'[^']*'|\"[^\"]*\"")


@dataclass(frozen=True)
class Example:
    """A sample without a loss, and why."""

    shard: str
    row: int
    status: str
    reason: str

    @cached_property
    def cause(self) -> tuple[str, str]:
        """What samples with the same cause have in common."""
        return self.status, _DETAILS.sub("…", self.reason)

    def __str__(self) -> str:
        return f"row {self.row} of {self.shard}: {self.reason} ({self.status})"


@dataclass
class Unusable:
    """Samples without a loss.

    Attributes:
        counts: their number by status.
        examples: the first sample of each cause, by shard and row: the same in any order of `add`.
            Of one status, the first `MAX_CAUSES` causes are kept.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[Example] = field(default_factory=list)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Unusable":
        """Return what `to_dict` was called on; nothing for an empty mapping."""
        examples = [Example(**each) for each in values.get("examples", ())]
        return cls(Counter(values.get("counts", {})), examples)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"counts": dict(self.counts), "examples": [asdict(each) for each in self.examples]}

    def add(self, example: Example) -> None:
        """Count a sample."""
        self.counts[example.status] += 1
        self._keep([example])

    def update(self, other: "Unusable", *, shard: str | None = None) -> None:
        """Add the samples of `other`, all of which are in `shard` if that is given."""
        self.counts.update(other.counts)
        self._keep(each if shard is None else replace(each, shard=shard) for each in other.examples)

    def __bool__(self) -> bool:
        return self.counts.total() > 0

    def __str__(self) -> str:
        """Return one line: the counts, and the examples."""
        counts = ", ".join(f"{count:,} {status}" for status, count in sorted(self.counts.items()))
        examples = "; ".join(map(str, self.examples))
        return f"{counts or 'none'}{examples and '; for example ' + examples}"

    def _keep(self, examples: Iterable[Example]) -> None:
        kept: dict[tuple[str, str], Example] = {}
        causes: Counter[str] = Counter()
        for each in sorted([*self.examples, *examples], key=lambda each: (each.shard, each.row)):
            if each.cause not in kept and causes[each.status] < MAX_CAUSES:
                kept[each.cause] = each
                causes[each.status] += 1
        self.examples = list(kept.values())
