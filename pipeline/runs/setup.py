"""Setup of a run before its first round: corpora, initial model, frozen configuration.

Each is made unless it exists.
"""

import logging
from collections.abc import Callable, Sequence

from attent_select.errors import CorpusMismatchError, InputError
from catalogs import Corpus, storage
from catalogs.annotations.columns import has_units, loss_columns
from catalogs.corpus import has_corpus
from catalogs.layout import Layout, join
from catalogs.shard_search import find_shards
from pipeline.cluster import Client
from pipeline.config import run_config
from pipeline.config.sections import RunConfig
from pipeline.config.shard_settings import CorpusSettings
from pipeline.corpus.columns import missing_columns
from pipeline.corpus.ingest import ingest, ingested_corpus
from pipeline.corpus.part_names import annotate_names, names_of_shards
from pipeline.corpus.usability import check_some_usable

_log = logging.getLogger("attent.pipeline.runs.setup")

# Saves the initial model and freezes the configuration.
SaveInitial = Callable[[RunConfig], None]
# Returns the cluster's client and starts the cluster on the first call: few stages need one.
Cluster = Callable[[], Client]


def ingest_corpora(config: RunConfig, *, cluster: Cluster) -> None:
    """Ingest the corpus, and the held-out corpus if the configuration has `evaluation`."""
    if config.corpus.path is not None:
        _use_shared_corpus(config.corpus.path, config.run)
    else:
        _ingest_own(config.corpus, config.run, cluster=cluster)
    if config.evaluation is not None:
        _ingest(config.evaluation.shards, Layout(config.run).held_out, cluster=cluster)


def _ingest(shards: Sequence[str], run: str, *, cluster: Cluster) -> None:
    if ingested_corpus(find_shards(shards), folder=run) is None:
        ingest(shards, folder=Layout(run).corpus.folder, client=cluster())


def _ingest_own(corpus: CorpusSettings, run: str, *, cluster: Cluster) -> None:
    """Ingest the shards of a run's corpus; of a mixture, with the names of its parts."""
    names = names_of_shards(corpus.mixture) if corpus.mixture else None
    objects = find_shards(corpus.shards or ())
    if ingested_corpus(objects, folder=run) is None:
        ingest(
            corpus.shards or (),
            folder=Layout(run).corpus.folder,
            client=cluster(),
            skip_damaged=corpus.skip_damaged,
            names=names,
        )
    if names is not None:
        annotate_names(run)


def _use_shared_corpus(url: str, run: str) -> None:
    """Copy the manifest of the corpus at `url` to the run. A new version replaces an earlier one.

    Raises:
        CorpusMismatchError: the run was started with another corpus.
    """
    shared = Corpus.open(url)
    if not has_corpus(run):
        shared.share_with(run)
        return
    known = Corpus.open(run)
    if known.corpus_id == shared.corpus_id:
        return
    if shared.num_shards_of(known.corpus_id) is not None:
        shared.share_with(run)
        num_shards, num_samples = (
            len(shared.shards) - len(known.shards),
            shared.num_samples - known.num_samples,
        )
        _log.info(
            f"{url} has {num_samples:,} more samples in {num_shards:,} new shards: the run"
            " continues with them"
        )
    else:
        raise CorpusMismatchError(
            f"corpus.path: {url} is now corpus {shared.corpus_id}, but {run} was started with"
            f" corpus {known.corpus_id}: restore the corpus, or start a new run"
        )


def check_columns(corpus: Corpus, config: RunConfig) -> None:
    """Check that the corpus has the columns of the task.

    Raises:
        InputError: a column is missing; names a shard without it.
    """
    if missing := missing_columns(corpus, config.task.task.columns):
        shard = corpus.shard_without(missing[0])
        where = f" (shard {shard.shard_id}, {shard.uri}, lacks it)" if shard else ""
        raise InputError(
            f"task: the corpus has no column {', '.join(missing)}; it has "
            f"{', '.join(corpus.columns)}{where}"
        )


def check_units(config: RunConfig) -> None:
    """Check that a budget in units has counts.

    Raises:
        InputError: nothing is scored, and no annotation of the corpus has units.
    """
    selection = config.selection
    if selection.budget_unit == "units" and not (
        loss_columns(config.run, selection.columns) or has_units(config.run)
    ):
        raise InputError(
            f"selection.budget_unit: {selection.strategy_name} scores nothing, so that no units "
            "are counted: make an annotation (`attent annotate … --kind length`), or set samples"
        )


def save_initial(config: RunConfig) -> None:
    """Save the initial model, then freeze the configuration.

    In this order, so that settings of a model that cannot be built can still be corrected.

    Raises:
        InputError: the task can use no sample, or the model cannot be built.
    """
    from trainers import checkpoint

    layout = Layout(config.run)
    if storage.info(layout.config) is None:
        if config.scoring.max_failed_share < 1:
            check_some_usable(config.task.task, Corpus.open(config.run).shards)
        # An existing model was built with settings that were never frozen.
        storage.delete(join(layout.initial_checkpoint, checkpoint.MARKER))
    models = config.task.task.models(config.model)
    checkpoint.save_initial(models, seed=config.seed, url=layout.initial_checkpoint)
    run_config.freeze(config)
