"""The kernels of a run at rest (`antk/<kind>/<checkpoint>.parquet`) as a table of their drift."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.schema import KERNEL
from catalogs import storage
from catalogs.layout import Layout
from catalogs.tables import frames
from trainers.antk.spectrum import drift, effective_rank, eigenvalues, sketch_error

Kernels: TypeAlias = Mapping[str, npt.NDArray[np.float64]]

# The name of the checkpoint before the first round.
INITIAL = "initial"
_SHOWN_EIGENVALUES = 10
_TABLE: dict[str, Any] = {
    "kind": pl.String,
    "output": pl.String,
    "checkpoint": pl.String,
    "step": pl.UInt64,
    "group": pl.String,
    "drift": pl.Float64,
    "error": pl.Float64,
    "resolved": pl.Boolean,
    "trace": pl.Float64,
    "trace_share": pl.Float64,
    "effective_rank": pl.Float64,
    "eigenvalues": pl.List(pl.Float64),
}


def drift_table(run: str) -> pl.DataFrame:
    """Return a row per kind, checkpoint and group (`all`: all parameters), in that order.

    Columns: `kind`, `output`, `checkpoint`, `step`, `group`; `drift` ‖K_t − K_{t−1}‖_F / ‖K_t‖_F
    since the previous checkpoint of the same kind, the `error` of the sketch, and whether the drift
    is `resolved`, larger than that; `trace`, `trace_share` (of the trace of all),
    `effective_rank`, and the ten largest `eigenvalues`.
    """
    names: dict[str, list[str]] = {}
    folder = storage.normalise(Layout(run).all_kernels)
    for file in storage.list_objects(folder):
        kind, _, name = file.url.removeprefix(folder).lstrip("/").rpartition("/")
        if name.endswith(".parquet"):
            names.setdefault(kind, []).append(name.removesuffix(".parquet"))
    # `initial` comes before the numbers of rounds.
    order = {kind: sorted(each, key=lambda n: (n != INITIAL, n)) for kind, each in names.items()}
    tables = [drift_of_kind(run, kind, each) for kind, each in sorted(order.items())]
    return pl.concat([pl.DataFrame(schema=_TABLE), *tables])


def drift_of_kind(run: str, kind: str, checkpoints: Sequence[str]) -> pl.DataFrame:
    """Return the rows of one kind, for checkpoints in order of training."""
    rows = []
    previous: Kernels | None = None
    for name in checkpoints:
        kernels, notes = _read(Layout(run).kernel(kind, name))
        about = {"kind": kind, "output": notes["output"], "checkpoint": name, "step": notes["step"]}
        rows += [about | row for row in _measures(kernels, previous, notes["sketch"])]
        previous = kernels
    return pl.DataFrame(rows, schema=_TABLE, orient="row")


def _read(url: str) -> tuple[Kernels, frames.Notes]:
    """Return the kernel of `all` parameters and of each group."""
    rows, notes = frames.read_frame(url, schema=dict(KERNEL))
    groups = {
        str(group): np.array(part["kernel"].to_list())
        for (group,), part in rows.group_by("group", maintain_order=True)
    }
    return {"all": np.sum(list(groups.values()), axis=0), **groups}, notes


def _measures(
    kernels: Kernels, previous: Kernels | None, sketch_size: int | None
) -> Iterator[dict[str, Any]]:
    total = max(float(np.trace(kernels["all"])), np.finfo(float).tiny)
    for group, kernel in kernels.items():
        moved = None if previous is None else drift(kernel, previous[group])
        error = sketch_error(kernel, sketch_size)
        trace = float(np.trace(kernel))
        yield {
            "group": group,
            "drift": moved,
            "error": error,
            "resolved": None if moved is None else moved > error,
            "trace": trace,
            "trace_share": trace / total,
            "effective_rank": effective_rank(kernel),
            "eigenvalues": eigenvalues(kernel)[:_SHOWN_EIGENVALUES].tolist(),
        }
