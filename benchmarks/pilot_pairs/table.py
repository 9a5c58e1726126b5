"""The table of `benchmarks/pilot.py`."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from learning_arms.crawl.arms import BETWEEN

from attent_select.stats.equivalence import MultipleInterval
from pilot_pairs.rules import FACTOR, are_same_bounds, is_decided, is_near, is_right, is_same_sign

Record = Mapping[str, Any]

_TITLES: Final = (
    "regime, target",
    "policy",
    "samples of the run",
    "of a small run",
    "pilot, equals uniform at",
    "its answer",
    "measured",
    "sign right",
    f"within {FACTOR:g} ×",
    "share of the run",
    "processor s",
)


def markdown(records: Sequence[Record]) -> str:
    """Format one line per pair, and the counts, as a Markdown table."""
    lines = [
        f"| {' | '.join(_TITLES)} |",
        "| --- | --- | ---: | ---: | ---: | --- |" + " ---: |" * 5,
    ]
    lines += [f"| {' | '.join(_cells(record))} |" for record in records]
    return "\n".join(lines) + "\n\n" + summary(records) + "\n"


def summary(records: Sequence[Record]) -> str:
    """Return the counts in words."""
    pairs = [(_of_pilot(record), _reference(record)) for record in records]
    signs = [is_same_sign(*pair) for pair in pairs]
    decided = [is_same_sign(*pair) for pair in pairs if is_decided(pair[1])]
    near = [is_near(*pair) for pair in pairs]
    open_ends = [are_same_bounds(*pair) for pair in pairs].count(True)
    answers = [is_right(record["answer"], _reference(record)) for record in records]
    uncertain = [record["answer"] for record in records].count("uncertain")
    unknown = answers.count(None) - uncertain
    return (
        f"The sign of k was right in {_share(signs)} pairs, in {_share(decided)} of those whose "
        f"measured interval is on one side of 1. It was within a factor of {FACTOR:g} in "
        f"{_share(near)}; in {open_ends} of these both are bounds on the same side, which are "
        f"never apart. Of the answers, {answers.count(True)} were right, {answers.count(False)} "
        f"wrong, {uncertain} uncertain, and {unknown} about a multiple with bounds on both sides."
    )


def _share(values: Sequence[bool]) -> str:
    return f"{sum(values)} of {len(values)}"


def _cells(record: Record) -> tuple[str, ...]:
    pilot, measured = _of_pilot(record), _reference(record)
    target, _, policy = record["arm"].rpartition(BETWEEN)
    where = record["regime"] if target in ("", "full") else f"{record['regime']}, {target}"
    sign = _yes(is_same_sign(pilot, measured))
    return (
        where,
        policy,
        f"{record['run_samples']:,}",
        f"{record['samples']:,}",
        _multiple(pilot),
        record["answer"],
        _multiple(measured),
        sign if is_decided(measured) else f"{sign}, undecided",
        _yes(is_near(pilot, measured)),
        f"{record['share']:.1%}",
        f"{record['cpu_seconds']:,.0f} of {record['run_cpu_seconds']:,.0f}",
    )


def _of_pilot(record: Record) -> MultipleInterval:
    return MultipleInterval(**record["pilot_multiple"])


def _reference(record: Record) -> MultipleInterval:
    return MultipleInterval(**record["measured_multiple"])


def _yes(value: object) -> str:
    return "yes" if value else "no"


def _multiple(multiple: MultipleInterval) -> str:
    bounds = [
        sign
        for sign, is_one in (("≥ ", multiple.is_at_least), ("≤ ", multiple.is_at_most))
        if is_one
    ]
    low, high = multiple.low, multiple.high
    interval = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
    return f"{'? ' if len(bounds) == 2 else ''.join(bounds)}{multiple.mean:.2f} ×{interval}"
