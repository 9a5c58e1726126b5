"""Which answers each policy by annotations keeps, by how they are spoiled; and the table of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import polars as pl

from attent_select.schema import ROW, SHARD_ID
from catalogs import AnnotationStore
from learning_arms.sft.arms import KEYS, TOP
from learning_arms.sft.spoiling import KINDS, UNSPOILED

_KINDS: Final = (UNSPOILED, *KINDS)


def kept_shares(corpus: Path) -> dict[str, dict[str, float]]:
    """Return policy → kind of answer → share of its rows in the half that the policy keeps."""
    store = AnnotationStore(str(corpus))
    names = [name for name in store.names() if name != "spoiled"]
    rows = _values(store, "spoiled")
    for name in names:
        rows = rows.join(_values(store, name), on=[SHARD_ID, ROW], how="left")
    shares = {}
    for policy, key in KEYS.items():
        value = pl.sql_expr(key).cast(pl.Float64).fill_nan(None)
        ranked = rows.with_columns(place=value.rank("ordinal", descending=True))
        is_kept = (pl.col("place") <= TOP * len(rows)).fill_null(value=False).mean()
        kept = dict(ranked.group_by("spoiled").agg(is_kept.alias("kept")).rows())
        shares[policy] = {kind: kept.get(kind, 0.0) for kind in _KINDS}
    return shares


def _values(store: AnnotationStore, name: str) -> pl.DataFrame:
    return store.scan(name).frame().select(SHARD_ID, ROW, pl.col("value").alias(name)).collect()


def markdown(shares: Mapping[str, Mapping[str, float]]) -> str:
    """Format the shares as a Markdown table."""
    lines = [f"| kept by | {' | '.join(_KINDS)} |", "| --- |" + " ---: |" * len(_KINDS)]
    for policy, kept in shares.items():
        lines.append(f"| {policy} | {' | '.join(f'{kept[kind]:.0%}' for kind in _KINDS)} |")
    return "\n".join(lines) + "\n"
