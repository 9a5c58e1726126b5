"""What-if: what a selection would take, against the corpus and the newest index."""

import functools
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select import plugins
from attent_select.errors import AttentError, InputError
from attent_select.schema import MEASURED_STEP, NUM_UNITS, ROW, SHARD_ID, numpy_sample_key
from attent_select.selection.chunks import FrameChunks
from catalogs import IndexFile, LossCatalog
from catalogs.layout import Layout
from catalogs.shards import plan_shard
from pipeline.explorer.axes import Axis, axis_of
from pipeline.explorer.source import Rows, Source, run_chunks
from pipeline.selection.choice import Budget, Draw, SelectionRequest, choose
from pipeline.selection.loss_tables import polars_errors
from pipeline.selection.selection_options import SelectionOptions

Keys = npt.NDArray[np.uint64]

# Rows of a selection that is only looked at; of more, shards are drawn.
MAX_ROWS: Final = 10_000_000
_MAX_INDEX: Final = 50_000_000
_EXAMPLES: Final = 6
# Shards whose reads are planned, to estimate those of all.
_PLANNED_SHARDS: Final = 24
# What is counted of each group, beside the units that are selected.
_COUNTED: Final = ("count", "units", "selected", "stored", "gained", "lost")


@dataclass(frozen=True)
class Controls:
    """The controls of the page: a strategy, how much, and what is around it."""

    strategy: str = "hard"
    ratio: float = 0.2
    key: str = ""
    where: str = ""
    by: str = ""
    quotas: str = "proportional"
    groups: str = ""
    seed: int = 0

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "Controls":
        """Return the controls that a request names. Raises `InputError`."""
        texts = {
            name: str(values.get(name) or default).strip()
            for name, default in (
                ("strategy", "hard"), ("key", ""), ("where", ""), ("by", ""),
                ("quotas", "proportional"), ("groups", ""),
            )
        }  # fmt: skip
        ratio, seed = values.get("ratio", 0.2), values.get("seed", 0)
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio <= 1:
            raise InputError(f"ratio: expected a number above 0 and up to 1, got {ratio!r}")
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise InputError(f"seed: expected a whole number from 0, got {seed!r}")
        known = plugins.plugin_names("attent_select.strategies")
        if texts["strategy"] not in known:
            raise InputError(f"strategy: expected one of {', '.join(known)}")
        return cls(ratio=float(ratio), seed=seed, **texts)

    @property
    def options(self) -> SelectionOptions:
        settings = [f"key={json.dumps(self.key)}"] if self.strategy == "key" and self.key else []
        if self.by and self.quotas != "proportional":
            settings.append(f"quotas={self.quotas}")
        return SelectionOptions(self.strategy, settings, self.where or None, self.by or None)

    def command(self, url: str) -> str:
        """Return the command line that writes the index."""
        words = ["attent", "select", url, "--strategy", self.strategy, "--ratio", f"{self.ratio:g}"]
        for setting in self.options.settings:
            words += ["--set", setting]
        for name in ("where", "by"):
            if value := getattr(self, name):
                words += [f"--{name}", value]
        words += ["--seed", str(self.seed)] if self.seed else []
        return shlex.join([*words, "--out", "index.parquet"])


def try_selection(source: Source, controls: Controls) -> dict[str, Any]:
    """Return what a selection would take.

    Numbers of samples are those of the rows that were looked at; `scale` times as many are in the
    corpus.

    Raises:
        InputError: a setting is wrong, or no row is eligible.
    """
    section = controls.options.section()
    groups = controls.groups or controls.by
    units = [NUM_UNITS] if NUM_UNITS in source.kinds else []
    rows = source.read([*section.columns], max_rows=MAX_ROWS)
    chunks = rows.chunks
    preview = None if isinstance(chunks, FrameChunks) else chunks.preview(total=rows.num_rows)
    draw = Draw(controls.seed, source.indexes[-1] if source.indexes else 0, _steps(source, section))
    request = SelectionRequest(
        chunks, section, Budget(ratio=controls.ratio, at_most=True), draw, source.corpus, preview
    )
    with polars_errors(None):
        selection = choose(request).selection
        if not selection.eligible:
            raise InputError("no row is eligible: relax the condition")
        keys = _keys_of(pl.concat(selection.frames()))
    described = source.read([*units, *([groups] if groups else [])], max_rows=MAX_ROWS)
    stored = _stored_keys(source)
    axis = axis_of(source, groups, num_bins=8) if groups else None
    facts = _describe(source, described, keys, stored, axis)
    return (
        rows.facts
        | {
            "selected": selection.num_samples,
            "eligible": selection.eligible,
            "threshold": selection.threshold,
            "scale": rows.total / max(1, rows.num_rows),
            "reads": _reads(source, keys),
            "command": controls.command(source.url),
            "against": source.indexes[-1] if stored is not None else None,
        }
        | facts
    )


def _steps(source: Source, section: Any) -> list[int]:
    if MEASURED_STEP not in section.strategy.columns:
        return []
    notes = [LossCatalog(source.url).provenance(number) for number in source.rounds]
    return sorted({note[MEASURED_STEP] for note in notes if MEASURED_STEP in note})


