"""attent pilot: which policy will pay on a corpus, from small runs that cost a few percent."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import yaml

from attent_select.errors import InputError
from attent_select.schedule.rounds import plan_rounds
from catalogs import Corpus, storage
from catalogs.layout import join
from pipeline.annotation.for_run import make_annotations
from pipeline.cluster import Client
from pipeline.config import run_config
from pipeline.config.sections import RunConfig
from pipeline.pilot.plan import (
    SIZES,
    Budget,
    Trial,
    equivalents,
    policy_name,
    recommendation,
    samples_of,
    trials_of,
    uniform_name,
)
from pipeline.pilot.policies import Policy, own_share, policies_of
from pipeline.pilot.small_model import small_fields
from pipeline.pilot.trials import Results, outcomes_of, run_trials
from pipeline.pilot.verdict import PolicyVerdict, best_of, judge
from pipeline.runs.lease import hold_lease
from pipeline.runs.mean_units import mean_units_of
from pipeline.runs.setup import ingest_corpora
from pipeline.stages import Origin, open_cluster
from trainers import ranks

DEFAULT_SHARE: Final = 0.05
DEFAULT_SEEDS: Final = 3


@dataclass(frozen=True)
class PilotResult:
    """What a pilot found.

    Attributes:
        answer: the recommendation as a sentence.
        policies: the verdict on each policy.
        metric: the held-out loss by which policies are compared.
        samples: samples that the run of a policy trained on.
        seeds: number of seeds.
        share: cost of the pilot, as a share of the run's training.
        seconds: wall-clock seconds of all runs of the pilot in scoring, selection and training,
            as those of a run; starting and judging them is not counted.
        folder: folder of the pilot.
        recommended: the configuration that the answer recommends; None if it is uncertain.
    """

    answer: str
    policies: tuple[PolicyVerdict, ...]
    metric: str
    samples: int
    seeds: int
    share: float
    seconds: float
    folder: str
    recommended: str | None

    def lines(self) -> Iterator[str]:
        """Yield the result as lines of text."""
        yield from map(str, self.policies)
        yield (
            f"cost of knowing: {self.share:.1%} of the run's training, {self.seconds:,.0f} s "
            f"without starting and judging, of {self.seeds} seeds with {self.samples:,} samples a "
            f"run, judged by {self.metric}"
        )
        yield self.answer
        if self.recommended is not None:
            yield f"recommended: {self.recommended}"


def run_pilot(
    source: str | RunConfig,
    *,
    share: float = DEFAULT_SHARE,
    num_seeds: int = DEFAULT_SEEDS,
    policies: Sequence[str] = (),
    output: str | None = None,
    client: Client | None = None,
    scheduler: str | None = None,
    overrides: Sequence[str] = (),
    trust_run: bool = False,
) -> PilotResult:
    """Compare policies with uniform draws in small runs. Call it again to resume.

    Args:
        source: a CONFIG.yaml, a run, or a checked configuration.
        share: cost of the pilot, as a share of the run's training.
        num_seeds: number of seeds.
        policies: those to compare: `yours`, `hard`, `soft`, names of annotations; default: all.
        output: folder of the pilot; default: that of the run, with `-pilot`.
        client: of a running cluster; without one, the configured cluster is started.
        scheduler: replaces the configured `cluster.scheduler`.
        overrides: `dotted.key=value`, each replaces a key of the configuration.
        trust_run: use the code and the cluster that the run.yaml of a run names.

    Raises:
        InputError: nothing judges the runs, the share is too small, or the folder holds a pilot
            with other settings.
        ClusterError: the cluster was lost; call again to resume.
    """
    origin = Origin(source, run_config.with_scheduler(overrides, scheduler), trust_run=trust_run)
    config = origin.load()
    if config.target is None and config.evaluation is None:
        raise InputError(
            "a pilot compares held-out losses: add `target` with examples of what is wanted, or "
            "`evaluation` with held-out shards"
        )
    if ranks.world_size() > 1:
        raise InputError("a pilot runs in one process: start it without torchrun")
    folder = storage.normalise(output or f"{config.run}-pilot").rstrip("/")
    with hold_lease(folder), open_cluster(config, client, origin) as cluster:
        shared = config.model_copy(update={"run": folder, "evaluation": None})
        ingest_corpora(shared, cluster=cluster)
        if config.schedule.counts_units:
            make_annotations(shared, cluster=cluster)
        # A share that is too small is refused before annotations are made.
        pilot, trials = _plan(config, folder, policies, share=share, num_seeds=num_seeds)
        make_annotations(shared, cluster=cluster)
        _freeze(trials, corpus=Corpus.open(folder), url=join(folder, "plan.json"))
        return pilot.result(run_trials(trials, folder=folder, cluster=cluster))


@dataclass(frozen=True)
class _Pilot:
    """What a pilot compares, for which configuration and budget, in which folder."""

    config: RunConfig
    folder: str
    policies: tuple[Policy, ...]
    budget: Budget

    @property
    def samples(self) -> int:
        """Samples that the run of a policy trains on."""
        return samples_of(self.budget, self.policies)

    def trials(self, model: Mapping[str, Any]) -> Iterator[Trial]:
        """Yield the small runs, which train `model`."""
        return trials_of(
            self.config.to_plain_values(),
            self.policies,
            samples=self.samples,
            num_seeds=self.budget.num_seeds,
            model=model,
            corpus=self.config.corpus.path or self.folder,
        )

    def result(self, results: Results) -> PilotResult:
        """Return what the runs showed; the recommendation is written unless it is uncertain."""
        budget, verdicts = self.budget, _verdicts(self.policies, results)
        spent = equivalents(self.policies, num_seeds=budget.num_seeds) * self.samples
        answer, is_certain = _answer(verdicts)
        return PilotResult(
            answer=answer,
            policies=verdicts,
            metric="eval_loss" if self.config.target is None else "target_loss",
            samples=self.samples,
            seeds=budget.num_seeds,
            share=spent * budget.relative_cost / budget.run_samples,
            seconds=sum(each["seconds"] for each in results.values()),
            folder=self.folder,
            recommended=self._write(answer, best_of(verdicts)) if is_certain else None,
        )

    def _write(self, answer: str, best: PolicyVerdict | None) -> str:
        """Publish the recommended configuration; return its URL."""
        chosen = next((each for each in self.policies if best and each.name == best.policy), None)
        values = recommendation(self.config.to_plain_values(), chosen, budget=self.budget)
        url = join(self.folder, "recommended.yaml")
        content = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        storage.publish(url, f"# {answer}.\n{content}".encode())
        return url


def _plan(
    config: RunConfig, folder: str, keys: Sequence[str], *, share: float, num_seeds: int
) -> tuple[_Pilot, list[Trial]]:
    """Return what a pilot compares on the corpus in its folder, and its runs.

    Raises:
        InputError: a key names no policy, or the share is too small.
    """
    model, cost = _small_model(config)
    num_samples = Corpus.open(folder).num_samples
    run_samples = _samples_of_run(config.model_copy(update={"run": folder}))
    keep = own_share(config, budget=run_samples, corpus_samples=num_samples)
    policies = policies_of(config, own_keep=keep, keys=keys)
    budget = Budget(run_samples, num_samples, share, cost, num_seeds)
    pilot = _Pilot(config, folder, policies, budget)
    return pilot, list(pilot.trials(model))


def _samples_of_run(config: RunConfig) -> int:
    """Return the samples that a run trains on, epochs counted."""
    rounds = plan_rounds(
        config.schedule,
        num_samples=Corpus.open(config.run).num_samples,
        batch_size=config.training.batch_size,
        mean_units=mean_units_of(config),
    )
    return sum(each.num_samples * each.epochs for each in rounds)


def _small_model(config: RunConfig) -> tuple[dict[str, Any], float]:
    """Return the section `model` of the small model, and the share of its parameters in those of
    the run. A saved model is taken as it is.
    """
    models: Any = config.task.task.models(config.model)
    if "path" in config.model or not hasattr(models, "without_weights"):
        return config.model, 1.0
    model = models.without_weights()
    changed = small_fields(model.config.to_dict())
    small = {**config.model, "config": {**config.model["config"], **changed}}
    fewer = config.task.task.models(small).without_weights()
    return small, _num_parameters(fewer) / _num_parameters(model)


def _num_parameters(model: Any) -> int:
    return sum(weight.numel() for weight in model.parameters())


def _freeze(trials: Sequence[Trial], *, corpus: Corpus, url: str) -> None:
    """Publish the plan of the pilot, or check that it is the one that was begun."""
    plan = {"corpus_id": corpus.corpus_id, "trials": list(map(asdict, trials))}
    content = json.dumps(plan, sort_keys=True).encode()
    if storage.info(url) is None:
        storage.publish(url, content)
    elif storage.read(url) != content:
        raise InputError(
            f"{url} is the plan of a pilot with other settings or another corpus: choose another "
            "--output, or delete its folder"
        )


def _verdicts(policies: Sequence[Policy], results: Results) -> tuple[PolicyVerdict, ...]:
    curves = [outcomes_of(results, uniform_name(size)) for size in SIZES]
    uniform = {seed: [curve[seed] for curve in curves] for seed in curves[0]}
    return tuple(
        judge(policy.name, outcomes_of(results, policy_name(number)), uniform, keep=policy.keep)
        for number, policy in enumerate(policies)
    )


def _answer(verdicts: Sequence[PolicyVerdict]) -> tuple[str, bool]:
    """Return the recommendation as a sentence, and whether it is certain."""
    if (best := best_of(verdicts)) is not None:
        return f"Select by {best.policy}: it will pay", True
    if all(each.answer == "it will not pay" for each in verdicts):
        return "No policy will pay here: train on uniform draws", True
    return (
        "Uncertain: no policy is shown to pay, and not all are shown to fail. Repeat with a larger "
        "--share or more --seeds, or train on uniform draws"
    ), False
