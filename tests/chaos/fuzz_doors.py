"""Mutated files at every door that reads files of others: `python tests/chaos/fuzz_doors.py`.

Doors: tar files, footers of Parquet shards, index files, configurations, SQL. A mutation of a valid
seed flips, inserts, removes, repeats or joins bytes. A result or one of our own errors is right.
Another exception, a panic, an abort, a hang or unbounded memory is a defect. `--atheris DOOR` lets
libFuzzer choose the mutations (`pip install atheris`). `fuzz_campaign.py` does the same in many
processes, which may abort or hang.
"""

import argparse
import gzip
import io
import itertools
import json
import os
import random
import resource
import signal
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from types import FrameType

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from attent_select import sql_expression
from attent_select.errors import AttentError
from catalogs import Corpus, IndexFile
from catalogs.index import rows_of_shard
from catalogs.shards import inspect_shard

# Of processor time, so that a busy machine changes nothing.
HANG_SECONDS = 30
# Here a file is written in a tenth of the time that a disk takes.
MEMORY = Path("/dev/shm")
# Memory that reading one of these small inputs may add to the peak of the process.
MAX_MEMORY_MB = 512
_times = itertools.count(10**18)
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Door:
    """What reads bytes of others.

    Attributes:
        seeds: valid inputs.
        read: reads an input; may raise `AttentError` only.
        words: pieces that mutations insert.
    """

    seeds: Sequence[bytes]
    read: Callable[[bytes], object]
    words: Sequence[bytes] = (b"\0", b"\xff" * 4, b"\x7f" * 8)


