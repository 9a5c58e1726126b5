"""Time and quality of selection against controls, including the cost of scoring and selecting.

Trains the same model on the same data in several ways (arms), paired by seed and alternating: all
data, all data for fewer epochs, random subsets, InfoBatch, the published schedule, and ours. Each
is an ordinary run of `pipeline.loop` in this process, with one warm worker for scoring. Results are
written after every trial to benchmarks/results/learning_<regime>.json; run it again to resume, or
with more --seeds.

    python benchmarks/learning.py                             # scikit-learn's digits
    python benchmarks/learning.py vision --data FOLDER        # fashion_mnist_{train,test}.parquet
    python benchmarks/learning.py web --data FOLDER --seeds 5
    python benchmarks/learning.py web --data FOLDER --scale gpu
    python benchmarks/learning.py web --data FOLDER --arms mine.yaml   # name: {selection, schedule}
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from learning_arms.page import put_into
from learning_arms.regime import Data, Regime
from learning_arms.regimes import regimes
from learning_arms.results import Results
from learning_arms.summary import HIGHER
from learning_arms.trial import held_out, run_trial

from pipeline.cluster import connect, on_every_worker
from pipeline.config.cluster_settings import ClusterSettings

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "learning.md"
_TUNING_SEED = 1_000_000  # not compared


def import_libraries() -> None:
    """Import libraries once before the first trial, so that no arm pays for it."""
    import trainers.fitting
    import trainers.scoring.scorer
    import trainers.tasks.causal_lm
    import trainers.tasks.image_classification
    import trainers.tasks.masked_image_modeling
    import trainers.tasks.semantic_segmentation  # noqa: F401


def settings_of(
    regime: Regime,
    data: Data,
    sections: Mapping[str, Any],
    *,
    run: Path,
    seed: int,
    rate: float | None = None,
) -> Any:
    """Return the configuration of an arm, with the learning rate `rate` unless it has another."""
    shared = regime.sections | data.sections
    if rate is not None:
        shared["training"] = {"learning_rate": rate, **shared["training"]}
    sections = resolve(sections, data.stand_ins)
    return {
        "run": str(run),
        "seed": seed,
        "corpus": {"shards": [data.train]},
        **shared,
        **{name: {**shared.get(name, {}), **section} for name, section in sections.items()},
        "cluster": {"workers": 1},
    }


def resolve(value: Any, stand_ins: Mapping[str, str]) -> Any:
    """Return sections with files in the place of what stands for them."""
    if isinstance(value, Mapping):
        return {key: resolve(each, stand_ins) for key, each in value.items()}
    return stand_ins.get(value, value) if isinstance(value, str) else value


def pending(
    arms: dict[str, Any], *, seeds: Sequence[int], done: Sequence[dict[str, Any]]
) -> list[tuple[int, str]]:
    """(seed, arm) of the remaining trials: all arms of a seed before the next, so that variations
    of the machine's speed affect all arms.
    """
    finished = {(one["seed"], one["arm"]) for one in done}
    return [(seed, name) for seed in seeds for name in arms if (seed, name) not in finished]


@contextmanager
def runner(regime: Regime, data: Data) -> Iterator[Callable[..., dict[str, Any]]]:
    """Yield a function that runs the sections of an arm with a seed, on one warm worker."""
    run = Path(data.train).parent / "run"
    sections = regime.sections | data.sections
    curve = held_out(data.curve, sections) if data.curve else None
    final = [held_out(data.final, sections), *([regime.probe(data)] if regime.probe else [])]
    with connect(ClusterSettings(workers=1)) as client:
        on_every_worker(client, import_libraries)
        import_libraries()

        def run_arm(arm: Mapping[str, Any], *, seed: int, rate: float | None) -> dict[str, Any]:
            settings = settings_of(regime, data, arm, run=run, seed=seed, rate=rate)
            result = run_trial(settings, client=client, curve=curve, final=final)
            used = {name: data.costs[name] for name in data.costs if name in json.dumps(arm)}
            return {"seed": seed, "sections": arm, "once": used, **result}

        yield run_arm


def tuned_rate(
    regime: Regime,
    tuning: list[dict[str, Any]],
    *,
    run_arm: Callable[..., dict[str, Any]],
    keep: Callable[[], None],
) -> float | None:
    """Return the learning rate with the best quality of the arm `regime.tuned`, on another seed.

    Those that are not in `tuning` are tried first, and `keep` is called after each.
    """
    tried = {one["learning_rate"] for one in tuning}
    for rate in regime.learning_rates:
        if rate not in tried:
            trial = run_arm(regime.arms()[regime.tuned], seed=_TUNING_SEED, rate=rate)
            tuning.append({"learning_rate": rate, "final": trial["final"]})
            keep()
    sign = -1 if regime.quality in HIGHER else 1
    best = min(tuning, key=lambda one: sign * one["final"][regime.quality], default=None)
    return None if best is None else best["learning_rate"]


def describe(trial: dict[str, Any]) -> str:
    seconds = " ".join(f"{key} {value:.1f}" for key, value in trial["cpu_seconds"].items())
    quality = " ".join(f"{key} {value:.4f}" for key, value in trial["final"].items())
    seen = f"{trial['samples_seen']:,.0f} samples · pace {trial['pace_seconds']:.3f}"
    return f"seed {trial['seed']} · {trial['arm']} · {seen} · CPU s {seconds} · {quality}"


def main() -> None:
    options = parse_options()
    name = f"{options.regime}_gpu" if options.scale == "gpu" else options.regime
    out = options.out or RESULTS / f"learning_{name}.json"
    regime = regimes(gpu=options.scale == "gpu")[options.regime]
    if options.machine and not regime.is_charged_by_token:
        raise SystemExit(f"--machine: trials of {options.regime} are compared on one machine only")
    arms = yaml.safe_load(options.arms.read_text()) if options.arms else regime.arms()
    only = tuple(options.only.split(","))
    arms = {name: sections for name, sections in arms.items() if name.startswith(only)}
    table = out.stem.removeprefix("learning_")
    results = Results.read(out, name=table, regime=regime)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    if todo := pending(arms, seeds=seeds, done=results.trials):
        data = regime.data(options.data, options.folder / name)
        data = data.for_arms([arms[arm] for _, arm in todo])
        results.check_corpus(data.digest)
        results.notes = data.notes
        with runner(regime, data) as run_arm:
            rate = tuned_rate(regime, results.tuning, run_arm=run_arm, keep=results.write)
            for seed, arm in todo:
                trial = run_arm(arms[arm], seed=seed, rate=rate)
                results.trials.append({"arm": arm, "machine": options.machine, **trial})
                results.write()
                print(describe(results.trials[-1]), file=sys.stderr, flush=True)
    results.write()
    results.draw()
    if out.parent == RESULTS:
        for marker, text in results.tables().items():
            put_into(PAGE, marker=marker, text=text)
    print(results.table())


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("regime", choices=regimes(gpu=False), nargs="?", default="digits")
    parser.add_argument("--data", type=Path, help="folder of the Parquet files; digits need none")
    parser.add_argument("--seeds", type=int, default=3, help="0 only rewrites table and figure")
    parser.add_argument("--first-seed", type=int, default=0, help="not one that settings came from")
    parser.add_argument("--scale", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--arms", type=Path, help="YAML, name: {selection: …, schedule: …}")
    parser.add_argument("--only", default="", help="arms that begin with one of these, a,b,…")
    parser.add_argument(
        "--machine", default="", help="a name, if it is another one than that of earlier trials"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir(), "attent-learning")
    )
    parser.add_argument(
        "--out", type=Path, help="results; learning_NAME.json in benchmarks/results is table NAME"
    )
    options = parser.parse_args()
    if options.data is None and options.regime != "digits":
        parser.error(f"{options.regime} needs --data FOLDER; docs/learning.md says of what")
    return options


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
