"""Training steps with `transformers.Trainer`, on a stream that shards itself.

Overrides the parts of the Trainer that make sharding, scale, random state or resuming inexact.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.utils import DistributedType, save_fsdp_optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader, IterableDataset
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from attent_select.errors import InputError
from attent_select.stats.randomness import Purpose, stream_key
from trainers.draw_keys import with_draw_keys
from trainers.hf.training_arguments import training_arguments, use_kernels
from trainers.hf.zero.state import load_zero, save_zero, without_pickles
from trainers.observed_losses import ObservedLosses, to_frame, unusable_rows
from trainers.round_hooks import Hooks, Steps
from trainers.settings import TrainingSettings
from trainers.step_counts import StepCounts
from trainers.streaming.stream import TeachingStream
from trainers.task import Batch, Models, Task, averages_tokens, pads
from trainers.token_selection import TokenSelector, num_kept, step_losses

# Without this attribute the Trainer divides the loss by the accumulation steps, silently.
if not hasattr(Trainer, "loss_is_scaled_for_ga"):
    raise InputError(
        f"transformers {transformers.__version__} would scale the loss of accumulated batches "
        "twice: install transformers>=5.20"
    )

# The Trainer collects garbage before its first step, which frees the model and the optimizer of the
# previous round. Without freezing, the collection also visits all imported objects: 0.3 s a round.
gc.freeze()

# Observed losses are handed over at least at multiples of this step, also after a resume.
_OBSERVE_STEPS = 500


def train_steps(
    model: torch.nn.Module,
    *,
    stream: TeachingStream,
    task: Task,
    models: Models,
    settings: TrainingSettings,
    steps: Steps,
    resume: Path | None,
    work: Path,
    hooks: Hooks,
    selector: TokenSelector | None = None,
) -> None:
    """Train `model` in place.

    `resume` is a folder that a previous call saved: it gives optimizer, scheduler and step; the
    weights are already in `model`. With `selector`, only the tokens that it keeps are learned.
    Every rank must call this. `hooks.checkpoint` is called every `settings.save_steps` steps and at
    the end, with a folder under `work`.
    """
    use_kernels(model, settings)
    trainer = _RoundTrainer(
        _Learner(model, task, selector),
        stream,
        settings=settings,
        steps=steps,
        models=models,
        work=work,
        hooks=hooks,
    )
    if hasattr(task, "check_model"):
        # Here, because the weights of a sharded model (FSDP) are incomplete later.
        trainer.check_model(task)
    with without_pickles():
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))


class _Learner(torch.nn.Module):
    """Model with its task's loss as `forward`, so that DDP and autocast cover both."""

    def __init__(self, model: torch.nn.Module, task: Task, selector: TokenSelector | None) -> None:
        super().__init__()
        self.model = model
        self.task = task
        # Not a module: the reference model is not trained, saved or sharded.
        self.selector = selector

    def forward(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        losses = step_losses(self.task, self.model, batch, selector=self.selector)
        return losses.learned, losses.num_learned, losses.whole, losses.num_units

    @property
    def _no_split_modules(self) -> Any:
        # Classes of layers that FSDP wraps one by one, unless the configuration names others.
        return getattr(self.model, "_no_split_modules", None)

    def activation_checkpointing_enable(self, **settings: Any) -> None:
        model: Any = self.model
        model.activation_checkpointing_enable(**settings)


class _StepsOf(IterableDataset[list[Batch]]):
    """The micro-batches of a stream, in lists of those of one optimizer step."""

    def __init__(self, stream: TeachingStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[list[Batch]]:
        micro_batches: list[Batch] = []
        for batch in self._stream:
            micro_batches.append(batch)
            if len(micro_batches) == int(batch["micro_batches"]):
                yield micro_batches
                micro_batches = []


class _RoundTrainer(Trainer):
    """Trainer of one rank for one round."""

    # The stream puts the denominator of the whole global batch into every micro-batch.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        learner: _Learner,
        stream: TeachingStream,
        *,
        settings: TrainingSettings,
        steps: Steps,
        models: Models,
        work: Path,
        hooks: Hooks,
    ) -> None:
        arguments = _arguments(settings, steps=steps, work=work)
        _check_devices(stream, arguments)
        super().__init__(
            model=learner,
            args=arguments,
            train_dataset=_StepsOf(stream),
            callbacks=[_RoundCallback(self, steps=steps, save_steps=settings.save_steps)],
        )
        if arguments.fsdp and not self.is_fsdp_enabled:
            raise InputError(
                "training.arguments.fsdp shards a model over GPUs, and this process has none: "
                "remove it"
            )
        self.remove_callback(PrinterCallback)  # stdout belongs to the command's own answer
        self._learner, self._stream, self._work = learner, stream, work
        self._steps, self._models, self._hooks = steps, models, hooks
        self._observed = ObservedLosses()
        self._observed_from = steps.first + stream.next_step
        self._step_counts = StepCounts(self.args.world_size)
        self._averages_tokens = averages_tokens(learner.task, settings.average)
        if learner.selector is not None:
            learner.selector.reference.to(self.args.device)

    def check_model(self, task: Any) -> None:
        """Let the task try the model, on the device that it will be trained on."""
        device = next(self._learner.parameters()).device
        model = self._learner.model.to(self.args.device)
        task.check_model(model)
        self._stream.stats.pads = pads(task, model)
        self._learner.to(device)

    def get_train_dataloader(self) -> DataLoader[list[Batch]]:
        # Without accelerator.prepare, which would shard the stream a second time.
        return DataLoader(_StepsOf(self._stream), batch_size=None, num_workers=0)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> LRScheduler:
        # The learning rate follows the schedule of the run, on which the steps of a round may be
        # longer or shorter than planned.
        scheduler = super().create_scheduler(self._steps.total, optimizer)
        if isinstance(scheduler, LambdaLR):
            scheduler.lr_lambdas = [
                partial(_at_position, factor, self._steps) for factor in scheduler.lr_lambdas
            ]
        return scheduler

    def training_step(
        self, model: torch.nn.Module, inputs: Any, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Accumulate the gradients of a step's micro-batches, which differ in number."""
        micro_batches: list[Batch] = inputs
        step = int(micro_batches[0]["step"]) + self._steps.first
        if step != self.state.global_step:
            raise RuntimeError(
                f"the stream is at step {step}, the Trainer at {self.state.global_step}: training "
                "would not follow the stream's order (this is a bug; please report it)"
            )
        if self._averages_tokens:
            counts = [self._num_learned(batch) for batch in micro_batches]
            total = self._step_counts.sum(sum(int(count.sum()) for count in counts))
            denominator = torch.tensor(float(max(total, 1)))
            micro_batches = [batch | {"denominator": denominator} for batch in micro_batches]
        micro_batches = self._step_counts.equalise(micro_batches)
        losses = []
        for number, batch in enumerate(micro_batches):
            # Seeded by counters, so that dropout is the same after a resume.
            counters = (step, self.args.process_index, number)
            set_seed(stream_key(self._steps.seed, Purpose.TRAIN_STEP, *counters) % 2**32)
            keyed = with_draw_keys(batch, task=self._learner.task, steps=self._steps, step=step)
            with self._sync_context(model, is_last=number == len(micro_batches) - 1):
                losses.append(super().training_step(model, keyed))
        return torch.stack(losses).sum()

    def _num_learned(self, batch: Batch) -> torch.Tensor:
        """Return the number of units of each sample that will be learned, without the model."""
        task: Any = self._learner.task
        num_units: torch.Tensor = task.counted_units(batch)[batch["weight"] > 0]
        selector = self._learner.selector
        return num_units if selector is None else num_kept(num_units, keep=selector.keep)

    def _sync_context(
        self, model: torch.nn.Module, *, is_last: bool
    ) -> AbstractContextManager[None]:
        """Exchange gradients between ranks in the last micro-batch of a step only, as the Trainer
        does between its own.
        """
        self.accelerator.gradient_state._set_sync_gradients(is_last)  # noqa: SLF001
        is_deepspeed = self.accelerator.distributed_type == DistributedType.DEEPSPEED
        if is_last or is_deepspeed:
            return nullcontext()
        without: AbstractContextManager[None] = self.accelerator.no_sync(model)
        return without

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Batch,
        return_outputs: bool = False,  # noqa: FBT001, FBT002  (the Trainer's signature)
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        losses, num_learned, whole, num_units = model(inputs)
        self._observed.add(inputs, loss=whole, num_units=num_units, step=self.state.global_step)
        # DDP averages the gradients over ranks; multiplied by their number, they add up.
        weights = inputs["weight"] * num_learned if self._averages_tokens else inputs["weight"]
        total: torch.Tensor = (weights * losses).sum() / inputs["denominator"]
        return total * int(self.accelerator.num_processes)

    def hand_over_observed(self) -> None:
        """Pass the losses of all ranks since the last call to the hook."""
        rows = self._observed.take(device=self.args.device)
        for shard_id, row in unusable_rows(rows):
            self._stream.leave_out(shard_id, row=row)
        rows = self.accelerator.pad_across_processes(rows, dim=0, pad_index=-1)
        frame = to_frame(self.accelerator.gather(rows))
        first, self._observed_from = self._observed_from, self.state.global_step
        self._hooks.observed(first, frame)

    def before_step(self) -> None:
        self._hooks.learning_rate(self.state.global_step, float(self._get_learning_rate()))

    def after_step(self) -> None:
        self._hooks.step(self.state.global_step)

    def after_save(self) -> None:
        if self.args.should_save:
            folder = self._work / f"checkpoint-{self.state.global_step}"
            self._hooks.checkpoint(self.state.global_step, folder)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        # Overridden, because the Trainer would add a pickle of its arguments.
        if not self.args.should_save:
            return
        assert output_dir is not None
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        if state_dict is None or self.is_deepspeed_enabled:
            self._models.save(self._learner.model, Path(output_dir))
            return
        # FSDP: `state_dict` holds the weights gathered from the ranks that they are sharded over.
        weights = {name.removeprefix("model."): value for name, value in state_dict.items()}
        models: Any = self._models  # a store that works with FSDP takes `weights`, see `Models`
        models.save(self._learner.model, Path(output_dir), weights=weights)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.is_deepspeed_enabled and checkpoint is not None:
            load_zero(self.model_wrapped, self.lr_scheduler, Path(checkpoint))
        else:
            super()._load_optimizer_and_scheduler(checkpoint)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.is_deepspeed_enabled:
            save_zero(self.model_wrapped, self.lr_scheduler, Path(output_dir))
            return
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        # Overridden, because the Trainer would add another copy of the weights.
        plugin = self.accelerator.state.fsdp_plugin
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        if self.args.should_save:
            assert self.lr_scheduler is not None
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # Overridden, because the Trainer leaves modules of many architectures at their initial
        # values with only a warning. The weights were loaded and checked by their digest before.
        return

    def _save_rng_state(self, output_dir: str) -> None:
        # Random numbers depend only on (seed, step, rank): there is no state.
        return

    def _load_rng_state(self, checkpoint: str | None) -> None:
        return


def _at_position(factor: Callable[[Any], float], steps: Steps, step: int) -> float:
    return factor(steps.position(step))


class _RoundCallback(TrainerCallback):
    """Save inside the round, and stop at its end, which lies before the schedule's horizon."""

    def __init__(self, trainer: _RoundTrainer, *, steps: Steps, save_steps: int) -> None:
        self._trainer = trainer
        self._steps = steps
        self._save_steps = save_steps

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._trainer.before_step()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        step = state.global_step
        at_end = step >= self._steps.last
        control.should_save = at_end or (self._save_steps > 0 and step % self._save_steps == 0)
        control.should_training_stop = at_end
        if control.should_save or step % _OBSERVE_STEPS == 0:
            # Before the checkpoint, so that a resumed run hands over the same losses again.
            self._trainer.hand_over_observed()
        self._trainer.after_step()
        return control

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._trainer.after_save()


def _arguments(settings: TrainingSettings, *, steps: Steps, work: Path) -> TrainingArguments:
    loop_arguments: dict[str, Any] = {
        "output_dir": str(work),
        "max_steps": max(steps.total, steps.last),  # the callback stops at `last`
        "gradient_accumulation_steps": 1,  # a batch of the Trainer is a whole step
        "bf16": settings.dtype == "bfloat16",
        "seed": stream_key(steps.seed, Purpose.TRAIN_STEP) % 2**32,
        "save_strategy": "no",  # the callback decides
        "ignore_data_skip": True,  # the stream starts at its own step
        "remove_unused_columns": False,
        "average_tokens_across_devices": False,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
    }
    return training_arguments(settings, **loop_arguments)


def _check_devices(stream: TeachingStream, arguments: TrainingArguments) -> None:
    rank, world_size = arguments.process_index, arguments.world_size
    share = stream.share
    if (share.rank, share.world_size) != (rank, world_size):
        raise InputError(
            f"the stream is for rank {share.rank} of {share.world_size}, this process is rank "
            f"{rank} of {world_size}: build the stream with the launcher's RANK and WORLD_SIZE"
        )
    if arguments.fp16 and arguments.device.type == "cpu":  # the Trainer would silently ignore it
        raise InputError(
            "training.arguments.fp16 is for GPUs, and this process has none: set training.dtype to "
            "bfloat16 instead"
        )
    if arguments.n_gpu > 1:
        raise InputError(
            "several GPUs in one process: start one process per GPU (torchrun), or make only one "
            "visible (CUDA_VISIBLE_DEVICES)"
        )
