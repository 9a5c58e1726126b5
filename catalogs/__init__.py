"""Data at rest: storage, shard formats, the corpus, the loss catalog and index files."""

from attent_select.siblings import check_siblings
from catalogs.corpus import Corpus
from catalogs.index import IndexFile
from catalogs.losses.catalog import LossCatalog

check_siblings(__file__, "attent_select")

__all__ = ["Corpus", "IndexFile", "LossCatalog"]
