"""Register the texts of an index as a data set of torchtitan.

    torchrun --nproc-per-node 8 -m torchtitan.train … --training.dataset attent \
        --training.dataset_path RUN::INDEX

Import this module before torchtitan starts, for example from the file that
`--job.custom_config_module` names, and call `register()`. torchtitan splits the data set among its
ranks and keeps the position of each in its checkpoints, by `state_dict` and `load_state_dict`.
"""

from typing import Any

from catalogs import Corpus, IndexFile
from trainers import TeachingStream

NAME = "attent"
# Samples of a step of the order: torchtitan packs texts into batches itself.
STEP_SAMPLES = 64


def load(dataset_path: str, *, seed: int = 0, epochs: int = 1) -> Any:
    """Return the `datasets.IterableDataset` of `RUN::INDEX`."""
    run, index = dataset_path.split("::")
    corpus = Corpus.open(run)
    opened = IndexFile.open(index, corpus=corpus)
    stream = TeachingStream(opened, corpus, batch_size=STEP_SAMPLES, seed=seed, epochs=epochs)
    return stream.as_hf_iterable()


def text_of(sample: dict[str, Any]) -> str:
    """Return the text of a sample."""
    return str(sample["text"])


def register() -> None:
    """Make the data set known to torchtitan under `NAME`."""
    from torchtitan.hf_datasets import DatasetConfig
    from torchtitan.hf_datasets.text_datasets import DATASETS

    DATASETS[NAME] = DatasetConfig(path="", loader=load, sample_processor=text_of)
