"""Select from observed losses with Lightning, on handwritten digits.

python examples/teacher_lightning.py
"""

from typing import Any

import pytorch_lightning as lightning
import torch
from teacher_torch import BATCH_SIZE, NUM_EPOCHS, Digits, accuracy_of, new_model
from torch.nn import functional
from torch.utils.data import DataLoader

from trainers import Teacher


class Learner(lightning.LightningModule):
    """A classifier whose training step tells the teacher its losses."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.model, self.teacher, self.num_seen = new_model(), teacher, 0

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        indices, images, labels = batch
        losses = functional.cross_entropy(self.model(images), labels, reduction="none")
        self.teacher.observe(indices, losses)
        self.num_seen += len(indices)
        return losses.mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["teacher"] = self.teacher.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.teacher.load_state_dict(checkpoint["teacher"])


def main() -> None:
    """Train, and print the samples that were seen and the accuracy."""
    dataset = Digits(is_training=True)
    teacher = Teacher(len(dataset), strategy="soft", ratio=0.5)
    learner = Learner(teacher)
    trainer = lightning.Trainer(
        accelerator="auto",
        devices=1,
        max_epochs=NUM_EPOCHS,
        # The number of batches of an epoch follows from its subset.
        reload_dataloaders_every_n_epochs=1,
        # The sampler divides an epoch among ranks itself.
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(learner, DataLoader(dataset, batch_size=BATCH_SIZE, sampler=teacher.sampler))
    accuracy = accuracy_of(learner.model.cpu())
    print(f"{learner.num_seen} samples seen, accuracy {accuracy:.3f}")  # noqa: T201


if __name__ == "__main__":
    main()
