"""What an export consists of: the rows of an index, their losses, and their order."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from attent_select.errors import InputError, MissingError
from attent_select.schema import LOSS, ROW, SHARD_ID, numpy_sample_key
from attent_select.stats.randomness import stream_key
from catalogs import Corpus, IndexFile, LossCatalog, storage
from catalogs.corpus import has_corpus
from catalogs.layout import Layout
from pipeline.config.run_config import frozen_section
from pipeline.config.validation import check
from pipeline.config.yaml_values import read_yaml
from trainers.settings import OrderSettings, StreamingSettings
from trainers.streaming.index_rows import Ids, Selected
from trainers.streaming.order import Order

RowOrder = Literal["teaching", "stored"]


@dataclass(frozen=True, eq=False)
class SubsetSource:
    """An index with its corpus. `losses` are float32[rows], NaN where none was measured."""

    index: IndexFile
    corpus: Corpus
    selected: Selected
    losses: npt.NDArray[np.float32]
    order: Order
    run: str | None

    def ids(self, row_order: RowOrder, *, size: int) -> Iterator[Ids]:
        """Yield the ids of all rows, `size` at a time, as stored or in the order of training."""
        if row_order == "stored":
            for first in range(0, len(self.selected), size):
                yield np.arange(first, min(first + size, len(self.selected)))
            return
        waiting = np.zeros(0, np.int64)
        for block in self.order.blocks():
            waiting = np.concatenate([waiting, block.ids])
            while len(waiting) >= size:
                yield waiting[:size]
                waiting = waiting[size:]
        if len(waiting):
            yield waiting


def open_source(
    target: str, *, corpus: str | None, round_number: int | None, seed: int | None
) -> SubsetSource:
    """Open a run or an index file.

    Args:
        target: URL of a run, or of an index file.
        corpus: URL of the run or corpus of an index file; default: the run that it is in.
        round_number: which index of a run; default: the newest.
        seed: of the teaching order; default: that of the round in its run, else 0.

    Raises:
        MissingError: the index or the corpus was not found.
        InputError: the index selects no row, or `corpus` or `round_number` do not apply.
    """
    is_run = has_corpus(target)
    if is_run and corpus is not None:
        raise InputError(f"--corpus {corpus}: {target} is a run, which has its own corpus")
    if not is_run and round_number is not None:
        raise InputError(f"--round {round_number} needs a run: {target} is one index file")
    home = storage.normalise(target) if is_run else corpus or _run_of(target)
    opened = Corpus.open(home)
    url = _index_of(home, round_number) if is_run else target
    index = IndexFile.open(url, corpus=opened)
    if not index.num_samples:
        raise InputError(f"{index.url} selects no row: there is nothing to export")
    selected = Selected.of_index(index, opened)
    number = _round_of(index)
    settings = OrderSettings(_seed(home, number) if seed is None else seed, batch_size=1)
    streaming: StreamingSettings = check(
        StreamingSettings, frozen_section(home, "streaming"), source=f"{home}/run.yaml"
    )
    order = Order(selected, settings, streaming)
    losses = _losses(home, number, selected)
    is_home_run = storage.info(Layout(storage.normalise(home)).config) is not None
    return SubsetSource(index, opened, selected, losses, order, home if is_home_run else None)


def _run_of(index: str) -> str:
    """Return the run that has an index file in its folder `index`."""
    run = storage.normalise(index).rpartition("/")[0].rpartition("/")[0]
    if not run or not has_corpus(run):
        if storage.info(index) is None:
            raise MissingError(
                f"{index} is neither a run nor an index file: expected a folder with"
                " corpus/manifest.parquet, or a file written by `attent select`"
            )
        raise InputError(
            f"{index} is not in a run: name the run or corpus of its samples with --corpus"
        )
    return run


def _index_of(run: str, round_number: int | None) -> str:
    layout = Layout(run)
    if round_number is None:
        names = [one.url for one in storage.list_objects(layout.indexes)]
        urls = [url for url in names if url.endswith(".parquet")]
        if not urls:
            raise MissingError(
                f"{run} has no index: run `attent select` or `attent train` first, or export an"
                " index file with --corpus"
            )
        return urls[-1]
    if storage.info(layout.index(round_number)) is None:
        raise MissingError(f"{run} has no index of round {round_number}: select that round first")
    return layout.index(round_number)


def _round_of(index: IndexFile) -> int:
    """Return the round of an index of a run by its name, else by its provenance."""
    stem = index.url.rpartition("/")[2].partition(".")[0]
    return int(stem) if stem.isdigit() else int(index.provenance.get("round") or 0)


def _seed(run: str, round_number: int) -> int:
    """Return the seed of a round's order, as training uses it; 0 without a run."""
    url = Layout(storage.normalise(run)).config
    if storage.info(url) is None:
        return 0
    values: dict[str, Any] = read_yaml(url)
    return stream_key(int(values.get("seed") or 0), round_number)


def _losses(run: str, round_number: int, selected: Selected) -> npt.NDArray[np.float32]:
    """Return the losses of the selected rows as of a round; NaN where there are none."""
    losses = np.full(len(selected), np.nan, np.float32)
    try:
        frame = LossCatalog(run).latest(round_number).select(SHARD_ID, ROW, LOSS)
    except MissingError:
        return losses
    keys = selected.sample_keys(np.arange(len(selected)))
    for batch in frame.collect_batches(maintain_order=True, engine="streaming"):
        known = numpy_sample_key(batch[SHARD_ID].to_numpy(), batch[ROW].to_numpy())
        if not len(known):
            continue
        first, last = np.searchsorted(keys, known[0]), np.searchsorted(keys, known[-1], "right")
        positions = np.searchsorted(known, keys[first:last])
        is_known = known[np.minimum(positions, len(known) - 1)] == keys[first:last]
        values = batch[LOSS].to_numpy()[np.minimum(positions, len(known) - 1)]
        losses[first:last] = np.where(is_known, values, np.nan)
    return losses
