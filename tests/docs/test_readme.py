"""The commands and programs of README.md and docs/ run as they are written."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import polars as pl
import process_copies
import pytest
import yaml
from process_copies import ATTENT
from servers import S3Server, moto_s3

from pipeline.demo.data import digits
from pipeline.demo.run import DEMOS, compare

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent

# Pages whose commands other tests run or check: unit/pipeline/test_docs.py, test_pointers.py,
# test_loops.py and test_own_task.py.
TESTED_ELSEWHERE = {"scoring", "laptop", "multi-gpu", "slurm", "kubernetes", "own_task", "loops"}
DOCS = [page for page in sorted((ROOT / "docs").glob("*.md")) if page.stem not in TESTED_ELSEWHERE]
PAGES = [README, *(page.read_text() for page in DOCS)]
COMMANDS = [
    line.removeprefix("$ ").split("  #")[0].strip()
    for block in re.findall(r"```console\n(.*?)```", "".join(PAGES), re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ ")
]
ON_THE_DEMO = [command for command in COMMANDS if "demo/soft" in command]
OWN_CORPUS = "attent run examples/s3_cluster.yaml"

# Overrides that make the README's configuration small enough for a test.
SMALL = {
    "model": {
        "config": {
            "model_type": "vit",
            "image_size": 8,
            "num_channels": 3,
            "patch_size": 4,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_labels": 10,
        }
    },
    "task.image_size": 8,
    "schedule.epochs": 4,
    "training.batch_size": 32,
    "training.micro_batch_size": 16,
    "training.warmup_steps": 2,
    "training.dtype": "float32",
    "scoring.dtype": "float32",
}


def run(command: str, *, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Output of a command, with `attent` and `python` of this environment."""
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"} | (env or {})
    program, *arguments = shlex.split(command)
    if program == "attent":
        process = process_copies.run(ATTENT, *arguments, cwd=cwd, environment=environment)
    elif program == "python" and arguments[0].endswith(".py"):
        script = cwd / arguments[0]
        process = process_copies.run(script, *arguments[1:], cwd=cwd, environment=environment)
    else:
        process = subprocess.run(
            [program, *arguments],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert process.returncode == 0, f"{command}\n{process.stdout}\n{process.stderr}"
    return process.stdout


# Of 30 epochs; `.ci/run` runs the whole demonstration.
SHORT = {"epochs": 5, "warmup_epochs": 1, "ratio": {"start": 0.4}}


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the output of `make demo`, after fewer epochs."""
    folder, vision = tmp_path_factory.mktemp("reader"), DEMOS["vision"]
    recipe = run("make --no-print-directory --dry-run demo", cwd=ROOT).splitlines()[-1]
    assert recipe.endswith("attent demo --out demo")
    short = replace(vision, settings=lambda out: vision.settings(out) | {"schedule": SHORT})
    compare(short, out=str(folder / "demo"))
    return folder


def test_every_command_of_the_pages_is_run() -> None:
    assert {*ON_THE_DEMO, OWN_CORPUS, "make demo", "make test"} == set(COMMANDS)
    assert len(ON_THE_DEMO) >= 5


def test_make_test_runs_the_checks_and_the_tests() -> None:
    recipe = run("make --no-print-directory --dry-run test", cwd=ROOT)
    for part in ("ruff format --check", "ruff check", "mypy", "lint-imports", "-m pytest"):
        assert part in recipe


def test_continuous_integration_runs_all_tests_and_the_demo() -> None:
    steps = set((ROOT / ".ci/run").read_text().splitlines())
    targets = {"make test", "make test-docs", "make test-benchmarks", "make test-browser"}
    assert {*targets, "make chaos CHAOS_SEED=1", "make demo"} <= steps


def test_make_chaos_runs_as_many_faults_as_it_is_told() -> None:
    recipe = run("make --no-print-directory --dry-run chaos CHAOS_RUNS=7", cwd=ROOT)
    assert "CHAOS_RUNS=7" in recipe
    assert "-m pytest" in recipe
    assert "tests/chaos" in recipe


def test_the_commands_on_the_demo_run_in_page_order(demo_folder: Path) -> None:
    outputs = [run(command, cwd=demo_folder) for command in ON_THE_DEMO]
    assert all(outputs)
    assert (demo_folder / "demo/hardest.parquet").is_file()
    assert (demo_folder / "demo/soft/report.html").stat().st_size > 100_000


@pytest.mark.parametrize(
    "page", ["README.md", "docs/formats.md", "docs/extending.md", "docs/antk.md"]
)
def test_the_programs_of_a_page_run(page: str, demo_folder: Path) -> None:
    programs = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert programs
    for number, program in enumerate(programs):
        file_name = re.match(r"# (\w+\.py)\n", program)
        script = demo_folder / (file_name.group(1) if file_name else f"program_{number}.py")
        script.write_text(program)
        runner = "python -m pytest" if script.name.startswith("test_") else "python"
        run(f"{runner} {script.name}", cwd=demo_folder)


def test_the_quickstart_runs_on_texts_of_a_user(tmp_path: Path) -> None:
    block = re.search(r"```sh\n(pip install.*?)```", README, re.DOTALL)
    assert block is not None
    install, *commands = [line.partition("  #")[0].strip() for line in block.group(1).splitlines()]
    assert install == 'pip install ".[all]"'  # tests/packaging installs it
    write_texts(tmp_path)
    for command in commands:
        run(re.sub(r"(?<!\w)/data/", f"{tmp_path}/", command), cwd=tmp_path)
    assert "Result" in (tmp_path / "runs/my/report.html").read_text()


def write_texts(folder: Path) -> None:
    """Write `corpus` and `wanted.parquet`: poems among lists of numbers."""
    words = ["river", "stone", "morning", "letter", "garden", "winter", "silver"]
    poems = [
        f"A {one} by the {other}, and {number} birds." for number in range(2) for one in words
        for other in words
    ]  # fmt: skip
    numbers = [" ".join(str(n * m % 97) for m in range(12)) for n in range(60)]
    (folder / "corpus").mkdir()
    for name, texts in (
        ("corpus/000.parquet", [*numbers, *poems[::2]]),
        ("wanted.parquet", poems[1::2]),
    ):
        pl.DataFrame({"text": texts}).write_parquet(folder / name)


def test_the_configuration_of_the_readme_is_the_example() -> None:
    shown = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert shown is not None
    assert shown.group(1) == (ROOT / "examples/s3_cluster.yaml").read_text()


def test_the_configuration_of_the_readme_runs_on_s3_and_a_cluster(tmp_path: Path) -> None:
    with moto_s3() as server:
        _upload_corpus(server, tmp_path)
        with _cluster(server.environment) as address:
            settings = SMALL | {"cluster.scheduler": address}
            overrides = " ".join(
                f"--set {shlex.quote(f'{key}={yaml.safe_dump(value, default_flow_style=True)}')}"
                for key, value in settings.items()
            )
            command = f"{OWN_CORPUS} {overrides}"
            first = run(f"{command} --json", cwd=ROOT, env=server.environment)
            again = run(f"{command} --json", cwd=ROOT, env=server.environment)
    result = yaml.safe_load(first)
    assert result["checkpoint"].startswith("s3://my-bucket/runs/vit-soft/checkpoints/")
    # 4 epochs: one on all data, then 1 + 1 chosen by loss, then one on all data.
    assert [round(each["ratio"], 2) for each in result["rounds"]] == RATIOS
    assert yaml.safe_load(again)["rounds"] == result["rounds"]


RATIOS = [1.0, 0.3, 0.6, 1.0]


def _upload_corpus(server: S3Server, folder: Path) -> None:
    from catalogs.formats.webdataset import Webdataset

    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )
    client.create_bucket(Bucket="my-bucket")
    training, held_out = digits(seed=0)
    for place, samples in (("corpus", training[:200]), ("held-out", held_out[:50])):
        renamed = [{"png": s["image"], "cls": s["label"]} for s in samples]
        half = len(renamed) // 2
        for number, part in enumerate((renamed[:half], renamed[half:])):
            path = folder / f"{place}-{number}.tar"
            Webdataset().write(path, part)
            client.upload_file(str(path), "my-bucket", f"{place}/{number:03d}.tar")


@contextlib.contextmanager
def _cluster(environment: dict[str, str]) -> Iterator[str]:
    """Start a Dask scheduler and a worker as subprocesses, as their documentation describes."""
    env = os.environ | environment
    with contextlib.ExitStack() as stack:
        scheduler = stack.enter_context(
            _process(["scheduler", "--host", "tcp://127.0.0.1:0", "--no-dashboard"], env=env)
        )
        address = _wait_for_output(scheduler, r"Scheduler at:\s+(tcp://\S+)")
        worker = stack.enter_context(
            _process(["worker", address, "--nthreads", "1", "--no-dashboard"], env=env)
        )
        _wait_for_output(worker, r"Registered to:\s+(tcp://\S+)")
        yield address


@contextlib.contextmanager
def _process(arguments: list[str], *, env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    command = [str(BIN / "dask"), *arguments]
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _wait_for_output(process: subprocess.Popen[str], pattern: str) -> str:
    """Wait until the process prints `pattern`; a thread then drains its output."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if match := re.search(pattern, line):
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return match.group(1)
    raise AssertionError(f"{process.args} ended before it printed {pattern}: {''.join(lines)}")
