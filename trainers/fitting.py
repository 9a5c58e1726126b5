"""`fit`: trains one round, from one published checkpoint to the next, and survives being killed.

Where training starts and goes on, what is recorded, the end of the round.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch.distributed.tensor import DTensor

from attent_select.errors import ExistsError, InputError, MissingError
from attent_select.schema import LOSS, OBSERVED_LOSSES, WEIGHT
from catalogs.layout import join
from trainers import checkpoint as checkpoints
from trainers.checkpoint import Checkpoint, digest_of
from trainers.round_hooks import Hooks, Steps
from trainers.scoring.scorer import best_device
from trainers.settings import TrainingSettings
from trainers.streaming.stream import TeachingStream
from trainers.task import Batch, Models, Task

__all__ = ["FitResult", "TrainingSettings", "fit"]

OnLosses = Callable[[int, pl.DataFrame], None]
OnStep = Callable[[int], None]

# Each under one of its names: FSDP has its own for the optimizer.
_TRAINER_STATE = (("trainer_state.json",), ("optimizer.pt", "optimizer.bin"), ("scheduler.pt",))
# Of a result: whether its metrics are there.
_EVALUATED = "is_evaluated"


@dataclass(frozen=True)
class FitResult:
    """What a round did. `train_loss` is Σ weight·loss over the samples seen, by their number
    (nats); `seconds` is the time spent in training steps, over all attempts; `metrics` are the
    evaluation's.
    """

    train_loss: float
    samples_seen: int
    num_steps: int
    seconds: float
    checkpoint: str
    metrics: dict[str, float]


def fit(
    stream: TeachingStream,
    *,
    task: Task,
    models: Models,
    start: str | None,
    out: str,
    settings: TrainingSettings,
    first_step: int,
    total_steps: int,
    seed: int,
    on_losses: OnLosses | None = None,
    evaluation: Iterable[Batch] | None = None,
    on_step: OnStep | None = None,
) -> FitResult:
    """Train all steps of `stream` and publish a checkpoint at `out`.

    Called again after it was killed, it goes on from the newest checkpoint inside the round; called
    again after it was done, it only returns what it had returned. Every rank calls it.

    Args:
        stream: the round's samples for this rank, with the batch sizes of `settings`.
        task: gives the loss.
        models: builds, loads and saves the model.
        start: URL of the checkpoint that the round starts from; None builds a new model.
        out: URL of the checkpoint to publish; inside the round `out/step-<n>`.
        settings: how to train.
        first_step: optimizer steps of all rounds before this one.
        total_steps: optimizer steps of the whole plan: the horizon of the learning rate.
        seed: of dropout, and of the model when it is built.
        on_losses: gets (first step, `OBSERVED_LOSSES`) for ranges of steps, on the writing rank;
            after a kill the same range may come again, with the same rows.
        evaluation: held-out batches; evaluated at the end, on the writing rank.
        on_step: gets the number of optimizer steps done, after each.

    Raises:
        MissingError: there is no checkpoint at `start`.
        ExistsError: `out` holds a checkpoint of something else.
        InputError: settings do not fit the stream, the process or the checkpoint; training
            diverged.
    """
    steps = Steps(first_step, first_step + stream.num_steps, total=total_steps, seed=seed)
    _check(stream, settings=settings, steps=steps)
    rest = _Rest(task, models, settings, evaluation)
    if (done := checkpoints.open(out)) is not None:
        _recorded(done, stream=stream)  # or it is of something else
        if _is_writer():
            rest.do(done)
        return _recorded(checkpoints.open(out) or done, stream=stream)
    if settings.torch_threads is not None:
        torch.set_num_threads(settings.torch_threads)
    source, resumed = _source(start, out=out, steps=steps)
    stream.load_state_dict(stream.state_at(0) if resumed is None else resumed.stream or {})
    round_ = _Round(
        stream, models=models, steps=steps, out=out, on_losses=on_losses, on_step=on_step
    )
    if resumed is not None:
        round_.progress = _Progress(**resumed.progress)
        stream.count_earlier(round_.progress.samples_seen)
    round_.run(source, rest=rest)
    done = checkpoints.open(out)
    assert done is not None
    return _recorded(done, stream=stream)


@dataclass(frozen=True)
class _Progress:
    """Sums over the round so far; kept in its checkpoints, so a resumed round reports the whole."""

    loss_sum: float = 0.0
    samples_seen: int = 0
    seconds: float = 0.0


class _Round:
    """One round being trained: what the training loop calls back, and what is published."""

    def __init__(
        self,
        stream: TeachingStream,
        *,
        models: Models,
        steps: Steps,
        out: str,
        on_losses: OnLosses | None,
        on_step: OnStep | None,
    ) -> None:
        self._stream, self._models, self._steps, self._out = stream, models, steps, out
        self._on_losses, self._on_step = on_losses, on_step
        self.progress = _Progress()
        self._since = time.perf_counter()
        self._model: torch.nn.Module
        # The local folder to publish at the end, and the one saved last.
        self._final: Path | None = None
        self._saved_in: Path

    def run(self, source: Checkpoint | None, *, rest: "_Rest") -> None:
        """Train what is left of the round, evaluate, publish."""
        from trainers.hf.training_loop import train_steps

        with (
            tempfile.TemporaryDirectory(prefix="attent-fit-") as work,
            nullcontext() if source is None else source.local() as folder,
        ):
            if source is None or folder is None:
                self._model = self._models.build(self._steps.seed)
            else:
                self._model = source.load(self._models, folder=folder)
            self._since = time.perf_counter()
            train_steps(
                self._model,
                stream=self._stream,
                task=rest.task,
                models=self._models,
                settings=rest.settings,
                steps=self._steps,
                resume=_trainer_state(source, folder=folder),
                work=Path(work),
                hooks=Hooks(self.observed, self.checkpoint, self.step),
            )
            if _is_writer():
                done = self._finish(is_evaluated=rest.evaluation is None)
                rest.do(done, model=self._saved_model())
            _wait_for_writer()

    def step(self, step: int) -> None:
        if self._on_step is not None:
            self._on_step(step)

    def observed(self, first_step: int, frame: pl.DataFrame) -> None:
        now = time.perf_counter()
        loss_sum = float((frame[LOSS].cast(pl.Float64) * frame[WEIGHT].cast(pl.Float64)).sum())
        self.progress = _Progress(
            loss_sum=self.progress.loss_sum + loss_sum,
            samples_seen=self.progress.samples_seen + frame.height,
            seconds=self.progress.seconds + now - self._since,
        )
        self._since = now
        if self._on_losses is not None and _is_writer():
            self._on_losses(first_step, frame.select(list(OBSERVED_LOSSES)))

    def checkpoint(self, step: int, folder: Path) -> None:
        if step >= self._steps.last:
            self._final = folder
            return
        self._publish(folder, url=join(self._out, f"step-{step}"), step=step)
        shutil.rmtree(folder)
        checkpoints.discard_steps(self._out, before=step)

    def _finish(self, *, is_evaluated: bool) -> Checkpoint:
        """Publish the round's checkpoint, with its result."""
        assert self._final is not None
        seen = self.progress.samples_seen
        result = FitResult(
            train_loss=self.progress.loss_sum / max(seen, 1),
            samples_seen=seen,
            num_steps=self._steps.last - self._steps.first,
            seconds=self.progress.seconds,
            checkpoint=self._out,
            metrics={},
        )
        content = asdict(result) | {_EVALUATED: is_evaluated}
        return self._publish(self._final, url=self._out, step=self._steps.last, result=content)

    def _publish(
        self, folder: Path, *, url: str, step: int, result: dict[str, Any] | None = None
    ) -> Checkpoint:
        self._saved_in = folder
        model = self._saved_model()
        _check_finite(model, step=step)
        return checkpoints.publish(
            folder,
            url=url,
            step=step,
            weights_digest=digest_of(model, self._models),
            stream=self._stream.state_at(step - self._steps.first),
            progress=asdict(self.progress),
            result=result,
        )

    def _saved_model(self) -> torch.nn.Module:
        """The model; where its weights are spread over the ranks (FSDP), what was saved of it."""
        spread = (isinstance(weight, DTensor) for weight in self._model.parameters())
        return self._models.load(self._saved_in) if any(spread) else self._model


