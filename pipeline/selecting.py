"""From losses to an index file, outside of a run's rounds: `attent select`.

Here: finding the losses and the strategy, writing the index. Not here: choosing rows
(`attent_select`), the rounds of a run (`rounds.py`).
"""

import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import polars as pl
import yaml

from attent_select.errors import ExistsError, InputError
from attent_select.plugins import load as load_plugin
from attent_select.schema import ROW, SHARD_ID
from attent_select.teaching import Preview, select
from catalogs import IndexFile, LossCatalog, frames, storage
from catalogs.layout import Layout
from pipeline.settings import SelectionSettings
from pipeline.validation import check


@dataclass(frozen=True)
class SelectResult:
    """What was selected. `digest` is of the sorted (shard_id, row)."""

    selected: int
    total: int
    eligible: int
    threshold: float | None
    digest: str
    seconds: float
    peak_rss_bytes: int


def select_losses(
    losses: str,
    *,
    out: str,
    strategy: str = "soft",
    settings: Sequence[str] = (),
    ratio: float | None = None,
    num_samples: int | None = None,
    where: str | None = None,
    by: str | None = None,
    seed: int = 0,
    round_number: int = 0,
) -> SelectResult:
    """Writes the teaching subset of `losses` as the index file `out`.

    Args:
        losses: URL of a run (its newest losses count), or a URL, folder or glob of Parquet files
            with shard_id, row and loss.
        out: URL of the index file; it must not exist.
        strategy: a plug-in's name.
        settings: `key=value` for each key of the section `selection` that is not the default.
        ratio: share of all rows, in (0, 1]; or
        num_samples: how many rows.
        where: a polars SQL condition that eligible rows fulfil.
        by: a column whose values are strata; each gets its quota of the budget.
        seed: of the random draw.
        round_number: each round draws anew.

    Raises:
        InputError: losses, settings or budget are wrong.
        ExistsError: `out` is there already.
    """
    started = monotonic()
    if (ratio is None) == (num_samples is None):
        raise InputError("give either --ratio or --num-samples")
    chosen = _section(strategy, settings=settings, where=where, by=by)
    frame, preview, provenance = _losses(losses)
    selection = select(
        frame,
        strategy=chosen.settings,
        num_samples=num_samples,
        ratio=ratio,
        seed=seed,
        round_number=round_number,
        composition=chosen.composition,
        preview=preview,
    )
    how = {"selection": chosen.model_dump(mode="json"), "seed": seed, "round": round_number}
    index = _write(out, selection.rows, provenance=provenance | how)
    return SelectResult(
        selected=index.num_samples,
        total=selection.total,
        eligible=selection.eligible,
        threshold=selection.threshold,
        digest=index.digest,
        seconds=monotonic() - started,
        peak_rss_bytes=peak_rss_bytes(),
    )


def peak_rss_bytes() -> int:
    """The most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would also count what the parent held before exec
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _write(out: str, rows: pl.LazyFrame, *, provenance: dict[str, Any]) -> IndexFile:
    if storage.info(out) is not None:
        raise ExistsError(f"{out} is there already: choose another --out, or delete it")
    try:
        return IndexFile.write(out, rows, provenance=provenance)
    except InputError:
        # Others' files need not be in (shard, row) order; sorting holds the subset in memory.
        return IndexFile.write(out, rows.sort(SHARD_ID, ROW), provenance=provenance)


def _section(
    name: str, *, settings: Sequence[str], where: str | None, by: str | None
) -> SelectionSettings[Any]:
    values: dict[str, Any] = {"strategy": name}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"--set {setting}: expected key=value, such as temperature=0.5")
        values[key] = yaml.safe_load(text)
    values |= {key: value for key, value in (("where", where), ("by", by)) if value is not None}
    plugin = load_plugin("attent_select.strategies", name)
    return check(SelectionSettings[plugin], values, source=f"--strategy {name}")


def _losses(url: str) -> tuple[pl.LazyFrame, Preview, dict[str, Any]]:
    """The losses in (shard, row) order, some of them, and where they come from."""
    url = storage.normalise(url).rstrip("/")
    # A run, or its catalog: the folder `losses` in it.
    for run in (url, url.removesuffix("/losses")):
        if storage.info(Layout(run).manifest) is not None:
            catalog = LossCatalog(run)
            provenance = {"corpus_id": catalog.corpus.corpus_id, "losses": url}
            return catalog.latest(), catalog.preview(), provenance
    found = [item.url for item in storage.expand([url])]
    kinds = _columns(found)
    provenance = {"corpus_id": None, "losses": url}
    return frames.scan(found, schema=kinds), frames.preview(found, schema=kinds), provenance


def _columns(found: Sequence[str]) -> frames.SchemaDict:
    """The columns that all files have. Raises `InputError` naming a file that is not like these."""
    shared: frames.SchemaDict = {}
    for url in found:
        kinds = frames.polars_schema(frames.footer_of(url))
        if missing := {SHARD_ID, ROW} - kinds.keys():
            raise InputError(
                f"{url} has no column {', '.join(sorted(missing))}: expected a run, or Parquet "
                "files with shard_id, row and loss"
            )
        shared = {name: kind for name, kind in (shared or kinds).items() if name in kinds}
        if changed := [name for name, kind in shared.items() if kinds[name] != kind]:
            raise InputError(
                f"{url}: the column {changed[0]} is {kinds[changed[0]]}, in {found[0]} it is "
                f"{shared[changed[0]]}: expected the same type in every file"
            )
    return shared
