"""The small runs of a pilot: how many samples each trains on, and their configurations. Pure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from attent_select.errors import InputError
from pipeline.pilot.policies import Policy

# Uniform runs, in sizes of a policy's run.
SIZES: Final = (0.5, 1.0, 2.0)
# Cost of scoring a sample relative to training on it: one pass of three.
SCORING: Final = 1 / 3
# Share of a corpus that a pool may draw: duplicates and conditions leave rows out.
_DRAWN: Final = 0.5
# Optimizer steps of the smallest run, at least.
_LEAST_STEPS: Final = 16
_ROUNDS: Final = 5
# `scoring.max_failed_share`, at least: in pools this small, chance exceeds the share of the corpus.
_FAILED_SHARE: Final = 0.5
# Part of a run that scores, before the losses of a model tell something.
_WARMUP: Final = 5


@dataclass(frozen=True)
class Budget:
    """What the pilot and the run that it is for may cost.

    Attributes:
        run_samples: samples that the run trains on.
        corpus_samples: samples of its corpus.
        share: share of the run's training that the pilot may cost.
        relative_cost: cost of a sample for the small model, relative to that of the run.
        num_seeds: number of seeds.
    """

    run_samples: int
    corpus_samples: int
    share: float
    relative_cost: float
    num_seeds: int


@dataclass(frozen=True)
class Trial:
    """A small run: its name, its seed, and the values of its configuration."""

    name: str
    seed: int
    values: dict[str, Any]


def equivalents(policies: Sequence[Policy], *, num_seeds: int) -> float:
    """Return the cost of a pilot in runs of a policy's size that score nothing."""
    scored = sum(SCORING / policy.keep for policy in policies if policy.scores)
    return num_seeds * (sum(SIZES) + len(policies) + scored)


def samples_of(budget: Budget, policies: Sequence[Policy]) -> int:
    """Return the samples that a policy's run trains on.

    No run takes more candidates than half of the corpus.

    Raises:
        InputError: they are too few to learn anything.
    """
    affordable = budget.share * budget.run_samples / budget.relative_cost
    affordable /= equivalents(policies, num_seeds=budget.num_seeds)
    narrowest = min([1 / SIZES[-1], *(policy.keep for policy in policies)])
    available = _DRAWN * narrowest * budget.corpus_samples
    samples = math.floor(min(affordable, available))
    if available * SIZES[0] < _LEAST_STEPS:
        raise InputError(
            f"a pilot of policies that keep {narrowest:.2g} of {budget.corpus_samples:,} samples "
            f"would train on {samples:,} samples a run, too few to learn anything: use a larger "
            "corpus, or compare policies that keep more, with --policy"
        )
    if samples * SIZES[0] < _LEAST_STEPS:
        needed = budget.share * _LEAST_STEPS / SIZES[0] / max(affordable, 1e-9)
        raise InputError(
            f"a pilot for {budget.share:.1%} of the run would train on {samples:,} samples a run, "
            f"too few to learn anything: raise --share to {needed:.3f} or more, or lower "
            "--seeds"
        )
    return samples


def trials_of(
    values: Mapping[str, Any],
    policies: Sequence[Policy],
    *,
    samples: int,
    num_seeds: int,
    model: Mapping[str, Any],
    corpus: str,
) -> Iterator[Trial]:
    """Yield all runs of a seed before those of the next.

    Args:
        values: plain values of the configuration.
        policies: the policies to compare.
        samples: samples that a policy's run trains on.
        num_seeds: number of seeds, from that of the configuration.
        model: section `model` of the small model.
        corpus: folder of the corpus that the runs share.
    """
    training = _training(values["training"], samples=samples)
    shared = {**values, "corpus": {"path": corpus}, "model": dict(model), "training": training}
    failed = max(values["scoring"]["max_failed_share"], _FAILED_SHARE)
    shared["scoring"] = {**values["scoring"], "max_failed_share": failed}
    if values.get("target"):  # which judges alone
        shared["evaluation"] = None
    for seed in range(values["seed"], values["seed"] + num_seeds):
        of_seed = shared | {"seed": seed}
        for size in SIZES:
            selection = {"selection": {"strategy": "uniform"}, "annotations": {}}
            schedule = {"budget": {"samples": math.floor(size * samples)}}
            yield Trial(uniform_name(size), seed, of_seed | selection | {"schedule": schedule})
        for number, policy in enumerate(policies):
            yield Trial(policy_name(number), seed, of_seed | _sections(policy, samples=samples))


def uniform_name(size: float) -> str:
    """Name the uniform run of a size."""
    return f"uniform-{size:g}"


def policy_name(number: int) -> str:
    """Name the run of a policy."""
    return f"policy-{number}"


def recommendation(
    values: Mapping[str, Any], policy: Policy | None, *, budget: Budget
) -> dict[str, Any]:
    """Return the values of a configuration that trains on as many samples by a policy; without
    one, on uniform draws.
    """
    if policy is None:
        schedule: dict[str, Any] = {"budget": {"samples": budget.run_samples}}
        return {**values, "selection": {"strategy": "uniform"}, "schedule": schedule}
    schedule = _recommended_schedule(policy, budget)
    annotations = {**values["annotations"], **policy.annotations}
    sections = {"selection": dict(policy.selection), "annotations": annotations}
    return {**values, **sections, "schedule": schedule}


def _recommended_schedule(policy: Policy, budget: Budget) -> dict[str, Any]:
    samples, selected = budget.run_samples, policy.keep * budget.corpus_samples
    amount = {"budget": {"samples": samples}}
    if samples <= _DRAWN * selected:
        return amount | {"pool": {"multiple": 1 / policy.keep}}
    if samples <= selected and not policy.scores:
        return amount  # from the whole corpus
    if policy.scores and samples <= _DRAWN * budget.corpus_samples:
        return amount | {"pool": {"multiple": _DRAWN * budget.corpus_samples / samples}}
    # Each epoch selects again.
    return {"epochs": math.ceil(samples / selected), "ratio": {"start": policy.keep}}


def _sections(policy: Policy, *, samples: int) -> dict[str, Any]:
    schedule = {
        "budget": {"samples": samples},
        "pool": {"multiple": 1 / policy.keep, "block_rows": 1},
        "rounds": _ROUNDS if policy.scores else 1,
    }
    if policy.scores:
        schedule["warmup"] = {"samples": samples // _WARMUP}
    return {
        "selection": dict(policy.selection),
        "annotations": dict(policy.annotations),
        "schedule": schedule,
    }


def _training(training: Mapping[str, Any], *, samples: int) -> dict[str, Any]:
    """Return the section with batches small enough for the smallest run, and a short warm-up.

    The learning rate is scaled by the square root of the batch size, as suits Adam.
    """
    smallest = math.floor(SIZES[0] * samples)
    batch_size = min(training["batch_size"], smallest // _LEAST_STEPS)
    steps = smallest // batch_size
    warmup = min(training["warmup_steps"], steps // 10)
    rate = training["learning_rate"] * math.sqrt(batch_size / training["batch_size"])
    changed = {"batch_size": batch_size, "warmup_steps": warmup, "learning_rate": rate}
    return {**training, **changed}
