"""Select from observed losses with Accelerate, on handwritten digits.

python examples/teacher_accelerate.py
accelerate launch --cpu --num_processes 2 examples/teacher_accelerate.py
"""

import torch
from accelerate import Accelerator
from teacher_torch import BATCH_SIZE, NUM_EPOCHS, Digits, accuracy_of, new_model
from torch.nn import functional
from torch.utils.data import DataLoader

from trainers import Teacher


def main() -> None:
    """Train, and print the samples that were seen and the accuracy."""
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    dataset, model = Digits(is_training=True), new_model()
    # Accelerate divides the batches of the loader among the ranks itself.
    teacher = Teacher(len(dataset), strategy="infobatch", ratio=0.5, num_replicas=1)
    loader = DataLoader(dataset, BATCH_SIZE // accelerator.num_processes, sampler=teacher.sampler)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    learner, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    num_seen = 0
    for _ in range(NUM_EPOCHS):
        for indices, images, labels in loader:
            losses = functional.cross_entropy(learner(images), labels, reduction="none")
            teacher.observe(indices, losses)
            optimizer.zero_grad()
            accelerator.backward((teacher.weights_of(indices) * losses).mean())
            optimizer.step()
            num_seen += len(indices) * accelerator.num_processes
    accuracy = accuracy_of(accelerator.unwrap_model(learner).cpu())
    accelerator.print(f"{num_seen} samples seen, accuracy {accuracy:.3f}")
    # Without `end_training`, which destroys the process group: torch 2.13 may hang in it soon after
    # a backward pass.


if __name__ == "__main__":
    main()
