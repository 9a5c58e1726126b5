"""The arms of `sft_noisy`: uniform runs of several sizes, and policies on half of the rows, twice.

Those of adapters have names that begin with `lora`, and are compared with uniform runs of adapters.
"""

from collections.abc import Mapping
from typing import Any, Final

from learning_arms.arms import GUARDED, SOFT
from learning_arms.crawl.arms import BETWEEN
from learning_arms.sft.spoiling import UNSPOILED

Sections = dict[str, Any]

# Passes of uniform runs over the instructions. A policy makes one.
PASSES: Final = (0.5, 1, 2, 4)
# The share of the rows that a policy keeps.
TOP: Final = 0.5
# Policies by annotations alone → what is largest in the rows that they keep.
KEYS: Final[Mapping[str, str]] = {
    "n-grams": "relevance",
    "classifier": "classified",
    "classifier on states of the base": "by_states",
    "low loss of the base": "-base_loss",
    "the prompt helps (IFD)": "-base_loss / alone_loss",
    "conditional loss": "base_loss - fitted_loss",
    "low loss after fitting": "-fitted_loss",
}
_LORA: Final = ("oracle", "n-grams", "classifier", "conditional loss", "AtteNT soft")
# The best for a uniform run of adapters, of 0.002, 0.005, 0.01 and 0.02 on another seed.
_LORA_RATE: Final = 1e-2
_ORACLE: Final = {"strategy": "uniform", "where": f"spoiled = '{UNSPOILED}'"}


def sft_arms() -> dict[str, Sections]:
    """Return name → sections."""
    policies = _policies()
    arms = {f"uniform {passes:g} ×": _uniform(passes) for passes in PASSES}
    arms |= {f"full{BETWEEN}{name}": policies[name] for name in policies}
    arms |= {f"lora uniform {passes:g} ×": _adapter(_uniform(passes)) for passes in PASSES[:3]}
    return arms | {f"lora{BETWEEN}{name}": _adapter(policies[name]) for name in _LORA}


def _uniform(passes: float) -> Sections:
    epochs = max(1, round(passes))
    ratio = {"start": passes / epochs}
    return _arm({"strategy": "uniform"}, {"epochs": epochs, "ratio": ratio})


def _adapter(arm: Sections) -> Sections:
    lora = {"lora": {"rank": 8, "alpha": 16}}
    return arm | {"model": lora, "training": {"learning_rate": _LORA_RATE}}


def _arm(selection: Sections, schedule: Sections) -> Sections:
    shared = {"budget_unit": "samples", "distinct": "none"}
    return {"selection": {**selection, **shared}, "schedule": schedule}


def _policies() -> dict[str, Sections]:
    twice: Sections = {"epochs": 2, "ratio": {"start": TOP}}
    selections = {
        "oracle": _ORACLE,
        **{name: {"strategy": "key", "key": key, "explore": 0.0} for name, key in KEYS.items()},
        "AtteNT hard": {"strategy": "hard"},
        "AtteNT soft": SOFT,
        "AtteNT soft with a guard": GUARDED,
        "n-grams then AtteNT soft": {**SOFT, "where": "by_words"},
        "low loss": {"strategy": "key", "key": "-loss"},
        "learnability": {"strategy": "key", "key": "loss - fitted_loss"},
    }
    policies = {name: _arm(selection, twice) for name, selection in selections.items()}
    # One pass over everything gives the losses, half a pass uses them.
    observed = {**twice, "warmup_epochs": 1, "rescore": {"kind": "observed"}}
    policies["low loss, observed in a pass"] = _arm(selections["low loss"], observed)
    return policies
