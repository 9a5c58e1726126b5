"""Parsing of a Parquet footer by pyarrow, here or in the helper process that this file is, too.

The helper of `footer_check` runs it as a program. It imports pyarrow only, so that it starts fast.
"""

import contextlib
import select
import sys
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

# The helper ends when it had nothing to do for this long, or when its parent ends.
_IDLE_SECONDS: Final = 30.0
DONE: Final = b"\n"
NUMBER_BYTES: Final = 8

# Offset, size and uncompressed size of a column chunk.
ChunkFacts = tuple[int, int, int]


def parse(tail: bytes) -> tuple[pq.FileMetaData, pa.Schema, list[list[ChunkFacts]]]:
    """Return metadata, schema, and the facts of each column chunk of each row group.

    For some damaged footers (size statistics of the wrong length) pyarrow aborts the process,
    which Python cannot catch.
    """
    metadata = pq.read_metadata(pa.BufferReader(tail))
    schema = metadata.schema.to_arrow_schema()
    groups = [metadata.row_group(position) for position in range(metadata.num_row_groups)]
    facts = [
        [_chunk_facts(group.column(leaf)) for leaf in range(metadata.num_columns)]
        for group in groups
    ]
    return metadata, schema, facts


def _chunk_facts(chunk: Any) -> ChunkFacts:
    dictionary, first = chunk.dictionary_page_offset, chunk.data_page_offset
    start = min(dictionary, first) if dictionary else first
    return start, chunk.total_compressed_size, chunk.total_uncompressed_size


def _answer(questions: IO[bytes], answers: IO[bytes]) -> None:
    """Parse footers until the input ends."""
    while select.select([questions], [], [], _IDLE_SECONDS)[0]:
        size = questions.read(NUMBER_BYTES)
        if len(size) < NUMBER_BYTES:
            return
        tail = questions.read(int.from_bytes(size, "little"))
        with contextlib.suppress(Exception):  # the parent parses it, too
            parse(tail)
        answers.write(DONE)
        answers.flush()


if __name__ == "__main__":
    _answer(sys.stdin.buffer, sys.stdout.buffer)
