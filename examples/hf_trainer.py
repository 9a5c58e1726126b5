"""Train on the samples of an index with the Hugging Face Trainer; resumes with the next batch.

    python examples/hf_trainer.py RUN INDEX CHECKPOINT
    torchrun --nproc-per-node 2 examples/hf_trainer.py RUN INDEX CHECKPOINT

RUN is a run with an ingested corpus (it sets task, model and training), INDEX an index file of
`attent select`, CHECKPOINT the folder or URL to write.
"""

import sys

from catalogs import Corpus, IndexFile
from pipeline.config import run_config
from trainers import OrderSettings, RankShare, TeachingStream, fit, ranks


def main(run: str, index: str, checkpoint: str) -> None:
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
