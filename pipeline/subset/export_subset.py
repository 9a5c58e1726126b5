"""attent export-subset: the selected samples as files for other trainers, part by part.

`OUT.json`, beside the folder, says what the parts are made from; parts that exist are not written
again. It is published again at the end, with the names of the parts: that commits the export.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from attent_select.errors import ExistsError, InputError
from catalogs import storage
from catalogs.concurrency import ordered_map
from catalogs.layout import join
from pipeline.config.run_config import frozen_section
from pipeline.progress import progress
from pipeline.subset.columns import subset_columns
from pipeline.subset.part import ADDED, Part, SubsetColumns
from pipeline.subset.recipes import Recipes, recipes_of
from pipeline.subset.source import RowOrder, SubsetSource, open_source
from pipeline.subset.writers import FORMATS

# Size of a part in the corpus, about.
_PART_BYTES = 64 << 20
_MAX_PART_SAMPLES = 1 << 17
# Parts that this process reads and writes at the same time.
_NUM_THREADS = 2


@dataclass(frozen=True)
class SubsetOptions:
    """How a subset is exported.

    Attributes:
        format: parquet, jsonl, webdataset, hf (a folder that `load_dataset` reads) or mds.
        order: `teaching`, in which training reads the samples, or `stored`, as in the corpus.
        columns: columns of the corpus; default: those that all shards have.
        part_samples: samples of a part file; default: about 64 MiB of the corpus.
        seed: of the teaching order; default: that of the round in its run, else 0.
    """

    format: str
    order: RowOrder = "teaching"
    columns: tuple[str, ...] | None = None
    part_samples: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class SubsetResult:
    """What was written: `num_parts` files under `out`, and texts for other trainers.

    `num_written` parts are new; the others existed. `num_losses` samples have a loss.
    """

    out: str
    format: str
    num_samples: int
    num_losses: int
    num_parts: int
    num_written: int
    num_bytes: int
    seconds: float
    load: str
    llama_factory: str | None
    axolotl: str | None


def export_subset(
    target: str,
    *,
    out: str,
    options: SubsetOptions,
    corpus: str | None = None,
    round_number: int | None = None,
    scheduler: str | None = None,
) -> SubsetResult:
    """Write the samples of a run's index, or of an index file, to the folder `out`.

    Each sample has the columns weight, loss (null where none was measured), shard_id and row beside
    its own. The same call resumes after an interruption.

    Args:
        target: URL of a run, or of an index file.
        out: URL of the folder to write.
        options: format, order, columns and size of the parts.
        corpus: run or corpus of an index file that is not in a run.
        round_number: which index of a run; default: the newest.
        scheduler: address of a Dask scheduler, or `local`, whose workers write the parts; without
            one, this process writes them.

    Raises:
        InputError: an option or a value cannot be exported.
        ExistsError: `out` has other files.
        MissingError: the index or the corpus does not exist.
        ClusterError: the cluster was lost; call again to resume.
    """
    started = monotonic()
    _check_options(options)
    folder = storage.normalise(out)
    source = open_source(target, corpus=corpus, round_number=round_number, seed=options.seed)
    shard_ids = source.selected.shard_ids.tolist()
    columns = subset_columns(source.corpus, shard_ids, names=options.columns)
    size = options.part_samples or _part_samples(source)
    plan = _plan(source, options, columns, size)
    existing = _existing_files(folder, plan=plan)
    parts = _parts(source, folder, options, columns, size=size)
    num_samples = len(source.selected)
    num_written = _write_missing(parts, existing, scheduler=scheduler, total=num_samples)
    files = _part_files(folder, options.format, num_samples=num_samples, size=size)
    for name, data in FORMATS[options.format].finish(files, columns).items():
        storage.publish(join(folder, name), data)
    storage.publish(f"{folder}.json", _record(plan | {"parts": files}))
    return SubsetResult(
        out=folder,
        format=options.format,
        num_samples=num_samples,
        num_losses=int(np.count_nonzero(~np.isnan(source.losses))),
        num_parts=len(files),
        num_written=num_written,
        num_bytes=sum(num_bytes for _, num_bytes, _ in files),
        seconds=monotonic() - started,
        **asdict(_recipes(source, folder, options, columns)),
    )


def _check_options(options: SubsetOptions) -> None:
    if options.format not in FORMATS:
        raise InputError(f"--to {options.format}: expected one of {', '.join(FORMATS)}")
    if options.order not in ("teaching", "stored"):
        raise InputError(f"--order {options.order}: expected teaching or stored")
    if options.columns is not None and not options.columns:
        raise InputError("--columns is empty: expected names of columns, separated by commas")


def _part_samples(source: SubsetSource) -> int:
    corpus = source.corpus
    mean_bytes = corpus.num_bytes / max(corpus.num_samples, 1)
    return int(min(max(_PART_BYTES / max(mean_bytes, 1.0), 1), _MAX_PART_SAMPLES))


def _plan(
    source: SubsetSource, options: SubsetOptions, columns: SubsetColumns, size: int
) -> dict[str, Any]:
    """Return what the parts are made from."""
    order = source.order
    facts: dict[str, Any] = {
        "corpus_id": source.corpus.corpus_id,
        "index_digest": source.index.digest,
        "format": options.format,
        "columns": [f"{field.name}: {field.type}" for field in columns.schema],
        "part_samples": size,
        "order": options.order,
    }
    if options.order == "teaching":
        facts |= {
            "seed": order.settings.seed,
            "shuffle": order.streaming.shuffle,
            "block_bytes": order.streaming.block_bytes,
        }
    return facts


def _record(facts: Mapping[str, Any]) -> bytes:
    return json.dumps(facts, indent=1).encode()


def _existing_files(folder: str, *, plan: Mapping[str, Any]) -> set[str]:
    """Publish the plan of a new export; return the URLs of the files of an earlier attempt.

    Raises:
        ExistsError: the folder has files that were made from something else.
    """
    url = f"{folder}.json"
    existing = {stored.url for stored in storage.list_objects(folder)}
    is_planned = storage.info(url) is not None
    if (existing or is_planned) and not (is_planned and _has_plan(storage.read(url), plan)):
        raise ExistsError(
            f"{folder} has files of another export, or of other programs: choose another --out, or"
            f" delete them and {url}"
        )
    if not is_planned:
        storage.publish(url, _record(plan))
    return existing


def _has_plan(record: bytes, plan: Mapping[str, Any]) -> bool:
    try:
        facts = json.loads(record)
    except ValueError:
        return False
    return isinstance(facts, dict) and all(facts.get(name) == plan[name] for name in plan)


def _parts(
    source: SubsetSource,
    folder: str,
    options: SubsetOptions,
    columns: SubsetColumns,
    *,
    size: int,
) -> Iterator[Part]:
    selected = source.selected
    total = -(-len(selected) // size)
    for number, ids in enumerate(source.ids(options.order, size=size)):
        shard_ids = selected.shards_of(ids)
        yield Part(
            number=number,
            url=join(folder, FORMATS[options.format].name_of(number, total)),
            format=options.format,
            shards=tuple(map(source.corpus.shard, np.unique(shard_ids).tolist())),
            shard_ids=shard_ids,
            rows=selected.rows_of(ids),
            weights=selected.weights.of(ids),
            losses=source.losses[ids],
            columns=columns,
        )


def _write_missing(
    parts: Iterator[Part], existing: set[str], *, scheduler: str | None, total: int
) -> int:
    """Write the parts that do not exist, with progress; return their number."""
    num_written = 0
    with progress("exporting", total=total, unit="samples") as advance:
        for part, is_new in _write_parts(parts, existing, scheduler=scheduler):
            num_written += is_new
            advance(len(part.rows))
    return num_written


def _write_parts(
    parts: Iterator[Part], existing: set[str], *, scheduler: str | None
) -> Iterator[tuple[Part, bool]]:
    """Write the parts that do not exist; yield each part, and whether it is new."""
    missing: list[Part] = []

    def new_parts() -> Iterator[Part]:
        for part in parts:
            if part.url in existing:
                missing.append(part)
            else:
                yield part

    if scheduler is None:
        written = ordered_map(_write, new_parts(), num_threads=_NUM_THREADS)
        yield from ((part, True) for part in written)
    else:
        from pipeline.cluster import cluster_at, connect, run_tasks  # Dask is an extra

        with connect(cluster_at(scheduler)) as client:
            yield from ((part, True) for part, _ in run_tasks(client, _write_small, new_parts()))
    yield from ((part, False) for part in missing)


def _write(part: Part) -> Part:
    with tempfile.TemporaryDirectory(prefix="attent-") as folder:
        path = Path(folder, part.url.rpartition("/")[2])
        try:
            FORMATS[part.format].write(part, path)
        except InputError as error:  # it may name the temporary path
            raise InputError(f"{part.url}: {error}".replace(str(path), part.url)) from error
        storage.publish(part.url, path)
    return part


def _write_small(part: Part) -> int:
    """Write a part on a worker; return little."""
    return len(_write(part).rows)


def _part_files(
    folder: str, format_name: str, *, num_samples: int, size: int
) -> list[tuple[str, int, int]]:
    """Return name, bytes and samples of the part files, which all exist."""
    kind = FORMATS[format_name]
    total = -(-num_samples // size)
    sizes = {stored.url: stored.num_bytes for stored in storage.list_objects(folder)}
    files = []
    for number in range(total):
        name = kind.name_of(number, total)
        count = min(size, num_samples - number * size)
        files.append((name, sizes[join(folder, name)], count))
    return files


def _recipes(
    source: SubsetSource, folder: str, options: SubsetOptions, columns: SubsetColumns
) -> Recipes:
    names: Sequence[str] = [*map(columns.name_of, columns.names), *ADDED.names]
    task = frozen_section(source.run, "task") if source.run else {}
    return recipes_of(folder, format_name=options.format, columns=names, task=task)
