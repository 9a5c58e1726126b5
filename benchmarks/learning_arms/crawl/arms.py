"""The arms of `crawl`: uniform runs of several sizes, and policies by target.

A policy is named TARGET · POLICY and judged by the loss of its target. All have the same number of
samples; where it is not that of `STEP`, the name says so.
"""

from collections.abc import Iterator
from typing import Any, Final

from learning_arms.crawl.pool import SHARES, TARGETS, WANTED

Sections = dict[str, Any]

# Uniform runs in multiples of a policy's budget.
SIZES: Final = (0.5, 1, 2, 4, 8)
BETWEEN: Final = " · "
# Visits of each wanted row by an oracle that has few → n, of which it has every n-th row, and the
# number of rounds. A round draws a row at most once.
REPEATED: Final = {4: (16, 4), 14: (64, 16)}
# Stands in the arms for the folder of the surrogate that has learned the broad examples.
FITTED: Final = "fitted surrogate"
_DISTINCT: Final = {"distinct": "duplicates"}
_ORACLE: Final = {
    "strategy": "uniform",
    "where": f"source IN ({', '.join(repr(name) for name in WANTED)})",
}


def crawl_arms(samples: int) -> dict[str, Sections]:
    """Return name → sections, for policies with a budget of `samples`."""
    arms = {uniform_name(size): _uniform_arm(round(size * samples)) for size in SIZES}
    for target in TARGETS:
        arms |= {
            f"{target}{BETWEEN}{name}": arm for name, arm in _annotation_policies(target, samples)
        }
    others = (*_broad_policies(samples), *_mixtures(samples), *_model_policies(samples))
    return arms | {f"broad{BETWEEN}{name}": arm for name, arm in others}


def uniform_name(size: float) -> str:
    """Return the name of a uniform run."""
    return f"uniform {size:g} ×"


def target_of(arm: str) -> str | None:
    """Return the target of a policy; None for a uniform run."""
    return arm.partition(BETWEEN)[0] if BETWEEN in arm else None


def _uniform_arm(samples: int) -> Sections:
    return {"selection": {"strategy": "uniform"}, "schedule": {"budget": {"samples": samples}}}


def _policy(
    samples: int, selection: Sections, *, multiple: float | None, rounds: int = 1
) -> Sections:
    schedule: Sections = {"budget": {"samples": samples}, "rounds": rounds}
    if multiple is not None:
        schedule["pool"] = {"multiple": multiple}
    return {"selection": selection, "schedule": schedule}


def _annotation_policies(target: str, samples: int) -> Iterator[tuple[str, Sections]]:
    """Yield the policies that every target has: annotations made once, nothing scored."""
    share = round(1 / _multiple(target), 3)
    by_words = {"strategy": "key", "key": f"relevance_{target}", **_DISTINCT}
    yield f"n-grams top {100 * share:g} %", _policy(samples, by_words, multiple=_multiple(target))


def _multiple(target: str) -> float:
    """Return candidates for each sample: the inverse of a keep share near that of the wanted."""
    return {"broad": 10, "narrow": 30, "code": 8}[target]


def _broad_policies(samples: int) -> Iterator[tuple[str, Sections]]:
    """Yield the policies that are compared on the broad target only."""
    yield "oracle: the wanted rows", _policy(samples, _ORACLE, multiple=None)
    relevance = {"strategy": "key", "key": "relevance_broad", **_DISTINCT}
    yield "deduplicated", _policy(samples, {"strategy": "uniform", **_DISTINCT}, multiple=None)
    yield "n-grams top 2 %", _policy(samples, relevance, multiple=None)
    resampled = relevance | {"noise": "gumbel", "temperature": 0.1}
    yield "n-grams with Gumbel noise", _policy(samples, resampled, multiple=None)
    by_classifier = {"strategy": "key", "key": "classifier_broad", **_DISTINCT}
    yield "classifier top 10 %", _policy(samples, by_classifier, multiple=10)
    for strategy in ("hard", "soft"):
        yield f"AtteNT {strategy} with pools", _teaching(samples, {"strategy": strategy})
    filtered = {"strategy": "soft", "where": "top_broad", **_DISTINCT}
    yield "n-grams then AtteNT soft", _teaching(samples, filtered)


def _model_policies(samples: int) -> Iterator[tuple[str, Sections]]:
    """Yield policies by losses of a small model, and quotas of the sources."""

    def by_key(key: str) -> Sections:
        return {"strategy": "key", "key": key, **_DISTINCT}

    yield "low perplexity top 10 %", _policy(samples, by_key("-surrogate_loss"), multiple=10)
    gain = "surrogate_loss - surrogate_conditional"
    yield "conditional loss top 10 %", _policy(samples, by_key(gain), multiple=10)
    yield "learnability", _teaching(samples, by_key("loss - surrogate_conditional"))
    for quotas in ("proportional", "equal"):
        shares = {"strategy": "uniform", "by": "source", "quotas": quotas}
        yield f"{quotas} quotas of the sources", _policy(samples, shares, multiple=None)
    excess = {"kind": "excess", "reference": "surrogate_loss", "samples": 16}
    moving = {"strategy": "uniform", "by": "source", "quotas": excess}
    yield "quotas by excess loss", _teaching(samples, moving)
    arm = _policy(samples, {"strategy": "uniform"}, multiple=None)
    yield "token selection", arm | {"training": {"token_selection": {"reference": FITTED}}}


def _teaching(samples: int, selection: Sections) -> Sections:
    """Return a policy by the student's loss: a fifth uniform, then five rounds."""
    arm = _policy(samples, selection, multiple=3, rounds=5)
    arm["schedule"]["warmup"] = {"samples": samples // 5}
    return arm


def _mixtures(samples: int) -> Iterator[tuple[str, Sections]]:
    """Yield mixtures with a known share of wanted rows, which the law of enrichment predicts."""
    wanted_share = sum(SHARES[name] for name in WANTED)
    for share in (0.02, 0.2, 0.4, 0.7):
        quotas = {
            name: round(part * share / wanted_share, 6)
            if name in WANTED
            else round(part * (1 - share) / (1 - wanted_share), 6)
            for name, part in SHARES.items()
        }
        mixed = {"strategy": "uniform", "by": "source", "quotas": quotas}
        yield f"{share:.0%} wanted rows", _policy(samples, mixed, multiple=None)
    for visits, (part, rounds) in REPEATED.items():
        few = {**_ORACLE, "where": f"{_ORACLE['where']} AND row % {part} = 0"}
        name = f"oracle, rows seen {visits} times"
        yield name, _policy(samples, few, multiple=None, rounds=rounds)
    # Eight budgets are 1.6 times all wanted rows of the pool, and a round draws each row once.
    for size, rounds in ((4, 1), (8, 2)):
        name = f"oracle {size} ×"
        yield name, _policy(size * samples, _ORACLE, multiple=None, rounds=rounds)
