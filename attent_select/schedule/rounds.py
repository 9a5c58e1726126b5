"""Round schedule: its settings, and the list of rounds made from them before the run starts.

All optimizer steps are known in advance, so the learning rate decays fully over the run.
"""

import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from attent_select.errors import InputError
from attent_select.schedule.budget import DEFAULT_ROUNDS, Amount, Pool
from attent_select.schedule.rescoring import Rescore
from attent_select.selection.select import num_samples_of

# Every round is planned before the run starts.
_MAX_EPOCHS = 100_000

Phase = Literal["warmup", "teach", "anneal"]


@dataclass(frozen=True)
class Ratio:
    """Share of the corpus in the teaching subset, per teaching round.

    With t from 0 (first teaching round) to 1 (last): fixed is `start`; incremental is
    start + (end − start)·t; cosine is end + (start − end)·(1 + cos πt)/2, slow at both ends. An
    adaptive ratio is decided before each round (`adaptive.py`), within the optimizer steps of a
    fixed one. With a budget it is the share of the candidates that a round takes, and decides how
    many are drawn (`adaptive_pool.py`).

    Attributes:
        kind: curve of the ratio over the teaching rounds.
        start: ratio of the first teaching round, in (0, 1].
        end: ratio of the last teaching round, in (0, 1]; only for `cosine` and `incremental`.
        low: lower bound of an adaptive ratio (default: half of `start`).
        high: upper bound of an adaptive ratio (default: twice `start`, at most 1).
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
            problem = "required for" if has_end else "not used by"
            raise InputError(f"end: {problem} kind {self.kind}")
        for name in ("low", "high"):
            if self.kind != "adaptive" and getattr(self, name) is not None:
                raise InputError(f"{name}: only used by kind adaptive")
        low, high = self.bounds
        if not low <= self.start <= high:
            raise InputError(f"start: {self.start} is not between low ({low}) and high ({high})")

    @property
    def bounds(self) -> tuple[float, float]:
        """Lower and upper bound of an adaptive ratio."""
        low = self.start / 2 if self.low is None else self.low
        return low, min(1.0, 2 * self.start) if self.high is None else self.high

    def at(self, t: float) -> float:
        """Return the ratio at t in [0, 1]."""
        if self.end is None:
            return self.start
        if self.kind == "incremental":
            return self.start + (self.end - self.start) * t
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * t)) / 2


@dataclass(frozen=True)
class SelectionInterval:
    """Number of epochs between selections: how long each teaching subset is trained on.

    Of k teaching rounds, round i lasts `epochs` if fixed, and epochs + ⌊(end − epochs)·i/(k − 1)⌋
    if incremental. k is the smallest number of rounds that fill the teaching epochs; the last round
    is shortened to end with them.

    Attributes:
        kind: curve of the interval over the teaching rounds.
        epochs: epochs of the first teaching round, at least 1.
        end: epochs of the last teaching round, at least `epochs`; only for `incremental`.
    """

    kind: Literal["fixed", "incremental"] = "fixed"
    epochs: int = 1
    end: int | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise InputError(f"epochs: {self.epochs} is less than 1")
        if (self.end is None) != (self.kind == "fixed"):
            raise InputError(
                "end: not used by kind fixed"
                if self.kind == "fixed"
                else "end: required for kind incremental"
            )
        if self.end is not None and self.end < self.epochs:
            raise InputError(f"end: {self.end} is less than `epochs` ({self.epochs})")

    def at(self, index: int, *, num_rounds: int) -> int:
        """Return the epochs of teaching round `index` (from 0) of `num_rounds`."""
        if self.end is None or num_rounds < 2:
            return self.epochs
        return self.epochs + (self.end - self.epochs) * index // (num_rounds - 1)

    def fill(self, epochs: int) -> list[int]:
        """Return the epochs of each round, so that they add up to `epochs`."""

        def lengths(num_rounds: int) -> list[int]:
            return [self.at(i, num_rounds=num_rounds) for i in range(num_rounds)]

        # More rounds never take fewer epochs, so the smallest sufficient number can be bisected.
        num_rounds = bisect_left(range(epochs), epochs, key=lambda n: sum(lengths(n)))
        filled = lengths(num_rounds)
        if filled:
            filled[-1] -= sum(filled) - epochs
        return filled


@dataclass(frozen=True)
class Schedule:
    """Training schedule: epochs, warm-up, annealing, selection ratio and interval, rescoring.

    Or, for a corpus that is larger than what a run can train on, a budget: it is divided into
    rounds of equal size, and replaces all settings of epochs and ratios.

    Attributes:
        epochs: total number of passes, each over the subset of its round; at least 1.
        warmup_epochs: first epochs, on all data, before any selection.
        anneal_epochs: last epochs, on all data.
        ratio: share of the corpus to train on in the epochs between.
        interval: epochs between selections.
        rescore: how much of the corpus is scored again before each selection.
        budget: all that the run trains on, warm-up and annealing included.
        warmup: with a budget, its first part: random samples, none of them scored.
        anneal: with a budget, its last part: random samples, none of them scored.
        rounds: with a budget, its number of teaching rounds; by default 10 with a pool, else 1.
        pool: with a budget, the candidates that a teaching round chooses from. Without it, a round
            chooses from the whole corpus.
    """

    epochs: int = 10
    warmup_epochs: int = 0
    anneal_epochs: int = 0
    ratio: Ratio = field(default_factory=Ratio)
    interval: SelectionInterval = field(default_factory=SelectionInterval)
    rescore: Rescore = field(default_factory=Rescore)
    budget: Amount | None = None
    warmup: Amount | None = None
    anneal: Amount | None = None
    rounds: int | None = None
    pool: Pool | None = None

    def __post_init__(self) -> None:
        self._check_budget()
        if self.epochs < 1:
            raise InputError(f"epochs: {self.epochs} is less than 1")
        if self.epochs > _MAX_EPOCHS:
            raise InputError(f"epochs: {self.epochs} exceeds the limit of {_MAX_EPOCHS}")
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
                "rescore: `observed` takes all losses from training, so training must see all "
                "samples first: set warmup_epochs to 1, or rescore to `none`"
            )

    def _check_budget(self) -> None:
        if self.budget is None:
            for name in ("warmup", "anneal", "rounds", "pool"):
                if getattr(self, name) is not None:
                    raise InputError(f"{name}: only used with `budget`: how much the run trains on")
            return
        if self.rounds is not None and self.rounds < 1:
            raise InputError(f"rounds: {self.rounds} is less than 1")
        replaced = {
            "epochs": "budget: {epochs: …}",
            "warmup_epochs": "warmup",
            "anneal_epochs": "anneal",
            "ratio": "rounds",
            "interval": "rounds",
            "rescore": "pool: {multiple: auto}",
        }
        for name, instead in replaced.items():
            if getattr(self, name) != getattr(_CLASSICAL, name):
                if name == "ratio" and self.ratio.kind == "adaptive":
                    self._check_adaptive_pool()
                    continue
                raise InputError(
                    f"{name}: not used with `budget`: omit it, set `{instead}` instead"
                )

    def _check_adaptive_pool(self) -> None:
        if self.ratio != Ratio("adaptive"):
            raise InputError(
                "ratio: with `budget`, an adaptive ratio is the share of the candidates that a"
                " round takes, which starts at 1 / pool.multiple: expected only `kind: adaptive`"
            )
        if self.pool is None or self.pool.multiple == "auto":
            raise InputError(
                "ratio: with `budget`, an adaptive ratio starts at 1 / pool.multiple: add"
                " `pool: {multiple: 3}`"
            )

    @property
    def num_rounds(self) -> int:
        """Number of teaching rounds of a budget."""
        return self.rounds or (DEFAULT_ROUNDS if self.pool is not None else 1)

    @property
    def counts_units(self) -> bool:
        """Whether an amount is in units, so that their mean per sample must be known."""
        amounts = (self.budget, self.warmup, self.anneal)
        return any(each is not None and each.units is not None for each in amounts)

    @property
    def decides_sizes(self) -> bool:
        """Whether the sizes of rounds are decided during the run; those of a budget never are."""
        return self.budget is None and self.ratio.kind == "adaptive"

    @property
    def decides_pools(self) -> bool:
        """Whether the number of candidates is decided before each round."""
        if self.pool is None:
            return False
        return self.ratio.kind == "adaptive" or self.pool.multiple == "auto"

    @property
    def teach_epochs(self) -> int:
        """Number of epochs between warm-up and annealing."""
        return self.epochs - self.warmup_epochs - self.anneal_epochs


# What a budget replaces has these values.
_CLASSICAL = Schedule()


@dataclass(frozen=True)
class Round:
    """One round of a run: score, select, train.

    Attributes:
        number: position in the run, from 0.
        phase: warm-up and annealing train on all data, teaching rounds on a subset.
        ratio: share of the corpus to train on.
        num_samples: size of the subset.
        epochs: passes over the subset.
        first_step: number of optimizer steps before this round.
        num_steps: number of optimizer steps of this round, ⌈num_samples / batch_size⌉ per epoch.
        num_units: size of the subset of a budget in units; then `num_samples` is estimated until
            the subset is selected.
    """

    number: int
    phase: Phase
    ratio: float
    num_samples: int
    epochs: int
    first_step: int
    num_steps: int
    num_units: int | None = None


def plan_rounds(
    schedule: Schedule, *, num_samples: int, batch_size: int, mean_units: float | None = None
) -> tuple[Round, ...]:
    """Return the rounds of a run over `num_samples` samples with global batches of `batch_size`.

    An adaptive ratio is planned as if it were fixed, which gives its budget of optimizer steps.
    `mean_units` is the mean number of units of a sample, where the schedule counts units.

    Raises:
        InputError: the corpus is empty, the batch size is below 1, or a budget is too small.
    """
    if num_samples < 1:
        raise InputError("the corpus has no samples: expected at least 1")
    if batch_size < 1:
        raise InputError(f"batch_size: {batch_size} is less than 1")
    rounds: list[Round] = []
    step = 0
    if schedule.budget is not None:
        sizes = _budget_sizes(schedule, num_samples=num_samples, mean_units=mean_units)
    else:
        sizes = [
            (phase, ratio, num_samples_of(ratio, total=num_samples), epochs, None)
            for phase, ratio, epochs in _phases(schedule)
        ]
    for phase, ratio, m, epochs, num_units in sizes:
        num_steps = epochs * math.ceil(m / batch_size)
        rounds.append(Round(len(rounds), phase, ratio, m, epochs, step, num_steps, num_units))
        step += num_steps
    return tuple(rounds)


def _budget_sizes(
    schedule: Schedule, *, num_samples: int, mean_units: float | None
) -> list[tuple[Phase, float, int, int, int | None]]:
    """Return phase, ratio, samples, epochs and, of a budget in units, units of each round."""
    budget = schedule.budget
    assert budget is not None

    def samples_of(amount: Amount | None) -> int:
        if amount is None:
            return 0
        return amount.num_samples(total=num_samples, mean_units=mean_units)

    total, warmup, anneal = map(samples_of, (budget, schedule.warmup, schedule.anneal))
    teach, count = total - warmup - anneal, schedule.num_rounds
    if teach < count:
        raise InputError(
            f"schedule.budget: {total:,} samples, of which warm-up takes {warmup:,} and annealing "
            f"{anneal:,}, are too few for {count} rounds: raise it, or lower schedule.rounds"
        )
    sizes: list[tuple[Phase, int]] = [("warmup", warmup)]
    sizes += [("teach", size) for size in _equal_parts(teach, count)]
    sizes.append(("anneal", anneal))
    units: Iterator[int] | None = None
    if budget.units is not None and mean_units is not None:
        random_units = round((warmup + anneal) * mean_units)
        units = iter(_equal_parts(budget.units - random_units, count))
    return [
        (phase, size / num_samples, size, 1, next(units) if units and phase == "teach" else None)
        for phase, size in sizes
        if size
    ]


def _equal_parts(total: int, count: int) -> list[int]:
    """Divide `total` into `count` whole numbers that differ by 1 at most."""
    bounds = [total * edge // count for edge in range(count + 1)]
    return [end - first for first, end in pairwise(bounds)]


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
