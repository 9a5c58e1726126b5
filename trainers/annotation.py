"""Protocol of annotation kinds, and the values that they exchange with the driver.

A kind is a frozen dataclass: its fields are its settings. A new kind is one file in
`trainers/annotations/`, or a class anywhere, named by its dotted path. Importing this module does
not import torch.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.errors import InputError

# Columns of plain Python values: column name → one value for each sample.
Samples = Mapping[str, list[Any]]

# Keys of settings whose field has another name: a kind has a method `fit`.
FIELDS: Final = {"fit": "fitting"}

# Array of a fit: values of random samples of the corpus that it was not fitted to.
HELD_OUT: Final = "held_out"

_PLAIN: Final = "__plain__"


@dataclass(frozen=True)
class Examples:
    """Examples of a target. `kinds` has the kind of reference of each, where the target has kinds.

    The examples are sorted by their content: equal targets give equal annotations.
    """

    samples: Samples
    num_examples: int
    kinds: tuple[str, ...] | None = None

    def by_kind(self) -> Iterator[tuple[str, Samples]]:
        """Yield each kind of reference with its samples; without kinds, all under ''."""
        if self.kinds is None:
            yield "", self.samples
            return
        for kind in sorted(set(self.kinds)):
            yield kind, part_of(self.samples, [own == kind for own in self.kinds])


@dataclass(frozen=True)
class FitContext:
    """What an annotation may be fitted to.

    Attributes:
        target: the half of the target's examples that makes annotations.
        pool_sample: yields about `num_rows` random samples of the corpus in batches, always the
            same ones for one seed.
        folder: URL for files that the fit keeps, such as weights; a subfolder for each digest of
            their inputs.
        seed: of random numbers.
        judging: the other half of the target's examples; an annotation that is judged by it must
            not be fitted to it.
        examples: yields all examples in batches, for a kind with `splits_target = False`, such as
            one that looks for them in the corpus. There is no `target` then.
    """

    target: Examples | None
    pool_sample: Callable[[int], Iterator[Samples]]
    folder: str = ""
    seed: int = 0
    judging: Examples | None = None
    examples: Callable[[], Iterator[Samples]] | None = None

    def target_of(self, kind: str) -> Examples:
        """Return the target. Raises `InputError` if there is none; names the kind."""
        if self.target is None:
            raise InputError(f"the kind {kind} compares with a target: give --target URL…")
        return self.target

    def read_pool(self, num_rows: int) -> Samples:
        """Return all batches of `pool_sample` as one."""
        batches = list(self.pool_sample(num_rows))
        names = batches[0] if batches else {}
        return {name: [value for batch in batches for value in batch[name]] for name in names}


@dataclass(frozen=True)
class Fitted:
    """What fitting produced: arrays, plain values, and digests for the record.

    `digests` identify what the values depend on besides the samples, such as `model`.
    """

    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return it in the safetensors format; equal values give equal bytes."""
        from safetensors.numpy import save

        plain = {"notes": dict(self.notes), "digests": dict(self.digests)}
        text = json.dumps(plain, sort_keys=True).encode()
        arrays = {name: np.ascontiguousarray(array) for name, array in self.arrays.items()}
        return save(arrays | {_PLAIN: np.frombuffer(text, np.uint8)})

    @classmethod
    def from_bytes(cls, content: bytes) -> "Fitted":
        """Return what `to_bytes` has written."""
        from safetensors.numpy import load

        arrays = load(content)
        plain = json.loads(arrays.pop(_PLAIN).tobytes())
        return cls(arrays, plain["notes"], plain["digests"])

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.to_bytes()).hexdigest()[:32]


class Measured(NamedTuple):
    """One row for each sample: `value`, `status` (`ok` wherever there is a value), further columns.

    `num_units` (u32) is the number of units where the kind counts them.
    """

    rows: pl.DataFrame
    tokenise_seconds: float = 0.0


def part_of(samples: Samples, is_part: Sequence[bool] | npt.NDArray[np.bool_]) -> Samples:
    """Return the samples where `is_part` is true."""
    numbers = np.flatnonzero(is_part).tolist()
    return {name: [values[number] for number in numbers] for name, values in samples.items()}


