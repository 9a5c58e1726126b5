"""Constants of the model of growth: what a shard, a span and a row take, as it was measured. Pure.

Comments name the file of benchmarks/results/ that they are from; `python benchmarks/scale.py`
measures those of scale.json. `tests/unit/pipeline/doctor/test_scale.py` compares them.
"""

from typing import Final

MIB: Final = 1 << 20

# Driver: memory of its libraries, without torch; of each shard while it ingests, opens a manifest,
# publishes a snapshot; of each span. scoring_spans.json, scale.json
DRIVER_BYTES: Final = 203 * MIB
INGEST_SHARD_BYTES: Final = 970
MANIFEST_SHARD_BYTES: Final = 490
SNAPSHOT_SHARD_BYTES: Final = 680
SPAN_BYTES: Final = 1200

# Processor seconds of the driver, for each shard or span: scale.json and scoring_spans.json.
INGEST_SHARD_SECONDS: Final = 8e-6
MANIFEST_SHARD_SECONDS: Final = 6.2e-6
SNAPSHOT_SHARD_SECONDS: Final = 25e-6
READ_SNAPSHOT_SHARD_SECONDS: Final = 4.7e-6
PLAN_SPAN_SECONDS: Final = 17e-6
# Submit a task, schedule it, and take its result.
TASK_SECONDS: Final = 3.77e-3

# Workers: memory of their libraries with torch (pools.json); seconds to inspect a shard, and to
# write and merge the rows of span files, with the memory of a merge (scale.json).
WORKER_BYTES: Final = 606 * MIB
INSPECT_SECONDS: Final = 2.5e-3
SPAN_ROW_SECONDS: Final = 0.94e-6
MERGE_ROW_SECONDS: Final = 1.3e-6
MERGE_ROW_BYTES: Final = 240
# Bytes of text that one core hashes in a second, for the annotation `ngram`. annotations.json
HASHED_BYTES_PER_SECOND: Final = 36.8e6

# Passes over all losses in the driver: statuses and digest after scoring (scale.json), and
# selection by the strategy soft (selection_1e9.json), with its memory.
CLOSING_ROW_SECONDS: Final = 0.54e-6
SELECT_ROW_SECONDS: Final = 54.4e-9
SELECT_BYTES: Final = 516 * MIB

# A round of a small corpus, whatever its model: spans, snapshot, index, checkpoint, publishing, in
# processor seconds of all processes; and the start of a run, mostly imports. fixed_costs.json
ROUND_SECONDS: Final = 0.4
START_SECONDS: Final = 9

# Candidates of a pool in the driver, and rows of an index in each rank. scale.json
CANDIDATE_SECONDS: Final = 0.47e-6
CANDIDATE_BYTES: Final = 58
RANK_ROW_BYTES: Final = 3.6
RANK_ROW_SECONDS: Final = 0.072e-6

# Bytes at rest. scale.json
MANIFEST_BYTES: Final = 22.5
PLAN_BYTES: Final = 35.5
SNAPSHOT_BYTES: Final = 14.2
SPAN_ROW_BYTES: Final = 5.3
PART_ROW_BYTES: Final = 5.2
INDEX_ROW_BYTES: Final = 0.61
