"""`fit`: train one round, resume it after an interruption, return its result."""

import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import polars as pl
import torch

from trainers import checkpoint as checkpoints
from trainers import ranks
from trainers.allocator import keep_freed_memory
from trainers.fitting.completion import Completion
from trainers.fitting.recorder import Callbacks, Progress, RoundRecorder
from trainers.fitting.result import FitResult, result_of
from trainers.fitting.start import Start, check_round, find_start
from trainers.round_hooks import Steps
from trainers.scoring.saved_model import SavedModel
from trainers.settings import TrainingSettings
from trainers.streaming.stream import TeachingStream
from trainers.task import Batch, Models, Task, averages_tokens
from trainers.token_selection import TokenSelector, check_tokens


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
    on_schedule: tuple[int, int] | None = None,
    on_losses: Callable[[int, pl.DataFrame], None] | None = None,
    evaluation: Iterable[Batch] | None = None,
    further_evaluations: Mapping[str, Iterable[Batch]] | None = None,
    on_step: Callable[[int], None] | None = None,
    on_learning_rate: Callable[[int, float], None] | None = None,
) -> FitResult:
    """Train all steps of `stream` and publish a checkpoint at `out`.

    Called again after an interruption, it resumes from the newest checkpoint inside the round;
    called again after the round is finished, it only returns its result. Every rank calls it.

    Args:
        stream: the round's samples for this rank, with the batch sizes of `settings`.
        task: gives the loss.
        models: builds, loads and saves the model.
        start: URL of the checkpoint that the round starts from; None builds a new model.
        out: URL of the checkpoint to publish; inside the round `out/step-<n>`.
        settings: how to train.
        first_step: optimizer steps of all rounds before this one.
        total_steps: optimizer steps of the whole run: the horizon of the learning rate.
        on_schedule: first and last position of the round on the learning rate's schedule, of 0 to
            `total_steps`; default: its own steps.
        seed: seed of dropout, and of the model when it is built.
        on_losses: gets (first step, `OBSERVED_LOSSES`) for ranges of steps, on the writing rank;
            after an interruption the same range may come again, with the same rows.
        evaluation: held-out batches; evaluated at the end, on the writing rank.
        further_evaluations: name → held-out batches; the names of their metrics begin with it, as
            in `target_loss`.
        on_step: gets the number of optimizer steps done, after each.
        on_learning_rate: gets each optimizer step, from 0, and its learning rate, before the step.

    Raises:
        MissingError: there is no checkpoint at `start`.
        ExistsError: `out` holds a checkpoint of another round.
        InputError: settings do not fit the stream, the process or the checkpoint; training
            diverged.
    """
    last = first_step + stream.num_steps
    steps = Steps(first_step, last, total_steps, seed, on_schedule or (first_step, last))
    check_round(stream, task=task, settings=settings, steps=steps)
    held_out = ({} if evaluation is None else {"": evaluation}) | dict(further_evaluations or {})
    completion = Completion(task, models, settings, held_out)
    published = checkpoints.open(out)
    if published is None:
        _train(
            stream,
            start=find_start(start, out=out, steps=steps),
            steps=steps,
            out=out,
            completion=completion,
            callbacks=Callbacks(on_losses, on_step, on_learning_rate),
        )
    else:
        result_of(published, stream=stream)  # raises for a checkpoint of another round
        if ranks.rank() == 0:
            completion.complete(published)
    published = checkpoints.open(out) or published
    assert published is not None
    return result_of(published, stream=stream)


def _train(
    stream: TeachingStream,
    *,
    start: Start,
    steps: Steps,
    out: str,
    completion: Completion,
    callbacks: Callbacks,
) -> None:
    """Train the remaining steps, publish, complete."""
    from trainers.hf.training_loop import train_steps

    task, settings, models = completion.task, completion.settings, completion.models
    _prepare_process(settings)
    with tempfile.TemporaryDirectory(prefix="attent-fit-") as work, start.local() as folder:
        resume, selector = start.trainer_state(folder, settings), load_selector(task, settings)
        model = start.model(models, folder=folder, seed=steps.seed)
        recorder = RoundRecorder(
            model,
            models=models,
            stream=stream,
            steps=steps,
            out=out,
            progress=_restore(stream, start),
            callbacks=callbacks,
            averages_tokens=averages_tokens(task, settings.average),
            reference_digest=start.check_reference(selector),
        )
        train_steps(
            model,
            stream=stream,
            task=task,
            models=models,
            settings=settings,
            steps=steps,
            resume=resume,
            work=Path(work),
            hooks=recorder.hooks,
            selector=selector,
        )
        _publish(recorder, completion)


def _prepare_process(settings: TrainingSettings) -> None:
    keep_freed_memory()
    if settings.torch_threads is not None:
        torch.set_num_threads(settings.torch_threads)


def _publish(recorder: RoundRecorder, completion: Completion) -> None:
    """Publish the round on the writing rank, for which the others wait."""
    if ranks.rank() == 0:
        published = recorder.publish_result(is_evaluated=not completion.held_out)
        completion.complete(published, model=recorder.final_model())
    _wait_for_writer()


def load_selector(task: Task, settings: TrainingSettings) -> TokenSelector | None:
    """Return the reference model and the share of tokens of `token_selection`, if it is set."""
    selection = settings.token_selection
    if selection is None:
        return None
    check_tokens(task)
    reference = SavedModel(selection.reference, task).load().eval().requires_grad_(False)
    return TokenSelector(reference, selection.keep)


def _restore(stream: TeachingStream, start: Start) -> Progress:
    """Put the stream at the position of `start`, and return what was recorded until then."""
    if start.checkpoint is None or not start.is_resume:
        stream.load_state_dict(stream.state_at(0))
        return Progress()
    stream.load_state_dict(start.checkpoint.stream or {})
    progress = Progress(**start.checkpoint.progress)
    stream.count_earlier(progress.samples_seen)
    return progress


def _wait_for_writer() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
