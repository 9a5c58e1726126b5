"""From losses to an index file, outside of a run's rounds: `attent select`.

Here: finding the losses and the strategy, writing the index. Not here: choosing rows
(`attent_select`), the rounds of a run (`rounds.py`).
"""

import dataclasses
import json
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
from attent_select.schema import MEASURED_STEP, ROW, SHARD_ID
from attent_select.teaching import Preview, Selection, select
from catalogs import IndexFile, LossCatalog, frames, storage
from catalogs.layout import Layout
from catalogs.scan import Scan
from pipeline.settings import SelectionSettings
from pipeline.validation import check

# What a section `selection` has beside the settings, and `--set` must not replace.
_SECTION_KEYS = ("strategy", "settings", "composition")


@dataclass(frozen=True)
class _Losses:
    """The losses in (shard, row) order, some of them, and where they come from."""

    rows: Scan
    preview: Preview
    provenance: dict[str, Any]
    # Of a run, and of its snapshots those that count.
    catalog: LossCatalog | None = None
    rounds: Sequence[int] = ()

    def round_steps(self, columns: Sequence[str]) -> list[int]:
        """The steps at which rounds began, as far as anything was measured then.

        None unless they are asked for in `columns`: it may take a pass over the losses.
        """
        if MEASURED_STEP not in columns:
            return []
        if self.catalog is not None:
            notes = [self.catalog.provenance(number) for number in self.rounds]
            if steps := {note[MEASURED_STEP] for note in notes if MEASURED_STEP in note}:
                return sorted(steps)
        if MEASURED_STEP not in self.rows.schema:
            return []
        measured = self.rows.frame().select(pl.col(MEASURED_STEP).drop_nulls().unique().sort())
        return measured.collect(engine="streaming").to_series().to_list()


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
    round_number: int | None = None,
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
        round_number: each round draws anew (default: as round 0); of a run the losses as of this
            round count.

    Raises:
        InputError: losses, settings or budget are wrong.
        ExistsError: `out` is there already.
    """
    started = monotonic()
    _check_arguments(out, ratio=ratio, num_samples=num_samples)
    chosen = _section(strategy, settings=settings, where=where, by=by)
    found = _losses(losses, round_number=round_number)
    selection = select(
        found.rows,
        strategy=chosen.settings,
        num_samples=num_samples,
        ratio=ratio,
        seed=seed,
        round_number=round_number or 0,
        round_steps=found.round_steps(chosen.settings.columns),
        composition=chosen.composition,
        preview=found.preview,
    )
    how = {"selection": chosen.model_dump(mode="json"), "seed": seed, "round": round_number or 0}
    index = _write(out, selection, provenance=found.provenance | how)
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


def _check_arguments(out: str, *, ratio: float | None, num_samples: int | None) -> None:
    if (ratio is None) == (num_samples is None):
        raise InputError("give either --ratio or --num-samples")
    if storage.info(out) is not None:
        raise ExistsError(f"{out} is there already: choose another --out, or delete it")


def _write(out: str, selection: Selection, *, provenance: dict[str, Any]) -> IndexFile:
    try:
        return IndexFile.write(out, selection.frames(), provenance=provenance)
    except InputError:
        # Others' files need not be in (shard, row) order; sorting holds the subset in memory.
        return IndexFile.write(out, selection.rows.sort(SHARD_ID, ROW), provenance=provenance)


def _section(
    name: str, *, settings: Sequence[str], where: str | None, by: str | None
) -> SelectionSettings[Any]:
    values: dict[str, Any] = {"strategy": name}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"--set {setting}: expected key=value, such as temperature=0.5")
        if key in _SECTION_KEYS:
            raise InputError(f"--set {setting}: {key} is not a setting of a strategy")
        values[key] = _yaml_value(text, setting=setting)
    values |= {key: value for key, value in (("where", where), ("by", by)) if value is not None}
    plugin = load_plugin("attent_select.strategies", name)
    is_settings = isinstance(plugin, type) and dataclasses.is_dataclass(plugin)
    if not is_settings or not hasattr(plugin, "probability"):
        raise InputError(f"--strategy {name}: expected a strategy's class, see docs/extending.md")
    return check(SelectionSettings[plugin], values, source=f"--strategy {name}")


def _yaml_value(text: str, *, setting: str) -> Any:
    try:
        value = yaml.safe_load(text)
        json.dumps(value, default=str)  # an anchor may hold itself
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"--set {setting}: the value is not YAML: {reason}") from error
    return value


def _losses(url: str, *, round_number: int | None) -> _Losses:
    url = storage.normalise(url).rstrip("/")
    # A run, or its catalog: the folder `losses` in it.
    for run in (url, url.removesuffix("/losses")):
        if storage.info(Layout(run).manifest) is not None:
            catalog = LossCatalog(run)
            return _Losses(
                catalog.scan(round_number),
                catalog.preview(round_number),
                provenance={"corpus_id": catalog.corpus.corpus_id, "losses": url},
                catalog=catalog,
                rounds=[n for n in catalog.rounds() if round_number is None or n <= round_number],
            )
    found = [item.url for item in storage.expand([url])]
    kinds = _columns(found)
    scan = Scan.of(found, schema=kinds)
    return _Losses(
        scan,
        scan.preview(),
        provenance={"corpus_id": None, "losses": url},
    )


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
