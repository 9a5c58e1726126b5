"""How often `attent pilot` is right: its multiples and answers against those of measured runs.

The runs of the regimes `crawl` and `sft_noisy` of benchmarks/learning.py measured how much uniform
training a policy equals. Here a pilot with the same data, model and selection, which may cost a
twentieth of a run, says it beforehand. Results are written after every pilot to
benchmarks/results/pilot.json; run it again to resume.

    python benchmarks/pilot.py --data FOLDER            # that of learning.py
    python benchmarks/pilot.py --data FOLDER --only sft_noisy
    python benchmarks/pilot.py                          # only reads what was measured again
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from learning_arms.crawl.arms import target_of
from learning_arms.crawl.report import multiple_of, uniform_arms
from learning_arms.page import put_into
from learning_arms.trial import Clock
from pilot_pairs.cases import CASES, PREPARE, Case, Prepared
from pilot_pairs.table import markdown

from attent_select.stats.equivalence import MultipleInterval
from catalogs import Corpus
from pipeline.cluster import Client, connect
from pipeline.config import run_config
from pipeline.config.cluster_settings import ClusterSettings
from pipeline.pilot.command import run_pilot
from pipeline.pilot.plan import SCORING
from pipeline.pilot.verdict import PolicyVerdict

RESULTS: Final = Path(__file__).parent / "results"
OUT: Final = RESULTS / "pilot.json"
PAGE: Final = Path(__file__).parent.parent / "docs" / "pilot.md"
NUM_SEEDS: Final = 3

Trial = Mapping[str, Any]


def cost_of(trial: Trial) -> float:
    """Return the cost of a measured run as a pilot counts it: units, with scoring."""
    scored = trial["samples_scored"] / trial["samples_seen"]
    units = trial.get("units_seen", trial["samples_seen"])  # images are units
    return float(units * (1 + SCORING * scored))


def curve_of(trials: Sequence[Trial], arm: str, *, names: Sequence[str] = ()) -> list[Trial]:
    """Return the uniform runs that an arm is compared with: those of its target, or of `names`."""
    names = names or uniform_arms([trial["arm"] for trial in trials], target_of(arm) or "")
    return [trial for trial in trials if trial["arm"] in names]


def measured_multiple(trials: Sequence[Trial], arm: str, curve: list[Trial]) -> MultipleInterval:
    """Return the multiple of a measured arm."""
    mine = [trial for trial in trials if trial["arm"] == arm]
    multiple = multiple_of(mine, curve, target_of(arm) or "", cost=cost_of)
    if multiple is None:
        raise SystemExit(f"{arm} was not measured with two uniform runs")
    return MultipleInterval(**multiple)


def training_seconds(curve: Sequence[Trial]) -> float:
    """Return the processor seconds of training on a sample."""
    seconds = sum(trial["cpu_seconds"]["train"] for trial in curve)
    return float(seconds / sum(trial["samples_seen"] for trial in curve))


def learning_rate(measured: Mapping[str, Any]) -> float:
    """Return the learning rate of the measured runs, which was tuned for most of them."""
    if not measured.get("tuning"):
        return float(measured["settings"]["training"]["learning_rate"])
    best = min(measured["tuning"], key=lambda one: one["final"][measured["quality"]])
    return float(best["learning_rate"])


def run_case(
    name: str,
    case: Case,
    prepared: Prepared,
    *,
    measured: Mapping[str, Any],
    output: Path,
    client: Client,
) -> Iterator[dict[str, Any]]:
    """Run a pilot in the folder `output`, and yield a record for each of its policies."""
    rate = learning_rate(measured)
    training = prepared.values["training"] | {"learning_rate": rate}
    values = prepared.values | {"run": str(output / "run"), "training": training}
    is_resumed, clock = output.exists(), Clock(client)
    with clock.counting("pilot"):
        result = run_pilot(
            run_config.parse(values),
            share=case.share,
            num_seeds=NUM_SEEDS,
            policies=list(case.arms),
            output=str(output / "pilot"),
            client=client,
        )
    plan = json.loads((output / "pilot" / "plan.json").read_text())
    training = plan["trials"][0]["values"]["training"]
    shared = {
        "pilot": name,
        "regime": case.regime,
        "corpus_digest": prepared.digest,
        "is_measured_corpus": prepared.digest == measured.get("corpus_digest"),
        "runs": runs_of(output / "pilot"),
        "learning_rate": training["learning_rate"],
        "batch_size": training["batch_size"],
        "run_samples": round(case.passes * Corpus.open(values["corpus"]["path"]).num_samples),
        "is_resumed": is_resumed,
        "wall_seconds": clock.wall["pilot"],
        "cpu_seconds": clock.cpu["pilot"],
        "load_average": os.getloadavg(),
    }
    shared |= {
        key: getattr(result, key) for key in ("share", "samples", "seeds", "metric", "answer")
    }
    shared["recommendation"] = shared.pop("answer")
    for verdict, arm in zip(result.policies, case.arms.values(), strict=True):
        curve = curve_of(measured["trials"], arm, names=case.curve)
        yield {
            **shared,
            **compare(verdict, arm, measured_multiple(measured["trials"], arm, curve)),
            "run_cpu_seconds": shared["run_samples"] * training_seconds(curve),
        }


def runs_of(pilot: Path) -> dict[str, Any]:
    """Return what each small run of a pilot showed, by its name and seed."""
    files = sorted((pilot / "results").iterdir())
    return {file.stem: json.loads(file.read_text()) for file in files}


def compare(verdict: PolicyVerdict, arm: str, measured: MultipleInterval) -> dict[str, Any]:
    """Return what a pilot says about a policy and what was measured of the arm."""
    return {
        "arm": arm,
        "policy": verdict.policy,
        "answer": verdict.answer,
        "pilot_multiple": asdict(verdict.multiple),
        "measured_multiple": asdict(measured),
    }


def write(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Replace the results file."""
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps({"cpus": os.cpu_count(), "pairs": records}, indent=1) + "\n")
    unfinished.rename(path)


