"""Train a small tokenizer on a text column of Parquet files, for a model from scratch.

python examples/train_tokenizer.py COLUMN OUT SHARD... [--vocab-size 2048]
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from trainers.inputs.tokenizer import train_tokenizer


def texts(column: str, shards: list[str]) -> Iterator[str]:
    """Texts of the column, with one batch of rows in memory at a time."""
    for shard in shards:
        for batch in pq.ParquetFile(shard).iter_batches(columns=[column]):
            yield from filter(None, batch.column(0).to_pylist())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("column")
    parser.add_argument("out", type=Path)
    parser.add_argument("shards", nargs="+")
    parser.add_argument("--vocab-size", type=int, default=2048)
    options = parser.parse_args()
    train_tokenizer(
        texts(options.column, options.shards), options.out, vocab_size=options.vocab_size
    )
