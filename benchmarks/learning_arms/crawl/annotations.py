"""The annotations of `crawl`, made once for all trials, and what each of them cost."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from catalogs import AnnotationStore
from learning_arms.crawl.maker import Maker
from learning_arms.crawl.pool import TARGETS, Pool
from learning_arms.crawl.surrogate import train_small
from learning_arms.trial import Clock
from pipeline.cluster import connect
from pipeline.config.cluster_settings import ClusterSettings
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
        maker = Maker(str(corpus), Clock(client), costs)
        maker.make("source", "column", column="source")
        maker.make("duplicates", "duplicates", column="text")
        for target in TARGETS:
            by_source = {"examples": pool.examples[target], "kind_column": "source"}
            maker.make(f"relevance_{target}", "ngram", **by_source)
        broad = {"examples": pool.examples["broad"], "kind_column": "source"}
        maker.make("classifier_broad", "classifier", **broad)
        if "top_broad" not in costs:
            cut = maker.top_cut("relevance_broad", share=_TOP)
            maker.make("top_broad", "expression", expression=f"relevance_broad >= {cut}")
        with maker.counting("surrogate"):
            model = train_small(
                sections,
                corpus.parent / "surrogate",
                samples=surrogate_samples,
                cluster=lambda: client,
            )
        loss: dict[str, Any] = {"model": model, "task": sections["task"]}
        maker.make("surrogate_loss", "loss", **loss)
        loss |= {"fit": {"epochs": 2, "learning_rate": 1e-3}}
        maker.make("surrogate_conditional", "loss", **broad, **loss)
        record.write_text(json.dumps(costs))
    return costs


def fitted_surrogate(corpus: Path) -> str:
    """Return the folder of the surrogate that has learned the examples of the broad target."""
    name = "surrogate_conditional"
    digest = AnnotationStore(str(corpus)).read(name).digests["fit"]
    return str(corpus / "annotations" / name / "fitted" / digest)
