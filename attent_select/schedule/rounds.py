"""Turns a schedule's settings into the list of rounds, before the run starts.

Pure functions of settings and sizes. All optimizer steps are known in advance, so that the
learning rate decays fully over the whole plan.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Literal

from attent_select.errors import InputError
from attent_select.schedule.rescoring import Rescore
from attent_select.selection.select import num_samples_of

Phase = Literal["warmup", "teach", "anneal"]


@dataclass(frozen=True)
class Ratio:
    """The share of the corpus in the teaching subset, over the teaching epochs.

    With t from 0 (first teaching round) to 1 (last): fixed is `start`; incremental is
    start + (end − start)·t; cosine is end + (start − end)·(1 + cos πt)/2, slow at both ends. An
    adaptive one is decided before each round (`adaptive.py`), within the steps that a fixed one
    would take.

    Attributes:
        kind: the curve.
        start: ratio of the first teaching round, in (0, 1].
        end: ratio of the last, in (0, 1]; only for `cosine` and `incremental`.
        low: an adaptive ratio is never smaller (default: half of `start`).
        high: nor larger (default: twice `start`, at most 1).
    """

    kind: Literal["fixed", "cosine", "incremental", "adaptive"] = "fixed"
    start: float = 0.5
    end: float | None = None
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        for name in ("start", "end", "low", "high"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise InputError(f"{name}: {value} is outside (0, 1]")
        has_end = self.kind in ("cosine", "incremental")
        if (self.end is not None) != has_end:
            words = f"a {self.kind} ratio needs one" if has_end else f"{self.kind} has only `start`"
            raise InputError(f"end: {words}")
        for name in ("low", "high"):
            if self.kind != "adaptive" and getattr(self, name) is not None:
                raise InputError(f"{name}: only an adaptive ratio has one")
        low, high = self.bounds
        if not low <= self.start <= high:
            raise InputError(f"start: {self.start} is not between low ({low}) and high ({high})")

    @property
    def bounds(self) -> tuple[float, float]:
        """Between which an adaptive ratio stays."""
        low = self.start / 2 if self.low is None else self.low
        return low, min(1.0, 2 * self.start) if self.high is None else self.high

    def at(self, t: float) -> float:
        """The ratio at t in [0, 1]."""
        if self.end is None:
            return self.start
        if self.kind == "incremental":
            return self.start + (self.end - self.start) * t
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * t)) / 2


@dataclass(frozen=True)
class SelectionInterval:
    """How many epochs a teaching subset is used for before the teacher looks again.

    The i-th of k teaching rounds lasts `epochs` when fixed, and epochs + ⌊(end − epochs)·i/(k − 1)⌋
    when incremental. k is the smallest number of rounds that fill the teaching epochs; the last is
    cut short where they end.

    Attributes:
        kind: the curve.
        epochs: at least 1; of the first round.
        end: of the last round, at least `epochs`; only for `incremental`.
    """

    kind: Literal["fixed", "incremental"] = "fixed"
    epochs: int = 1
    end: int | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise InputError(f"epochs: {self.epochs} is less than 1")
        if (self.end is None) != (self.kind == "fixed"):
            raise InputError(
                "end: a fixed interval has only `epochs`"
                if self.kind == "fixed"
                else "end: an incremental interval needs one"
            )
        if self.end is not None and self.end < self.epochs:
            raise InputError(f"end: {self.end} is less than `epochs` ({self.epochs})")

    def at(self, index: int, *, num_rounds: int) -> int:
        """Epochs of the `index`-th of `num_rounds` teaching rounds."""
        if self.end is None or num_rounds < 2:
            return self.epochs
        return self.epochs + (self.end - self.epochs) * index // (num_rounds - 1)

    def fill(self, epochs: int) -> list[int]:
        """The lengths of the rounds that fill `epochs`."""

        def lengths(num_rounds: int) -> list[int]:
            return [self.at(i, num_rounds=num_rounds) for i in range(num_rounds)]

        # More rounds never last shorter, so the smallest number that is enough can be bisected.
        enough = bisect_left(range(epochs), epochs, key=lambda n: sum(lengths(n)))
        found = lengths(enough)
        if found:
            found[-1] -= sum(found) - epochs
        return found


@dataclass(frozen=True)
class Schedule:
    """When to look, how much to teach, and when to train on everything.

    Attributes:
        epochs: passes in all, each over the round's own subset; at least 1.
        warmup_epochs: the first of them on all data, before any selection.
        anneal_epochs: the last of them on all data.
        ratio: share of the corpus in between.
        interval: epochs between selections.
        rescore: how much of the corpus is measured again before each of them.
    """

    epochs: int = 10
    warmup_epochs: int = 0
    anneal_epochs: int = 0
    ratio: Ratio = field(default_factory=Ratio)
    interval: SelectionInterval = field(default_factory=SelectionInterval)
    rescore: Rescore = field(default_factory=Rescore)

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise InputError(f"epochs: {self.epochs} is less than 1")
        for name in ("warmup_epochs", "anneal_epochs"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}: {getattr(self, name)} is negative")
        if self.warmup_epochs + self.anneal_epochs > self.epochs:
            raise InputError(
                f"epochs: {self.epochs} is less than warmup_epochs ({self.warmup_epochs}) + "
                f"anneal_epochs ({self.anneal_epochs})"
            )
        if self.rescore.kind == "observed" and not self.warmup_epochs:
            raise InputError(
                "rescore: `observed` takes all losses from training, so training has to see all "
                "samples first: set warmup_epochs to 1, or rescore to `none`"
            )

    @property
    def teach_epochs(self) -> int:
        """The epochs between warm-up and annealing."""
        return self.epochs - self.warmup_epochs - self.anneal_epochs


@dataclass(frozen=True)
class Round:
    """Score, select, train.

    Attributes:
        number: 0, 1, 2 …
        phase: warm-up and annealing train on all data.
        ratio: share of the corpus trained on.
        num_samples: that share in samples.
        epochs: passes over the subset.
        first_step: optimizer steps before this round.
        num_steps: optimizer steps in this round, ⌈num_samples / batch_size⌉ per epoch.
    """

    number: int
    phase: Phase
    ratio: float
    num_samples: int
    epochs: int
    first_step: int
    num_steps: int


def plan_rounds(schedule: Schedule, *, num_samples: int, batch_size: int) -> tuple[Round, ...]:
    """The rounds of a run over `num_samples` samples with a global batch of `batch_size`.

    An adaptive ratio is planned as though it were fixed: so many steps are its budget.

    Raises:
        InputError: no samples, or a batch size below 1.
    """
    if num_samples < 1:
        raise InputError("the corpus has no samples: nothing to plan")
    if batch_size < 1:
        raise InputError(f"batch_size: {batch_size} is less than 1")
    rounds: list[Round] = []
    step = 0
    for phase, ratio, epochs in _phases(schedule):
        m = num_samples_of(ratio, total=num_samples)
        num_steps = epochs * math.ceil(m / batch_size)
        rounds.append(Round(len(rounds), phase, ratio, m, epochs, step, num_steps))
        step += num_steps
    return tuple(rounds)


def _phases(schedule: Schedule) -> list[tuple[Phase, float, int]]:
    phases: list[tuple[Phase, float, int]] = []
    if schedule.warmup_epochs:
        phases.append(("warmup", 1.0, schedule.warmup_epochs))
    intervals = schedule.interval.fill(schedule.teach_epochs)
    last = max(1, len(intervals) - 1)
    phases += [("teach", schedule.ratio.at(i / last), n) for i, n in enumerate(intervals)]
    if schedule.anneal_epochs:
        phases.append(("anneal", 1.0, schedule.anneal_epochs))
    return phases
