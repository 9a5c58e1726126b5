"""Losses of pools: of the candidates of a round, where most of the corpus is never scored.

`candidates/<round>` are the drawn rows, written before the first one is measured. `pools/<round>`
are their losses; publishing it commits the round's scoring.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import polars as pl

from attent_select import schema
from attent_select.errors import MissingError
from catalogs import storage
from catalogs.concurrency import ordered_map
from catalogs.corpus import check_corpus
from catalogs.layout import Layout
from catalogs.losses import parts
from catalogs.losses.catalog import LossCatalog
from catalogs.tables import dense_parts, frames
from catalogs.tables.scan import Scan

_ROWS_PER_GROUP = 1 << 18


def publish_pool(
    catalog: LossCatalog, round_number: int, spans: Sequence[str], *, provenance: dict[str, Any]
) -> None:
    """Publish the losses of a round's candidates, measured in `spans` in row order; delete these.

    The same losses give the same bytes.
    """
    layout, corpus = Layout(catalog.run), catalog.corpus
    notes = {
        "schema_version": schema.SCHEMA_VERSION,
        "corpus_id": corpus.corpus_id,
        "round": round_number,
        "provenance": provenance,
    }
    groups = _row_groups(catalog, spans)
    first = next(groups)
    frames.publish_tables(
        layout.pool(round_number),
        (frames.to_arrow(group) for group in chain([first], groups)),
        # Losses of one row group may all be there, those of another not.
        schema=frames.arrow_schema(dict(first.schema)),
        notes=lambda: notes,
    )
    storage.delete_all(layout.span(digest) for digest in spans)


def pool_rounds(run: str) -> list[int]:
    """Return the rounds whose candidates have losses, ascending."""
    urls = (stored.url for stored in storage.list_objects(Layout(run).pools))
    stems = (url.rpartition("/")[2].partition(".")[0] for url in urls)
    return sorted(int(stem) for stem in stems if stem.isdigit())


def pool_losses(catalog: LossCatalog, round_number: int) -> Scan:
    """Return the losses of a round's candidates, in (shard_id, row) order.

    Columns are those of `schema.LOSSES`, and `functional_gradient` where it is measured.

    Raises:
        MissingError: they were not measured.
        CorpusMismatchError: they belong to another corpus.
    """
    _notes(catalog, round_number)
    url = Layout(catalog.run).pool(round_number)
    return Scan.of([url], schema=frames.polars_schema(frames.footer_of(url)))


def pool_provenance(catalog: LossCatalog, round_number: int) -> dict[str, Any]:
    """Return the `provenance` of a published pool. Raises `MissingError` if there is none."""
    return dict(_notes(catalog, round_number)["provenance"])


def pool_digest(catalog: LossCatalog, round_number: int) -> str:
    """Digest of the sorted losses of a round's candidates; see `parts.digest_of`."""
    return parts.digest_of(pool_losses(catalog, round_number).frame())


def _notes(catalog: LossCatalog, round_number: int) -> frames.Notes:
    url = Layout(catalog.run).pool(round_number)
    if storage.info(url) is None:
        raise MissingError(f"the candidates of round {round_number} have no losses ({url})")
    notes = frames.notes_of(frames.footer_of(url))
    check_corpus(notes, corpus=catalog.corpus, what=f"the pool {url}")
    return notes


def _row_groups(catalog: LossCatalog, spans: Sequence[str]) -> Iterator[pl.DataFrame]:
    def read(digest: str) -> pl.DataFrame:
        finished = catalog.read_span(digest)
        if finished is None:
            raise MissingError(f"{Layout(catalog.run).span(digest)} was deleted: score again")
        return finished[0]

    buffer: list[pl.DataFrame] = []
    num_rows = 0
    for rows in ordered_map(read, spans, num_threads=8):
        buffer.append(rows)
        num_rows += len(rows)
        if num_rows >= _ROWS_PER_GROUP:
            yield _join_pieces(buffer)
            buffer, num_rows = [], 0
    if buffer:
        yield _join_pieces(buffer)


def _join_pieces(pieces: Sequence[pl.DataFrame]) -> pl.DataFrame:
    rows = pl.concat(pieces)
    dense_parts.check_order(rows, what="a pool")
    return rows
