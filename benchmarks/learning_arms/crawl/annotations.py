"""The annotations of `crawl`, made once for all trials, and what each of them cost."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from catalogs import AnnotationStore
from learning_arms.crawl.pool import TARGETS, Pool
from learning_arms.crawl.surrogate import train_surrogate
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

ANNOTATIONS: Final = (
    *("source", "duplicates", *(f"relevance_{target}" for target in TARGETS)),
    *("classifier_broad", "top_broad", "surrogate", "surrogate_loss", "surrogate_conditional"),
)
# The share that is kept by `top_broad`.
_TOP: Final = 0.1


def annotate(
    pool: Pool, corpus: Path, *, sections: Mapping[str, Any], surrogate_samples: int
) -> dict[str, float]:
    """Ingest the pool and annotate it, where that is not done; return processor seconds by name.

    Args:
        pool: files of the pool.
        corpus: folder of the corpus.
        sections: `corpus`, `task`, `model` and `training` of the regime.
        surrogate_samples: samples that the surrogate is trained on.
    """
    record = corpus.parent / "costs.json"
    costs: dict[str, float] = json.loads(record.read_text()) if record.exists() else {}
    if set(ANNOTATIONS) <= set(costs):
        return costs
    with connect(ClusterSettings(workers=1)) as client:
        ingest([pool.shards], folder=str(corpus), client=client)
        maker = _Maker(str(corpus), Clock(client), costs)
        maker.make("source", "column", column="source")
        maker.make("duplicates", "duplicates", column="text")
        for target in TARGETS:
            maker.make(f"relevance_{target}", "ngram", examples=pool.examples[target])
        maker.make("classifier_broad", "classifier", examples=pool.examples["broad"])
        if "top_broad" not in costs:
            cut = maker.top_cut("relevance_broad")
            maker.make("top_broad", "expression", expression=f"relevance_broad >= {cut}")
        with maker.counting("surrogate"):
            model = train_surrogate(
                sections,
                corpus.parent / "surrogate",
                samples=surrogate_samples,
                cluster=lambda: client,
            )
        loss: dict[str, Any] = {"model": model, "task": sections["task"]}
        maker.make("surrogate_loss", "loss", **loss)
        loss |= {"fit": {"epochs": 2, "learning_rate": 1e-3}}
        maker.make("surrogate_conditional", "loss", examples=pool.examples["broad"], **loss)
        record.write_text(json.dumps(costs))
    return costs


def fitted_surrogate(corpus: Path) -> str:
    """Return the folder of the surrogate that has learned the examples of the broad target."""
    return str(AnnotationStore(str(corpus)).read("surrogate_conditional").notes["fitted"])


class _Maker:
    """A maker of the annotations that `costs` does not have; it adds what they cost."""

    def __init__(self, corpus: str, clock: Clock, costs: dict[str, float]) -> None:
        self.store = AnnotationStore(corpus)
        self.corpus, self.clock, self.costs = corpus, clock, costs

    def make(
        self, name: str, kind_name: str, *, examples: str | None = None, **settings: Any
    ) -> None:
        if name in self.costs:
            return
        kind = load_kind(kind_name, settings)
        with self.counting(name):
            target = target_for(kind, TargetSettings((examples,), "source")) if examples else None
            request = Request(self.corpus, name, kind_name, kind, target, overwrite=True)
            make_annotation(request, client=self.clock.client)

    @contextmanager
    def counting(self, name: str) -> Iterator[None]:
        with self.clock.counting(name):
            yield
        self.costs[name] = self.clock.cpu[name]

    def top_cut(self, name: str) -> float:
        annotation = self.store.read(name)
        values = sample_values(self.store.scan(annotation), num_samples=annotation.num_rows)
        return top_cut(values, share=_TOP)
