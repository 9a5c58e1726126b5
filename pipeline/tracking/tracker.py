"""Protocol of trackers, and the values that they are sent."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from attent_select.errors import AttentError

# The experiment or project of all runs, unless a variable of the tracker names another one.
PROJECT: Final = "attent-select"
PACKAGE: Final = "pipeline.tracking.trackers"
TRACKER_METHODS: Final = ("check", "send")


class TrackerError(AttentError, RuntimeError):
    """A tracker refused a round, or could not be reached. The round can be sent again later."""


@dataclass(frozen=True)
class TrackedRun:
    """A run as a tracker knows it.

    Attributes:
        id: random, the same in every process that continues the run; letters and digits.
        url: of the run.
        settings: of run.yaml, dotted key → value.
    """

    id: str
    url: str
    settings: Mapping[str, object]

    @property
    def name(self) -> str:
        """The last part of the URL, and the start of the id: two runs may be called `run`."""
        return f"{self.url.rstrip('/').rpartition('/')[2]}-{self.id[:8]}"


@dataclass(frozen=True)
class TrackedRound:
    """A finished round.

    Attributes:
        number: of the round.
        finished: when it did, UTC.
        rows: optimizer step → finite numbers by name; steps ascend, also from round to round.
    """

    number: int
    finished: datetime
    rows: Mapping[int, Mapping[str, float]]


def rows_of(rounds: Iterable[TrackedRound]) -> Iterator[tuple[int, Mapping[str, float]]]:
    """Yield the rows of rounds with their steps, in order."""
    for round_ in rounds:
        yield from round_.rows.items()


class Tracker(Protocol):
    """A program that shows curves of runs. A run of ours is one run of the tracker."""

    def check(self) -> None:
        """Check that this process can send to it.

        Raises:
            InputError: it cannot; says what to set.
        """
        ...

    def send(self, run: TrackedRun, rounds: Sequence[TrackedRound]) -> None:
        """Send rounds in order, and return when the tracker has stored them.

        A round may be sent twice, with the same numbers, after a process was killed.

        Raises:
            AttentError: they were not stored.
        """
        ...
