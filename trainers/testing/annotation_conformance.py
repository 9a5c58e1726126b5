"""Tests that every kind of annotation must pass."""

import copy
import dataclasses
from collections.abc import Iterator

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from attent_select.schema import OK, STATUSES
from trainers.annotation import (
    AnnotationKind,
    Examples,
    FitContext,
    Fitted,
    FromAnnotations,
    HasLinks,
    HasResolve,
    Samples,
)

VALUE_TYPES = (pl.Float32, pl.Int64, pl.String, pl.Boolean)


class AnnotationConformance:
    """Subclass it and define the fixtures `kind` and `samples`, about ten samples of a corpus."""

    @pytest.fixture
    def kind(self) -> AnnotationKind:
        raise NotImplementedError("define the fixture `kind`")

    @pytest.fixture
    def samples(self) -> Samples:
        raise NotImplementedError("define the fixture `samples`")

    @pytest.fixture
    def rel_tol(self) -> float:
        """Return the relative tolerance of values: models round differently in other batches."""
        return 0.0

    @pytest.fixture
    def fitted(self, kind: AnnotationKind, samples: Samples) -> Fitted:
        """Return the fit to a target and a corpus that are both `samples`."""
        return fit(kind, samples)

    def test_its_settings_are_a_frozen_dataclass_that_workers_receive(
        self, kind: AnnotationKind
    ) -> None:
        assert dataclasses.is_dataclass(kind)
        hash(kind)  # which frozen dataclasses have
        assert copy.deepcopy(kind) == kind

    def test_each_sample_has_a_value_or_a_status_that_says_why_not(
        self, kind: AnnotationKind, samples: Samples, fitted: Fitted
    ) -> None:
        rows = measure(kind, samples, fitted)
        assert len(rows) == num_samples(samples)
        assert rows.schema["value"] in VALUE_TYPES
        assert set(rows["status"]) <= set(STATUSES)
        assert (rows["value"].is_not_null() | (rows["status"] != OK)).all()

    def test_it_makes_no_columns_that_it_does_not_declare(
        self, kind: AnnotationKind, samples: Samples, fitted: Fitted
    ) -> None:
        rows = measure(kind, samples, fitted)
        if isinstance(kind, HasResolve):
            ids = {"shard_id": pl.lit(0, dtype=pl.UInt32)}
            rows = kind.resolve(rows.with_row_index("row").with_columns(**ids))
        links = kind.links if isinstance(kind, HasLinks) else ()
        made = set(rows.columns) - {"shard_id", "row", "value", "status", *links}
        assert made <= set(kind.further_columns)

    def test_a_value_does_not_depend_on_the_batch(
        self, kind: AnnotationKind, samples: Samples, fitted: Fitted, rel_tol: float
    ) -> None:
        together = measure(kind, samples, fitted)
        numbers = range(num_samples(samples))
        each = [measure(kind, samples, fitted, slice(n, n + 1)) for n in numbers]
        assert_frame_equal(pl.concat(each), together, rel_tol=rel_tol, abs_tol=0.0)

    def test_fitting_again_gives_equal_bytes_which_are_read_back(
        self, kind: AnnotationKind, samples: Samples, fitted: Fitted
    ) -> None:
        content = fitted.to_bytes()
        assert fit(kind, samples).to_bytes() == content
        stored = Fitted.from_bytes(content)
        assert stored.digest == fitted.digest
        expected = measure(kind, samples, fitted)
        assert measure(kind, samples, stored).equals(expected)

    def test_resolved_rows_do_not_depend_on_the_order(
        self, kind: AnnotationKind, samples: Samples, fitted: Fitted
    ) -> None:
        if not isinstance(kind, HasResolve):
            return
        rows = measure(kind, samples, fitted).with_row_index("row")
        rows = rows.with_columns(shard_id=pl.lit(0, dtype=pl.UInt32))
        resolved = [kind.resolve(each).sort("row") for each in (rows, rows.reverse())]
        assert resolved[0].equals(resolved[1])
        assert resolved[0]["row"].to_list() == rows["row"].to_list()


def fit(kind: AnnotationKind, samples: Samples) -> Fitted:
    """Fit to a target and a corpus that are both `samples`."""

    def pool_sample(num_rows: int) -> Iterator[Samples]:  # noqa: ARG001
        yield samples

    target = Examples(samples, num_samples(samples)) if kind.needs_target else None
    examples = (lambda: pool_sample(0)) if kind.needs_target else None
    return kind.fit(FitContext(target=target, pool_sample=pool_sample, examples=examples))


def num_samples(samples: Samples) -> int:
    """Return the number of samples."""
    return len(next(iter(samples.values())))


def measure(
    kind: AnnotationKind, samples: Samples, fitted: Fitted, rows: slice = slice(None)
) -> pl.DataFrame:
    """Measure some samples, or derive their values if they are columns of annotations."""
    if isinstance(kind, FromAnnotations):
        return kind.derive(pl.DataFrame(samples)[rows]).rows
    return kind.measure({name: values[rows] for name, values in samples.items()}, fitted).rows
