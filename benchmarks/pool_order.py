"""Randomness of pools against the bytes that they read, for blocks of different sizes.

A corpus of 10^6 rows in row groups of 1,000 has runs of 500 neighbours of one group, such as the
chunks of a document: the worst case for drawing neighbours together. One pass of the walk is
divided into pools of 30,000. Their mix of groups is compared with that of the whole pass, as
`attent stream` compares batches. Writes a table, and JSON to benchmarks/results/.

    python benchmarks/pool_order.py
"""

import argparse
import json
from pathlib import Path
from typing import Any

import machine
import numpy as np

from attent_select.schedule.candidate_walk import CandidateWalk, Place
from pipeline.doctor.round_costs import read_shares
from trainers.streaming.shuffle_quality import shuffle_quality

RESULTS = Path(__file__).parent / "results"
NUM_ROWS, SHARD_ROWS, GROUP_ROWS, POOL, RUN = 1_000_000, 10_000, 1_000, 30_000, 500
BLOCKS = (1, 16, 64, 256, 1000, 10_000)
SEEDS = range(5)


def measure(block_rows: int, *, seed: int) -> tuple[float, float, float]:
    """Return the mix of a pool, that of a perfectly random pool, and the share of bytes read."""
    walk = CandidateWalk(np.full(NUM_ROWS // SHARD_ROWS, SHARD_ROWS), block_rows, seed)
    place, pools = Place(), []
    for _ in range(NUM_ROWS // POOL):
        drawn = walk.draw(POOL, start=place)
        pools.append(drawn.shards.astype(np.int64) * SHARD_ROWS + drawn.rows)
        place = drawn.place
    rows = np.concatenate(pools)
    # The groups are 20 kinds of runs in random order.
    kinds = np.random.default_rng(seed).integers(0, 20, NUM_ROWS // RUN)
    quality = shuffle_quality(rows, kinds[rows // RUN], batch_size=POOL)
    touched = np.mean([len(np.unique(pool // GROUP_ROWS)) for pool in pools])
    read = touched * GROUP_ROWS / NUM_ROWS
    return quality.batch_mix, quality.perfect_batch_mix, float(read)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    for block_rows in BLOCKS:
        mixes, perfect, read = np.mean([measure(block_rows, seed=n) for n in SEEDS], axis=0)
        expected, _ = read_shares(
            POOL / NUM_ROWS, chosen=1 / 3, block_rows=block_rows, group_rows=GROUP_ROWS
        )
        row = {
            "block_rows": block_rows,
            "pool_mix": round(float(mixes), 4),
            "perfect_pool_mix": round(float(perfect), 4),
            "read_share": round(float(read), 4),
            "expected_read_share": round(expected, 4),
        }
        results.append(row)
        print(json.dumps(row), flush=True)
    report = {"machine": machine.describe(), "pool": POOL, "results": results}
    (options.results / "pool_order.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
