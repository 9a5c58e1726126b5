"""The raw pool with its targets: disjoint parts, without overlaps of twenty tokens.

Every source has a share of the pool, whatever the installation has of it. Examples of a target and
texts that judge it come from other works, problems and packages than the pool.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import polars as pl

from learning_arms import corpora
from learning_arms.crawl import texts
from learning_arms.crawl.texts import INSTRUCTIONS, MATHEMATICS, NOVELS

# Shares of the rows. A tenth is prose, instructions and mathematics, which a general model is for.
SHARES: Final[Mapping[str, float]] = {
    "data": 0.425,
    "sources": 0.28,
    "python": 0.12,
    "documentation": 0.035,
    "locale": 0.04,
    NOVELS: 0.05,
    INSTRUCTIONS: 0.03,
    MATHEMATICS: 0.02,
}
WANTED: Final = (NOVELS, INSTRUCTIONS, MATHEMATICS)
# Target → sources of its examples and of the texts that judge it.
TARGETS: Final[Mapping[str, tuple[str, ...]]] = {
    "broad": WANTED,
    "narrow": (MATHEMATICS,),
    "code": ("python",),
}
REST: Final = "rest"
WINDOW: Final = 20
_TOKEN: Final = re.compile(r"\w+|[^\w\s]")
# Of 100 packages: those of the examples of code, of the texts that judge code, and of the rest.
_EXAMPLES, _JUDGED = range(6), range(6, 12)


@dataclass(frozen=True)
class Sizes:
    """Rows of the pool, examples of each source of a target, texts of each that judge it, shares of
    the pool by source, and the folders of the installation.
    """

    pool: int = 125_000
    examples: int = 400
    judged: int = 128
    shares: Mapping[str, float] = field(default_factory=lambda: SHARES)
    standard_library: Path = texts.STANDARD_LIBRARY
    installed: Path = texts.INSTALLED


@dataclass(frozen=True)
class Pool:
    """Files of a pool: shards, examples by target, texts that judge by name; and its digest."""

    shards: str
    examples: Mapping[str, str]
    judged: Mapping[str, str]
    digest: str


def make_pool(data: Path, folder: Path, *, sizes: Sizes) -> Pool:
    """Write the files into `folder` unless they exist."""
    record = folder / "pool.json"
    if not record.exists():
        record.write_text(json.dumps(_write(data, folder, sizes=sizes)))
    written = json.loads(record.read_text())
    return Pool(
        str(folder / "shards"),
        {name: str(folder / f"examples-{name}.parquet") for name in TARGETS},
        {name: str(folder / f"judged-{name}.parquet") for name in (*TARGETS, *WANTED, REST)},
        written["digest"],
    )


def _write(data: Path, folder: Path, *, sizes: Sizes) -> dict[str, str]:
    machine = texts.machine_texts(
        standard_library=sizes.standard_library, installed=sizes.installed
    ).with_columns(bucket=pl.col("package").map_elements(_bucket, pl.Int64))
    pooled, others = texts.public_texts(data)
    examples, judged = _held_out(machine, others, sizes=sizes)
    is_pooled = pl.col("bucket") > max(_JUDGED)
    rows = pl.concat([machine.filter(is_pooled).drop("bucket"), pooled])
    rows = _draw_shares(rows, sizes=sizes)
    held = pl.concat([*judged.values(), *examples.values()])["text"]
    rows = without_overlaps(rows, held)
    digest = hashlib.sha256("\0".join(rows["text"]).encode()).hexdigest()[:16]
    files = {f"judged-{name}": part for name, part in judged.items()}
    for name, part in examples.items():
        files[f"examples-{name}"] = without_overlaps(part, pl.concat(judged.values())["text"])
    for number, shard in enumerate(rows.iter_slices(-(-len(rows) // 8))):
        files[f"shards/{number:03d}"] = shard
    for name, part in files.items():
        corpora.write_once(folder / f"{name}.parquet", partial(pl.DataFrame.clone, part))
    return {"digest": digest}


def _held_out(
    machine: pl.DataFrame, others: pl.DataFrame, *, sizes: Sizes
) -> tuple[dict[str, pl.DataFrame], dict[str, pl.DataFrame]]:
    """Return examples by target and texts that judge by name, of other packages and works."""
    buckets = machine["bucket"]
    public = others.with_columns(bucket=pl.col("package").map_elements(_bucket, pl.Int64) % 12)
    everything = pl.concat([machine.filter(buckets <= max(_JUDGED)), public])
    parts = [
        everything.filter(pl.col("bucket").is_in(list(numbers))).drop("bucket")
        for numbers in (_EXAMPLES, _JUDGED)
    ]

    def take(rows: pl.DataFrame, sources: Collection[str], count: int) -> pl.DataFrame:
        drawn = [corpora.shuffle(rows.filter(source=source)) for source in sources]
        # At most a third from one package or work.
        number = pl.int_range(pl.len()).over("package")
        drawn = [part.filter(number <= count // 3)[:count] for part in drawn]
        return corpora.shuffle(pl.concat(drawn))

    examples = {name: take(parts[0], of, sizes.examples) for name, of in TARGETS.items()}
    judged = {name: take(parts[1], of, sizes.judged) for name, of in TARGETS.items()}
    judged |= {name: take(parts[1], (name,), sizes.judged) for name in WANTED}
    others_of_machine = [name for name in texts.MACHINE_SOURCES if name not in TARGETS["code"]]
    judged[REST] = take(parts[1], others_of_machine, sizes.judged // 2)
    return examples, judged


def _bucket(package: str) -> int:
    """Return a number below 100 that follows from the name."""
    return int.from_bytes(hashlib.sha256(package.encode()).digest()[:4]) % 100


def _draw_shares(rows: pl.DataFrame, *, sizes: Sizes) -> pl.DataFrame:
    """Return rows in a random order, as many of every source as its share of the pool says."""
    drawn = []
    for source, share in sizes.shares.items():
        part = corpora.shuffle(rows.filter(source=source))
        drawn.append(part[: round(share * sizes.pool)])
    return corpora.shuffle(pl.concat(drawn))


def without_overlaps(rows: pl.DataFrame, held: pl.Series) -> pl.DataFrame:
    """Return the rows that share no run of `WINDOW` words and signs with a held-out text.

    A shorter text is dropped if it equals one.
    """
    known = {window for text in held for window in _windows(text)}
    return rows.filter([known.isdisjoint(_windows(text)) for text in rows["text"]])


def _windows(text: str) -> Iterator[int]:
    tokens = _TOKEN.findall(text)
    for start in range(max(1, len(tokens) - WINDOW + 1)):
        yield hash(tuple(tokens[start : start + WINDOW]))
