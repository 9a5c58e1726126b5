"""Names of the parts of a mixture: a column of the manifest, and an annotation of the samples."""

from collections.abc import Iterator, Sequence

import polars as pl

from attent_select.schema import ROW, SHARD_ID
from catalogs import AnnotationStore, Corpus
from catalogs.annotations.store import VALUE, BuiltPart
from catalogs.mixture import NAME, MixturePart, names_by_url
from catalogs.shard_search import find_shards

# Rows of a part of the annotation, about.
_PART_ROWS = 4 << 20


def names_of_shards(parts: Sequence[MixturePart]) -> dict[str, str]:
    """Return URL → name of the part, for every shard.

    Raises:
        InputError: a pattern matches nothing, or a shard is in two parts.
    """
    pairs = ((part.name, stored.url) for part in parts for stored in find_shards(part.shards))
    return names_by_url(pairs)


def annotate_names(url: str) -> None:
    """Make the annotation `name` of the mixture at `url`, or complete it."""
    store = AnnotationStore(url)
    known = store.incomplete(NAME) if NAME in store.names() else None
    if known is None and NAME in store.names():
        return
    store.publish(
        NAME,
        kind="column",
        parts=list(_parts(store)),
        completes=known,
        settings={"column": NAME},
    )


def _parts(store: AnnotationStore) -> Iterator[BuiltPart]:
    rows: list[pl.DataFrame] = []
    height = 0
    corpus: Corpus = store.corpus
    for shard, name in zip(corpus.shards, corpus.names, strict=True):
        of_shard = pl.DataFrame({ROW: pl.int_range(shard.num_samples, dtype=pl.UInt32, eager=True)})
        ids = pl.lit(shard.shard_id, pl.UInt32).alias(SHARD_ID)
        rows.append(of_shard.select(ids, ROW, pl.lit(name).alias(VALUE)))
        height += shard.num_samples
        if height >= _PART_ROWS:
            yield store.write_part(NAME, pl.concat(rows))
            rows, height = [], 0
    if rows:
        yield store.write_part(NAME, pl.concat(rows))
