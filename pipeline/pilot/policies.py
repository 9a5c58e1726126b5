"""Policies that a pilot compares with uniform draws: those that a configuration allows. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from attent_select.errors import InputError
from attent_select.schedule.budget import DEFAULT_MULTIPLE
from pipeline.config.annotation_kinds import KIND
from pipeline.config.sections import RunConfig

# Kinds of annotations that rank samples by their resemblance to the target.
_RANKING: Final = ("ngram", "classifier", "similarity")
# Shares of the corpus that such an annotation keeps.
_KEPT: Final = (0.1, 0.3)
_NGRAM: Final = "pilot_ngram"


@dataclass(frozen=True)
class Policy:
    """A way to select.

    Attributes:
        key: what a user calls it: `yours`, `hard`, `soft`, or the name of an annotation.
        name: the selection in words.
        selection: section `selection` of a configuration.
        keep: share of its candidates that is selected.
        scores: whether it reads losses of the student.
        annotations: section `annotations`.
    """

    key: str
    name: str
    selection: Mapping[str, Any]
    keep: float
    scores: bool = False
    annotations: Mapping[str, Any] = field(default_factory=dict)


def policies_of(
    config: RunConfig, *, own_keep: float, keys: Sequence[str] = ()
) -> tuple[Policy, ...]:
    """Return the candidates: the selection of the configuration, which keeps the share `own_keep`,
    annotations that rank by the target, and the student's losses of a pool.

    Args:
        config: the configuration.
        own_keep: see `own_share`.
        keys: those to compare; default: all of them.

    Raises:
        InputError: a key names none.
    """
    known = (*_own(config, own_keep), *_by_annotation(config), *_by_loss(config))
    names = list(dict.fromkeys(policy.key for policy in known))
    if unknown := [key for key in keys if key not in names]:
        raise InputError(f"--policy {unknown[0]}: expected one of {', '.join(names)}")
    return tuple(policy for policy in known if not keys or policy.key in keys)


def own_share(config: RunConfig, *, budget: int, corpus_samples: int) -> float:
    """Return the share of its candidates that the configuration selects, in (0, 1].

    Args:
        config: the configuration.
        budget: samples that it trains on.
        corpus_samples: samples of its corpus.
    """
    schedule = config.schedule
    if schedule.budget is None:
        return (schedule.ratio.start + (schedule.ratio.end or schedule.ratio.start)) / 2
    if schedule.pool is not None:
        return 1 / schedule.pool.first_multiple
    return min(1.0, budget / corpus_samples)


def _own(config: RunConfig, keep: float) -> Iterator[Policy]:
    values = config.to_plain_values()
    if values["selection"]["strategy"] == "uniform":
        return
    # What rounds with a pool refuse.
    unpooled = {"granularity": "sample", "budget_unit": "samples", "max_visits": None}
    yield Policy(
        "yours",
        f"your selection ({values['selection']['strategy']}), keep {keep:.2g}",
        values["selection"] | unpooled,
        keep,
        scores=config.needs_losses,
        annotations=values["annotations"],
    )


def _by_annotation(config: RunConfig) -> Iterator[Policy]:
    entries = {name: entry for name, entry in config.annotations.items() if entry[KIND] in _RANKING}
    column = _text_column(config)
    if config.target is not None and column and "ngram" not in _kinds(entries):
        entries[_NGRAM] = {KIND: "ngram", "text": column}
    for name, entry in entries.items():
        for keep in _KEPT:
            yield Policy(
                name,
                f"{entry[KIND]} ({name}), keep {keep:.2g}",
                {"strategy": "key", "key": name},
                keep,
                annotations={name: entry},
            )


def _by_loss(config: RunConfig) -> Iterator[Policy]:
    if config.scoring.proxy is not None:
        return
    for strategy in ("hard", "soft"):
        keep = 1 / DEFAULT_MULTIPLE
        yield Policy(
            strategy, f"{strategy}, keep {keep:.2g}", {"strategy": strategy}, keep, scores=True
        )


def _kinds(entries: Mapping[str, Mapping[str, Any]]) -> set[Any]:
    return {entry[KIND] for entry in entries.values()}


def _text_column(config: RunConfig) -> str | None:
    """Return the column that a language model learns; None for images and chats."""
    task = config.task.task
    column = getattr(task, "text", None) or getattr(task, "response", None)
    return column if isinstance(column, str) else None
