"""Checks of a valid configuration before any work: storage, model, training and selection."""

from collections.abc import Callable, Iterator
from functools import partial

import polars as pl

from attent_select.errors import AttentError, InputError
from attent_select.schema import FUNCTIONAL_GRADIENT, LOSSES
from attent_select.selection.select import select
from catalogs import Corpus, storage
from catalogs.annotations.columns import AnnotationColumns
from catalogs.corpus import has_corpus
from catalogs.layout import Layout
from catalogs.tables.frames import SchemaDict
from pipeline.config.memory_limit import check_memory_limit
from pipeline.config.sections import CorpusSettings, RunConfig, ShardSettings


def preflight_problems(config: RunConfig) -> Iterator[str]:
    """Yield one line per problem that the values alone do not show.

    For example missing shards, a model that does not fit the task, or `where` that is not SQL.
    """
    from trainers.hf.training_arguments import check_training_arguments
    from trainers.scoring.scorer import check_gradient

    yield from _corpus_problems(config)
    if config.evaluation is not None:
        yield from _shard_problems("evaluation", config.evaluation)
    yield from _problem("run: ", lambda: storage.info(Layout(config.run).config))
    limit = config.cluster.memory_limit
    yield from _problem("cluster.memory_limit: ", lambda: check_memory_limit(limit))
    yield from _model_problems(config)
    if config.scoring.functional_gradient:
        yield from _problem("", lambda: check_gradient(config.task.task))
    yield from _problem("training.", lambda: check_training_arguments(config.training))
    yield from _selection_problems(config)


def _problem(prefix: str, check: Callable[[], object]) -> Iterator[str]:
    try:
        check()
    except AttentError as error:
        yield f"{prefix}{error}"


def _shard_problems(section: str, settings: CorpusSettings | ShardSettings) -> Iterator[str]:
    for pattern in settings.shards or ():
        yield from _problem(f"{section}.shards: ", partial(storage.expand, [pattern]))


def _corpus_problems(config: RunConfig) -> Iterator[str]:
    path = config.corpus.path
    if path is None:
        yield from _shard_problems("corpus", config.corpus)
    else:
        yield from _problem("corpus.path: ", lambda: Corpus.open(path))


def _model_problems(config: RunConfig) -> Iterator[str]:
    task = config.task.task
    try:
        if hasattr(task, "check"):
            task.check()
    except InputError as error:
        yield f"task: {error}"
        return  # the requirements on the model are unknown
    try:
        models = task.models(config.model)
        if hasattr(models, "check"):
            models.check()
    except InputError as error:
        yield str(error) if str(error).startswith("model.") else f"model: {error}"


def _annotation_schema(config: RunConfig) -> SchemaDict:
    """Return the columns of the annotations that the corpus has."""
    url = config.corpus.path or config.run
    try:
        return AnnotationColumns.of(url).kinds if has_corpus(url) else {}
    except AttentError:  # reported with the corpus
        return {}


def _selection_problems(config: RunConfig) -> Iterator[str]:
    schema = LOSSES | config.scoring.carry_schema | _annotation_schema(config)
    if FUNCTIONAL_GRADIENT in set(config.selection.strategy.columns) - schema.keys():
        yield "selection: the strategy needs `scoring.functional_gradient: true`"
        return
    try:
        select(
            pl.LazyFrame(schema=schema),
            strategy=config.selection.strategy,
            num_samples=0,
            composition=config.selection.composition,
        )
    except InputError as error:
        names_a_key = str(error).partition(":")[0].isidentifier()
        yield f"selection.{error}" if names_a_key else f"selection: {error}"
