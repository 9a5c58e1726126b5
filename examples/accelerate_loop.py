"""Train on the samples of an index with Accelerate, which distributes them to its processes.

    python examples/accelerate_loop.py RUN INDEX CHECKPOINT
    accelerate launch examples/accelerate_loop.py RUN INDEX CHECKPOINT

RUN is a run with an ingested corpus (it sets task, model and batch size), INDEX an index file of
`attent select`, CHECKPOINT the file to write. The first process reads all samples; for reading in
every process see torch_loop.py.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from catalogs import Corpus, IndexFile
from pipeline.config import run_config
from trainers import TeachingStream
from trainers.task import Batch, Task

SAVE_STEPS = 5


def main(run: str, index: str, checkpoint: Path) -> None:
    """Train the steps that `checkpoint` does not contain."""
    config = run_config.load(run, trust_run=True)  # your own run
    corpus, task, training = Corpus.open(run), config.task.task, config.training
    opened = IndexFile.open(index, corpus=corpus)
    stream = TeachingStream(opened, corpus, batch_size=training.batch_size, seed=config.seed)
    model = task.models(config.model).build(config.seed)
    accelerator = Accelerator()  # after the configuration: checking its training resets Accelerate
    optimizer = torch.optim.SGD(model.parameters(), lr=training.learning_rate)
    step = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
        stream.load_state_dict(stream.state_at(step))
    loader = DataLoader(
        stream.as_hf_iterable(),
        batch_size=training.batch_size // accelerator.num_processes,
        collate_fn=lambda samples: collate(task, samples),
    )
    model, optimizer, loader = accelerator.prepare(model.train(), optimizer, loader)
    for batch in loader:
        losses, _ = task.per_sample_loss(model, batch)
        accelerator.backward((batch["weight"] * losses).mean())
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if accelerator.is_main_process and (step % SAVE_STEPS == 0 or step == stream.num_steps):
            plain = accelerator.unwrap_model(model).state_dict()
            states = {"model": plain, "optimizer": optimizer.state_dict(), "step": step}
            torch.save(states, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)


def collate(task: Task, samples: Sequence[dict[str, Any]]) -> Batch:
    """Prepare samples of the data set as the task does, with their weights."""
    items = [task.prepare(sample, generator=torch.Generator()) for sample in samples]
    return dict(task.collate(items)) | {
        "weight": torch.tensor([sample["weight"] for sample in samples])
    }


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
