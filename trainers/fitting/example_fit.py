"""Fit a saved model to examples in memory, once: the weights are published under a digest."""

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import polars as pl
from annotated_types import Ge, Gt

from attent_select.errors import InputError, SampleError
from attent_select.plugins import load_plugin
from catalogs import Corpus, IndexFile, storage
from catalogs.layout import join
from catalogs.shard_format import Sample
from catalogs.shards import inspect_shard
from trainers import checkpoint as checkpoints
from trainers.checkpoint import Checkpoint
from trainers.fitting.training_round import fit
from trainers.hf.saved_files import MODEL_FILES, local_files
from trainers.scoring.saved_model import SavedModel
from trainers.settings import TrainingSettings
from trainers.settings.bounds import Dtype, Positive, check_fields
from trainers.streaming.stream import TeachingStream
from trainers.task import prepare_each

# Fewer usable examples are refused: a model fitted to them would know them by heart.
_FEWEST = 5


@dataclass(frozen=True)
class ExampleFit:
    """How a model is fitted to examples.

    Attributes:
        epochs: passes over the examples.
        learning_rate: peak of the schedule, which decays to 0 (cosine).
        batch_size: examples of an optimizer step.
        micro_batch_size: examples of a forward pass; default: all of a step.
        weight_decay: of the optimizer.
        dtype: autocast of the computation.
    """

    epochs: Positive = 3
    learning_rate: Annotated[float, Gt(0)] = 1e-4
    batch_size: Positive = 16
    micro_batch_size: Positive | None = None
    weight_decay: Annotated[float, Ge(0)] = 0.0
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def training(self) -> TrainingSettings:
        """The settings of `fit`."""
        settings = asdict(self)
        del settings["epochs"]
        return TrainingSettings(**settings)


def fit_to_examples(
    saved: SavedModel, examples: Sequence[Sample], *, how: ExampleFit, folder: str, seed: int
) -> Checkpoint:
    """Return the fitted weights in `folder`/<digest of all inputs>; fit unless they are there.

    Raises:
        InputError: the task cannot use the examples, or training diverged.
    """
    usable = _usable(saved, examples)
    url = join(folder, _inputs_digest(saved, usable, how=how, seed=seed))
    if (published := checkpoints.open(url)) is not None:
        return published
    with tempfile.TemporaryDirectory(prefix="attent-fit-") as work:
        trained = _train(saved, usable, how=how, seed=seed, work=Path(work))
        weights = Path(work, "weights")
        weights.mkdir()
        for pattern in MODEL_FILES:  # without the state of the optimizer
            for file in Path(trained.url).glob(pattern):
                shutil.move(file, weights)
        return checkpoints.publish(
            weights,
            url=url,
            step=trained.step,
            weights_digest=trained.weights_digest,
            result=trained.result,
        )


def _usable(saved: SavedModel, examples: Sequence[Sample]) -> list[Sample]:
    usable, error = [], None
    items = prepare_each(saved.task, examples, [None] * len(examples))
    for sample, item in zip(examples, items, strict=True):
        if isinstance(item, SampleError):
            error = item
        else:
            usable.append(sample)
    if len(usable) < _FEWEST:
        reason = f", because {error}" if error else ""
        raise InputError(
            f"{saved}: the task can use {len(usable)} of {len(examples)} examples of the target"
            f"{reason}: expected at least {_FEWEST} with the columns of the task"
        )
    return usable


def _inputs_digest(
    saved: SavedModel, examples: Sequence[Sample], *, how: ExampleFit, seed: int
) -> str:
    digest = hashlib.sha256(repr([saved.digests(), saved.task, how, seed]).encode())
    for sample in examples:
        digest.update(repr(sorted(sample.items())).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]


def _train(
    saved: SavedModel, examples: Sequence[Sample], *, how: ExampleFit, seed: int, work: Path
) -> Checkpoint:
    """Train on examples written to a corpus of one shard in the folder `work`."""
    shard = work / "examples.parquet"
    load_plugin("catalogs.formats", "parquet")().write(shard, examples)
    stored = storage.info(str(shard))
    assert stored is not None
    corpus = Corpus.from_inspections([(stored, "parquet", inspect_shard(str(shard), "parquet"))])
    one = pl.lit(1.0, pl.Float32)
    index = IndexFile.write(
        str(work / "index.parquet"),
        corpus.rows().with_columns(weight=one, probability=one),
        provenance={"corpus_id": corpus.corpus_id},
    )
    stream = TeachingStream(
        index,
        corpus,
        saved.task,
        batch_size=how.batch_size,
        micro_batch_size=how.micro_batch_size,
        seed=seed,
        epochs=how.epochs,
    )
    out = str(work / "trained")
    with local_files(saved.path, what="model") as folder:
        fit(
            stream,
            task=saved.task,
            models=saved.task.models({"path": str(folder)}),
            start=None,
            out=out,
            settings=how.training,
            first_step=0,
            total_steps=stream.num_steps,
            seed=seed,
        )
    trained = checkpoints.open(out)
    assert trained is not None
    return trained
