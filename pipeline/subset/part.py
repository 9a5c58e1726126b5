"""One part file of an export: its rows and columns, as the driver sends them to a worker."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catalogs.shard_format import Shard

# Columns that an export adds, in this order.
ADDED = pa.schema(
    [
        pa.field("weight", pa.float32()),
        pa.field("loss", pa.float32()),
        pa.field("shard_id", pa.uint32()),
        pa.field("row", pa.uint32()),
    ]
)


@dataclass(frozen=True)
class SubsetColumns:
    """Columns of the corpus in an export, and their types.

    `json_names` are columns of tar files whose values are objects, lists or of several types;
    `image_names` are columns of encoded images. With `all_members`, tar files are copied with every
    member of a sample.
    """

    schema: pa.Schema
    json_names: frozenset[str] = frozenset()
    image_names: frozenset[str] = frozenset()
    all_members: bool = False

    @property
    def names(self) -> list[str]:
        return list(self.schema.names)

    def name_of(self, column: str) -> str:
        """Return the name in the export: one that an added column has gets the end `_column`."""
        return f"{column}_column" if column in ADDED.names else column


@dataclass(frozen=True, eq=False)
class Part:
    """Rows of a part file, in its order: uint32, uint32, float32 and float32 (NaN: no loss)."""

    number: int
    url: str
    format: str
    shards: tuple[Shard, ...]
    shard_ids: npt.NDArray[np.uint32]
    rows: npt.NDArray[np.uint32]
    weights: npt.NDArray[np.float32]
    losses: npt.NDArray[np.float32]
    columns: SubsetColumns

    def __str__(self) -> str:
        return f"{self.url} ({len(self.rows)} samples)"
