"""Values measured on a random part of the samples, and predicted for the others.

A regression is fitted to four fifths of the measured samples. The others are held out: the rank
correlation of their predicted with their measured values is the fidelity.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import numpy as np
import polars as pl

from attent_select.errors import InputError
from attent_select.schema import ROW, SHARD_ID
from attent_select.stats.agreement import rank_correlation
from attent_select.stats.randomness import Purpose, sample_uniform, stream_key
from catalogs import AnnotationStore
from catalogs.annotations.store import VALUE
from catalogs.concurrency import ordered_map
from pipeline.annotation.span_work import Draw, SpanTask
from pipeline.config.extension_settings import Extension
from trainers.annotation import AnnotationKind, Fitted, Measured, Regression, Samples, part_of
from trainers.extending.ngram_regression import Floats, NgramRegression

_TOP_SHARE: Final = 0.2
_HELD_OUT: Final = 0.2
# Fewer measured samples say too little.
_FEWEST: Final = 200


def draw_of(extension: Extension, *, seed: int) -> Draw:
    """Return the samples to measure."""
    return Draw(extension.sample, stream_key(seed, Purpose.ANNOTATE, 1))


def regression_of(extension: Extension, kind: AnnotationKind) -> Regression:
    """Return what predicts the values of a kind.

    Raises:
        InputError: hidden states are to predict them, and the kind uses no model.
    """
    if extension.extend == "ngram":
        return NgramRegression(tuple(kind.columns))
    # Only now: n-grams need no torch.
    from trainers.extending.hidden_regression import HiddenRegression

    hidden = getattr(kind, "hidden", None)
    if hidden is None:
        raise InputError(
            f"--extend hidden predicts from the hidden states of the annotating model, and the kind"
            f" {type(kind).__name__.lower()} has none: give --extend ngram"
        )
    model = extension.extend_model
    return HiddenRegression(hidden if model is None else hidden.of_model(model))


@dataclass(frozen=True)
class Predictor:
    """A regression that was fitted to measured values; `fidelity` is for the record."""

    regression: Regression
    fitted: Fitted
    fidelity: dict[str, Any]

    def measure(self, samples: Samples) -> Measured:
        """Predict the values of samples."""
        return self.regression.measure(samples, self.fitted)

    def tasks(self, tasks: Sequence[SpanTask], *, url: str) -> list[SpanTask]:
        """Return tasks that predict the spans of `tasks` and keep what was measured."""
        first = tasks[0].making
        making = dataclasses.replace(
            first, kind=self.regression, fit_digest=self.fitted.digest, fit_url=url
        )
        return [
            dataclasses.replace(
                task,
                making=making,
                draw=None,
                digest=_digest(task.digest, self.fitted.digest),
                measured=(task.digest,) if task.has_rows else (),
            )
            for task in tasks
        ]


def fit_predictor(
    tasks: Sequence[SpanTask],
    regression: Regression,
    *,
    extension: Extension,
    seed: int,
    sign: int,
) -> Predictor:
    """Fit a regression to the values in measured spans; `sign` is −1 if small values are best.

    Raises:
        InputError: the values are not numbers or too few, or the fidelity is too small.
    """
    making = tasks[0].making
    spans = [task.digest for task in tasks if task.has_rows]
    store = making.store
    rows = _measured_rows(store, making.name, spans, seed=seed)
    rows = rows.filter(pl.col("draw") <= regression.most_samples / max(len(rows), 1))
    if len(rows) < _FEWEST:
        raise InputError(
            f"{making.name}: {len(rows)} samples were measured that have a value, expected at least"
            f" {_FEWEST}: raise --sample, or measure all samples without it"
        )
    samples = _read_samples(store, rows, columns=regression.columns)
    draws = rows["draw"].to_numpy()
    held_out = draws <= _HELD_OUT * draws.max()
    values = rows[VALUE].to_numpy()
    fitted = regression.fit(part_of(samples, ~held_out), values[~held_out])
    predicted = regression.measure(part_of(samples, held_out), fitted).rows[VALUE]
    regression.close()
    fidelity = _fidelity(sign * predicted.cast(pl.Float64).to_numpy(), sign * values[held_out])
    counts = {"num_fitted": int((~held_out).sum()), "num_held_out": int(held_out.sum())}
    predictor = Predictor(regression, fitted, {"extend": extension.extend, **fidelity, **counts})
    _check_fidelity(making.name, fidelity["spearman"], extension)
    return predictor


def _measured_rows(
    store: AnnotationStore, name: str, spans: Sequence[str], *, seed: int
) -> pl.DataFrame:
    """Return ids, draw and value (float64) of samples with a value."""
    draw = sample_uniform(stream_key(seed, Purpose.SPLIT)).alias("draw")

    def read(span: str) -> pl.DataFrame:
        rows = store.read_span(name, span)
        if not rows.schema[VALUE].is_numeric():
            raise InputError(
                f"{name}: --sample extends numbers, but its values are {rows.schema[VALUE]}"
            )
        value = pl.col(VALUE).cast(pl.Float64)
        return rows.select(SHARD_ID, ROW, draw, value).filter(value.is_finite())

    return pl.concat(ordered_map(read, spans, num_threads=8)).sort(SHARD_ID, ROW)


def _read_samples(store: AnnotationStore, rows: pl.DataFrame, *, columns: Sequence[str]) -> Samples:
    by_shard = (
        (shard_id, [row for _, row in group])
        for shard_id, group in groupby(
            rows.select(SHARD_ID, ROW).iter_rows(), key=lambda ids: ids[0]
        )
    )

    def read(shard: tuple[int, list[int]]) -> Samples:
        shard_id, numbers = shard
        return store.corpus.read(shard_id, rows=numbers, columns=columns).values

    parts = list(ordered_map(read, by_shard, num_threads=4))
    return {name: [value for part in parts for value in part[name]] for name in columns}


def _fidelity(predicted: Floats, measured: Floats) -> dict[str, Any]:
    """Return Spearman's ρ and the share of the measured top that is in the predicted top."""
    num_top = max(1, round(_TOP_SHARE * len(measured)))
    tops = [
        set(np.argsort(-np.nan_to_num(values, nan=-np.inf), kind="stable")[:num_top].tolist())
        for values in (predicted, measured)
    ]
    return {
        "spearman": rank_correlation(predicted, measured),
        "top_share": _TOP_SHARE,
        "top_share_overlap": len(tops[0] & tops[1]) / num_top,
    }


def _check_fidelity(name: str, spearman: float | None, extension: Extension) -> None:
    if spearman is None or spearman < extension.min_fidelity:
        ratio = "none (the values are equal)" if spearman is None else f"{spearman:.3f}"
        raise InputError(
            f"{name}: the rank correlation of predicted with measured values is {ratio}, less than"
            f" --min-fidelity {extension.min_fidelity:g}: raise --sample, or measure all samples"
            " without it, or lower --min-fidelity to use it nevertheless"
        )


def _digest(*facts: str) -> str:
    return hashlib.sha256(" ".join(facts).encode()).hexdigest()[:32]
