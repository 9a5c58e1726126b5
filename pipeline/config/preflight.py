"""Checks of a valid configuration before any work: storage, model, training and selection."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import polars as pl

from attent_select.errors import AttentError, InputError
from attent_select.schema import FUNCTIONAL_GRADIENT, LOSSES
from attent_select.selection.quotas import MovingQuotas
from attent_select.selection.select import select
from attent_select.sql_expression import unknown_column
from attent_select.strategy import expression_of
from catalogs import Corpus, storage
from catalogs.annotations.columns import AnnotationColumns
from catalogs.annotations.store import check_name, is_name
from catalogs.corpus import has_corpus
from catalogs.layout import Layout
from catalogs.mixture import NAME
from catalogs.shard_search import find_shards, is_shard
from catalogs.shards import format_of, inspect_shard, keeps_members
from catalogs.storage.objects import ObjectInfo
from catalogs.tables.frames import SchemaDict
from pipeline.config.annotation_kinds import KIND, column_names, kind_of
from pipeline.config.automatic_annotations import automatic_columns
from pipeline.config.cluster_settings import check_memory_limit
from pipeline.config.sections import RunConfig
from pipeline.config.shard_settings import CorpusSettings, ShardSettings
from trainers.annotation import FromAnnotations


def preflight_problems(config: RunConfig) -> Iterator[str]:
    """Yield one line per problem that the values alone do not show.

    For example missing shards, a model that does not fit the task, or `where` that is not SQL.
    """
    from trainers.hf.training_arguments import check_training_arguments
    from trainers.scoring.scorer import check_gradient
    from trainers.task import averages_tokens

    problems = list(_problem("run: ", lambda: storage.info(Layout(config.run).config)))
    problems += [*_corpus_problems(config), *_annotation_problems(config)]
    problems += () if problems else _column_problems(config)
    yield from problems
    if config.evaluation is not None:
        yield from _shard_problems("evaluation", config.evaluation)
    limit = config.cluster.memory_limit
    yield from _problem("cluster.memory_limit: ", lambda: check_memory_limit(limit))
    yield from _model_problems(config)
    if config.scoring.functional_gradient:
        yield from _problem("", lambda: check_gradient(config.task.task))
    yield from _cheap_problems(config)
    yield from _problem("selection.quotas.reference: ", lambda: _check_reference(config))
    yield from _problem("training.", lambda: check_training_arguments(config.training))
    task, training = config.task.task, config.training
    yield from _problem("", lambda: _check_mixing(config))
    yield from _problem("training.", lambda: _check_token_selection(config))
    yield from _problem("training.", lambda: averages_tokens(task, training.average))
    if not problems:  # else the columns are unknown
        yield from _selection_problems(config)


def _check_mixing(config: RunConfig) -> None:
    from trainers.streaming.rank_share import RankShare
    from trainers.task import mixes

    limits = (config.training.micro_batch_size, config.training.micro_batch_units)
    RankShare(0, 1, *limits).for_task(config.task.task)
    if mixes(config.task.task) and config.schedule.rescore.kind == "observed":
        raise InputError(
            "task.augment: losses of mixed samples (mixup, cutmix) are not recorded, and "
            "schedule.rescore.kind is observed: set another kind, or do not mix samples"
        )


def _check_token_selection(config: RunConfig) -> None:
    from trainers.scoring.saved_model import check_proxy
    from trainers.token_selection import check_tokens

    selection, task = config.training.token_selection, config.task.task
    if selection is None:
        return
    check_tokens(task)
    try:
        check_proxy(selection.reference, task)
    except InputError as error:
        raise InputError(f"token_selection.reference: {error}") from error


def _problem(prefix: str, check: Callable[[], object]) -> Iterator[str]:
    try:
        check()
    except AttentError as error:
        yield f"{prefix}{error}"


def _shard_problems(section: str, settings: CorpusSettings | ShardSettings) -> Iterator[str]:
    for pattern in settings.shards or ():
        yield from _problem(f"{section}.shards: ", partial(find_shards, [pattern]))


def _corpus_problems(config: RunConfig) -> Iterator[str]:
    path = config.corpus.path
    if path is None:
        yield from _shard_problems("corpus", config.corpus)
    else:
        yield from _problem("corpus.path: ", lambda: Corpus.open(path))


def _column_problems(config: RunConfig) -> Iterator[str]:
    """Yield columns that corpus and target lack, as far as their first shards tell."""
    for section, columns_of in (("corpus", _corpus_shards), ("target", _target_shards)):
        try:
            where, known = columns_of(config)
        except AttentError as error:
            yield f"{section}: {error}"
            continue
        if known:
            yield from _missing_columns(config, where, known, is_target=section == "target")


def _missing_columns(
    config: RunConfig, where: str, known: tuple[str, ...], *, is_target: bool
) -> Iterator[str]:
    """Yield the columns that the task and the annotations read and `known` lacks.

    A target may lack columns of the task, such as labels.
    """
    has = f"it has {', '.join(known)}"
    missing = [name for name in config.task.task.columns if name not in known]
    if missing and not is_target:
        yield f"task: {where} has no column {', '.join(missing)}; {has}"
    for name, entry in config.annotations.items():
        kind = kind_of(entry)
        if isinstance(kind, FromAnnotations) or (is_target and not kind.needs_target):
            continue
        for column in kind.columns:
            if column not in known:
                keys = [key for key, value in vars(kind).items() if value == column]
                setting = ".".join([f"annotations.{name}", *keys[:1]])
                yield f"{setting}: {where} has no column {column}; {has}: name one of them"


def _corpus_shards(config: RunConfig) -> tuple[str, tuple[str, ...]]:
    """Return what has the columns, and their names; none for a tar, which must be read whole."""
    for url in (config.run, config.corpus.path):
        if url is not None and has_corpus(url):
            return "the corpus", Corpus.open(url).columns
    return _first_shard(find_shards(config.corpus.shards or ()))


def _target_shards(config: RunConfig) -> tuple[str, tuple[str, ...]]:
    """Return the same of the target; no columns without a target, or of lines of JSON or CSV."""
    files = storage.expand(config.target.shards) if config.target is not None else []
    return _first_shard([file for file in files if is_shard(file.url)])


def _first_shard(shards: Sequence[ObjectInfo]) -> tuple[str, tuple[str, ...]]:
    if not shards:
        return "", ()
    url = shards[0].url
    kind = format_of(url)
    return url, () if keeps_members(kind) else inspect_shard(url, kind).columns


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
        return
    if getattr(task, "patches", None) is not None and hasattr(models, "without_weights"):
        yield from _problem("", lambda: task.check_model(models.without_weights()))


def _cheap_problems(config: RunConfig) -> Iterator[str]:
    """Yield why the losses cannot be measured as cheaply as configured."""
    from trainers.scoring.saved_model import check_proxy
    from trainers.scoring.scorer import check_units_share

    scoring, task = config.scoring, config.task.task
    if scoring.units_share is not None:
        yield from _problem("", lambda: check_units_share(task, model=config.model))
    if scoring.proxy is not None:
        yield from _problem("scoring.proxy: ", lambda: check_proxy(str(scoring.proxy), task))


def _check_reference(config: RunConfig) -> None:
    """Check that the reference of moving quotas, if the run makes it, has the task's tokens."""
    from trainers.hf import load_tokenizer

    quotas, ours = config.selection.composition.quotas, getattr(config.task.task, "tokenizer", None)
    entry = config.annotations.get(quotas.reference) if isinstance(quotas, MovingQuotas) else None
    theirs = None if entry is None else entry.get("tokenizer") or entry.get("model")
    if not isinstance(theirs, str) or not isinstance(ours, str) or ours == theirs:
        return
    if load_tokenizer(theirs).get_vocab() != load_tokenizer(ours).get_vocab():
        raise InputError(
            f"the reference's tokenizer in {theirs} has other tokens than the task's in {ours}, so"
            " that losses cannot be compared: expected a reference with the same tokenizer"
        )


