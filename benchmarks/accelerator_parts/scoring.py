"""Parts about scoring: against a bare loop, out of memory, compiled, two workers on one device."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from accelerator_parts import workloads
from accelerator_parts.workloads import Size, Workload

_REPEATS = 3


def vit(size: Size) -> dict[str, Any]:
    return _against_bare_loop(workloads.vit(size))


def llama(size: Size) -> dict[str, Any]:
    return _against_bare_loop(workloads.llama(size))


def _against_bare_loop(load: Workload) -> dict[str, Any]:
    """Samples per second of `score_rows`, and of the model alone over batches collated before."""
    import torch

    from trainers.scoring.scorer import ScoringNotes, score_rows

    settings = _settings(load)
    batches = [
        on_device(load.task.collate(items), load.model) for items in _batches(load, settings)
    ]

    def bare() -> float:
        with torch.inference_mode(), torch.autocast(workloads.device().type, torch.bfloat16):
            started = time.perf_counter()
            for batch in batches:
                losses, units = load.task.per_sample_loss(load.model, batch)
                losses.tolist(), units.tolist()
            return time.perf_counter() - started

    def ours() -> float:
        nonlocal notes
        notes = ScoringNotes()
        started = time.perf_counter()
        score_rows(load.task, load.model, enumerate(load.samples), settings=settings, notes=notes)
        return time.perf_counter() - started

    notes = ScoringNotes()
    load.model.eval()
    bare(), ours()  # kernels are chosen and memory is reserved
    times = [(bare(), ours()) for _ in range(_REPEATS)]
    alone, scored = (min(each) for each in zip(*times, strict=True))
    return {
        "samples": len(load.samples),
        "samples_per_second": len(load.samples) / scored,
        "bare_samples_per_second": len(load.samples) / alone,
        "share_of_bare": alone / scored,
        "busy_share": notes.busy_seconds / scored,
        "padding": 1 - notes.input_units / max(1, notes.padded_units),
    }


def _settings(load: Workload, **changes: Any) -> Any:
    from trainers.settings import ScoringSettings

    kinds = {"dtype": "bfloat16", "batch_units": load.batch_units, "max_batch_samples": 1024}
    return ScoringSettings(**(kinds | changes))


def _batches(load: Workload, settings: Any) -> list[Any]:
    from trainers.scoring.batching import batches

    items = [
        (row, load.task.prepare(sample, generator=None)) for row, sample in enumerate(load.samples)
    ]
    return [[item for _, item in batch] for batch in batches([items], settings)]


def on_device(batch: Any, model: Any) -> Any:
    """Move a batch to the device of a model."""
    device = next(model.parameters()).device
    return {
        name: value.to(device) if hasattr(value, "to") else value for name, value in batch.items()
    }


def compilation(size: Size) -> dict[str, Any]:
    """Seconds of scoring with and without torch.compile, after a first pass that compiles."""
    from trainers.scoring.scorer import score_rows

    load = workloads.vit(size)
    seconds = {}
    for compile_model in (False, True):
        settings = _settings(load, compile=compile_model)
        for _ in range(2):
            started = time.perf_counter()
            score_rows(load.task, load.model, enumerate(load.samples), settings=settings)
            seconds[compile_model] = time.perf_counter() - started
    return {"eager_seconds": seconds[False], "compiled_seconds": seconds[True]}


def out_of_memory(size: Size) -> dict[str, Any]:
    """Provoke real memory errors by a limit on the process, and compare the losses."""
    import torch

    from trainers.scoring.scorer import ScoringNotes, score_rows

    if not torch.cuda.is_available():
        return {"skipped": "cuda is missing"}
    load = workloads.llama(size)
    expected = score_rows(load.task, load.model, enumerate(load.samples), settings=_settings(load))
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(
        min(1.0, 1.25 * torch.cuda.memory_allocated() / total)
    )
    notes = ScoringNotes()
    settings = _settings(load, batch_units=1 << 22, max_batch_samples=4096)
    scored = score_rows(
        load.task, load.model, enumerate(load.samples), settings=settings, notes=notes
    )
    difference = (scored["loss"] - expected["loss"]).abs().max()
    return {
        "num_splits": notes.num_splits,
        "fitting_units": notes.fitting_units,
        "without_loss": scored["loss"].null_count(),
        "largest_difference": difference,
    }


def two_workers(size: Size) -> dict[str, Any]:
    """Samples per second of one process, and of two that share the device."""
    alone = _processes(1, size)
    together = _processes(2, size)
    return {"one": alone, "two": together, "gain": together / alone}


def _processes(count: int, size: Size) -> float:
    command = [sys.executable, str(Path(__file__).parents[1] / "accelerator.py")]
    command += ["--one", "scoring_vit", *(["--toy"] if size.is_toy else [])]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]

    answers = [json.loads(process.communicate()[0]) for process in running]
    return float(sum(answer["samples_per_second"] for answer in answers))


def beside_selection(size: Size) -> dict[str, Any]:
    """Slowdown of scoring while another process of the machine selects again and again."""

    program = _SELECT.format(rows=size.of(10_000_000, 10_000))
    alone = _processes(1, size)
    busy = subprocess.Popen([sys.executable, "-c", program])
    try:
        beside = _processes(1, size)
    finally:
        busy.kill()
        busy.wait()
    return {"alone": alone, "beside_selection": beside, "share": beside / alone}


_SELECT = """
import numpy as np, polars as pl
from attent_select import select
rows = np.arange({rows}, dtype=np.uint32)
losses = pl.DataFrame({{"shard_id": rows // 10000, "row": rows % 10000,
    "loss": pl.Series(np.random.default_rng(0).gamma(1, 1, len(rows)), dtype=pl.Float32)}})
while True:
    select(losses, strategy="soft", ratio=0.2).rows.collect()
"""
