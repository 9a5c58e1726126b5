"""Train on the samples of an index with Lightning; resumes with the next batch.

    python examples/lightning_loop.py RUN INDEX FOLDER
    torchrun --nproc-per-node 2 examples/lightning_loop.py RUN INDEX FOLDER

RUN is a run with an ingested corpus (it sets task, model and batch sizes), INDEX an index file of
`attent select`, FOLDER the folder for checkpoints.
"""

import os
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from catalogs import Corpus, IndexFile
from pipeline.config import run_config
from trainers import OrderSettings, RankShare, TeachingStream, ranks
from trainers.task import Batch, Task

SAVE_STEPS = 5


class Learner(lightning.LightningModule):
    """The model, its task's loss, and the position in the stream."""

    def __init__(
        self, stream: TeachingStream, model: torch.nn.Module, task: Task, *, learning_rate: float
    ) -> None:
        super().__init__()
        self.model, self.task, self.learning_rate = model, task, learning_rate
        self.stream = stream

    def train_dataloader(self) -> DataLoader[Batch]:
        # Wrap the stream: Lightning would save the stream's own position, which is one batch ahead
        # of training.
        return DataLoader(self.stream, batch_size=None, num_workers=0)

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        if int(batch["step"]) != self.seeded_step:
            self.seeded_step = int(batch["step"])  # the same dropout after a resume
            torch.manual_seed(self.seeded_step * self.trainer.world_size + self.global_rank)
        losses, _ = self.task.per_sample_loss(self.model, batch)
        loss = (batch["weight"] * losses).sum() / batch["denominator"]
        # Lightning takes the mean over accumulated micro-batches, DDP over ranks.
        return loss * self.trainer.accumulate_grad_batches * self.trainer.world_size

    seeded_step = -1

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["stream"] = self.stream.state_at(self.global_step)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.stream.load_state_dict(checkpoint["stream"])


def main(run: str, index: str, folder: Path) -> None:
    """Set up the stream and the model from the configuration of the run, and train."""
    ranks.join()
    config = run_config.load(run, trust_run=True)  # your own run
    corpus, task, training = Corpus.open(run), config.task.task, config.training
    # Lightning accumulates the same number of micro-batches in every step.
    micro_batch_size = training.micro_batch_size or training.batch_size
    stream = TeachingStream(
        IndexFile.open(index, corpus=corpus),
        corpus,
        task,
        order=OrderSettings(config.seed, training.batch_size),
        share=RankShare.of_process(micro_batch_size=micro_batch_size),
        settings=config.streaming,
        max_failed_share=config.scoring.max_failed_share,
    )
    model = task.models(config.model).build(config.seed)
    trainer = lightning.Trainer(
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
        max_epochs=1,  # the stream contains all epochs
        max_steps=stream.num_steps,
        accumulate_grad_batches=stream.micro_batches_per_step,
        callbacks=[ModelCheckpoint(folder, every_n_train_steps=SAVE_STEPS, save_last=True)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    learner = Learner(stream, model, task, learning_rate=training.learning_rate)
    trainer.fit(learner, ckpt_path="last", weights_only=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
