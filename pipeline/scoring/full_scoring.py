"""Full scoring: every sample is measured, and a part is made of the spans of its shards."""

from collections.abc import Iterator
from dataclasses import dataclass

from catalogs.losses.catalog import PartSummary
from pipeline.scoring.driver import PartBuild, ScoringJob
from pipeline.scoring.scoring_plan import ScoringPlan, freeze_plan
from pipeline.scoring.span_task import Measurement
from pipeline.scoring.spans import group_into_parts


@dataclass(frozen=True)
class CompactTask:
    """Make one part of the span files of a contiguous range of shards."""

    digests: tuple[str, ...]
    round_number: int
    measurement: Measurement

    def __str__(self) -> str:
        return f"a part of {len(self.digests)} spans"


def compact_part(task: CompactTask) -> PartSummary:
    """Make the part on a worker."""
    return task.measurement.catalog.compact(task.digests, round_number=task.round_number)


@dataclass(frozen=True)
class FullScoring:
    """Measure all samples of the corpus: a `ScoringMethod`."""

    job: ScoringJob

    def plan(self) -> ScoringPlan:
        job = self.job
        return freeze_plan(job.catalog, job.measurement, round_number=job.round_number)

    def part_build(self, plan: ScoringPlan) -> PartBuild:
        return PartBuild(compact_part, self._compact_tasks(plan))

    def _compact_tasks(self, plan: ScoringPlan) -> Iterator[CompactTask]:
        spans = [task.span for task in plan.tasks]
        for positions in group_into_parts(spans, part_samples=self.job.config.scoring.part_samples):
            digests = tuple(plan.tasks[position].digest for position in positions)
            yield CompactTask(digests, self.job.round_number, plan.measurement)
