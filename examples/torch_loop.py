"""Train on the samples of an index with a plain torch loop; resumes with the next batch.

    python examples/torch_loop.py RUN INDEX CHECKPOINT
    torchrun --nproc-per-node 2 examples/torch_loop.py RUN INDEX CHECKPOINT

RUN is a run with an ingested corpus (it sets task, model and batch sizes), INDEX an index file of
`attent select`, CHECKPOINT the file to write.
"""

import os
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from catalogs import Corpus, IndexFile
from pipeline.config import run_config
from trainers import OrderSettings, RankShare, TeachingStream, ranks
from trainers.task import Batch, Task

SAVE_STEPS = 5
# Set by the launcher (torchrun).
RANK = int(os.environ.get("RANK", "0"))
WORLD_SIZE = int(os.environ.get("WORLD_SIZE", "1"))


class Learner(torch.nn.Module):
    """The model with its task's loss as `forward`, so that DDP wraps both."""

    def __init__(self, model: torch.nn.Module, task: Task) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, batch: Batch) -> torch.Tensor:
        losses, _ = self.task.per_sample_loss(self.model, batch)
        # The mean over the global batch; DDP takes the mean over ranks.
        return (batch["weight"] * losses).sum() / batch["denominator"] * WORLD_SIZE


def main(run: str, index: str, checkpoint: Path) -> None:
    """Set up the stream and the model from the configuration of the run, and train."""
    ranks.join()
    config = run_config.load(run, trust_run=True)  # your own run
    corpus, task, training = Corpus.open(run), config.task.task, config.training
    stream = TeachingStream(
        IndexFile.open(index, corpus=corpus),
        corpus,
        task,
        order=OrderSettings(config.seed, training.batch_size),
        share=RankShare.of_process(
            micro_batch_size=training.micro_batch_size,
            micro_batch_units=training.micro_batch_units,
        ),
        settings=config.streaming,
        max_failed_share=config.scoring.max_failed_share,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    learner = Learner(task.models(config.model).build(config.seed), task).to(device)
    train(stream, learner.train(), learning_rate=training.learning_rate, checkpoint=checkpoint)
    # The process group ends with the process: torch 2.13 may hang if it is destroyed soon after a
    # backward pass, because a thread of gloo then needs the lock that the destructor holds.


def train(
    stream: TeachingStream, learner: Learner, *, learning_rate: float, checkpoint: Path
) -> None:
    """Train the steps of `stream` that `checkpoint` does not contain."""
    optimizer = torch.optim.SGD(learner.parameters(), lr=learning_rate)
    device = next(learner.parameters()).device
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        learner.load_state_dict(saved["learner"])
        optimizer.load_state_dict(saved["optimizer"])
        stream.load_state_dict(saved["stream"])
    parallel = DistributedDataParallel(learner) if WORLD_SIZE > 1 else None
    torch.manual_seed(stream.next_step * WORLD_SIZE + RANK)
    for batch in stream:
        is_last = stream.next_step > int(batch["step"])  # micro-batch of its step
        inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        with nullcontext() if parallel is None or is_last else parallel.no_sync():
            (parallel or learner)(inputs).backward()
        if not is_last:
            continue
        optimizer.step()
        optimizer.zero_grad()
        if stream.next_step % SAVE_STEPS == 0 or stream.next_step == stream.num_steps:
            save(checkpoint, learner=learner, optimizer=optimizer, stream=stream)
        torch.manual_seed(stream.next_step * WORLD_SIZE + RANK)  # the same dropout after a resume


def save(
    checkpoint: Path,
    *,
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    stream: TeachingStream,
) -> None:
    """Write a checkpoint atomically, on the first rank."""
    if RANK:
        return
    states = {
        "learner": learner.state_dict(),
        "optimizer": optimizer.state_dict(),
        "stream": stream.state_dict(),
    }
    torch.save(states, checkpoint.with_suffix(".new"))
    checkpoint.with_suffix(".new").replace(checkpoint)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
