"""Annotations of a benchmark's corpus, each made once, with what it cost."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from catalogs import AnnotationStore
from learning_arms.trial import Clock
from pipeline.annotation.enrichment import top_cut
from pipeline.annotation.make import Request, make_annotation
from pipeline.annotation.stored_values import sample_values
from pipeline.annotation.targets import target_for
from pipeline.config.annotation_kinds import load_kind
from pipeline.config.shard_settings import TargetSettings


class Maker:
    """A maker of the annotations that `costs` does not have; it adds what they cost."""

    def __init__(self, corpus: str, clock: Clock, costs: dict[str, float]) -> None:
        self.store = AnnotationStore(corpus)
        self.corpus, self.clock, self.costs = corpus, clock, costs

    def make(
        self,
        name: str,
        kind_name: str,
        *,
        examples: str | None = None,
        kind_column: str | None = None,
        **settings: Any,
    ) -> None:
        """Make an annotation, of a target if there are examples, unless its cost is known."""
        if name in self.costs:
            return
        kind = load_kind(kind_name, settings)
        with self.counting(name):
            target = (
                target_for(kind, TargetSettings((examples,), kind_column)) if examples else None
            )
            request = Request(self.corpus, name, kind_name, kind, target, overwrite=True)
            make_annotation(request, client=self.clock.client)

    @contextmanager
    def counting(self, name: str) -> Iterator[None]:
        """Add the processor seconds of what is done under a name, unless they are known: what was
        made before is only read.
        """
        with self.clock.counting(name):
            yield
        self.costs.setdefault(name, self.clock.cpu[name])

    def top_cut(self, name: str, *, share: float) -> float:
        """Return the value at which the top share of the samples begins."""
        annotation = self.store.read(name)
        values = sample_values(self.store.scan(annotation), num_samples=annotation.num_rows)
        return top_cut(values, share=share)
