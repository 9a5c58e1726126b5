"""What each round drew, scored and selected, and what cheap losses lost: a table of a report."""

from collections.abc import Iterator, Mapping
from typing import Any

from catalogs import IndexFile, LossCatalog, storage
from catalogs.layout import Layout
from catalogs.losses import pools
from catalogs.losses.fidelity import fidelity_in
from pipeline.reports.query import selected_rounds

TITLES = (
    "round",
    "drawn",
    "scored",
    "selected",
    "measured by",
    "rank correlation with whole losses",
    "share of their cost",
)


def scored_rounds(run: str) -> list[list[str]]:
    """Return a row for each selected round; nothing for a run without pools and cheap losses."""
    rows = list(_rows(run))
    shown = [row for row in rows if row[1] or row[5]]
    return rows if shown else []


def _rows(run: str) -> Iterator[list[str]]:
    layout, catalog = Layout(run), LossCatalog(run)
    scored, drawn = set(catalog.rounds()), set(pools.pool_rounds(run))
    for number in selected_rounds(run):
        url, provenance = layout.candidates(number), {}
        if number in drawn:
            provenance = pools.pool_provenance(catalog, number)
        elif number in scored:
            provenance = catalog.provenance(number)
        yield [
            f"{number}",
            f"{IndexFile.open(url).num_samples:,}" if storage.info(url) is not None else "",
            f"{provenance.get('scored', 0):,}",
            f"{IndexFile.open(layout.index(number)).num_samples:,}",
            *_method(provenance),
        ]


def _method(provenance: Mapping[str, Any]) -> list[str]:
    method, fidelity = provenance.get("method", {}), fidelity_in(provenance)
    share = method.get("units_share")
    words = [
        "the proxy" if method.get("proxy") else "",
        f"{share:.0%} of a sample" if share else "",
    ]
    how = ", ".join([*filter(None, words), *filter(None, [method.get("dtype")])])
    if fidelity is None:
        return [how, "", ""]
    correlation = fidelity.rank_correlation
    known = "too few samples"
    if correlation is not None:
        known = f"{correlation:.3f} ({fidelity.low:.3f} to {fidelity.high:.3f})"
    return [how, known, f"{fidelity.cost_share:.0%}"]
