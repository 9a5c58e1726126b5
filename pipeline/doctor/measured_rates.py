"""Rates of this machine: the first samples of a corpus, scored and trained on for some seconds."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, cycle, islice
from time import perf_counter
from typing import TYPE_CHECKING

from catalogs.shard_format import Sample, Shard
from catalogs.shards import read_shard
from pipeline.config.sections import RunConfig
from pipeline.doctor.first_shard import first_rows
from pipeline.scoring.cheap.method import is_bfloat16_fast
from trainers.filling import fill
from trainers.settings import ScoringSettings

if TYPE_CHECKING:
    import torch

    from trainers.task import Item

_SECONDS = 10.0
# Multiples of it are spread evenly modulo 1, whatever their number.
_SPREAD = 0.618


def _samples(config: RunConfig, shard: Shard) -> Iterator[tuple[int, Sample]]:
    rows = first_rows(shard)
    reading = read_shard(shard, rows=rows, columns=config.task.task.columns)
    return zip(rows, reading.samples, strict=True)


def _scoring_model(config: RunConfig, model: "torch.nn.Module") -> "torch.nn.Module":
    """Return the model that measures the losses: the proxy, or that of the run."""
    from trainers.scoring.saved_model import SavedModel

    proxy = config.scoring.proxy
    if proxy is None:
        return model
    saved = SavedModel(proxy, config.task.task)
    return saved.open(saved.digests())


def _scoring_settings(config: RunConfig) -> ScoringSettings:
    """Return the settings with the dtype that this machine would have."""
    if config.scoring.dtype is not None:
        return config.scoring
    return replace(config.scoring, dtype="bfloat16" if is_bfloat16_fast() else "float32")


def score_rate(config: RunConfig, model: "torch.nn.Module", shard: Shard, count: int) -> float:
    """Return the samples per second of one task, with reading."""
    import torch

    from trainers.scoring.scorer import score_rows

    before = torch.get_num_threads()
    settings = _scoring_settings(config)
    torch.set_num_threads(settings.torch_threads)
    try:
        small = list(islice(_samples(config, shard), max(1, count // 8)))
        score_rows(config.task.task, model, small, settings=settings)  # warm-up
        started, scored = perf_counter(), 0
        while perf_counter() - started < _SECONDS and scored < 4 * count:
            rows = score_rows(config.task.task, model, _samples(config, shard), settings=settings)
            scored += len(rows)
        return scored / (perf_counter() - started)
    finally:
        torch.set_num_threads(before)


def train_rate(config: RunConfig, model: "torch.nn.Module", items: "Sequence[Item]") -> float:
    """Return the samples per second of one device: forward and backward, and that of the reference
    of a token selection, without optimizer.
    """
    import torch

    from trainers.fitting.training_round import load_selector
    from trainers.task import drops_until
    from trainers.token_selection import step_losses

    task, micro_batches = config.task.task, _micro_batches(config, items)
    device = next(model.parameters()).device
    selector = load_selector(task, config.training)
    if selector is not None:
        selector.reference.to(device)
    model.train()
    started, trained = perf_counter(), 0
    for number, micro_batch in enumerate(islice(cycle(micro_batches), 4 * len(micro_batches))):
        batch = dict(task.collate(micro_batch))
        if number * _SPREAD % 1 < drops_until(task):
            batch["draw_keys"] = torch.arange(len(micro_batch))
        batch = {name: value.to(device) for name, value in batch.items()}
        losses = step_losses(task, model, batch, selector=selector).learned
        losses.mean().backward()
        losses.detach().sum().item()  # waits for the device
        trained += sum(item["num_units"] for item in micro_batch)
        if perf_counter() - started > _SECONDS:
            break
    # By units, because the longest samples come first.
    units = [item["num_units"] for item in chain(*micro_batches)]
    return float(trained / (perf_counter() - started) * len(units) / sum(units))


def _micro_batches(config: RunConfig, items: "Sequence[Item]") -> "list[list[Item]]":
    """Return the micro-batches of one device for a global batch of `items`."""
    from trainers.streaming.rank_share import RankShare

    training = config.training
    share = RankShare(
        micro_batch_size=training.micro_batch_size, micro_batch_units=training.micro_batch_units
    ).for_task(config.task.task)
    if share.micro_batch_units is None:
        return [list(items[: training.micro_batch_size or training.batch_size])]
    batch = items[: training.batch_size]
    lengths = [item["num_units"] for item in batch]
    filled = fill(lengths, units=share.micro_batch_units)
    return [[batch[position] for position in positions] for positions in filled]
