"""Fine-tune a language model on the texts of an index with trl's SFTTrainer; resumes.

    python examples/trl_sft.py RUN INDEX MODEL FOLDER

RUN is a run or corpus whose samples have a column `text` (or `messages`, or `prompt` and
`completion`), INDEX an index file of `attent select`, MODEL a model with its tokenizer, FOLDER
where to write checkpoints. SFTTrainer knows no weights: select with `weights: none`.
"""

import sys
from pathlib import Path

import torch
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig, SFTTrainer

from catalogs import Corpus, IndexFile
from trainers import TeachingStream

BATCH_SIZE = 8
EPOCHS = 1
SAVE_STEPS = 5
# What SFTTrainer reads.
COLUMNS = ("text", "messages", "prompt", "completion")


def main(run: str, index: str, model: str, folder: str) -> None:
    """Train the steps that the last checkpoint in `folder` does not contain."""
    corpus = Corpus.open(run)
    opened = IndexFile.open(index, corpus=corpus)
    stream = TeachingStream(opened, corpus, batch_size=BATCH_SIZE, epochs=EPOCHS)
    num_steps = stream.num_steps
    last = get_last_checkpoint(folder) if Path(folder).is_dir() else None
    if last is not None:
        stream.load_state_dict(stream.state_at(int(last.rpartition("-")[2])))
    columns = [name for name in COLUMNS if name in corpus.columns]
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=folder,
            max_steps=num_steps,
            per_device_train_batch_size=BATCH_SIZE,
            save_steps=SAVE_STEPS,
            max_length=512,
            bf16=torch.cuda.is_available(),
            ignore_data_skip=True,  # the stream continues with the next batch
            report_to="none",
        ),
        train_dataset=stream.as_hf_iterable().select_columns(columns),
    )
    trainer.train(resume_from_checkpoint=last)


if __name__ == "__main__":
    main(*sys.argv[1:5])
