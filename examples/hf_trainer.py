"""The Hugging Face Trainer over the samples of an index. Killed, it goes on with the exact next
batch.

    python examples/hf_trainer.py RUN INDEX CHECKPOINT
    torchrun --nproc-per-node 2 examples/hf_trainer.py RUN INDEX CHECKPOINT

RUN is a run whose corpus was ingested (it says task, model and training), INDEX what `attent
select` wrote, CHECKPOINT the folder or URL to publish.
"""

import os
import sys

from catalogs import Corpus, IndexFile
from pipeline.config import run_config
from trainers import TeachingStream, fit, ranks


def main(run: str, index: str, checkpoint: str) -> None:
    """Set up the stream and the model, as the run says, and train."""
    ranks.join()
    config = run_config.load(run)
    corpus, task, training = Corpus.open(run), config.task.task, config.training
    stream = TeachingStream(
        IndexFile.open(index, corpus=corpus),
        corpus,
        task,
        seed=config.seed,
        batch_size=training.batch_size,
        micro_batch_size=training.micro_batch_size,
        rank=int(os.environ.get("RANK", "0")),
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
    )
    fit(
        stream,
        task=task,
        models=task.models(config.model),
        start=None,
        out=checkpoint,
        settings=training,
        first_step=0,
        total_steps=stream.num_steps,
        seed=config.seed,
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3])