def best_of_kinds(
    scores: npt.NDArray[np.floating[Any]], *, names: Sequence[str], statuses: Sequence[str]
) -> pl.DataFrame:
    """Return `value` (float32), `status`, and with `names` the `kind` that fits each sample best.

    Args:
        scores: float[samples, kinds of reference], largest is best.
        names: the kinds of reference; none if there is only one, without a name.
        statuses: of the samples. A score that is not finite makes `ok` to `nonfinite`.
    """
    best = np.nan_to_num(scores, nan=-np.inf).argmax(axis=1)
    values = scores[np.arange(len(scores)), best].astype(np.float32)
    status = pl.Series("status", statuses, dtype=pl.String)
    rows = pl.DataFrame({"value": values, "status": status}).with_columns(
        status=pl.when((pl.col("status") == "ok") & ~pl.col("value").is_finite())
        .then(pl.lit("nonfinite"))
        .otherwise("status")
    )
    is_ok = pl.col("status") == "ok"
    kind = {"kind": pl.when(is_ok).then(pl.Series(names).gather(best))} if names else {}
    return rows.with_columns(value=pl.when(is_ok).then(pl.col("value")), **kind)


class AnnotationKind(Protocol):
    """How the value of a sample is computed. A value depends on its sample and the fit only."""

    @property
    def needs_target(self) -> bool:
        """Whether examples of a target are required; other kinds refuse them."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a sample that are read, of the corpus and of the target."""
        ...

    @property
    def further_columns(self) -> tuple[str, ...]:
        """The columns that annotations may have beside `value`."""
        ...

    def fit(self, context: FitContext) -> Fitted:
        """Fit to the target and a random part of the corpus, on the driver.

        Raises:
            InputError: the samples do not have what this kind needs.
        """
        ...

    def measure(self, samples: Samples, fitted: Fitted) -> Measured:
        """Return the values of a batch of samples, on a worker."""
        ...


@runtime_checkable
class HasResolve(Protocol):
    """Optional, for values that depend on other samples, such as duplicates."""

    def resolve(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the final columns of `rows`, in any order.

        `rows` are measured rows of the whole corpus with shard_id and row, and among them all that
        have the same value.
        """
        ...


@runtime_checkable
class HasLinks(Protocol):
    """Optional, for clusters of samples, such as near duplicates.

    Measured rows have columns of `links` (int64, null for none). Samples with the same value in one
    of these columns are linked; a cluster are all samples that a chain of links connects. The
    annotation then has the columns `value` (the sample key of the cluster's first sample), `rank`
    and `size` (u32); they are null for a sample without links.
    """

    @property
    def links(self) -> tuple[str, ...]:
        """Names of columns that measured rows may have."""
        ...


@runtime_checkable
class FromAnnotations(Protocol):
    """Optional, for values that follow from other annotations: no shard is read.

    `columns` of such a kind are columns of annotations.
    """

    def derive(self, rows: pl.DataFrame) -> Measured:
        """Return the values of rows with `columns`, in their stored dtypes, on a worker.

        It is called without rows first, to check the settings.

        Raises:
            InputError: the columns do not fit the settings.
        """
        ...


@runtime_checkable
class HasModelFiles(Protocol):
    """Optional, for values that a saved model computes."""

    def file_digests(self) -> Mapping[str, str]:
        """Return the digests of the files that values depend on; none if no model is used.

        The record of an annotation has them among its digests.
        """
        ...


class Regression(Protocol):
    """Predicts values of an annotation from samples, to extend them from a part of the samples."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a sample that are read."""
        ...

    @property
    def most_samples(self) -> int:
        """Number of measured samples that suffice; a random part of more of them is used."""
        ...

    def fit(self, samples: Samples, values: npt.NDArray[np.float64]) -> Fitted:
        """Fit to measured values, float64[samples], none of which is NaN.

        Raises:
            InputError: nothing can be predicted from the samples.
        """
        ...

    def measure(self, samples: Samples, fitted: Fitted) -> Measured:
        """Predict the value of each sample, on a worker."""
        ...

    def close(self) -> None:
        """Free the memory that fitting and measuring keep in this process."""
        ...