def _annotation_problems(config: RunConfig) -> Iterator[str]:
    for name, entry in config.annotations.items():
        where = f"annotations.{name}"
        if not isinstance(entry.get(KIND), str):
            yield f"{where}.kind: is missing: how are the values made? Such as {{kind: ngram}}"
            continue
        yield from _problem(f"{where}: ", partial(check_name, name))
        yield from _problem(f"{where}: ", partial(_check_kind, config, entry))
    for name in config.carry_schema.keys() & {*config.annotations, *_annotation_schema(config)}:
        yield (
            f"annotations.{name}: the losses of this run have a column of that name: make the "
            "annotation under another name"
        )
    if config.target is not None:
        for pattern in config.target.shards:
            yield from _problem("target.shards: ", partial(storage.expand, [pattern]))


def _check_kind(config: RunConfig, entry: Mapping[str, Any]) -> None:
    kind = kind_of(entry)
    is_compared = not getattr(kind, "splits_target", True) and config.evaluation is not None
    if kind.needs_target and config.target is None and not is_compared:
        raise InputError(
            f"the kind {entry[KIND]} compares with examples of what is wanted: add the section"
            " target with its shards"
        )
    # The settings may be wrong in ways that show when the columns are asked for.
    _ = kind.columns


def shard_columns(config: RunConfig) -> list[str]:
    """Return the columns of the shards that the selection reads, and no annotation has.

    Raises:
        InputError: the selection names a column that nothing has.
    """
    annotations = [*_annotation_schema(config), *_configured_columns(config)]
    known = [*LOSSES, *config.carry_schema, *annotations]
    known += [NAME] if config.corpus.mixture else []
    names = [name for name in config.selection.columns if name not in known]
    corpus_columns = _corpus_columns(config) if names else ()
    for name in names:
        if name not in corpus_columns:
            message = unknown_column(name, sorted({*known, *corpus_columns}))
            raise InputError(f"{_key_that_reads(config, name)}: {message}")
        if not is_name(name):
            raise InputError(
                f"{name} is a column of the shards whose name no annotation can have: add"
                f" `annotations: {{another_name: {{kind: column, column: {name}}}}}`"
            )
    return names


