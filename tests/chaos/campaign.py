"""Random kills of whole runs: `python tests/chaos/campaign.py --kills 200 --seed 1`.

A scenario is a configuration and the processes that may be killed. It runs once undisturbed, which
counts the moments of its processes; then it is killed at random moments, run again until it has
finished, and compared: index files, losses, order of the samples, weights.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, time
from typing import Any
from unittest.mock import patch

import yaml
from killable import ROOT, WORKERS, Cluster
from moments import Plan, Shot
from process_copies import copies
from raw_text import prose, write_pool, write_texts
from small_runs import often_saved, write_shards

from catalogs import AnnotationStore, Corpus, IndexFile, LossCatalog, storage
from catalogs.layout import Layout
from pipeline import metrics
from pipeline.training.stream_check import read_stream
from trainers import OrderSettings, checkpoint
from trainers.inputs.tokenizer import train_tokenizer

DRIVER, RANK, STORE, SCHEDULER = "driver", "rank", "store", "scheduler"
MOMENTS = Path(__file__).with_name("moments.py")
# A run that is not finished after this time hangs.
HANG_SECONDS = 600
# A signal that has no effect for this long was swallowed.
SIGNAL_SECONDS = 60
INTERRUPTED = 130
SIGNALS = {
    "SIGINT": (signal.SIGINT, 1),
    "SIGINT twice": (signal.SIGINT, 2),
    "SIGTERM": (signal.SIGTERM, 1),
}


@dataclass(frozen=True)
class Scenario:
    """What runs, and which processes may be killed.

    Attributes:
        settings: replace keys of `often_saved`.
        victims: `driver`, `rank` (of two), `worker 0`, `scheduler`, `store`; or signals to the
            driver.
        num_ranks: processes that train.
        on_store: the run is on the S3 server.
        on_text: the run selects raw texts by an annotation that it makes.
    """

    name: str
    settings: dict[str, Any]
    victims: tuple[str, ...] = (DRIVER,)
    num_ranks: int = 1
    on_store: bool = False
    on_text: bool = False


EVERYTHING = (*[DRIVER] * 5, *WORKERS, SCHEDULER)
PARTIAL = {"schedule__rescore": {"kind": "partial", "share": 0.4}}
OBSERVED = {"schedule__rescore": {"kind": "observed"}}
ADAPTIVE = {**PARTIAL, "schedule__ratio": {"kind": "adaptive", "start": 0.5, "low": 0.3}}
POOLS = {
    "schedule": {"budget": {"samples": 96}, "rounds": 2, "pool": {"multiple": 2}},
    "selection__strategy": "soft",
}
SCENARIOS = (
    Scenario("full", {}, EVERYTHING),
    Scenario("partial", PARTIAL, EVERYTHING),
    Scenario("observed", OBSERVED, EVERYTHING),
    Scenario("adaptive", ADAPTIVE, EVERYTHING),
    Scenario("pools", POOLS, EVERYTHING),
    Scenario("annotations", {}, EVERYTHING, on_text=True),
    Scenario("store", {}, (*EVERYTHING, STORE, STORE), on_store=True),
    Scenario("signals", {}, tuple(SIGNALS)),
    Scenario("two ranks, full", {}, (RANK, RANK, SCHEDULER, *WORKERS), num_ranks=2),
    Scenario("two ranks, observed", OBSERVED, (RANK, RANK), num_ranks=2),
)


@dataclass
class Tally:
    """Kills by victim, and the scenarios that ended."""

    kills: dict[str, int] = field(default_factory=dict)
    runs: int = 0

    def add(self, victim: str) -> None:
        self.kills[victim] = self.kills.get(victim, 0) + 1

    @property
    def total(self) -> int:
        return sum(self.kills.values())


class Campaign:
    """The processes and the data of all scenarios."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.folder, self.cluster, self.tally = folder, cluster, Tally()
        self._expected: dict[str, tuple[dict[str, Any], list[int]]] = {}
        write_shards(folder / "shards")

    def kill(self, scenario: Scenario, *, seed: int, kills: int) -> int:
        """Kill a run of the scenario at most `kills` times, finish it and compare it."""
        expected, ticks = self.undisturbed(scenario)
        draw, done, name = random.Random(f"{seed} {scenario.name}"), 0, f"{scenario.name} {seed}"
        config, code = self.write(scenario, name), -1
        plan = Plan(str(self.folder / "plans" / name))
        while done < kills and code != 0:
            shots = self._shots(scenario, draw, ticks, most=kills - done)
            code, fired = self._attempt(
                scenario, config, Plan(plan.folder, tuple(shots.values())), shots=shots
            )
            for victim in fired:
                self.tally.add(victim)
            done += len(fired)
        if code != 0:
            code, said = self.launch(scenario, config, plan)
            assert code == 0, said
        found = self.result(scenario, name)
        assert found == expected, _difference(found, expected)
        self.tally.runs += 1
        return done

    def undisturbed(self, scenario: Scenario) -> tuple[dict[str, Any], list[int]]:
        """Return the result of a run that nothing disturbs, and the ticks of each rank."""
        if scenario.name not in self._expected:
            name = f"{scenario.name} undisturbed"
            plan = Plan(str(self.folder / "plans" / name))
            code, said = self.launch(scenario, self.write(scenario, name), plan)
            assert code == 0, said
            ticks = [
                int(Path(plan.folder, f"ticks-{rank}").read_text())
                for rank in range(scenario.num_ranks)
            ]
            self._expected[scenario.name] = self.result(scenario, name), ticks
        return self._expected[scenario.name]

    def _shots(
        self, scenario: Scenario, draw: random.Random, ticks: Sequence[int], *, most: int
    ) -> dict[str, Shot]:
        """Draw victims; early moments are more likely, because a resumed run has less to do."""
        shots = {}
        for victim in draw.sample(
            scenario.victims, min(most, draw.randint(1, 3), len(scenario.victims))
        ):
            rank = draw.randrange(scenario.num_ranks) if victim == RANK else 0
            tick = 1 + int(ticks[rank] * 0.5 * draw.random() ** 2)
            seconds = draw.choice([0.0, 0.0, draw.uniform(0, 0.5)])
            signum, times = SIGNALS.get(victim, (signal.SIGKILL, 1))
            running = self.cluster.running.get(victim)
            pids = () if running is None else (running.pid,)
            shots[victim] = Shot(tick, seconds, pids, signum, times, rank)
        return shots

    def _attempt(
        self, scenario: Scenario, config: Path, plan: Plan, *, shots: Mapping[str, Shot]
    ) -> tuple[int, list[str]]:
        """Run with shots; return the exit code and the victims of those that were fired."""
        logs = [Path(plan.folder, f"fired-{rank}") for rank in range(scenario.num_ranks)]
        for log in logs:
            log.unlink(missing_ok=True)
        code, said = self.launch(scenario, config, plan)
        moments = {
            (rank, int(line.split()[0])): float(line.split()[1])
            for rank, log in enumerate(logs)
            for line in (log.read_text().splitlines() if log.exists() else ())
        }
        fired = [each for each, shot in shots.items() if (shot.rank, shot.tick) in moments]
        killed = 1 if scenario.num_ranks > 1 else -signal.SIGKILL
        # The scheduler may be killed while a driver connects to it.
        is_refused = code == 2 and SCHEDULER in fired and "no scheduler answered" in said
        assert code in (0, killed, INTERRUPTED) or is_refused, (code, shots, said)
        assert code == 0 or fired, (code, shots, said)
        for victim in set(fired) & SIGNALS.keys() if code in (0, INTERRUPTED) else ():
            shot = shots[victim]
            seconds = time() - moments[shot.rank, shot.tick]
            assert seconds < SIGNAL_SECONDS, f"{victim} had no effect for {seconds:.0f} s: {said}"
        return code, fired

    def launch(self, scenario: Scenario, config: Path, plan: Plan) -> tuple[int, str]:
        """Run to the end, while killed processes of the cluster are started again."""
        arguments = [str(plan.write()), "run", str(config)]
        output = Path(plan.folder, "output")
        if scenario.num_ranks > 1:
            code = self._launch_ranks(scenario.num_ranks, arguments, output=output)
        else:
            code = self._launch_copy(arguments, output=output)
        return code, output.read_text(errors="replace")[-4000:]

    def _launch_copy(self, arguments: Sequence[str], *, output: Path) -> int:
        environment = self.cluster.environment | {"ATTENT_TRACEBACK": "1"}
        pid = copies().start(MOMENTS, *arguments, output=output, environment=environment)
        try:
            self._keep_alive(lambda: copies().wait(pid, seconds=0.1) is not None)
        finally:
            with contextlib.suppress(ProcessLookupError):  # it, and what it started
                os.killpg(pid, signal.SIGKILL)
        code = copies().wait(pid)
        assert code is not None
        return code

    def _launch_ranks(self, number: int, arguments: Sequence[str], *, output: Path) -> int:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={number}", str(MOMENTS), *arguments]
        with output.open("wb") as file:
            process = subprocess.Popen(
                command,
                env=self.cluster.environment,
                cwd=ROOT,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

            def has_ended() -> bool:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.1)
                return process.returncode is not None

            try:
                self._keep_alive(has_ended)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return process.returncode

    def _keep_alive(self, has_ended: Callable[[], bool]) -> None:
        deadline = monotonic() + HANG_SECONDS
        while not has_ended():
            for name in self.cluster.running:
                self.cluster.restart(name)
            assert monotonic() < deadline, "it hangs"
        for name in self.cluster.running:
            self.cluster.restart(name)

    def result(self, scenario: Scenario, name: str) -> dict[str, Any]:
        """Return the result of the run of that name."""
        with patch.dict(os.environ, self.cluster.server.environment):
            return result(self.url(scenario, name))

    def url(self, scenario: Scenario, name: str) -> str:
        """Return the run of that name."""
        name = name.replace(" ", "-").replace(",", "")
        return f"s3://bucket/{name}" if scenario.on_store else str(self.folder / "runs" / name)

    def write(self, scenario: Scenario, name: str) -> Path:
        """Write the configuration of the run of that name."""
        url = self.url(scenario, name)
        values = often_saved(url, self.folder / "shards", **scenario.settings)
        if scenario.on_text:
            values = text_run(url, self.folder / "texts")
        values["cluster"] = {"scheduler": self.cluster.address, "patience_seconds": 300}
        values["cluster"] |= {"connect_timeout_seconds": 60, "worker_timeout_seconds": 300}
        path = self.folder / "configurations" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(values))
        return path


