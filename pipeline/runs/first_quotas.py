"""Strata of a run's corpus: which quotas they fit, and the shares that moving quotas start from.

These are the weights of a mixture, else the shares of the corpus.
"""

from collections import Counter
from collections.abc import Mapping
from functools import partial

import polars as pl

from attent_select.errors import InputError
from attent_select.selection.columns import LABEL
from attent_select.selection.quotas import MovingQuotas
from attent_select.selection.strata import MAX_STRATA, stratum_label
from catalogs import AnnotationStore, checked_json, storage
from catalogs.annotations.columns import AnnotationColumns
from catalogs.layout import Layout
from catalogs.mixture import NAME, shares
from pipeline.config.sections import RunConfig

# Strata that an error names.
_NAMED = 10


def check_quotas(config: RunConfig) -> None:
    """Check the quotas of a run that has not begun against its strata, if an annotation has them.

    Raises:
        InputError: the quotas name an unknown stratum, or the least shares exceed 1 together.
    """
    composition = config.selection.composition
    quotas, is_begun = composition.quotas, storage.info(Layout(config.run).config) is not None
    if isinstance(quotas, str) or composition.by is None or is_begun:
        return
    columns = AnnotationColumns.of(config.run, [composition.by])
    if not columns.annotations:
        return
    _check_strata(config, _count_strata(columns, composition.by))


def ensure_first_quotas(config: RunConfig) -> None:
    """Write the first shares of a run with moving quotas, unless they are there.

    The strata are counted in one scan of the annotation `by`.

    Raises:
        InputError: `by` is not an annotation, has too many values, or values of too small a share;
            or the reference was measured with another tokenizer.
    """
    composition = config.selection.composition
    quotas, url = composition.quotas, Layout(config.run).first_quotas
    if not isinstance(quotas, MovingQuotas) or storage.info(url) is not None:
        return
    assert composition.by is not None, "the composition is checked"
    _check_tokenizer(config, quotas.reference)
    columns = AnnotationColumns.of(config.run, [composition.by])
    if not columns.annotations:
        raise InputError(f"selection.by: {composition.by} is not an annotation: quotas need one")
    counts = _count_strata(columns, composition.by)
    _check_strata(config, counts)
    storage.publish(url, checked_json.dump({"shares": _start(config, counts)}))


def first_shares(run: str) -> dict[str, float]:
    """Return the share of each stratum before the first round that moves them."""
    url = Layout(run).first_quotas
    return dict(checked_json.load(storage.read(url), url=url)["shares"])


def _start(config: RunConfig, counts: Counter[str]) -> dict[str, float]:
    parts = config.corpus.mixture or ()
    is_weighted = any(part.weight is not None for part in parts)
    if config.selection.composition.by == NAME and is_weighted:
        weights = shares({part.name: part.weight for part in parts})
        return {name: weights[name] / sum(weights.values()) for name in sorted(counts)}
    return {name: counts[name] / counts.total() for name in sorted(counts)}


def _check_strata(config: RunConfig, counts: Counter[str]) -> None:
    quotas, by = config.selection.composition.quotas, config.selection.composition.by
    if isinstance(quotas, Mapping) and (unknown := sorted(quotas.keys() - counts.keys())):
        rest = f" and {len(counts) - _NAMED} more" if len(counts) > _NAMED else ""
        raise InputError(
            f"selection.quotas: unknown stratum {', '.join(unknown[:_NAMED])}: the values of {by}"
            f" are {', '.join(sorted(counts)[:_NAMED])}{rest}"
        )
    if isinstance(quotas, MovingQuotas):
        try:
            quotas.check_strata(len(counts))
        except InputError as error:
            raise InputError(f"selection.quotas.{error}") from error


def _count_strata(columns: AnnotationColumns, by: str) -> Counter[str]:
    """Return the samples of each stratum, by one scan of an annotation."""
    counts: Counter[str] = Counter()
    for chunk in columns.join(None).run(partial(_count_labels, column=by)):
        counts.update(dict(chunk.iter_rows()))
        if len(counts) > MAX_STRATA:
            raise InputError(f"selection.by: more than {MAX_STRATA} different values")
    return counts


def _count_labels(rows: pl.LazyFrame, *, column: str) -> pl.DataFrame:
    labels = rows.select(stratum_label(column).alias(LABEL), pl.lit(1, pl.Int64).alias("count"))
    return labels.group_by(LABEL).agg(pl.col("count").sum()).collect()


def _check_tokenizer(config: RunConfig, reference: str) -> None:
    """Check that an existing reference was measured with the tokenizer of the task."""
    from trainers.hf.saved_files import PREPROCESSING_FILES, files_digest, local_files

    task, store = config.task.task, AnnotationStore(config.run)
    settings = getattr(task, "settings", {})
    ours = getattr(task, "tokenizer", None) or settings.get("tokenizer")
    theirs = store.read(reference).digests.get("tokenizer") if reference in store.names() else None
    if not isinstance(ours, str) or theirs is None:
        return
    with local_files(ours, what="task.tokenizer") as folder:
        if files_digest(folder, PREPROCESSING_FILES) != theirs:
            raise InputError(
                f"selection.quotas.reference: {reference} was measured with another tokenizer than"
                f" the task's in {ours}, so that the losses cannot be compared: measure it with"
                " this one"
            )
