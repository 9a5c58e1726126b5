"""Select from observed losses in a plain torch loop, on handwritten digits.

python examples/teacher_torch.py
torchrun --nproc-per-node 2 examples/teacher_torch.py
"""

import os

import torch
from sklearn.datasets import load_digits
from torch import distributed
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from trainers import Teacher

NUM_EPOCHS, BATCH_SIZE, NUM_TRAINING = 20, 32, 1500
Sample = tuple[int, torch.Tensor, torch.Tensor]


class Digits(Dataset[Sample]):
    """Images of 8 × 8 pixels, float32[64] in [0, 1], and their classes; with their indices."""

    def __init__(self, *, is_training: bool) -> None:
        images, labels = load_digits(return_X_y=True)
        rows = slice(NUM_TRAINING) if is_training else slice(NUM_TRAINING, None)
        self.images = torch.tensor(images[rows] / 16, dtype=torch.float32)
        self.labels = torch.tensor(labels[rows])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        return index, self.images[index], self.labels[index]


def new_model() -> torch.nn.Module:
    """Return a small classifier."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))


def accuracy_of(model: torch.nn.Module) -> float:
    """Return the accuracy on held-out digits."""
    held_out = Digits(is_training=False)
    with torch.no_grad():
        predicted = model(held_out.images).argmax(1)
    return float((predicted == held_out.labels).float().mean())


def main() -> None:
    """Train, and print the samples that were seen and the accuracy."""
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if num_ranks > 1:
        distributed.init_process_group("gloo")
    model = new_model()
    learner = DistributedDataParallel(model) if num_ranks > 1 else model
    optimizer = torch.optim.AdamW(learner.parameters(), lr=3e-3)

    dataset = Digits(is_training=True)
    teacher = Teacher(len(dataset), strategy="soft", ratio=0.5)
    loader = DataLoader(dataset, batch_size=BATCH_SIZE // num_ranks, sampler=teacher.sampler)
    num_seen = 0
    for _ in range(NUM_EPOCHS):
        for indices, images, labels in loader:
            losses = functional.cross_entropy(learner(images), labels, reduction="none")
            teacher.observe(indices, losses)
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
            num_seen += len(indices) * num_ranks
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"{num_seen} samples seen, accuracy {accuracy_of(model):.3f}")  # noqa: T201
    # The process group ends with the process: torch 2.13 may hang if it is destroyed soon after a
    # backward pass, because a thread of gloo then needs the lock that the destructor holds.


if __name__ == "__main__":
    main()
