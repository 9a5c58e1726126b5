"""Targets: examples of what a model should be good at, in two disjoint halves.

One half makes annotations, the other judges them. An example's half follows from its content, so
that duplicates stay together.
"""

import hashlib
import logging
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.errors import InputError
from attent_select.stats.randomness import Purpose, numpy_bits, stream_key
from catalogs import Corpus, storage
from catalogs.concurrency import ordered_map
from catalogs.layout import CorpusLayout
from catalogs.shards import format_of, inspect_shard
from pipeline.config.shard_settings import TargetSettings
from pipeline.config.validation import check, did_you_mean
from pipeline.corpus.columns import missing_columns
from pipeline.corpus.conversion import convert
from pipeline.corpus.sources.kinds import kind_of
from trainers.annotation import AnnotationKind, Examples, Samples

_log = logging.getLogger("attent.pipeline.annotation.targets")

# Fewer examples are refused; with fewer than the second number the halves say little.
_FEWEST: Final = 20
_SENSIBLE: Final = 200
# Encoded bytes of a batch of examples that are not kept.
_BATCH_BYTES: Final = 16 << 20


@dataclass(frozen=True)
class Target:
    """The two halves of a target; `digest` identifies both.

    `examples` yields all examples, of a target that is not divided; its halves are empty.
    """

    making: Examples
    judging: Examples
    digest: str
    examples: Callable[[], Iterator[Samples]] | None = None


def target_settings(
    urls: Sequence[str] | None, *, kind_column: str | None, judge_share: float
) -> TargetSettings | None:
    """Return the checked settings; None without URLs.

    Raises:
        InputError: a value is outside its bounds, or there is a `kind_column` without URLs.
    """
    if urls:
        values = {"shards": urls, "kind_column": kind_column, "judge_share": judge_share}
        return check(TargetSettings, values, source="the target")
    if kind_column is not None:
        raise InputError("--kind-column is a column of the target: give --target URL too")
    return None


def target_for(kind: AnnotationKind, settings: TargetSettings) -> Target:
    """Return what a kind of annotation compares with: two halves, or all examples.

    Raises:
        InputError: a column is missing, or there are too few examples.
    """
    if getattr(kind, "splits_target", True):
        return read_target(settings, columns=kind.columns)
    return whole_target(settings.shards, columns=kind.columns)


def whole_target(shards: Sequence[str], *, columns: Sequence[str]) -> Target:
    """Return a target that is not divided, and read when it is needed, a batch at a time.

    Its digest is that of the files: unchanged files are not read to recognise it.

    Raises:
        InputError: there are no such files.
    """
    files = storage.expand([storage.normalise(url) for url in shards])
    facts = sorted(f"{stored.num_bytes} {stored.etag}" for stored in files)
    digest = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]
    none = Examples({}, 0)
    return Target(none, none, digest, partial(_batches, tuple(shards), tuple(columns)))


def _batches(shards: Sequence[str], columns: Sequence[str]) -> Iterator[Samples]:
    with tempfile.TemporaryDirectory(prefix="attent-") as folder:
        corpus = open_shards(shards, folder=folder)
        check_columns(corpus, columns, what="the target")
        for shard in corpus.shards:
            size = max(1, shard.num_samples * _BATCH_BYTES // max(1, shard.num_bytes))
            for first in range(0, shard.num_samples, size):
                rows = range(first, min(first + size, shard.num_samples))
                yield corpus.read(shard.shard_id, rows=rows, columns=columns).values


def read_target(settings: TargetSettings, *, columns: Sequence[str]) -> Target:
    """Read all examples and split them.

    Raises:
        InputError: a column is missing, or there are too few examples.
    """
    samples, kinds = _read(settings, columns)
    hashes = [_content_hash(values) for values in zip(*samples.values(), strict=True)]
    judges = _judges(hashes, share=settings.judge_share)
    # By content, not by shard: equal examples give equal annotations.
    order = np.array(sorted(range(len(hashes)), key=lambda n: (hashes[n], n)), np.int64)
    making, judging = (order[judges[order] == half] for half in (False, True))
    _check_counts(making, judging, total=len(hashes))
    facts = [
        f"{settings.judge_share}",
        *(f"{hashes[n].hex()} {kinds[n] if kinds else ''}" for n in order),
    ]
    digest = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]
    return Target(
        making=_examples(samples, kinds, making),
        judging=_examples(samples, kinds, judging),
        digest=digest,
    )


