"""Rows of a corpus that somebody has judged: wanted, or not."""

import io
from typing import Final

import polars as pl

from attent_select.errors import InputError
from attent_select.schema import ROW, SHARD_ID
from catalogs import Corpus, storage
from pipeline.config.validation import did_you_mean

WANTED: Final = "wanted"
_TRUE: Final = ("1", "true", "yes")
_FALSE: Final = ("0", "false", "no")
# Fewer wanted rows say too little.
_FEWEST: Final = 10


def read_judged(url: str, *, corpus: Corpus) -> pl.DataFrame:
    """Read a CSV file with shard_id, row and wanted (1 or 0); return u32, u32 and bool.

    Raises:
        InputError: a column is missing, a value is wrong, a row is not of the corpus or occurs
            twice, or too few rows are wanted.
    """
    try:
        table = pl.read_csv(io.BytesIO(storage.read(url)), infer_schema=False)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{url} is not a CSV file: {str(error).splitlines()[0]}") from error
    for name in (SHARD_ID, ROW, WANTED):
        if name not in table.columns:
            hint = did_you_mean(name, table.columns)
            raise InputError(f"{url} has no column {name}: {hint}")
    text = pl.col(WANTED).str.strip_chars().str.to_lowercase()
    ids = [pl.col(name).str.strip_chars().cast(pl.UInt32, strict=False) for name in (SHARD_ID, ROW)]
    answer = pl.when(text.is_in(_TRUE)).then(True).when(text.is_in(_FALSE)).then(False)
    judged = table.select(*ids, answer.alias(WANTED))
    _check_rows(judged, table, corpus, url=url)
    if (count := int(judged[WANTED].sum())) < _FEWEST:
        raise InputError(
            f"{url}: {count} of {len(judged)} rows are wanted, at least {_FEWEST} are required:"
            " judge more random rows of the corpus; 200 are sensible"
        )
    return judged


def _check_rows(judged: pl.DataFrame, table: pl.DataFrame, corpus: Corpus, *, url: str) -> None:
    sizes = pl.DataFrame(
        {
            SHARD_ID: range(len(corpus.shards)),
            "size": [shard.num_samples for shard in corpus.shards],
        },
        schema={SHARD_ID: pl.UInt32, "size": pl.UInt32},
    )
    sized = judged.join(sizes, on=SHARD_ID, how="left", maintain_order="left")
    is_known = (pl.col(ROW) < pl.col("size")).fill_null(False) & pl.col(WANTED).is_not_null()
    if len(wrong := sized.select(is_known.not_().alias("wrong"))["wrong"].arg_true()):
        line = ", ".join(str(table[name][wrong[0]]) for name in (SHARD_ID, ROW, WANTED))
        raise InputError(
            f"{url}, line {wrong[0] + 2}: {line} is not shard_id, row, wanted: expected a row of"
            " the corpus, and 1 or 0"
        )
    if judged.select(SHARD_ID, ROW).is_duplicated().any():
        row = judged.filter(judged.select(SHARD_ID, ROW).is_duplicated()).row(0)
        raise InputError(f"{url}: row {row[1]} of shard {row[0]} occurs twice: keep one of them")
