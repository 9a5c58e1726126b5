"""Weights & Biases: a run of the project WANDB_PROJECT, online or in local files."""

import os
from collections.abc import Sequence

import wandb

from attent_select.errors import InputError
from pipeline.tracking.tracker import PROJECT, TrackedRound, TrackedRun, TrackerError, rows_of

_LOCAL = ("offline", "dryrun", "disabled")


class Wandb:
    """The server that the environment variables of wandb name; offline, a folder per round."""

    def check(self) -> None:
        """Check that there is a key for the server. It is not asked for: a run waits for no one."""
        if os.environ.get("WANDB_MODE") in _LOCAL:
            return
        try:
            is_known = wandb.login(prompt=False, verify=False)
        except wandb.Error:
            is_known = False
        if not is_known:
            raise InputError("wandb has no API key: run `wandb login`, or set WANDB_MODE=offline")

    def send(self, run: TrackedRun, rounds: Sequence[TrackedRound]) -> None:
        """Log the rows of rounds. An online run ignores steps before its last one."""
        self.check()
        try:
            with wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                id=run.id,
                name=run.name,
                resume="allow",
                config={**run.settings, "url": run.url},
                settings=wandb.Settings(
                    console="off", silent=True, save_code=False, x_disable_stats=True
                ),
            ) as tracked:
                for step, values in rows_of(rounds):
                    tracked.log(dict(values), step=step)
        except (wandb.Error, OSError) as error:
            raise TrackerError(f"wandb: {error}") from error
