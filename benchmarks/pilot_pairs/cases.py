"""The pilots that are compared with measured runs, and their configurations.

A pilot has the selection of one measured policy as `yours`. Its run is longer than the measured
one: a pilot is for runs that are worth one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from learning_arms.crawl.pool import Sizes as PoolSizes
from learning_arms.crawl.pool import make_pool
from learning_arms.crawl.regime import crawl, text_task
from learning_arms.regime import Regime
from learning_arms.regimes import regimes
from learning_arms.sft.parts import Sizes, make_parts
from learning_arms.sft.regime import sft_noisy
from learning_arms.summary import ALL, SHORT

from pipeline.cluster import Client
from pipeline.corpus.ingest import ingest

PUBLISHED: Final = "AtteNT as published"
_CLUSTER: Final = {"cluster": {"workers": 1}}


@dataclass(frozen=True)
class Case:
    """One pilot.

    Attributes:
        regime: name of the regime.
        arms: key of a policy → the measured arm; that of `yours` has its selection.
        target: name of the target; None if there is one.
        passes: samples that the run trains on, in passes over the corpus.
        share: what the pilot may cost, as a share of the run.
        curve: uniform arms that were measured; default: those of the target.
    """

    regime: str
    arms: Mapping[str, str]
    passes: float
    target: str | None = None
    share: float = 0.05
    curve: tuple[str, ...] = ()


CASES: Final[Mapping[str, Case]] = {
    "sft_noisy, n-grams": Case(
        "sft_noisy",
        {"yours": "full · n-grams", "hard": "full · AtteNT hard", "soft": "full · AtteNT soft"},
        85,
    ),
    "sft_noisy, classifier": Case("sft_noisy", {"yours": "full · classifier"}, 85),
    "crawl broad": Case(
        "crawl",
        {
            "yours": "broad · n-grams top 10 %",
            "hard": "broad · AtteNT hard with pools",
            "soft": "broad · AtteNT soft with pools",
        },
        1,
        "broad",
    ),
    "crawl code": Case("crawl", {"yours": "code · n-grams top 12.5 %"}, 1, "code"),
    "crawl narrow": Case("crawl", {"yours": "narrow · n-grams top 3.3 %"}, 1, "narrow"),
    "web": Case("web", {"yours": PUBLISHED}, 5, curve=(ALL, SHORT)),
    "web, longer": Case("web", {"yours": PUBLISHED}, 77, curve=(ALL, SHORT)),
    "vision": Case("vision", {"yours": PUBLISHED}, 15, curve=(ALL, SHORT)),
    **{
        f"sft_noisy, {policy}": Case("sft_noisy", {"yours": f"full · {policy}"}, 85)
        for policy in ("low loss of the base", "classifier on states of the base")
    },
}


@dataclass(frozen=True)
class Prepared:
    """Configuration of the run that a pilot is for, and the digest of its data."""

    values: dict[str, Any]
    digest: str | None


Prepare = Callable[[Case, Path, Path, Client], Prepared]


def prepare_sft(
    case: Case, data: Path, folder: Path, client: Client, *, sizes: Sizes | None = None
) -> Prepared:
    """Make instructions, base and annotations, and return the configuration."""
    del client
    regime = sft_noisy(gpu=False, sizes=sizes)
    files = regime.data(data, folder)
    target = make_parts(data, folder, sizes=sizes or Sizes()).target
    sections = {**files.sections, "target": {"shards": [target], "kind_column": "source"}}
    return Prepared(_configuration(case, regime, sections), files.digest)


def prepare_crawl(
    case: Case, data: Path, folder: Path, client: Client, *, sizes: PoolSizes | None = None
) -> Prepared:
    """Make the pool with its tokenizer, and return the configuration. The pilot annotates."""
    assert case.target is not None
    folder.mkdir(parents=True, exist_ok=True)
    pool, corpus = make_pool(data, folder, sizes=sizes or PoolSizes()), folder / "corpus"
    ingest([pool.shards], folder=str(corpus), client=client)
    sections = {
        "task": text_task(pool, folder),
        "corpus": {"path": str(corpus)},
        "target": {"shards": [pool.examples[case.target]], "kind_column": "source"},
        "annotations": {
            "duplicates": {"kind": "duplicates", "column": "text"},
            f"relevance_{case.target}": {"kind": "ngram"},
        },
    }
    return Prepared(_configuration(case, crawl(gpu=False), sections), pool.digest)


def prepare_images(case: Case, data: Path, folder: Path, client: Client) -> Prepared:
    """Make the images, and return the configuration, which held-out images judge."""
    regime, corpus = regimes(gpu=False)[case.regime], folder / "corpus"
    files = regime.data(data, folder)
    ingest([files.train], folder=str(corpus), client=client)
    sections = {"corpus": {"path": str(corpus)}, "evaluation": {"shards": [files.curve]}}
    return Prepared(_configuration(case, regime, sections), files.digest)


PREPARE: Final[Mapping[str, Prepare]] = {
    "sft_noisy": prepare_sft,
    "crawl": prepare_crawl,
    "web": prepare_images,
    "vision": prepare_images,
}


def _configuration(case: Case, regime: Regime, sections: Mapping[str, Any]) -> dict[str, Any]:
    arm = regime.arms()[case.arms["yours"]]
    keep = kept_share(arm["schedule"])
    schedule = {"epochs": round(case.passes / keep), "ratio": {"start": keep}}
    return {**regime.sections, **sections, **_CLUSTER} | {
        "selection": arm["selection"],
        "schedule": schedule,
    }


def kept_share(schedule: Mapping[str, Any]) -> float:
    """Return the share of its candidates that an arm keeps."""
    if "pool" in schedule:
        return 1 / float(schedule["pool"]["multiple"])
    ratio = schedule["ratio"]
    return float(ratio["start"] + ratio.get("end", ratio["start"])) / 2
