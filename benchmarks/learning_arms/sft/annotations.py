"""The annotations of `sft_noisy`, made once for all trials, and what each of them cost."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from learning_arms.crawl.maker import Maker
from learning_arms.sft.base import LENGTH
from learning_arms.sft.parts import Parts
from learning_arms.trial import Clock
from pipeline.cluster import connect
from pipeline.config.cluster_settings import ClusterSettings
from pipeline.corpus.ingest import ingest

_KEPT_BY_WORDS: Final = 0.7
# Of what each annotation that is computed from others also pays for.
_MADE_FROM: Final = {"by_words": "relevance"}


def annotate(parts: Parts, corpus: Path, *, base: str, task: Mapping[str, Any]) -> dict[str, float]:
    """Ingest and annotate the instructions, where that is not done; return processor seconds."""
    record = corpus.parent / "costs.json"
    if record.exists():
        return dict(json.loads(record.read_text()))
    costs: dict[str, float] = {}
    examples = {"examples": parts.target, "kind_column": "source"}
    with connect(ClusterSettings(workers=1)) as client:
        ingest([parts.pool], folder=str(corpus), client=client)
        maker = Maker(str(corpus), Clock(client), costs)
        maker.make("spoiled", "column", column="spoiled")
        maker.make("relevance", "ngram", **examples, text="output")
        maker.make("classified", "classifier", **examples, text="output")
        states = {"features": "hidden", "model": base, "task": dict(task)}
        maker.make("by_states", "classifier", **examples, **states)
        cut = maker.top_cut("relevance", share=_KEPT_BY_WORDS)
        maker.make("by_words", "expression", expression=f"relevance >= {cut}")
        maker.make("base_loss", "loss", model=base, task=dict(task))
        alone = {"name": "causal_lm", "tokenizer": base, "text": "output", "max_length": LENGTH}
        maker.make("alone_loss", "loss", model=base, task=alone | {"packing": True})
        fit = {"epochs": 2, "learning_rate": 1e-3, "batch_size": 8}
        maker.make("fitted_loss", "loss", **examples, model=base, task=dict(task), fit=fit)
    for name, source in _MADE_FROM.items():
        costs[name] += costs[source]
    record.write_text(json.dumps(costs))
    return costs