@dataclass(frozen=True)
class _Rest:
    """What is left to do for a published round: its evaluation, and removing what lies inside it.

    Evaluated after it was published: whoever is killed in between only evaluates again.
    """

    task: Task
    models: Models
    settings: TrainingSettings
    evaluation: Iterable[Batch] | None

    def do(self, done: Checkpoint, *, model: torch.nn.Module | None = None) -> None:
        """On the writing rank; `model` saves loading it."""
        assert done.result is not None
        if not done.result.get(_EVALUATED, True) and self.evaluation is not None:
            if model is None:
                model = done.load(self.models).to(best_device())
            metrics = self._metrics(model)
            checkpoints.record(done, result=done.result | {"metrics": metrics, _EVALUATED: True})
        checkpoints.discard_steps(done.url)

    def _metrics(self, model: torch.nn.Module) -> dict[str, float]:
        assert self.evaluation is not None
        device = next(model.parameters()).device.type
        dtype = getattr(torch, self.settings.computes_in)
        with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            return self.task.evaluate(model, self.evaluation)


def _check(stream: TeachingStream, *, settings: TrainingSettings, steps: Steps) -> None:
    if stream.num_steps == 0:
        raise InputError("the index selects no full batch: nothing to train on")
    if stream.order.batch_size != settings.batch_size:
        raise InputError(
            f"the stream's batch_size is {stream.order.batch_size}, the settings' "
            f"{settings.batch_size}: expected the same global batch size"
        )
    if stream.share.micro_batch_size != settings.micro_batch_size:
        raise InputError(
            f"the stream's micro_batch_size is {stream.share.micro_batch_size}, the settings' "
            f"{settings.micro_batch_size}: expected the same, the stream makes the micro-batches"
        )
    if steps.last > steps.total:
        raise InputError(
            f"steps {steps.first} to {steps.last} pass the plan's total of {steps.total}"
        )


