"""Select from observed losses with the Trainer of transformers, on handwritten digits.

python examples/teacher_hf_trainer.py
"""

import tempfile
from typing import Any

import torch
from teacher_torch import BATCH_SIZE, NUM_EPOCHS, Digits, accuracy_of, new_model
from torch.nn import functional
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from trainers import Teacher


class TaughtTrainer(Trainer):
    """A Trainer whose sampler is a teacher's, and that tells it the losses."""

    teacher: Teacher
    num_seen = 0

    def _get_train_sampler(self, *_: Any, **__: Any) -> Sampler[int]:
        return self.teacher.sampler

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Any], *_: Any, **__: Any
    ) -> Any:
        outputs = model(inputs["images"])
        losses = functional.cross_entropy(outputs, inputs["labels"], reduction="none")
        self.teacher.observe(inputs["indices"], losses)
        self.num_seen += len(losses)
        return losses.mean()


class Announcement(TrainerCallback):
    """Print how many samples the teacher has selected for each epoch."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        print(f"epoch {self.teacher.epoch}: {len(self.teacher.selected_indices())} samples")  # noqa: T201


def main() -> None:
    """Train, and print the samples that were seen and the accuracy."""
    dataset, model = Digits(is_training=True), new_model()
    teacher = Teacher(len(dataset), strategy="soft", ratio=0.5)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=NUM_EPOCHS,
            per_device_train_batch_size=BATCH_SIZE,
            learning_rate=3e-3,
            # Decays over the steps of epochs on all samples, which are more than there will be.
            lr_scheduler_type="constant",
            remove_unused_columns=False,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = TaughtTrainer(
            model,
            arguments,
            train_dataset=dataset,
            data_collator=lambda batch: dict(
                zip(
                    ("indices", "images", "labels"),
                    torch.utils.data.default_collate(batch),
                    strict=True,
                )
            ),
            callbacks=[Announcement(teacher)],
        )
        trainer.teacher = teacher
        trainer.train()
    accuracy = accuracy_of(model.cpu())
    print(f"{trainer.num_seen} samples seen, accuracy {accuracy:.3f}")  # noqa: T201


if __name__ == "__main__":
    main()
