"""The first shard of a corpus, whose first rows are tried."""

from pathlib import Path

from catalogs.shard_format import Shard
from catalogs.shards import format_of, inspect_shard
from pipeline.config.shard_settings import CorpusSettings
from pipeline.corpus.ingest import shard_objects

_SAMPLES = 512


def first_rows(shard: Shard) -> range:
    """Return the rows that are tried."""
    return range(min(_SAMPLES, shard.num_samples))


def inspect_first_shard(corpus: CorpusSettings, folder: str) -> tuple[Shard, tuple[str, ...]]:
    """Return the first shard with its columns; the list of a tar's members is written to `folder`.

    Raises:
        InputError: the URLs match nothing, or the shard is damaged.
        MissingError: there is no shared corpus, or a shard of it was deleted.
    """
    stored = shard_objects(corpus)[0]
    kind, members = format_of(stored.url), str(Path(folder) / "members.parquet")
    inspection = inspect_shard(stored.url, kind, members_url=members)
    shard = Shard(
        shard_id=0,
        uri=stored.url,
        format=kind,
        num_samples=inspection.num_samples,
        num_bytes=stored.num_bytes,
        etag=stored.etag,
        members_uri=members if Path(members).exists() else None,
    )
    return shard, inspection.columns
