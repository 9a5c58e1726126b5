"""Setup of a run before its first round: corpora, initial model, frozen configuration.

Each is made unless it exists.
"""

from collections.abc import Callable

from attent_select.errors import InputError
from catalogs import Corpus, storage
from catalogs.layout import Layout, join
from pipeline.cluster import Client
from pipeline.config import run_config
from pipeline.config.sections import RunConfig
from pipeline.corpus.ingest import ingest, ingested

# Saves the initial model and freezes the configuration.
SaveInitial = Callable[[RunConfig], None]
# Returns the cluster's client and starts the cluster on the first call: few stages need one.
Cluster = Callable[[], Client]


def ingest_corpora(config: RunConfig, *, cluster: Cluster) -> None:
    """Ingest the corpus, and the held-out corpus if the configuration has `evaluation`."""
    corpora = [(config.corpus, config.run)]
    if config.evaluation is not None:
        corpora.append((config.evaluation, Layout(config.run).held_out))
    for section, run in corpora:
        if ingested(storage.expand(section.shards), run=run) is None:
            ingest(section.shards, run=run, client=cluster())


def check_columns(corpus: Corpus, config: RunConfig) -> None:
    """Check that the corpus has the columns of the task and of `scoring.carry`.

    Raises:
        InputError: a column is missing; names a shard without it.
    """
    for section, columns in (
        ("task", config.task.task.columns),
        ("scoring.carry", config.scoring.carry),
    ):
        if missing := [name for name in columns if name not in corpus.columns]:
            shard = corpus.shard_without(missing[0])
            where = f" (shard {shard.shard_id}, {shard.uri}, lacks it)" if shard else ""
            raise InputError(
                f"{section}: the corpus has no column {', '.join(missing)}; it has "
                f"{', '.join(corpus.columns)}{where}"
            )


def save_initial(config: RunConfig) -> None:
    """Save the initial model, then freeze the configuration.

    In this order, so that settings of a model that cannot be built can still be corrected.
    """
    from trainers import checkpoint

    layout = Layout(config.run)
    if storage.info(layout.config) is None:
        # An existing model was built with settings that were never frozen.
        storage.delete(join(layout.initial_checkpoint, checkpoint.MARKER))
    models = config.task.task.models(config.model)
    checkpoint.save_initial(models, seed=config.seed, url=layout.initial_checkpoint)
    run_config.freeze(config)
