"""TensorBoard: one event file per round, in the folder `tracking/tensorboard` of the run."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tensorboardX import SummaryWriter

from catalogs import storage
from catalogs.layout import Layout
from pipeline.tracking.tracker import TrackedRound, TrackedRun


class Tensorboard:
    """Event files in the run. A round that is sent again replaces its file."""

    def check(self) -> None:
        """Do nothing: the files are part of the run."""

    def send(self, run: TrackedRun, rounds: Sequence[TrackedRound]) -> None:
        """Publish the event files of rounds."""
        for round_ in rounds:
            with tempfile.TemporaryDirectory(prefix="attent-") as folder:
                _write(round_, folder)
                (written,) = Path(folder).iterdir()
                storage.publish(Layout(run.url).event_file(round_.number), written)


def _write(round_: TrackedRound, folder: str) -> None:
    time = round_.finished.timestamp()
    with SummaryWriter(folder) as writer:
        for step, values in round_.rows.items():
            for name, value in values.items():
                writer.add_scalar(name, value, step, walltime=time)