def _source(
    start: str | None, *, out: str, steps: Steps
) -> tuple[Checkpoint | None, Checkpoint | None]:
    """(where weights and optimizer come from, the same if it lies inside this round)."""
    if (resumed := checkpoints.newest(out)) is not None:
        if not steps.first < resumed.step < steps.last:
            raise InputError(
                f"{resumed.url} is at step {resumed.step}, outside this round's {steps.first} to "
                f"{steps.last}: delete {out} or choose another place"
            )
        return resumed, resumed
    if start is None:
        if steps.first:
            raise InputError(f"a round that starts at step {steps.first} needs a start checkpoint")
        return None, None
    if (found := checkpoints.open(start)) is None:
        raise MissingError(f"no checkpoint at {start}: expected a folder with {checkpoints.MARKER}")
    if found.step != steps.first:
        raise InputError(f"{start} is at step {found.step}, the round starts at {steps.first}")
    return found, None


def _trainer_state(source: Checkpoint | None, *, folder: Path | None) -> Path | None:
    """The folder, if optimizer and scheduler are to be restored from it."""
    if source is None or folder is None or source.step == 0:
        return None
    # The Trainer would go on without any of them, from a fresh one, and say nothing.
    missing = [
        names[0] for names in _TRAINER_STATE if not any((folder / name).is_file() for name in names)
    ]
    if missing:
        raise InputError(
            f"{source.url} has no {', '.join(missing)}: expected the state of optimizer and "
            f"schedule at step {source.step}; train from a checkpoint that has it"
        )
    return folder


def _check_finite(model: torch.nn.Module, *, step: int) -> None:
    """An infinite gradient shows in the weights after its step, in the losses only one later."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not torch.isfinite(parameter).all():
            raise InputError(
                f"training has diverged: at step {step} {name} is not finite; lower the learning "
                "rate or warm up longer, and start the round again"
            )


def _recorded(done: Checkpoint, *, stream: TeachingStream) -> FitResult:
    if done.result is None or done.stream != stream.state_at(stream.num_steps):
        raise ExistsError(
            f"{done.url} holds a checkpoint of another round, index or order: remove it first"
        )
    values = {name: value for name, value in done.result.items() if name != _EVALUATED}
    return replace(FitResult(**values), checkpoint=done.url)


def _is_writer() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _wait_for_writer() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