def _file(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    # A new time for each: caches know a file by its time and size.
    moment = next(_times)
    os.utime(path, ns=(moment, moment))
    return str(path)


def _tar_door(folder: Path) -> Door:
    seeds = []
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
            for name in ("a.txt", "a.cls", "folder/b.txt", f"{'long' * 20}/{'name' * 20}.txt"):
                member = tarfile.TarInfo(name)
                member.size = 3
                archive.addfile(member, io.BytesIO(b"abc"))
        seeds.append(file.getvalue())
    seeds.append(gzip.compress(seeds[0]))

    def read(data: bytes) -> object:
        suffix = ".tar.gz" if data.startswith(_GZIP) else ".tar"
        return inspect_shard(_file(folder / f"fuzzed{suffix}", data), "webdataset")

    words = (b"L", b"x", b"K", b"7777777", b"30 path=b.txt\n", b"././@LongLink", b"\x80\0\0\0")
    return Door(seeds, read, words)


def _footer_door(folder: Path) -> Door:
    seeds = []
    tables = (
        pa.table({"text": ["a", "bc", None], "label": [1, 2, 3]}),
        pa.table({"nested": [{"a": [1.5]}, None], "image": [b"\0", b"\1"]}),
    )
    for table, compression in itertools.product(tables, ("none", "zstd")):
        file = io.BytesIO()
        pq.write_table(table, file, compression=compression)
        seeds.append(file.getvalue())
    path = folder / "fuzzed.parquet"
    return Door(seeds, lambda data: inspect_shard(_file(path, data), "parquet"), (b"PAR1", b"\x15"))


def _index_door(folder: Path) -> Door:
    # Here, and below: torch takes seconds, which other doors do not need.
    from digits import samples, write_corpus, write_index

    corpus = write_corpus(folder / "shards", samples(12))
    corpus.save(str(folder / "run"))
    seed = Path(write_index(folder / "index.parquet", corpus).url).read_bytes()
    # As if another program had copied the notes: without a digest of its bytes.
    foreign = seed.replace(b'_xxh3": "0', b'_xxh3": "1')
    assert foreign != seed
    opened, path = Corpus.open(str(folder / "run")), folder / "fuzzed-index.parquet"

    def read(data: bytes) -> object:
        index = IndexFile.open(_file(path, data), corpus=opened)
        return list(index.batches()), index.rows_by_shard(), rows_of_shard(index.url, 1)

    return Door([seed, foreign, foreign], read, (b"PAR1",))


def _config_door(folder: Path) -> Door:
    from small_runs import small_run

    from pipeline.config import run_config
    from pipeline.config.yaml_values import read_yaml

    values = small_run(folder / "new", folder)
    seed = yaml.safe_dump(values).encode()
    path = folder / "fuzzed.yaml"

    def read(data: bytes) -> object:
        return run_config.parse(read_yaml(_file(path, data)))

    words = (b"&a ", b"*a", b"!!", b"[", b"{", b": ", b"- ", b"1e999", b".nan", b"null", b"-1")
    return Door([seed], read, words)


_COLUMNS = pl.Schema({"loss": pl.Float32(), "row": pl.UInt32(), "source": pl.String()})
_SQL_WORDS = tuple(
    word.encode()
    for word in (
        *("(", ")", "'", '"', ",", "loss", "row", "source", " AND ", " OR ", " NOT ", "--", "/*"),
        *(" IN ", " CASE WHEN ", " THEN ", " END ", "CAST(", " AS ", "::", "[", "]", " LIKE "),
        *("1e400", "18446744073709551616", " UNION ", " WITH ", " OVER ", "read_parquet(", "\\"),
    )
)


def _condition_door(folder: Path) -> Door:
    seeds = [
        b"loss > 0.5 AND source IN ('a', 'b')",
        b"CASE WHEN row < 3 THEN loss ELSE -loss END > 1",
        b"abs(loss) BETWEEN 1 AND row * 2 OR source LIKE 'x%'",
    ]

    def read(data: bytes) -> object:
        text = data.decode(errors="replace")
        return sql_expression.condition(text, _COLUMNS, what="where")

    return Door(seeds, read, _SQL_WORDS)


def _query_door(folder: Path) -> Door:
    from pipeline.reports.query import TABLES, checked_select, text_of

    seeds = [
        b"SELECT count(*) AS n FROM losses WHERE loss > 0.5 GROUP BY shard_id",
        b"WITH a AS (SELECT row FROM index) SELECT a.row FROM a JOIN losses USING (row) LIMIT 3",
        b"SELECT round, avg(train_loss) FROM metrics ORDER BY round DESC",
    ]

    def read(data: bytes) -> object:
        statement, _ = checked_select(data.decode(errors="replace"), tables=TABLES)
        return text_of(statement)

    return Door(seeds, read, _SQL_WORDS)


# Each makes its door, with files in a folder.
DOORS: Mapping[str, Callable[[Path], Door]] = {
    "tar": _tar_door,
    "footer": _footer_door,
    "index": _index_door,
    "config": _config_door,
    "condition": _condition_door,
    "query": _query_door,
}


def mutate(draw: random.Random, door: Door) -> bytes:
    """Return a seed with a few changes."""
    data = bytearray(draw.choice(door.seeds))
    for _ in range(draw.choice([1, 1, 2, 3, 8])):
        at = draw.randrange(len(data) + 1)
        kind = draw.randrange(6)
        if kind == 0 and at < len(data):
            data[at] = draw.randrange(256)
        elif kind == 1 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 2:
            data[at:at] = draw.choice(door.words) * draw.choice([1, 1, 1, 40])
        elif kind == 3:
            del data[at : at + draw.choice([1, 4, 64, 512])]
        elif kind == 4:
            piece = data[at : at + draw.choice([4, 64, 512])]
            data[at:at] = piece * draw.choice([1, 2, 30])
        else:
            other = draw.choice(door.seeds)
            data[at:] = other[draw.randrange(len(other) + 1) :]
    return bytes(data[: 1 << 18])


@contextmanager
def _alarm(seconds: int) -> Iterator[None]:
    def ring(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"no answer within {seconds} s")

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def defect(door: Door, data: bytes) -> BaseException | None:
    """Return what reading raises that it must not raise, or that it takes too much memory."""
    before = _peak_mb()
    try:
        with _alarm(HANG_SECONDS):
            door.read(data)
    except (AttentError, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt):
            raise
    except BaseException as error:  # noqa: BLE001 - panics are no `Exception`
        return error
    if (added := _peak_mb() - before) > MAX_MEMORY_MB:
        return MemoryError(f"{added} MB for {len(data)} bytes")
    return None


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def fuzz(
    door: Door, *, name: str, seed: int, executions: int, keep: Path | None = None
) -> list[tuple[str, bytes]]:
    """Read mutations; return the defects, one for each kind of exception and place.

    With `keep`, the number of the input and the input are written there before it is read, for a
    reader that aborts.
    """
    draw, found = random.Random(f"{seed} {name}"), {}
    for number in range(1, executions + 1):
        data = mutate(draw, door)
        if keep is not None:
            keep.write_bytes(b"%d\n%b" % (number, data))
        if (error := defect(door, data)) is not None:
            found.setdefault(_place(error), (f"{name}: {type(error).__name__}: {error}", data))
    return list(found.values())


def _place(error: BaseException) -> tuple[str, str, int]:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return type(error).__name__, "", 0
    return type(error).__name__, trace.tb_frame.f_code.co_filename, trace.tb_lineno


def _with_atheris(door: Door, arguments: Sequence[str]) -> None:
    import atheris  # type: ignore[import-not-found]

    atheris.instrument_all()

    def once(data: bytes) -> None:
        if (error := defect(door, data)) is not None:
            raise error

    atheris.Setup([sys.argv[0], *arguments], once)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executions", type=int, default=10_000, help="of each door")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--door", action="append", choices=DOORS, help="by default all of them")
    parser.add_argument("--keep", type=Path, help="file for the input that is being read")
    parser.add_argument("--atheris", metavar="DOOR")
    options, rest = parser.parse_known_args()
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        if options.atheris:
            _with_atheris(DOORS[options.atheris](Path(folder)), rest)
        for name in options.door or DOORS:
            door = DOORS[name](Path(folder))
            line = {"door": name, "seed": options.seed, "executions": options.executions}
            defect(door, door.seeds[0])  # imports
            started, start_mb = monotonic(), _peak_mb()
            defects = fuzz(
                door, name=name, keep=options.keep, seed=options.seed, executions=options.executions
            )
            line |= {"seconds": round(monotonic() - started)}
            line |= {"start_mb": start_mb, "peak_mb": _peak_mb()}
            line["defects"] = [(said[:300], data.hex()[:4000]) for said, data in defects]
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
