"""Samples that every round of a run is evaluated on: held-out ones, and those of its target."""

import tempfile

from pipeline.annotation.targets import open_shards
from pipeline.config.sections import RunConfig
from pipeline.config.shard_settings import CorpusSettings
from pipeline.corpus.ingest import shard_objects
from pipeline.doctor.first_shard import inspect_first_shard


def evaluated_samples(config: RunConfig) -> int:
    """Return about how many samples a round is evaluated on.

    Raises what `inspect_first_shard` and `open_shards` raise.
    """
    count, target = 0, config.target
    with tempfile.TemporaryDirectory(prefix="attent-") as folder:
        if config.evaluation is not None:
            count += _num_samples(config.evaluation.shards, folder)
        if target is not None:
            examples = open_shards(target.shards, folder=folder).num_samples
            count += round(target.judge_share * examples) + target.corpus_samples
    return count


def _num_samples(urls: tuple[str, ...], folder: str) -> int:
    """Return the number of samples in shards, by the bytes of a sample in the first one."""
    shards = CorpusSettings(shards=urls)
    first, _ = inspect_first_shard(shards, folder)
    num_bytes = sum(one.num_bytes for one in shard_objects(shards))
    return round(first.num_samples * num_bytes / first.num_bytes)
