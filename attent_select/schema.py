"""Column names and dtypes of every table at rest, defined once.

Also the values of `status` and `origin`, and the sample key.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

SCHEMA_VERSION: Final = 1

SHARD_ID: Final = "shard_id"
ROW: Final = "row"
LOSS: Final = "loss"
NUM_UNITS: Final = "num_units"
STATUS: Final = "status"
MEASURED_STEP: Final = "measured_step"
ORIGIN: Final = "origin"
VISITS: Final = "visits"
# The id that another program gave a sample; carried by an index made of its losses.
SAMPLE_ID: Final = "id"
WEIGHT: Final = "weight"
PROBABILITY: Final = "probability"
# float32, null unless ok; a column of the losses if `scoring.functional_gradient` is true.
FUNCTIONAL_GRADIENT: Final = "functional_gradient"
# float32, null unless ok; columns of the losses of preference pairs.
LOSS_CHOSEN: Final = "loss_chosen"
LOSS_REJECTED: Final = "loss_rejected"
MARGIN: Final = "margin"
# Columns that change with the learner.
LEARNER_COLUMNS: Final = (LOSS, FUNCTIONAL_GRADIENT, LOSS_CHOSEN, LOSS_REJECTED, MARGIN)

# `ok` is the only status whose loss is not null; the others say why there is no loss. `killed`: the
# sample ended the process that measured it. `unseen`: neither scored nor trained on.
OK: Final = "ok"
KILLED: Final = "killed"
UNSEEN: Final = "unseen"
STATUSES: Final = (OK, "empty", "nonfinite", "unreadable", "too_long", "oom", KILLED, UNSEEN)

SCORED: Final = "scored"
OBSERVED: Final = "observed"

Schema = dict[str, type[pl.DataType]]

# One row per shard of the corpus, in shard_id order.
MANIFEST: Final[Schema] = {
    SHARD_ID: pl.UInt32,
    "uri": pl.String,
    "format": pl.String,
    "num_samples": pl.UInt32,
    "num_bytes": pl.UInt64,
    "etag": pl.String,
}

# One row per member (file) of a WebDataset tar; `offset` and `num_bytes` locate the member's data.
MEMBERS: Final[Schema] = {
    ROW: pl.UInt32,
    "key": pl.String,
    "ext": pl.String,
    "offset": pl.UInt64,
    "num_bytes": pl.UInt32,
}

# One row per sample. `loss` is in nats, the mean over the sample's counted units; null unless ok.
LOSSES: Final[Schema] = {
    SHARD_ID: pl.UInt32,
    ROW: pl.UInt32,
    LOSS: pl.Float32,
    NUM_UNITS: pl.UInt32,
    STATUS: pl.String,
    MEASURED_STEP: pl.UInt64,
    ORIGIN: pl.String,
    VISITS: pl.UInt16,
}

# One row per trained sample and visit, in any order. `step` is the optimizer step that used it.
OBSERVED_LOSSES: Final[Schema] = {
    SHARD_ID: pl.UInt32,
    ROW: pl.UInt32,
    LOSS: pl.Float32,
    NUM_UNITS: pl.UInt32,
    "step": pl.UInt64,
}

# One row per shard: where its losses are, and their summary.
SNAPSHOT: Final[Schema] = {
    SHARD_ID: pl.UInt32,
    "part": pl.String,
    "row_group": pl.UInt32,
    "num_rows": pl.UInt32,
    "num_ok": pl.UInt32,
    "loss_min": pl.Float32,
    "loss_max": pl.Float32,
    "loss_sum": pl.Float64,
}

# One row per selected sample, sorted by (shard_id, row).
INDEX: Final[Schema] = {
    SHARD_ID: pl.UInt32,
    ROW: pl.UInt32,
    WEIGHT: pl.Float32,
    PROBABILITY: pl.Float32,
}

# Origin of a selected row: the largest keys, or the uniform draw of `explore`. An index has this
# column only if both occur.
INDEX_ORIGIN: Final[Schema] = {ORIGIN: pl.UInt8}
FROM_KEY: Final = 0
FROM_UNIFORM: Final = 1

# One row per row of the kernel of a parameter group: one component of f for one probe sample, its
# `value`, and its kernel with all rows, in the same order.
KERNEL: Final = {
    "group": pl.String,
    "probe_shard": pl.UInt32,
    "probe_row": pl.UInt32,
    "component": pl.UInt32,
    "value": pl.Float64,
    "kernel": pl.List(pl.Float64),
}


def sample_key() -> pl.Expr:
    """u64 expression `shard_id << 32 | row`: unique per sample, for hashing and tie-breaks."""
    return pl.col(SHARD_ID).cast(pl.UInt64) * pl.lit(1 << 32, dtype=pl.UInt64) + pl.col(ROW).cast(
        pl.UInt64
    )


def numpy_sample_key(
    shards: npt.NDArray[np.uint32], rows: npt.NDArray[np.uint32]
) -> npt.NDArray[np.uint64]:
    """`sample_key` for arrays."""
    keys = shards.astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= rows
    return keys
