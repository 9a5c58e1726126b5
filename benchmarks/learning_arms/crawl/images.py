"""The regime `crawl_images`: the web-like images with a target sample, whose labels are not used.

The corpus is that of `web`. What it repeats is found by `near_duplicates`, and which images are
like those of the target by a classifier on hidden states of the model after one pass.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import polars as pl

from learning_arms import corpora
from learning_arms.arms import GUARDED, arms
from learning_arms.crawl.maker import Maker
from learning_arms.crawl.surrogate import train_surrogate
from learning_arms.regime import Data, Regime
from learning_arms.summary import ALL, SHORT
from learning_arms.trial import Clock
from pipeline.cluster import connect
from pipeline.config.cluster_settings import ClusterSettings
from pipeline.corpus.ingest import ingest

_DISTINCT: Final = {"distinct": "near_duplicates"}
# Log-odds as the key with noise of temperature 1: the selection is distributed as the target is.
_RESAMPLED: Final = {"strategy": "key", "key": "wanted", "noise": "gumbel", **_DISTINCT}


def crawl_images(
    web: Regime, *, target: Callable[[Path], pl.DataFrame], samples: int | None = None
) -> Regime:
    """Return the regime.

    Args:
        web: the regime without a target.
        target: function that returns images of the target from the folder of `--data`.
        samples: training samples of the model of the hidden states; default: one pass.
    """

    def data(source: Path, folder: Path) -> Data:
        files = web.data(source, folder)
        examples = corpora.write_once(folder / "target.parquet", lambda: target(source))
        corpus = folder / "corpus"
        sections = {**web.sections, "corpus": {"path": str(corpus)}}
        costs = _annotate(files.train, examples, corpus, sections=sections, samples=samples)
        return Data(
            files.train,
            files.curve,
            files.final,
            {"corpus": {"path": str(corpus)}},
            costs=costs,
        )

    known = arms(web.horizon)
    # One pass on everything costs as much as the annotations of the others.
    epochs = 1 + web.horizon.rounds
    ratio = round((0.95 * web.horizon.same_cost - 1) / epochs, 3)
    named_arms = {
        ALL: known[ALL],
        SHORT: known[SHORT],
        "write-back (ours)": known["write-back (ours)"],
        "without near duplicates": {
            "selection": {"strategy": "uniform", **_DISTINCT},
            "schedule": _every_epoch(epochs, ratio),
        },
        "resampled to the target": {
            "selection": _RESAMPLED,
            "schedule": _every_epoch(epochs, ratio),
        },
        "write-back without near duplicates": _write_back(known, _DISTINCT),
        "write-back on what is like the target": _write_back(
            known, {**_DISTINCT, "where": "is_wanted"}
        ),
    }
    return Regime(
        web.horizon, data=data, sections=web.sections, quality=web.quality, named_arms=named_arms
    )


def _every_epoch(epochs: int, ratio: float) -> dict[str, Any]:
    return {"epochs": epochs, "ratio": {"start": ratio}}


def _write_back(known: Mapping[str, Any], further: Mapping[str, Any]) -> dict[str, Any]:
    arm = known["write-back (ours)"]
    return {**arm, "selection": {**GUARDED, **further}}


def _annotate(
    shard: str,
    examples: str,
    corpus: Path,
    *,
    sections: Mapping[str, Any],
    samples: int | None,
) -> dict[str, float]:
    """Ingest and annotate, unless that is done; return processor seconds by name."""
    record = corpus.parent / "costs.json"
    if record.exists():
        return dict(json.loads(record.read_text()))
    costs: dict[str, float] = {}
    with connect(ClusterSettings(workers=1)) as client:
        ingest([shard], folder=str(corpus), client=client)
        maker = Maker(str(corpus), Clock(client), costs)
        maker.make("near_duplicates", "near_duplicates", column="image")
        with maker.counting("surrogate"):
            model = train_surrogate(
                sections,
                corpus.parent / "surrogate",
                samples=samples or pl.scan_parquet(shard).select(pl.len()).collect().item(),
                cluster=lambda: client,
            )
        hidden = {"features": "hidden", "model": model, "task": sections["task"]}
        maker.make("wanted", "classifier", examples=examples, pool_samples=2_000, **hidden)
        cut = maker.top_cut("wanted", share=0.5)
        maker.make("is_wanted", "expression", expression=f"wanted >= {cut}")
        costs["wanted"] += costs.pop("surrogate")
        record.write_text(json.dumps(costs))
    return costs
