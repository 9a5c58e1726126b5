"""Judging samples of a run: examples of its target, and random samples of its corpus."""

import numpy as np
import polars as pl

from attent_select.schema import ROW, SHARD_ID
from attent_select.stats.permutation import permute
from attent_select.stats.randomness import Purpose, stream_key
from catalogs import Corpus, storage
from catalogs.layout import Layout
from catalogs.tables import frames
from pipeline.annotation.targets import judging_rows, open_shards
from pipeline.config.annotation_kinds import kind_of
from pipeline.config.sections import RunConfig


def choose_judging(config: RunConfig) -> None:
    """Choose the samples that every round of a run with a target is evaluated on, once.

    Written to `Layout.judging`: `part` (`target` or `corpus`), shard_id u32, row u32, and the kind
    of reference of an example.

    Raises:
        InputError: the target lacks a column of the task, or has too few examples.
    """
    target, layout = config.target, Layout(config.run)
    if target is None or storage.info(layout.judging) is not None:
        return
    kinds = [kind_of(entry) for entry in config.annotations.values()]
    column_sets = {tuple(config.task.task.columns)}
    divided = [kind for kind in kinds if kind.needs_target and getattr(kind, "splits_target", True)]
    column_sets |= {tuple(kind.columns) for kind in divided}
    examples = judging_rows(
        open_shards(target.shards, folder=layout.target), target, column_sets=column_sets
    )
    rows = {
        "target": examples,
        "corpus": _random_rows(Corpus.open(config.run), target.corpus_samples, seed=config.seed),
    }
    table = pl.concat(
        [part.select(pl.lit(name).alias("part"), pl.all()) for name, part in rows.items()]
    )
    frames.publish_frame(layout.judging, table, notes={})


def _random_rows(corpus: Corpus, num_rows: int, *, seed: int) -> pl.DataFrame:
    """Return random rows of a corpus, without replacement, sorted."""
    positions = np.arange(min(num_rows, corpus.num_samples))
    key = stream_key(seed, Purpose.JUDGE)
    drawn = np.sort(permute(positions, size=corpus.num_samples, key=key))
    starts = np.cumsum([0, *(shard.num_samples for shard in corpus.shards)])
    shards = np.searchsorted(starts, drawn, side="right") - 1
    ids = {SHARD_ID: shards, ROW: drawn - starts[shards]}
    schema = dict.fromkeys(ids, pl.UInt32)
    return pl.DataFrame(ids, schema=schema).with_columns(kind=pl.lit(None, dtype=pl.String))
