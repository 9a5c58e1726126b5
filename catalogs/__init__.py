"""Data at rest: storage, shard formats, the corpus, the loss catalog and index files."""

from catalogs.corpus import Corpus
from catalogs.index import IndexFile
from catalogs.losses.catalog import LossCatalog

__all__ = ["Corpus", "IndexFile", "LossCatalog"]