def _key_that_reads(config: RunConfig, column: str) -> str:
    composition, strategy = config.selection.composition, config.selection.strategy
    if column in strategy.columns:
        return "strategy" if expression_of(strategy) is None else "key"
    keys = {composition.by: "by", composition.rank_column: "distinct"}
    if isinstance(composition.quotas, MovingQuotas):
        keys[composition.quotas.reference] = "quotas.reference"
    return keys.get(column, "where")


def check_selection(config: RunConfig) -> None:
    """Check the section `selection` on the columns that losses and annotations have now.

    Raises:
        InputError: it cannot select from them.
    """
    select(
        pl.LazyFrame(schema=LOSSES | config.carry_schema | _annotation_schema(config)),
        strategy=config.selection.strategy,
        num_samples=0,
        composition=config.selection.composition,
    )


def _annotation_schema(config: RunConfig) -> SchemaDict:
    """Return the columns of the annotations that the corpus has."""
    url = config.corpus.path or config.run
    try:
        return AnnotationColumns.of(url).kinds if has_corpus(url) else {}
    except AttentError:  # reported with the corpus
        return {}


def _configured_columns(config: RunConfig) -> list[str]:
    """Return the columns of the annotations that the run makes."""
    entries = config.annotations.items()
    named = [column for name, entry in entries for column in column_names(name, entry)]
    return [*named, *automatic_columns(config)]


def _selection_problems(config: RunConfig) -> Iterator[str]:
    needs_gradient = FUNCTIONAL_GRADIENT in config.selection.strategy.columns
    if needs_gradient and not config.scoring.functional_gradient:
        yield "selection: the strategy needs `scoring.functional_gradient: true`"
        return
    try:
        made = {*LOSSES, *config.carry_schema, *_annotation_schema(config)}
        if made.issuperset(config.selection.columns):
            check_selection(config)
        else:  # the types are known when the annotations are made
            shard_columns(config)
    except InputError as error:
        names_a_key = str(error).partition(":")[0].replace(".", "_").isidentifier()
        yield f"selection.{error}" if names_a_key else f"selection: {error}"


def _corpus_columns(config: RunConfig) -> tuple[str, ...]:
    """Return the columns of the corpus, before it is ingested those of its first shard."""
    url = config.corpus.path or config.run
    if has_corpus(url):
        return Corpus.open(url).columns
    first = find_shards([(config.corpus.shards or ())[0]])[0]
    return inspect_shard(first.url, format_of(first.url)).columns
