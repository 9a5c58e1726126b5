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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from learning_arms.figures import draw
from learning_arms.page import put_into
from learning_arms.regime import Data, Regime
from learning_arms.regimes import regimes
from learning_arms.summary import at_usual_pace, markdown, summarise
from learning_arms.trial import held_out, run_trial

from pipeline.cluster import connect, on_every_worker
from pipeline.config.cluster_settings import ClusterSettings

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "learning.md"


def import_libraries() -> None:
    """Import libraries once before the first trial, so that no arm pays for it."""
    import trainers.fitting
    import trainers.scoring.scorer
    import trainers.tasks.causal_lm
    import trainers.tasks.image_classification
    import trainers.tasks.masked_image_modeling
    import trainers.tasks.semantic_segmentation  # noqa: F401


def settings_of(
    regime: Regime, data: Data, sections: dict[str, Any], *, run: Path, seed: int
) -> Any:
    return {
        "run": str(run),
        "seed": seed,
        "corpus": {"shards": [data.train]},
        **regime.sections,
        **data.sections,
        **sections,
        "cluster": {"workers": 1},
    }


def pending(
    arms: dict[str, Any], *, seeds: Sequence[int], done: Sequence[dict[str, Any]]
) -> list[tuple[int, str]]:
    """(seed, arm) of the remaining trials: all arms of a seed before the next, so that variations
    of the machine's speed affect all arms.
    """
    finished = {(one["seed"], one["arm"]) for one in done}
    return [(seed, name) for seed in seeds for name in arms if (seed, name) not in finished]


def run_trials(
    regime: Regime,
    data: Data,
    arms: dict[str, Any],
    *,
    todo: Sequence[tuple[int, str]],
    keep: Callable[[dict[str, Any]], None],
) -> None:
    """Run the trials `todo`; pass each result to `keep` at once."""
    run = Path(data.train).parent / "run"
    sections = regime.sections | data.sections
    curve = held_out(data.curve, sections) if data.curve else None
    final = [held_out(data.final, sections), *([regime.probe(data)] if regime.probe else [])]
    with connect(ClusterSettings(workers=1)) as client:
        on_every_worker(client, import_libraries)
        import_libraries()
        for seed, name in todo:
            settings = settings_of(regime, data, arms[name], run=run, seed=seed)
            result = run_trial(settings, client=client, curve=curve, final=final)
            keep({"arm": name, "seed": seed, "sections": arms[name], **result})


def describe(trial: dict[str, Any]) -> str:
    seconds = " ".join(f"{key} {value:.1f}" for key, value in trial["cpu_seconds"].items())
    quality = " ".join(f"{key} {value:.4f}" for key, value in trial["final"].items())
    seen = f"{trial['samples_seen']:,.0f} samples · pace {trial['pace_seconds']:.3f}"
    return f"seed {trial['seed']} · {trial['arm']} · {seen} · CPU s {seconds} · {quality}"


def write_results(
    out: Path, *, name: str, regime: Regime, trials: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Write the JSON file atomically; return the summary in it."""
    rows = summarise(trials, quality=regime.quality)
    machine = {"cpus": os.cpu_count(), "torch_threads": 1, "load_average": os.getloadavg()}
    content = {"regime": name, "machine": machine, "quality": regime.quality}
    content |= {"settings": regime.sections, "summary": rows, "trials": list(trials)}
    unfinished = out.with_suffix(".part")
    unfinished.write_text(json.dumps(content, indent=1) + "\n")
    unfinished.rename(out)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("regime", choices=regimes(gpu=False), nargs="?", default="digits")
    parser.add_argument("--data", type=Path, help="folder of the Parquet files; digits need none")
    parser.add_argument("--seeds", type=int, default=3, help="0 only rewrites table and figure")
    parser.add_argument("--first-seed", type=int, default=0, help="not one that settings came from")
    parser.add_argument("--scale", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--arms", type=Path, help="YAML, name: {selection: …, schedule: …}")
    parser.add_argument("--only", default="", help="arms that begin with one of these, a,b,…")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir(), "attent-learning")
    )
    parser.add_argument("--out", type=Path, help="of the results")
    options = parser.parse_args()
    if options.data is None and options.regime != "digits":
        parser.error(f"{options.regime} needs --data FOLDER; docs/learning.md says of what")
    name = f"{options.regime}_gpu" if options.scale == "gpu" else options.regime
    out = options.out or RESULTS / f"learning_{name}.json"
    regime = regimes(gpu=options.scale == "gpu")[options.regime]
    arms = yaml.safe_load(options.arms.read_text()) if options.arms else regime.arms()
    only = tuple(options.only.split(","))
    arms = {name: sections for name, sections in arms.items() if name.startswith(only)}
    done = json.loads(out.read_text())["trials"] if out.exists() else []

    def keep(trial: dict[str, Any]) -> None:
        done.append(trial)
        write_results(out, name=name, regime=regime, trials=done)
        print(describe(trial), file=sys.stderr, flush=True)

    seeds = range(options.first_seed, options.first_seed + options.seeds)
    if todo := pending(arms, seeds=seeds, done=done):
        data = regime.data(options.data, options.folder / name)
        run_trials(regime, data, arms, todo=todo, keep=keep)
    rows = write_results(out, name=name, regime=regime, trials=done)
    table = markdown(rows, quality=regime.quality)
    draw(
        at_usual_pace(done), rows, quality=regime.quality, title=name, path=out.with_suffix(".png")
    )
    if out.parent == RESULTS:
        put_into(PAGE, marker=name, text=table)
    print(table)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
