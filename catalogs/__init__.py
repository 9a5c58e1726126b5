"""Data at rest: corpora of shards, annotations and losses of their samples, and index files.

    from catalogs import Corpus, IndexFile, LossCatalog

    corpus = Corpus.open("s3://bucket/run")
    losses = LossCatalog("s3://bucket/run").latest()  # a polars LazyFrame, one row per sample
    annotations = AnnotationStore("s3://bucket/run").names()
    index = IndexFile.open("s3://bucket/run/index/00000.parquet", corpus=corpus)

Shard formats are in `catalogs.formats`, one per file; `catalogs.testing` has the conformance suite
for new ones. `catalogs.storage` reads and publishes objects at any URL.
"""

from attent_select import __version__
from attent_select.siblings import check_siblings
from catalogs.annotations.store import AnnotationStore
from catalogs.corpus import Corpus
from catalogs.index import IndexFile
from catalogs.losses.catalog import LossCatalog

check_siblings(__file__, "attent_select")

__all__ = ["AnnotationStore", "Corpus", "IndexFile", "LossCatalog", "__version__"]


def __dir__() -> list[str]:
    return __all__
