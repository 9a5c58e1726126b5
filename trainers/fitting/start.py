"""Where a round starts: the newest checkpoint inside it, the given checkpoint, or a new model."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from attent_select.errors import InputError, MissingError
from trainers import checkpoint as checkpoints
from trainers import ranks
from trainers.checkpoint import Checkpoint, weights_digest
from trainers.round_hooks import Steps
from trainers.settings import TrainingSettings
from trainers.streaming.rank_share import RankShare
from trainers.streaming.stream import TeachingStream
from trainers.task import Models, Task, check_training
from trainers.token_selection import TokenSelector

# Files of the Trainer's state, each under one of its names: FSDP names the optimizer differently.
_TRAINER_STATE = (("trainer_state.json",), ("optimizer.pt", "optimizer.bin"), ("scheduler.pt",))


@dataclass(frozen=True)
class Start:
    """Source of weights and optimizer state; without a `checkpoint`, a new model.

    `is_resume` says that the checkpoint lies inside the round.
    """

    checkpoint: Checkpoint | None = None
    is_resume: bool = False

    @contextmanager
    def local(self) -> Iterator[Path | None]:
        """Yield a local folder with the checkpoint's files; None without a checkpoint."""
        if self.checkpoint is None:
            yield None
            return
        with self.checkpoint.local(with_state=True) as folder:
            yield folder

    def model(self, models: Models, *, folder: Path | None, seed: int) -> torch.nn.Module:
        """Return the model to train; `folder` is what `local` yielded."""
        if self.checkpoint is None:
            return models.build(seed)
        return self.checkpoint.load(models, folder=folder)

    def check_reference(self, selector: TokenSelector | None) -> str | None:
        """Return the digest of the weights of the reference that selects tokens.

        Raises:
            InputError: tokens were selected so far by a reference with other weights.
        """
        digest = None if selector is None else weights_digest(selector.reference)
        if self.checkpoint is None or self.checkpoint.reference_digest in (None, digest):
            return digest
        raise InputError(
            f"training.token_selection.reference: its weights have the digest {digest}, those that"
            f" {self.checkpoint.url} was trained with {self.checkpoint.reference_digest}: restore"
            " them, a run keeps its reference"
        )

    def trainer_state(self, folder: Path | None, settings: TrainingSettings) -> Path | None:
        """Return `folder` if optimizer and scheduler are to be restored from it.

        Raises:
            InputError: a file of their state is missing, or it was saved by another kind of
                sharding than that of `settings`.
        """
        if self.checkpoint is None or folder is None or self.checkpoint.step == 0:
            return None
        # Without any of them, the Trainer would silently continue with a fresh one.
        missing = [
            names[0]
            for names in _TRAINER_STATE
            if not any((folder / name).is_file() for name in names)
        ]
        if missing:
            raise InputError(
                f"{self.checkpoint.url} has no {', '.join(missing)}: expected the state of "
                f"optimizer and schedule at step {self.checkpoint.step}; train from a checkpoint "
                "that has it"
            )
        _check_sharding(self.checkpoint.url, folder, settings)
        return folder


def _check_sharding(url: str, folder: Path, settings: TrainingSettings) -> None:
    """Check that the state of the optimizer is one that these settings can continue."""
    saved_by: str | None = "fsdp"
    num_ranks = None
    if (folder / "optimizer.pt").is_file():
        state = torch.load(folder / "optimizer.pt", "cpu", weights_only=True, mmap=True)
        saved_by = "deepspeed" if "ranks" in state else None
        num_ranks = len(state["ranks"]) if saved_by else None
    expected = next((name for name in ranks.SHARDINGS if settings.arguments.get(name)), None)
    if saved_by != expected:
        saved, now = (
            f"with {name}" if name else "without sharding" for name in (saved_by, expected)
        )
        raise InputError(
            f"the optimizer's state in {url} was saved by training {saved}, and training.arguments "
            f"train {now}: train {saved} here too, or start a new run from its "
            "weights (model.path)"
        )
    if num_ranks not in (None, ranks.world_size()):
        raise InputError(
            f"the optimizer's state in {url} was saved by deepspeed with {num_ranks} processes, "
            f"and this command has {ranks.world_size()}: start it with {num_ranks} (torchrun "
            "--nproc-per-node)"
        )


def find_start(start: str | None, *, out: str, steps: Steps) -> Start:
    """Return the newest checkpoint inside the round at `out`, else the one at `start`.

    Raises:
        MissingError: there is no checkpoint at `start`.
        InputError: a checkpoint is at another step than this round.
    """
    if (resumed := checkpoints.newest(out)) is not None:
        if not steps.first < resumed.step < steps.last:
            raise InputError(
                f"{resumed.url} is at step {resumed.step}, outside this round's {steps.first} to "
                f"{steps.last}: delete {out} or choose another URL"
            )
        return Start(resumed, is_resume=True)
    if start is None:
        if steps.first:
            raise InputError(f"a round that starts at step {steps.first} needs a start checkpoint")
        return Start()
    if (opened := checkpoints.open(start)) is None:
        raise MissingError(f"no checkpoint at {start}: expected a folder with {checkpoints.MARKER}")
    if opened.step != steps.first:
        raise InputError(f"{start} is at step {opened.step}, the round starts at {steps.first}")
    return Start(opened)


def check_round(
    stream: TeachingStream, *, task: Task, settings: TrainingSettings, steps: Steps
) -> None:
    """Check that stream, task, settings and steps belong together.

    Raises:
        InputError: they do not, or there is nothing to train on.
    """
    check_training(task)
    ranks.check_sharding(settings)
    if stream.num_steps == 0:
        raise InputError("the index selects no full batch: nothing to train on")
    if stream.order.batch_size != settings.batch_size:
        raise InputError(
            f"the stream's batch_size is {stream.order.batch_size}, the settings' "
            f"{settings.batch_size}: expected the same global batch size"
        )
    names = ("micro_batch_size", "micro_batch_units")
    share = RankShare(**{name: getattr(settings, name) for name in names}).for_task(task)
    for name in names:
        of_stream, expected = getattr(stream.share, name), getattr(share, name)
        if of_stream != expected:
            raise InputError(
                f"the stream's {name} is {of_stream}, the settings' {expected}: expected the same, "
                "the stream makes the micro-batches"
            )
    first, last = steps.on_schedule
    if last > steps.total:
        raise InputError(f"steps {first} to {last} exceed the total of {steps.total} steps")
