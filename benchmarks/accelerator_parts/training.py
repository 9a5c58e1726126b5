"""Parts about training: attention kernels, packing, adapters, copies to the device."""

import time
from collections.abc import Callable
from typing import Any

from accelerator_parts import workloads
from accelerator_parts.scoring import on_device
from accelerator_parts.workloads import Size, Workload

_STEPS = 8


def attention(size: Size) -> dict[str, Any]:
    """Counted tokens per second of training steps with each implementation of attention."""
    results: dict[str, Any] = {}
    for name in ("eager", "sdpa", "flash_attention_2"):
        try:
            load = workloads.llama(size, attn_implementation=name)
        except Exception as error:  # noqa: BLE001 - a missing kernel is a result
            results[name] = f"skipped: {type(error).__name__}: {str(error).splitlines()[0][:100]}"
            continue
        results[name] = _tokens_per_second(load, padded_units=load.batch_units // 4)
    return results


def packing(size: Size) -> dict[str, Any]:
    """Counted tokens per second of padded and of packed micro-batches of the same samples."""
    padded = workloads.llama(size)
    packed = workloads.llama(size, packing=True)
    units = padded.batch_units // 4
    return {
        "padded": _tokens_per_second(padded, padded_units=units),
        "packed": _tokens_per_second(packed, padded_units=units),
    }


def adapters(size: Size) -> dict[str, Any]:
    """Tokens per second and memory of full fine-tuning, LoRA, and LoRA on 4-bit weights."""
    import torch

    results: dict[str, Any] = {}
    for name, model in (
        ("full", {}),
        ("lora", {"lora": {"rank": 8}}),
        ("qlora", {"lora": {"rank": 8, "quantize": "4bit", "base_dtype": "bfloat16"}}),
    ):
        if name == "qlora" and not torch.cuda.is_available():
            results[name] = "skipped: cuda is missing"
            continue
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        try:
            load = workloads.llama(size, **model)
        except ImportError as error:
            results[name] = f"skipped: {error.name} is missing"
            continue
        rate = _tokens_per_second(load, padded_units=load.batch_units // 4)
        results[name] = {"tokens_per_second": rate}
        if torch.cuda.is_available():
            results[name]["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return results


def _tokens_per_second(load: Workload, *, padded_units: int) -> float:
    """Return the counted tokens per second of forward, backward and optimizer steps in bfloat16."""
    import torch

    from trainers.filling import fill
    from trainers.task import packs

    items = [load.task.prepare(sample, generator=None) for sample in load.samples]
    lengths = [item["num_units"] for item in items]
    batches = [
        on_device(load.task.collate([items[at] for at in rows]), load.model)
        for rows in fill(lengths, units=padded_units, is_packed=packs(load.task))[:_STEPS]
    ]
    parameters = [each for each in load.model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    load.model.train()

    def step(batch: Any) -> Any:
        with torch.autocast(workloads.device().type, torch.bfloat16):
            losses, units = load.task.per_sample_loss(load.model, batch)
        ((losses * units).sum() / units.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
        return units.sum()

    for batch in batches:  # kernels are chosen and memory is reserved
        step(batch)
    workloads.synchronize()
    started = time.perf_counter()
    tokens = sum(step(batch) for batch in batches)
    workloads.synchronize()
    return float(tokens) / (time.perf_counter() - started)


def copies(size: Size) -> dict[str, Any]:
    """Seconds of copies and of arithmetic, one after the other and overlapping.

    Overlapping works if copies from pinned memory run beside kernels.
    """
    import torch

    if not torch.cuda.is_available():
        return {"skipped": "cuda is missing"}
    width = size.of(8192, 64)
    pinned = [torch.randn(width * 4096).pin_memory() for _ in range(4)]
    matrix = torch.randn(width, width, device="cuda", dtype=torch.bfloat16)
    side = torch.cuda.Stream()

    def compute() -> None:
        for _ in range(20):
            matrix @ matrix

    def copy() -> None:
        with torch.cuda.stream(side):
            for tensor in pinned:
                tensor.to("cuda", non_blocking=True)

    def both() -> None:
        copy()
        compute()

    return {each.__name__: _seconds(each) for each in (compute, copy, both)}


def _seconds(work: Callable[[], None]) -> float:
    work()
    workloads.synchronize()
    started = time.perf_counter()
    work()
    workloads.synchronize()
    return time.perf_counter() - started


def decoding(size: Size) -> dict[str, Any]:
    """Images per second that one thread and all threads decode, beside what a ViT-B takes."""
    import os
    from concurrent.futures import ThreadPoolExecutor

    load = workloads.vit(size)
    samples = load.samples[: size.of(1024, 24)]

    def decode(sample: dict[str, Any]) -> None:
        load.task.prepare(sample, generator=None)

    rates = {}
    for threads in (1, len(os.sched_getaffinity(0))):
        with ThreadPoolExecutor(threads) as pool:
            started = time.perf_counter()
            list(pool.map(decode, samples))
            rates[f"threads_{threads}"] = len(samples) / (time.perf_counter() - started)
    return rates
