"""What trackers stored, read back by their own libraries: step → name → every stored value."""

import struct
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Stored = dict[int, dict[str, list[float]]]
_Values = Iterator[tuple[int, str, float]]


def use_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every tracker write into a folder, without a network."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", f"{folder}")
    # Trackio reads TRACKIO_DIR when it is imported, and wandb its variables once.
    import trackio
    import wandb
    from trackio import sqlite_storage, utils

    for module in (trackio, utils, sqlite_storage):
        monkeypatch.setattr(module, "TRACKIO_DIR", folder / "trackio")
    wandb.teardown()


def stored_rows(tracker: str, run: str, folder: Path) -> list[Stored]:
    """Return the rows of each run that a tracker shows."""
    runs = []
    for values in _READERS[tracker](run, folder):
        rows: Stored = defaultdict(lambda: defaultdict(list))
        for step, name, value in values:
            rows[step][name].append(value)
        runs.append({step: dict(row) for step, row in sorted(rows.items())})
    return runs


def _tensorboard(run: str, folder: Path) -> Iterator[_Values]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(f"{run}/tracking/tensorboard", size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    yield ((event.step, tag, event.value) for tag in tags for event in events.Scalars(tag))


def _mlflow(run: str, folder: Path) -> Iterator[_Values]:
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("attent-select")
    for tracked in client.search_runs([experiment.experiment_id]):
        names, run_id = tracked.data.metrics, tracked.info.run_id
        yield (
            (metric.step, name, metric.value)
            for name in names
            for metric in client.get_metric_history(run_id, name)
        )


def _trackio(run: str, folder: Path) -> Iterator[_Values]:
    from trackio.sqlite_storage import SQLiteStorage

    for name in SQLiteStorage.get_runs("attent-select"):
        logs = SQLiteStorage.get_logs("attent-select", name)
        yield (
            (row["step"], key, value)
            for row in logs
            for key, value in row.items()
            if key not in ("step", "timestamp")
        )


def _wandb(run: str, folder: Path) -> Iterator[_Values]:
    """Read the files of an offline run as the program that sends them to the server does."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # waits for the process that writes the files
    by_run: dict[str, list[tuple[int, str, float]]] = {}
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        values = by_run.setdefault(file.stem, [])
        for data in _log_records(file.read_bytes()):
            record = Record.FromString(data)
            items = {item.key or item.nested_key[0]: item for item in record.history.item}
            step = record.history.step.num
            values += [
                (step, key, float(item.value_json))
                for key, item in items.items()
                if not key.startswith("_")
            ]
    yield from (iter(values) for values in by_run.values())


def _log_records(data: bytes) -> Iterator[bytes]:
    """Yield the records of a log file, whose records are split at blocks of 32 KiB."""
    position, record = 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""


_READERS: dict[str, Callable[[str, Path], Iterator[_Values]]] = {
    "mlflow": _mlflow,
    "tensorboard": _tensorboard,
    "trackio": _trackio,
    "wandb": _wandb,
}
