"""The node cache never has a wrong byte, although processes are killed while they write to it."""

import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from catalogs.storage.node_cache import NodeCache
from catalogs.storage.objects import Range

DATA = random.Random(0).randbytes(8_000_000)
WRITER = """
import random, sys
from catalogs.storage.node_cache import NodeCache
data = random.Random(0).randbytes(8_000_000)
cache, draw = NodeCache(sys.argv[1], max_bytes=int(sys.argv[3])), random.Random(int(sys.argv[2]))
print("ready", flush=True)
while True:
    offset = draw.randrange(4_000_000)
    ranges = [(offset, draw.randrange(1, 4_000_000))]
    data_ranges, _ = cache.read_ranges("s3://b/x", ranges, etag=str(draw.randrange(3)),
                                 fetch=lambda rs: [data[o : o + n] for o, n in rs])
    assert data_ranges == [data[o : o + n] for o, n in ranges]
    sys.stdout.write(".")
    sys.stdout.flush()
"""


def fetch(ranges: Sequence[Range]) -> list[bytes]:
    return [DATA[offset : offset + size] for offset, size in ranges]


@pytest.mark.parametrize("max_bytes", [1 << 30, 12_000_000], ids=["roomy", "evicting"])
def test_processes_killed_while_writing_leave_no_wrong_byte(tmp_path: Path, max_bytes: int) -> None:
    for turn in range(4):
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, str(tmp_path), str(7 * turn + k), str(max_bytes)],
                stdout=subprocess.PIPE,
            )
            for k in range(2)
        ]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.read(6 + 40 + turn), "it ended"
        for writer in writers:
            assert writer.poll() is None, "it met a wrong byte"
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            assert writer.stdout is not None
            writer.stdout.close()
        cache = NodeCache(str(tmp_path), max_bytes=max_bytes)
        ranges = [(offset, 500) for offset in range(0, 7_999_000, 50_000)]
        for etag in "012":
            data_ranges, _ = cache.read_ranges("s3://b/x", ranges, etag=etag, fetch=fetch)
            assert data_ranges == fetch(ranges)