def read_measured(regime: str) -> dict[str, Any]:
    """Return the results of a regime of benchmarks/learning.py."""
    return dict(json.loads((RESULTS / f"learning_{regime}.json").read_text()))


def with_measured(record: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with the multiple that its arm has now: more runs may be measured."""
    arm, names = record["arm"], CASES[record["pilot"]].curve
    multiple = measured_multiple(
        measured["trials"], arm, curve_of(measured["trials"], arm, names=names)
    )
    return {**record, "measured_multiple": asdict(multiple)}


def main() -> None:
    options = parse_options()
    records = json.loads(options.out.read_text())["pairs"] if options.out.exists() else []
    done = {record["pilot"] for record in records}
    todo = {name: case for name, case in CASES.items() if name.startswith(options.only)}
    todo = {name: case for name, case in todo.items() if name not in done}
    if todo and options.data is not None:
        with connect(ClusterSettings(workers=1)) as client:
            for name, case in todo.items():
                records += run_case(
                    name,
                    case,
                    PREPARE[case.regime](case, options.data, options.folder / case.regime, client),
                    measured=read_measured(case.regime),
                    output=options.folder / f"pilot-{name.replace(', ', '-').replace(' ', '-')}",
                    client=client,
                )
                write(records, options.out)
                print(markdown(records), file=sys.stderr, flush=True)
    records = [with_measured(record, read_measured(record["regime"])) for record in records]
    write(records, options.out)
    if options.out == OUT:
        put_into(PAGE, marker="pilot", text=markdown(records))
    print(markdown(records))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the Parquet files of learning.py")
    parser.add_argument("--only", default="", help="pilots whose name begins with it")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir(), "attent-learning")
    )
    parser.add_argument("--out", type=Path, default=OUT, help="of the results")
    return parser.parse_args()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
