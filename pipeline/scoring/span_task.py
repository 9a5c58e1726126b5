"""What the driver sends to a scoring worker for one span, and what comes back.

Small picklable values; importing this module does not import torch.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from catalogs import LossCatalog
from catalogs.losses.catalog import BatchSplits, Span
from catalogs.losses.unusable import Unusable
from catalogs.shard_format import Shard
from pipeline.cluster.worker_check import environment
from pipeline.config.task_reference import TaskReference
from trainers.settings import ScoringSettings

if TYPE_CHECKING:
    from trainers.checkpoint import Checkpoint

# Settings that change what is accepted and stored, not what is measured.
_NOT_MEASURED = ("max_failed_share", "part_samples")
# Settings that digests lack where they are not set: they are newer than stored ones.
_NEWER = ("units_share", "proxy")


@dataclass(frozen=True)
class Measurement:
    """Everything except the sample that a loss depends on: the same for all spans of a round.

    `task` is a task or a `TaskReference`; `environment` holds the driver's package versions.
    `proxy` has the digests of the files of the model at `settings.proxy`, which then measures.
    """

    run: str
    task: Any
    model: dict[str, Any]
    checkpoint: "Checkpoint"
    settings: ScoringSettings
    environment: Mapping[str, str] = field(default_factory=environment)
    proxy: Mapping[str, str] | None = None

    @property
    def catalog(self) -> LossCatalog:
        return LossCatalog(self.run, carry=self.settings.carry_schema(self.task))

    @property
    def facts(self) -> Mapping[str, Any]:
        """The part of a span's digest that does not depend on the span."""
        settings = asdict(self.settings)
        newer = (name for name in _NEWER if settings[name] is None)
        for name in (*_NOT_MEASURED, *newer):
            del settings[name]
        if self.proxy is not None:
            settings["proxy"] = dict(self.proxy)
        facts = {
            "weights": self.checkpoint.weights_digest,
            "step": self.checkpoint.step,
            "task": self.task,
            "settings": settings,
        }
        # The other images are decoded by Pillow, as for stored digests.
        version = self.environment.get("simplejpeg", "none")
        is_used = version != "none" and _settings_of(self.task).get("resampling") == "torch"
        return facts | ({"jpeg_decoder": f"simplejpeg {version}"} if is_used else {})

    @property
    def method(self) -> dict[str, Any]:
        """How the losses are measured, for their provenance (`catalogs/losses/method.py`)."""
        proxy = None if self.proxy is None else self.proxy["model"]
        settings = self.settings
        return {"dtype": settings.dtype, "units_share": settings.units_share, "proxy": proxy}

    @property
    def at_full_cost(self) -> "Measurement":
        """The measurement of whole samples, by the model of the run in float32."""
        return replace(self, settings=self.settings.at_full_cost, proxy=None)


def _settings_of(task: Any) -> Mapping[str, Any]:
    """Return the settings of a task, or of a `TaskReference`."""
    if isinstance(task, TaskReference):
        return task.settings
    settings: Mapping[str, Any] = getattr(task, "__dict__", {})
    return settings


@dataclass(frozen=True)
class RowSubset:
    """Some rows of a span: the `num_rows` of its rows that the index file at `url` holds."""

    url: str
    num_rows: int


@dataclass(frozen=True, slots=True)
class SpanTask:
    """Measure the losses of one span, or of a subset of its rows."""

    shard: Shard
    span: Span
    digest: str
    measurement: Measurement
    subset: RowSubset | None = None

    @property
    def num_rows(self) -> int:
        return self.subset.num_rows if self.subset is not None else self.span.num_rows

    @property
    def rows(self) -> range:
        return range(self.span.first_row, self.span.first_row + self.span.num_rows)

    def __str__(self) -> str:
        last = self.span.first_row + self.span.num_rows - 1
        return f"rows {self.span.first_row} to {last} of {self.shard.uri}"


@dataclass(frozen=True)
class SpanResult:
    """What measuring one span took and found, for the driver to add up.

    Attributes:
        num_samples: rows measured.
        num_units: units of all samples.
        batch_splits: batches that were split after running out of memory.
        unusable: samples without a loss.
        poison_rows: rows that ended worker processes.
        bytes_read: from storage.
        seconds: for everything.
        busy_seconds: when the model did not wait for samples.
        num_truncated: samples cut to the length that the task allows.
        input_units, padded_units: units of all batches, without and with padding.
    """

    num_samples: int
    num_units: int
    batch_splits: BatchSplits
    unusable: Unusable
    poison_rows: tuple[int, ...]
    bytes_read: int = 0
    seconds: float = 0.0
    busy_seconds: float = 0.0
    num_truncated: int = 0
    input_units: int = 0
    padded_units: int = 0
