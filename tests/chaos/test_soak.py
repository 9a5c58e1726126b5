"""A run of many rounds in one process: memory, threads and descriptors of driver and workers."""

import gc
import os
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from digits import samples, write_corpus
from distributed import Client
from small_runs import often_saved

from pipeline.cluster import connect
from pipeline.config import run_config
from pipeline.config.cluster_settings import ClusterSettings
from pipeline.loop import run_rounds
from pipeline.runs.state import prepare

ROUNDS = 30
# Rounds in which caches, pools and allocators fill.
WARM_UP = 10
# Rounds between two lines of a long soak, and types in it: those whose objects increased most.
# Counting takes megabytes that a process keeps, so that the small soak counts before and after.
ROUNDS_PER_LINE = 50
NUM_TYPES = 12
OUR_PACKAGES = ("attent_select.", "catalogs.", "trainers.", "pipeline.")
# Of a process, per round after these.
MAX_GROWTH_MB = 0.25
# A new thread has an arena: over few rounds less than this says nothing.
ARENAS_MB = 8


@dataclass(frozen=True)
class Usage:
    """What a process holds."""

    memory_mb: float
    threads: int
    descriptors: int

    @staticmethod
    def of(process: psutil.Process) -> "Usage":
        memory = process.memory_info().rss / (1 << 20)
        return Usage(memory, process.num_threads(), process.num_fds())


class Objects:
    """The numbers of objects of the driver and the worker, by type, and how they grow."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._before = self._count()

    def _count(self) -> dict[str, Counter[str]]:
        (of_worker,) = self._client.run(count_objects).values()
        return {"driver": count_objects(), "worker": of_worker}

    def print_growth(self, number: int, usages: dict[str, list[Usage]]) -> None:
        """Print what both processes hold, and the types that grew since the last line."""
        after = self._count()
        for name, counts in after.items():
            grown = (counts - self._before[name]).most_common()
            ours = [each for each in grown if each[0].startswith(OUR_PACKAGES)]
            print(
                f"{number} {name} {usages[name][-1]} {dict(ours + grown[:NUM_TYPES])}", flush=True
            )
        self._before = after


def count_objects() -> Counter[str]:
    """Count the objects that the garbage collector knows, by type."""
    gc.collect()
    kinds = Counter(map(type, gc.get_objects()))
    return Counter({f"{kind.__module__}.{kind.__qualname__}": n for kind, n in kinds.items()})


def growth_per_round(values: list[float]) -> float:
    """Return the least-squares slope."""
    middle = (len(values) - 1) / 2
    mean = sum(values) / len(values)
    rise = sum((n - middle) * (value - mean) for n, value in enumerate(values))
    return rise / sum((n - middle) ** 2 for n in range(len(values)))


@pytest.mark.timeout(36_000)
def test_driver_and_workers_do_not_grow_with_the_number_of_rounds(
    tmp_path: Path, size: int
) -> None:
    rounds = size or ROUNDS
    write_corpus(tmp_path / "parquet", samples(48), num_shards=2)
    write_corpus(tmp_path / "held-out", samples(8), num_shards=1)
    schedule = {"epochs": rounds, "ratio": {"start": 0.5}}
    values = often_saved(tmp_path / "run", tmp_path, schedule=schedule)
    usages: dict[str, list[Usage]] = {}
    with connect(ClusterSettings(workers=1)) as client:
        run = prepare(run_config.parse(values), cluster=lambda: client)
        (worker,) = client.run(_pid).values()
        processes = {"driver": psutil.Process(), "worker": psutil.Process(worker)}
        objects = Objects(client)
        for number, _ in enumerate(run_rounds(run, cluster=lambda: client), start=1):
            for name, process in processes.items():
                usages.setdefault(name, []).append(Usage.of(process))
            if number % ROUNDS_PER_LINE == 0:
                objects.print_growth(number, usages)
        objects.print_growth(rounds, usages)
    for name, all_rounds in usages.items():
        later = all_rounds[WARM_UP:]
        growth = growth_per_round([usage.memory_mb for usage in later])
        first, last = later[0], later[-1]
        print(
            f"{name}: {len(all_rounds)} rounds, {first.memory_mb:.0f} → {last.memory_mb:.0f} MB,"
            f" {growth:+.3f} MB a round, threads {first.threads} → {last.threads},"
            f" descriptors {first.descriptors} → {last.descriptors}"
        )
        # Pools start threads when they first need them.
        middle = len(later) // 2
        for held in ("threads", "descriptors"):
            most = [
                max(getattr(u, held) for u in half) for half in (later[:middle], later[middle:])
            ]
            assert most[1] <= most[0] + 2, held
        assert growth < max(MAX_GROWTH_MB, ARENAS_MB / len(later)), name
    assert threading.active_count() < 60


def _pid() -> int:
    return os.getpid()