def text_run(url: str, texts: Path) -> dict[str, Any]:
    """Return a run that makes an annotation of raw texts and trains on what it selects."""
    if not texts.exists():
        paragraphs = prose(180)
        write_pool(texts / "shards", num_rows=240, wanted=paragraphs[:80])
        write_texts(texts / "target" / "0.parquet", [(text, "prose") for text in paragraphs[80:]])
        train_tokenizer(paragraphs, texts / "tokenizer", vocab_size=300)
    tokenizer = str(texts / "tokenizer")
    llama = {"model_type": "llama", "vocab_size": 300, "hidden_size": 16, "intermediate_size": 16}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    return {
        "run": url,
        "corpus": {"shards": [str(texts / "shards")]},
        "target": {"shards": [str(texts / "target")]},
        "annotations": {"relevance": {"kind": "ngram", "pool_samples": 1000}},
        "task": {"name": "causal_lm", "text": "text", "max_length": 32, "tokenizer": tokenizer},
        "model": {"config": {**llama, **heads}},
        "selection": {"strategy": "key", "key": "relevance"},
        "schedule": {"epochs": 2, "ratio": {"start": 0.2}},
        "training": {"batch_size": 8, "save_steps": 2, "torch_threads": 1},
    }


def result(url: str) -> dict[str, Any]:
    """Return what must not depend on how often a run was killed."""
    corpus, layout, catalog = Corpus.open(url), Layout(url), LossCatalog(url)
    numbers = range(len(metrics.table(url)))
    measured = [metrics.read(url, number) or {} for number in numbers]
    checkpoints = [checkpoint.open(layout.checkpoint(number)) for number in numbers]
    store = AnnotationStore(url)
    return {
        "index_files": [storage.read(layout.index(n)).hex() for n in numbers],
        "indexes": [IndexFile.open(layout.index(n), corpus=corpus).digest for n in numbers],
        "order": [
            read_stream(
                url, index=layout.index(n), order=OrderSettings(3, 16), digest_only=True
            ).order_digest
            for n in numbers
        ],
        "losses": [catalog.digest(number) for number in catalog.rounds()],
        "annotations": {name: store.read(name).digest for name in store.names()},
        "weights": [each.weights_digest for each in checkpoints if each is not None],
        **{
            name: [values.get(name) for values in measured]
            for name in ("train_loss", "eval_loss", "samples_seen")
        },
    }


