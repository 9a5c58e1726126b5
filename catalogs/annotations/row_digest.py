"""Digest of the rows of an annotation, nulls and strings included. Pure."""

import hashlib
from collections.abc import Sequence

import numpy as np
import polars as pl


class RowDigest:
    """Digest of columns that does not depend on how rows are batched."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._hashes = {name: [hashlib.blake2b(digest_size=16) for _ in "ab"] for name in columns}

    @classmethod
    def of(cls, rows: pl.LazyFrame, *, columns: Sequence[str]) -> tuple[str, int]:
        """Return the digest of all rows, and the number of rows whose `value` is not null."""
        digest, num_values = cls(columns), 0
        batches = rows.select(columns).collect_batches(maintain_order=True, engine="streaming")
        for batch in batches:
            digest.update(batch)
            num_values += len(batch) - batch["value"].null_count()
        return digest.hexdigest(), num_values

    def update(self, batch: pl.DataFrame) -> None:
        for name, (first, second) in self._hashes.items():
            column = batch[name]
            if column.dtype == pl.String:
                # −1 marks null, which is not the empty string.
                sizes = column.str.len_bytes().cast(pl.Int64).fill_null(-1)
                first.update(sizes.to_numpy().astype("<i8").tobytes())
                second.update("".join(column.drop_nulls().to_list()).encode())
            else:
                first.update(column.is_null().cast(pl.UInt8).to_numpy().tobytes())
                numbers = column.cast(pl.UInt8) if column.dtype == pl.Boolean else column
                second.update(np.ascontiguousarray(numbers.fill_null(0).to_numpy()).data)

    def hexdigest(self) -> str:
        joined = b"".join(each.digest() for pair in self._hashes.values() for each in pair)
        return hashlib.blake2b(joined, digest_size=16).hexdigest()
