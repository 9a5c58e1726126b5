"""What a run needs before its first round: corpora, the initial model, a frozen configuration.

Each of them, made unless it is there.
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
# Gives the cluster's client, starting the cluster if need be: most of a run goes without one.
Cluster = Callable[[], Client]


def ingest_corpora(config: RunConfig, *, cluster: Cluster) -> None:
    """The corpus, and the held-out one where there is evaluation."""
    corpora = [(config.corpus, config.run)]
    if config.evaluation is not None:
        corpora.append((config.evaluation, Layout(config.run).held_out))
    for section, run in corpora:
        if ingested(storage.expand(section.shards), run=run) is None:
            ingest(section.shards, run=run, client=cluster())


def check_columns(corpus: Corpus, config: RunConfig) -> None:
    """Raises `InputError` for columns that the task or `scoring.carry` wants and nobody has."""
    for section, columns in (
        ("task", config.task.task.columns),
        ("scoring.carry", config.scoring.carry),
    ):
        if missing := [name for name in columns if name not in corpus.columns]:
            lacking = corpus.shard_without(missing[0])
            where = f" (shard {lacking.shard_id}, {lacking.uri}, lacks it)" if lacking else ""
            raise InputError(
                f"{section}: the corpus has no column {', '.join(missing)}; it has "
                f"{', '.join(corpus.columns)}{where}"
            )


def save_initial(config: RunConfig) -> None:
    """Saves the initial model, then freezes: what cannot be built can still be corrected."""
    from trainers import checkpoint

    layout = Layout(config.run)
    if storage.info(layout.config) is None:
        # Whatever is there belongs to settings that were never frozen.
        storage.delete(join(layout.initial_checkpoint, checkpoint.MARKER))
    models = config.task.task.models(config.model)
    checkpoint.save_initial(models, seed=config.seed, url=layout.initial_checkpoint)
    run_config.freeze(config)
