"""The annotations of `crawl`, made once for all trials, and what each of them cost."""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from catalogs import AnnotationStore
from learning_arms.crawl.arms import FITTED
from learning_arms.crawl.maker import Maker
from learning_arms.crawl.pool import TARGETS, Pool
from learning_arms.crawl.surrogate import train_small
from learning_arms.trial import Clock
from pipeline.cluster import connect
from pipeline.config.cluster_settings import ClusterSettings
from pipeline.corpus.ingest import ingest

ANNOTATIONS: Final = (
    *("source", "duplicates", *(f"relevance_{target}" for target in TARGETS)),
    *("classifier_broad", "top_broad"),
)
# Those by a small model, which take as long as many trials.
BY_SURROGATE: Final = ("surrogate", "surrogate_loss", "surrogate_conditional")
# The annotation that the fitted surrogate was made for.
_FITTED_FOR: Final = "surrogate_conditional"
# The share that is kept by `top_broad`.
_TOP: Final = 0.1


def annotate(pool: Pool, corpus: Path) -> dict[str, float]:
    """Ingest the pool and annotate it, where that is not done; return processor seconds by name."""
    with _making(corpus, ANNOTATIONS) as maker:
        if maker is None:
            return _known_costs(corpus)
        ingest([pool.shards], folder=str(corpus), client=maker.clock.client)
        maker.make("source", "column", column="source")
        maker.make("duplicates", "duplicates", column="text")
        for target in TARGETS:
            by_source = {"examples": pool.examples[target], "kind_column": "source"}
            maker.make(f"relevance_{target}", "ngram", **by_source)
        maker.make("classifier_broad", "classifier", **_broad(pool))
        if "top_broad" not in maker.costs:
            cut = maker.top_cut("relevance_broad", share=_TOP)
            maker.make("top_broad", "expression", expression=f"relevance_broad >= {cut}")
    return _known_costs(corpus)


def annotate_by_surrogate(
    pool: Pool, corpus: Path, arms: str, *, sections: Mapping[str, Any], samples: int
) -> dict[str, float]:
    """Train a small model and make the annotations by it that `arms` name, where that is not done;
    return processor seconds by name.

    Args:
        pool: files of the pool.
        corpus: folder of the corpus, which `annotate` has made.
        arms: sections of the arms, as JSON.
        sections: `corpus`, `task`, `model` and `training` of the regime.
        samples: samples that the small model is trained on.
    """
    names = surrogate_annotations(arms)
    with _making(corpus, names) as maker:
        if maker is None:
            return _known_costs(corpus)
        folder = corpus.parent / "surrogate"
        with maker.counting("surrogate"):
            model = train_small(
                sections, folder, samples=samples, cluster=lambda: maker.clock.client
            )
        loss: dict[str, Any] = {"model": model, "task": sections["task"]}
        fitted = {**_broad(pool), "fit": {"epochs": 2, "learning_rate": 1e-3}}
        settings: dict[str, dict[str, Any]] = {"surrogate_loss": {}, _FITTED_FOR: fitted}
        for name, of_kind in settings.items():
            if name in names:
                maker.make(name, "loss", **loss, **of_kind)
    return _known_costs(corpus)


def surrogate_annotations(arms: str) -> list[str]:
    """Return the names that arms, as JSON, need a small model for; none if there is no such arm."""
    needed = arms.replace(FITTED, _FITTED_FOR)
    return [name for name in BY_SURROGATE if name in needed]


def _known_costs(corpus: Path) -> dict[str, float]:
    """Return the processor seconds of what was made, by name."""
    record = corpus.parent / "costs.json"
    return dict(json.loads(record.read_text())) if record.exists() else {}


@contextmanager
def _making(corpus: Path, names: Collection[str]) -> Iterator[Maker | None]:
    """Yield a maker, whose costs are recorded in the end, even if not all that was to be made is;
    None if all names are made.
    """
    costs = _known_costs(corpus)
    if set(names) <= set(costs):
        yield None
        return
    with connect(ClusterSettings(workers=1)) as client:
        try:
            yield Maker(str(corpus), Clock(client), costs)
        finally:
            (corpus.parent / "costs.json").write_text(json.dumps(costs))


def _broad(pool: Pool) -> dict[str, Any]:
    return {"examples": pool.examples["broad"], "kind_column": "source"}


def fitted_surrogate(corpus: Path) -> str:
    """Return the folder of the surrogate that has learned the examples of the broad target."""
    digest = AnnotationStore(str(corpus)).read(_FITTED_FOR).digests["fit"]
    return str(corpus / "annotations" / _FITTED_FOR / "fitted" / digest)
