"""What a round records while it trains: progress, checkpoints inside the round, its result."""

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch.distributed.tensor import DTensor

from attent_select.errors import InputError
from attent_select.schema import LOSS, NUM_UNITS, OBSERVED_LOSSES, WEIGHT
from catalogs.layout import join
from trainers import checkpoint as checkpoints
from trainers import ranks
from trainers.checkpoint import Checkpoint, digest_of
from trainers.fitting.result import FitResult, to_json
from trainers.observed_losses import IS_MIXED
from trainers.round_hooks import Hooks, Steps
from trainers.streaming.stream import TeachingStream
from trainers.task import Models


@dataclass(frozen=True)
class Callbacks:
    """The caller's own functions, see `fit`."""

    on_losses: Callable[[int, pl.DataFrame], None] | None = None
    on_step: Callable[[int], None] | None = None
    on_learning_rate: Callable[[int, float], None] | None = None


@dataclass(frozen=True)
class Progress:
    """Sums over the round so far, kept in its checkpoints: a resumed round reports all of it."""

    loss_sum: float = 0.0
    samples_seen: int = 0
    units_seen: int = 0
    seconds: float = 0.0


class RoundRecorder:
    """Recorder of a round for the training loop; the clock starts at construction."""

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        models: Models,
        stream: TeachingStream,
        steps: Steps,
        out: str,
        progress: Progress,
        callbacks: Callbacks,
        averages_tokens: bool,
        reference_digest: str | None = None,
    ) -> None:
        self._model, self._models, self._stream = model, models, stream
        self._steps, self._out, self._callbacks = steps, out, callbacks
        self._progress, self._averages_tokens = progress, averages_tokens
        self._reference_digest = reference_digest
        self._final_folder: Path | None = None
        self._last_time = time.perf_counter()

    @property
    def hooks(self) -> Hooks:
        """The functions that the training loop calls."""
        return Hooks(
            self._add_losses, self._add_checkpoint, self._pass_learning_rate, self._count_step
        )

    def publish_result(self, *, is_evaluated: bool) -> Checkpoint:
        """Publish the round's checkpoint with its result."""
        assert self._final_folder is not None
        progress = self._progress
        num_averaged = progress.units_seen if self._averages_tokens else progress.samples_seen
        result = FitResult(
            train_loss=progress.loss_sum / max(num_averaged, 1),
            samples_seen=progress.samples_seen,
            units_seen=progress.units_seen,
            num_steps=self._steps.last - self._steps.first,
            seconds=progress.seconds,
            checkpoint=self._out,
            metrics={},
        )
        return self._publish(
            self._final_folder,
            url=self._out,
            step=self._steps.last,
            result=to_json(result, is_evaluated=is_evaluated),
        )

    def final_model(self) -> torch.nn.Module:
        """Return the model that was published."""
        assert self._final_folder is not None
        return self._whole_model(self._final_folder)

    def _pass_learning_rate(self, step: int, rate: float) -> None:
        if self._callbacks.on_learning_rate is not None:
            self._callbacks.on_learning_rate(step, rate)

    def _count_step(self, step: int) -> None:
        if self._callbacks.on_step is not None:
            self._callbacks.on_step(step)

    def _add_losses(self, first_step: int, frame: pl.DataFrame) -> None:
        now = time.perf_counter()
        weights = frame[WEIGHT].cast(pl.Float64)
        if self._averages_tokens:
            weights *= frame[NUM_UNITS]
        loss_sum = float((frame[LOSS].cast(pl.Float64) * weights).sum())
        self._progress = Progress(
            loss_sum=self._progress.loss_sum + loss_sum,
            samples_seen=self._progress.samples_seen + frame.height,
            units_seen=self._progress.units_seen + int(frame[NUM_UNITS].sum()),
            seconds=self._progress.seconds + now - self._last_time,
        )
        self._last_time = now
        if self._callbacks.on_losses is not None and ranks.rank() == 0:
            observed = frame.filter(~pl.col(IS_MIXED)).select(list(OBSERVED_LOSSES))
            self._callbacks.on_losses(first_step, observed)

    def _add_checkpoint(self, step: int, folder: Path) -> None:
        """Publish a checkpoint inside the round; keep the folder of the last one."""
        if step >= self._steps.last:
            self._final_folder = folder
            return
        self._publish(folder, url=join(self._out, f"step-{step}"), step=step)
        shutil.rmtree(folder)
        checkpoints.discard_steps(self._out, before=step)

    def _publish(
        self, folder: Path, *, url: str, step: int, result: dict[str, Any] | None = None
    ) -> Checkpoint:
        model = self._whole_model(folder)
        _check_finite(model, step=step)
        return checkpoints.publish(
            folder,
            url=url,
            step=step,
            weights_digest=digest_of(model, self._models),
            stream=self._stream.state_at(step - self._steps.first),
            progress=asdict(self._progress),
            result=result,
            reference_digest=self._reference_digest,
        )

    def _whole_model(self, folder: Path) -> torch.nn.Module:
        """Return the model; with weights sharded over ranks (FSDP), the one saved in `folder`."""
        is_sharded = any(isinstance(weight, DTensor) for weight in self._model.parameters())
        return self._models.load(folder) if is_sharded else self._model


def _check_finite(model: torch.nn.Module, *, step: int) -> None:
    """Check the weights: an infinite gradient shows in them at once, in the losses a step later."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not torch.isfinite(parameter).all():
            raise InputError(
                f"training has diverged: at step {step} {name} is not finite; lower the learning "
                "rate or warm up longer, and start the round again"
            )