def _keys_of(rows: pl.DataFrame) -> Keys:
    return numpy_sample_key(rows[SHARD_ID].to_numpy(), rows[ROW].to_numpy())


def _stored_keys(source: Source) -> Keys | None:
    """Return the sample keys of the newest index; None if there is none, or it is too large."""
    if not source.indexes:
        return None
    index = IndexFile.open(Layout(source.url).index(source.indexes[-1]), corpus=source.corpus)
    if index.num_samples > _MAX_INDEX or index.num_samples == source.corpus.num_samples:
        return None
    return _keys_of(index.frame().select(SHARD_ID, ROW).collect(engine="streaming"))


def _describe(
    source: Source, rows: Rows, keys: Keys, stored: Keys | None, axis: Axis | None
) -> dict[str, Any]:
    """Return units, groups, and what was gained and lost, by one pass over the rows."""
    with_units = NUM_UNITS in source.kinds
    work = functools.partial(
        _describe_chunk, keys=keys, stored=stored, axis=axis, with_units=with_units
    )
    parts = list(run_chunks(rows, work))
    counts = pl.concat([part[0] for part in parts]).group_by("group").sum().sort("group")
    names = [*axis.names, "(none)"] if axis else ["all"]
    gained = [pair for part in parts for pair in part[1]]
    lost = [pair for part in parts for pair in part[2]]
    totals = counts.drop("group").sum().row(0, named=True)
    return {
        "units": totals["units"],
        "selected_units": totals["selected_units"],
        "gained": totals["gained"],
        "lost": totals["lost"],
        "kept": totals["selected"] - totals["gained"],
        "gained_samples": _spread(gained),
        "lost_samples": _spread(lost),
        "groups": [
            {"name": names[row["group"]]} | {k: v for k, v in row.items() if k != "group"}
            for row in counts.iter_rows(named=True)
        ] if axis else [],
    }  # fmt: skip


Pairs = list[tuple[int, int]]


def _describe_chunk(
    rows: pl.DataFrame, *, keys: Keys, stored: Keys | None, axis: Axis | None, with_units: bool
) -> tuple[pl.DataFrame, Pairs, Pairs]:
    own = _keys_of(rows)
    is_selected = _is_in(own, keys)
    is_stored = _is_in(own, stored) if stored is not None else is_selected
    gained, lost = is_selected & ~is_stored, is_stored & ~is_selected
    units = pl.col(NUM_UNITS).cast(pl.Int64).fill_null(0) if with_units else pl.lit(0, pl.Int64)
    marked = rows.with_columns(
        group=axis.place() if axis else pl.lit(0, pl.UInt8),
        count=pl.lit(1, pl.Int64),
        units=units,
        selected=pl.Series(is_selected.astype(np.int64)),
        stored=pl.Series(is_stored.astype(np.int64)),
        gained=pl.Series(gained.astype(np.int64)),
        lost=pl.Series(lost.astype(np.int64)),
    )
    selected_units = (pl.col("units") * pl.col("selected")).alias("selected_units")
    counted = marked.select("group", *_COUNTED, selected_units).group_by("group").sum()
    ids = [rows.select(SHARD_ID, ROW).filter(pl.Series(mask)).rows() for mask in (gained, lost)]
    return counted, _spread(ids[0]), _spread(ids[1])


def _is_in(own: Keys, keys: Keys) -> npt.NDArray[np.bool_]:
    """Whether each of some keys is among sorted ones."""
    if not len(keys):
        return np.zeros(len(own), np.bool_)
    place = np.minimum(np.searchsorted(keys, own), len(keys) - 1)
    return np.asarray(keys[place] == own)


def _spread(pairs: Pairs) -> Pairs:
    """Return a few of the pairs, evenly spaced."""
    every = max(1, -(-len(pairs) // _EXAMPLES))
    return pairs[::every]


def _reads(source: Source, keys: Keys) -> dict[str, Any]:
    """Estimate the bytes that reading the selected samples takes, from some of their shards."""
    shard_ids, firsts = np.unique(keys >> np.uint64(32), return_index=True)
    rows = np.split(keys & np.uint64(0xFFFFFFFF), firsts[1:])
    chosen = np.linspace(0, len(shard_ids) - 1, min(len(shard_ids), _PLANNED_SHARDS)).astype(int)
    num_bytes = selected_bytes = num_rows = 0
    for number in np.unique(chosen):
        shard = source.corpus.shard(int(shard_ids[number]))
        try:
            plan = plan_shard(shard, rows=rows[number].tolist(), columns=source.corpus.columns)
        except AttentError as error:
            return {"error": str(error)}
        num_bytes += plan.num_bytes
        selected_bytes += plan.bytes_selected
        num_rows += len(rows[number])
    scale = len(keys) / max(1, num_rows)
    return {
        "bytes": round(num_bytes * scale),
        "selected_bytes": round(selected_bytes * scale),
        "num_shards": len(shard_ids),
        "planned_shards": len(np.unique(chosen)),
    }
