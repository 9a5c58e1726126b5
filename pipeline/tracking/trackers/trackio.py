"""Trackio: a run of the project TRACKIO_PROJECT, in TRACKIO_DIR or at a server."""

import os
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout

import trackio

from pipeline.tracking.tracker import PROJECT, TrackedRound, TrackedRun, TrackerError, rows_of


class Trackio:
    """The local store of Trackio, or the one that its environment variables name."""

    def check(self) -> None:
        """Do nothing: the store is a local file, and a server is asked when a round is sent."""

    def send(self, run: TrackedRun, rounds: Sequence[TrackedRound]) -> None:
        """Log the rows of rounds."""
        # It prints, and stdout is for the result of a command.
        with redirect_stdout(sys.stderr):
            try:
                tracked = trackio.init(
                    project=os.environ.get("TRACKIO_PROJECT", PROJECT),
                    name=run.name,
                    resume="allow",
                    config={**run.settings, "url": run.url},
                    embed=False,
                    auto_log_gpu=False,
                    auto_log_cpu=False,
                )
                for step, values in rows_of(rounds):
                    tracked.log(dict(values), step=step)
                tracked.finish()
            except (OSError, RuntimeError, ValueError, sqlite3.Error) as error:
                raise TrackerError(f"trackio: {error}") from error
