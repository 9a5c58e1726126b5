"""Losses observed in training: collected per micro-batch, handed over per range of steps."""

import polars as pl
import torch

from attent_select import schema
from attent_select.errors import InputError
from trainers.task import Batch

# Column beside those of the catalog: the loss is that of two mixed samples.
IS_MIXED = "is_mixed"

_COLUMNS = (
    *(schema.SHARD_ID, schema.ROW, schema.LOSS, schema.NUM_UNITS, "step", schema.WEIGHT),
    IS_MIXED,
)


class ObservedLosses:
    """Losses kept on the model's device; nothing is copied to the host before `take`."""

    def __init__(self) -> None:
        self._rows: list[torch.Tensor] = []

    def add(self, batch: Batch, *, loss: torch.Tensor, num_units: torch.Tensor, step: int) -> None:
        """Add one micro-batch: loss float32[batch], num_units int64[batch]."""
        columns = [
            batch["shard_id"],
            batch["row"],
            loss.detach(),
            num_units,
            torch.full_like(loss, step, dtype=torch.float64),
            batch["weight"],
            batch.get(IS_MIXED, torch.zeros_like(loss)),
        ]
        # float64 holds u32 and float32 exactly, so one tensor carries a row between ranks.
        self._rows.append(torch.stack([column.to(torch.float64) for column in columns], dim=1))

    def take(self, *, device: torch.device) -> torch.Tensor:
        """Return what was collected since the last call: float64[rows, 7] on `device`."""
        rows, self._rows = self._rows, []
        empty = torch.zeros(0, len(_COLUMNS), dtype=torch.float64, device=device)
        return torch.cat([empty, *rows])


def unusable_rows(rows: torch.Tensor) -> list[tuple[int, int]]:
    """Return (shard_id, row) of the samples that the model could not use: they have no units."""
    num_units, weight = rows[:, 3], rows[:, 5]
    unusable = rows[(num_units == 0) & (weight > 0)]
    return [(int(shard_id), int(row)) for shard_id, row in unusable[:, :2].tolist()]


def to_frame(rows: torch.Tensor) -> pl.DataFrame:
    """Return the rows of all ranks as columns of `OBSERVED_LOSSES`, `weight` and `is_mixed`, in
    (step, shard, row) order.

    Rows with a negative shard (padding between ranks), with weight 0 (stand-ins) or without units
    (unusable) are left out.

    Raises:
        InputError: a loss is not finite: training has diverged and must not be saved.
    """
    table = pl.DataFrame(rows.cpu().numpy(), schema=list(_COLUMNS))
    counts = (pl.col(schema.WEIGHT) > 0) & (pl.col(schema.NUM_UNITS) > 0)
    table = table.filter((pl.col(schema.SHARD_ID) >= 0) & counts)
    bad = table.filter(~pl.col(schema.LOSS).is_finite())
    if bad.height:
        first = bad.sort("step", schema.SHARD_ID, schema.ROW).row(0, named=True)
        raise InputError(
            f"training has diverged: at step {first['step']:.0f} the loss of shard "
            f"{first['shard_id']:.0f}, row {first['row']:.0f} is {first['loss']}; lower the "
            "learning rate or warm up longer, and start the round again"
        )
    dtypes: schema.Schema = {
        **schema.OBSERVED_LOSSES,
        schema.WEIGHT: pl.Float32,
        IS_MIXED: pl.Boolean,
    }
    return table.cast(pl.Schema(dtypes)).sort("step", schema.SHARD_ID, schema.ROW)