def judging_rows(
    corpus: Corpus, settings: TargetSettings, *, column_sets: Collection[tuple[str, ...]]
) -> pl.DataFrame:
    """Return shard_id, row and kind of the examples that judge, of the corpus that the target is.

    An example judges if it does so by the content of each of `column_sets`: those of the task, and
    those that annotations are made from.

    Raises:
        InputError: a column is missing, or no example judges.
    """
    names = list(dict.fromkeys(name for columns in column_sets for name in columns))
    samples, kinds = _read_all(corpus, settings, names)
    ids = corpus.rows().collect()
    judges = np.ones(len(ids), bool)
    for columns in column_sets:
        values = zip(*(samples[name] for name in columns), strict=True)
        judges &= _judges([_content_hash(each) for each in values], share=settings.judge_share)
    if not judges.any():
        raise InputError("no example of the target judges: raise judge_share, or add examples")
    return ids.with_columns(kind=pl.Series(kinds or [None] * len(ids), dtype=pl.String)).filter(
        judges
    )


def _judges(hashes: Sequence[bytes], *, share: float) -> npt.NDArray[np.bool_]:
    keys = np.array([int.from_bytes(each[:8], "little") for each in hashes], np.uint64)
    draws = (numpy_bits(stream_key(0, Purpose.JUDGE), keys) >> np.uint64(11)) * 2.0**-53
    return draws < share


def _read(
    settings: TargetSettings, columns: Sequence[str]
) -> tuple[dict[str, list[Any]], list[str] | None]:
    """Return the columns of all examples, and their kinds."""
    with tempfile.TemporaryDirectory(prefix="attent-") as folder:
        return _read_all(open_shards(settings.shards, folder=folder), settings, columns)


def _read_all(
    corpus: Corpus, settings: TargetSettings, columns: Sequence[str]
) -> tuple[dict[str, list[Any]], list[str] | None]:
    kind_column = settings.kind_column
    names = list(dict.fromkeys([*columns, *([kind_column] if kind_column else [])]))
    samples: dict[str, list[Any]] = {name: [] for name in names}
    check_columns(corpus, names, what="the target")

    def read_shard(shard_id: int) -> dict[str, list[Any]]:
        rows = range(corpus.shards[shard_id].num_samples)
        return corpus.read(shard_id, rows=rows, columns=names).values

    for values in ordered_map(read_shard, range(len(corpus.shards)), num_threads=4):
        for name in names:
            samples[name] += values[name]
    kinds = [str(kind) for kind in samples[kind_column]] if kind_column else None
    return {name: samples[name] for name in columns}, kinds


def open_shards(urls: Sequence[str], *, folder: str) -> Corpus:
    """Open shards as a corpus whose manifest and member indexes are in `folder`.

    JSON Lines and CSV files are read as `attent ingest` reads them: `folder` gets shards with their
    rows.
    """
    urls = [storage.normalise(url) for url in urls]
    files = storage.expand(urls)
    if any(kind_of(stored.url) in ("json", "csv") for stored in files):
        converted = convert(urls, to=CorpusLayout(folder).converted_shards, shard_format="parquet")
        files = storage.expand(converted)
    inspected = []
    for stored in files:
        name = format_of(stored.url)
        inspected.append((stored, name, inspect_shard(stored.url, name)))
    Corpus.from_inspections(inspected).publish(folder)
    return Corpus.open(folder)


def check_columns(corpus: Corpus, names: Sequence[str], *, what: str) -> None:
    """Raise `InputError` unless the shards of a corpus have these columns."""
    for name in missing_columns(corpus, names):
        hint = did_you_mean(name, corpus.columns)
        raise InputError(f"{what} has no column {name!r}: {hint}")


def _content_hash(values: Sequence[Any]) -> bytes:
    content = repr([_canonical(value) for value in values])
    return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _canonical(value: Any) -> Any:
    """Return a value as every shard format has it: sorted keys, and no nulls of Arrow's structs."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list):
        return [_canonical(each) for each in value]
    if isinstance(value, dict):
        kept = sorted(name for name in value if value[name] is not None)
        return {name: _canonical(value[name]) for name in kept}
    return value


def _check_counts(
    making: np.ndarray[Any, Any], judging: np.ndarray[Any, Any], *, total: int
) -> None:
    sensible = f"a few hundred to a thousand are sensible, at least {_FEWEST} are required"
    if total < _FEWEST:
        raise InputError(f"the target has {total} examples: {sensible}")
    if min(len(making), len(judging)) < _FEWEST // 4:
        raise InputError(
            f"of {total} examples of the target {len(making)} make annotations and {len(judging)}"
            f" judge: change judge_share, or add examples; {sensible}. Duplicates are on one side"
        )
    if total < _SENSIBLE:
        _log.warning(f"the target has {total} examples: {sensible}")


def _examples(
    samples: dict[str, list[Any]], kinds: list[str] | None, numbers: np.ndarray[Any, Any]
) -> Examples:
    chosen = numbers.tolist()
    return Examples(
        samples={name: [values[n] for n in chosen] for name, values in samples.items()},
        num_examples=len(chosen),
        kinds=None if kinds is None else tuple(kinds[n] for n in chosen),
    )
