"""Costs of a run by stage, from the model of growth: requests, memory, dollars. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.config.sections import RunConfig
from pipeline.doctor.prices import AS_OF, Prices
from pipeline.doctor.round_costs import RoundCost
from pipeline.doctor.scale import (
    annotate_cost,
    ingest_cost,
    score_cost,
    select_cost,
    start_requests,
    train_cost,
)
from pipeline.doctor.scale_constants import MIB
from pipeline.doctor.stage_cost import CorpusSize, Machines, Requests, StageCost


@dataclass(frozen=True)
class RunCost:
    """Cost of all stages of a run.

    Attributes:
        reads: GET and HEAD requests.
        writes: PUT and LIST requests.
        deletes: DELETE requests.
        driver_mib: peak memory of the driver, without the model.
        worker_mib: peak memory of a worker, without the model.
        catalog_bytes: written by scoring.
        dollars: price of requests and workers.
    """

    reads: int
    writes: int
    deletes: int
    driver_mib: int
    worker_mib: int
    catalog_bytes: int
    dollars: float

    def line(self, *, is_local: bool) -> str:
        """Return the cost as a line of text; local files have no requests."""
        memory = (
            f"memory: {self.driver_mib:,} MiB for the driver and {self.worker_mib:,} MiB for each"
            " worker, without the model"
        )
        if is_local:
            return memory
        return (
            f"{memory}; requests: about {self.reads:,} reads, {self.writes:,} writes and"
            f" {self.deletes:,} deletes; with the workers ${self.dollars:,.2f} (prices of {AS_OF}"
            " unless --price sets them)"
        )


def run_cost(stages: Sequence[StageCost], *, workers: int, prices: Prices) -> RunCost:
    """Return the sum of stages that follow one another."""
    requests = Requests()
    for stage in stages:
        requests += stage.requests + start_requests(stage, workers=workers)
    scoring = (stage for stage in stages if stage.name == "score")
    return RunCost(
        reads=round(requests.reads),
        writes=round(requests.writes),
        deletes=round(requests.deletes),
        driver_mib=round(max(stage.driver_bytes for stage in stages) / MIB),
        worker_mib=round(max(stage.worker_bytes for stage in stages) / MIB),
        catalog_bytes=round(sum(stage.written_bytes for stage in scoring)),
        dollars=sum(stage.dollars(workers, prices) for stage in stages),
    )


def stages_of_run(
    config: RunConfig,
    rounds: Sequence[RoundCost],
    corpus: CorpusSize,
    machines: Machines,
    *,
    is_ingested: bool,
) -> Iterator[StageCost]:
    """Yield the cost of each stage of a run, in order.

    Each annotation that the configuration names counts as one that hashes all texts.
    """
    scoring = config.scoring
    if not is_ingested:
        yield ingest_cost(corpus)
    for _ in config.annotations:
        yield annotate_cost(corpus, machines)
    block_rows = _block_rows(config, corpus)
    for cost in rounds:
        if cost.scored:
            yield score_cost(
                corpus,
                machines,
                scored=cost.drawn or None,
                read_bytes=cost.scored_bytes,
                block_rows=block_rows,
                span_samples=scoring.span_samples,
                part_samples=scoring.part_samples,
                window_samples=scoring.window_samples,
            )
        chosen = min(round(cost.trained / cost.epochs), corpus.num_samples)
        if cost.phase == "teach":
            rows = cost.drawn or corpus.num_samples
            yield select_cost(corpus, rows=rows, selected=chosen, part_samples=scoring.part_samples)
        part = corpus.part_of_draw(cost.drawn, block_rows=block_rows) if cost.drawn else corpus
        yield train_cost(
            part,
            machines,
            selected=max(chosen, 1),
            epochs=cost.epochs,
            read_bytes=cost.read_bytes - cost.scored_bytes,
        )


def _block_rows(config: RunConfig, corpus: CorpusSize) -> int:
    """Return the rows that a pool draws together."""
    block_rows = "row_group" if config.pool is None else config.pool.block_rows
    return corpus.group_rows if block_rows == "row_group" else block_rows
