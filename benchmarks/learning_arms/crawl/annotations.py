"""The annotations of `crawl`, made once for all trials, and what each of them cost."""

import json
from pathlib import Path
from typing import Any, Final

from catalogs import AnnotationStore
from catalogs.annotations.record import Annotation
from learning_arms.crawl.pool import TARGETS, Pool
from learning_arms.trial import Clock
from pipeline.annotation.enrichment import top_cut
from pipeline.annotation.make import Request, make_annotation
from pipeline.annotation.stored_values import sample_values
from pipeline.annotation.targets import target_for
from pipeline.cluster import connect
from pipeline.config.annotation_kinds import load_kind
from pipeline.config.cluster_settings import ClusterSettings
from pipeline.config.shard_settings import TargetSettings
from pipeline.corpus.ingest import ingest

# The share that is kept by `top_broad`.
_TOP: Final = 0.1


def annotate(pool: Pool, corpus: Path) -> dict[str, float]:
    """Ingest the pool and annotate it, unless that is done; return processor seconds by name."""
    record = corpus.parent / "costs.json"
    if not record.exists():
        with connect(ClusterSettings(workers=1)) as client:
            ingest([pool.shards], folder=str(corpus), client=client)
            maker = _Maker(str(corpus), Clock(client))
            maker.make("source", "column", column="source")
            maker.make("duplicates", "duplicates", column="text")
            for target in TARGETS:
                maker.make(f"relevance_{target}", "ngram", examples=pool.examples[target])
            maker.make("classifier_broad", "classifier", examples=pool.examples["broad"])
            cut = maker.top_cut("relevance_broad")
            maker.make("top_broad", "expression", expression=f"relevance_broad >= {cut}")
        record.write_text(json.dumps(dict(maker.clock.cpu)))
    costs: dict[str, float] = json.loads(record.read_text())
    return costs


class _Maker:
    def __init__(self, corpus: str, clock: Clock) -> None:
        self.store = AnnotationStore(corpus)
        self.corpus, self.clock = corpus, clock

    def make(
        self, name: str, kind_name: str, *, examples: str | None = None, **settings: Any
    ) -> Annotation:
        kind = load_kind(kind_name, settings)
        with self.clock.counting(name):
            target = target_for(kind, TargetSettings((examples,), "source")) if examples else None
            request = Request(self.corpus, name, kind_name, kind, target, overwrite=True)
            return make_annotation(request, client=self.clock.client)

    def top_cut(self, name: str) -> float:
        annotation = self.store.read(name)
        values = sample_values(self.store.scan(annotation), num_samples=annotation.num_rows)
        return top_cut(values, share=_TOP)
