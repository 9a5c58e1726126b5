"""Names of columns that the shards of a corpus may have."""

import pytest

from catalogs import Corpus
from catalogs.shard_format import Shard
from pipeline.corpus.columns import missing_columns


@pytest.mark.parametrize("format_name", ["parquet", "webdataset"])
@pytest.mark.parametrize(
    ("name", "only_in_tars"),
    [
        ("jpg", False),
        ("JPG", True),  # extensions are read in lower case
        ("jpg;png", True),  # alternatives
        ("json.label", True),  # inside of JSON
        ("jpg.json", True),  # a sidecar
    ],
)
def test_a_column_of_a_tar_has_more_names(
    format_name: str, name: str, *, only_in_tars: bool
) -> None:
    shard = Shard(0, "a", format_name, num_samples=1, num_bytes=1, etag="x")
    corpus = Corpus((shard,), ("jpg", "json"))
    is_missing = only_in_tars and format_name == "parquet"
    assert missing_columns(corpus, [name, "cls"]) == ([name, "cls"] if is_missing else ["cls"])