def _difference(found: dict[str, Any], expected: dict[str, Any]) -> str:
    return str({k: (found[k], expected[k]) for k in expected if found[k] != expected[k]})[:2000]


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Campaign]:
    """Start the store, the scheduler and two workers."""
    with contextlib.ExitStack() as stack:
        cluster = Cluster(folder / "store", stack)
        for name in (STORE, SCHEDULER, *WORKERS):
            cluster.start(name)
        yield Campaign(folder, cluster)


def run_campaign(
    campaign: Campaign,
    *,
    kills: int,
    seed: int,
    scenarios: Sequence[Scenario] = SCENARIOS,
    kills_per_run: int = 6,
    say: Callable[[str], None] = print,
) -> Tally:
    """Kill runs of one scenario after another, until there were `kills`."""
    while campaign.tally.total < kills:
        for scenario in scenarios:
            if campaign.tally.total >= kills:
                break
            most = min(kills_per_run, kills - campaign.tally.total)
            started_at = monotonic()
            done = campaign.kill(scenario, seed=seed, kills=most)
            say(
                f"seed {seed}, {scenario.name}: killed {done} times, equal, "
                f"{monotonic() - started_at:.0f} s; {campaign.tally.total} kills so far"
            )
        seed += 1
    return campaign.tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scenario", action="append", help="by default all of them")
    options = parser.parse_args()
    chosen = [s for s in SCENARIOS if options.scenario is None or s.name in options.scenario]
    with tempfile.TemporaryDirectory() as folder, started(Path(folder)) as campaign:
        tally = run_campaign(campaign, kills=options.kills, seed=options.seed, scenarios=chosen)
    sys.stdout.write(json.dumps({"runs": tally.runs, "kills": tally.kills}) + "\n")


if __name__ == "__main__":
    main()
