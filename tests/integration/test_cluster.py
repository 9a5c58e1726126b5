"""Tasks in a rolling window, on a real cluster, and what happens when it is lost."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import pytest
from dask.utils import key_split
from distributed import Worker

from attent_select.errors import (
    AccessDeniedError,
    AttentError,
    ClusterError,
    CorpusMismatchError,
    ExistsError,
    InputError,
    MissingError,
    StorageError,
)
from pipeline.cluster import Client, connect, connect_when_needed, run_tasks, worker_processes
from pipeline.config.cluster_settings import ClusterSettings


@pytest.fixture(scope="module", autouse=True)
def _commands_share_a_cluster() -> None:
    """They do not: clusters are what is tested here."""


def double(number: int) -> int:
    return 2 * number


def refuse(number: int) -> int:
    raise InputError(f"no {number}")


def fail(kind: type[AttentError]) -> None:
    raise kind("gone") from OSError(5, "why")


def touch_and_hang(path: str) -> None:
    Path(path).touch()
    time.sleep(600)  # until its process is killed


def test_every_task_comes_back_with_its_result(client: Client) -> None:
    assert sorted(run_tasks(client, double, range(20))) == [(n, 2 * n) for n in range(20)]


def profiled_functions(dask_worker: Worker) -> int:
    return len(dask_worker.profile_history)


def test_workers_that_are_started_here_record_no_profile_which_would_grow_for_hours(
    client: Client,
) -> None:
    list(run_tasks(client, double, [1]))
    enabled = client.run(dask.config.get, "distributed.worker.profile.enabled")
    assert set(enabled.values()) == {False}
    assert set(client.run(profiled_functions).values()) == {0}


def test_the_names_of_old_tasks_are_forgotten(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.cluster.tasks._MAX_REMEMBERED", 20)
    assert len(list(run_tasks(client, double, range(70)))) == 70
    assert key_split.cache_info().currsize < 40


def test_a_scheduler_that_is_started_here_keeps_a_short_history(client: Client) -> None:
    list(run_tasks(client, double, range(60)))
    untyped: Any = client
    scheduler = untyped.cluster.scheduler
    # Each task has four transitions or more.
    assert len(scheduler.transition_log) == 100
    assert {values.maxlen for values in scheduler.monitor.quantities.values()} == {120}


def test_tasks_are_drawn_only_as_the_window_allows(client: Client) -> None:
    drawn: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            drawn.append(number)
            yield number

    results = run_tasks(client, double, numbers(), window_per_thread=2)
    for finished in range(1, 11):
        next(results)
        assert len(drawn) <= 4 + finished
    results.close()


def variable(name: str) -> str | None:
    return os.environ.get(name)


def parent(_: int) -> int:
    return os.getppid()


def test_workers_are_copies_of_one_process_with_the_variables_of_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parents = set()
    for value in ("first", "second"):
        monkeypatch.setenv("ATTENT_TEST_VARIABLE", value)
        with connect(ClusterSettings(workers=1)) as client:
            assert list(run_tasks(client, variable, ["ATTENT_TEST_VARIABLE"])) == [
                ("ATTENT_TEST_VARIABLE", value)
            ]
            parents |= {pid for _, pid in run_tasks(client, parent, [0])}
    assert len(parents) == 1
    assert parents != {os.getpid()}


@pytest.mark.parametrize("reason", ["an accelerator", "Dask's configuration", "another system"])
def test_workers_begin_as_dask_starts_them_where_copies_may_fail(
    reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_processes, "_ACCELERATORS", ())
    method = "distributed.worker.multiprocessing-method"
    with dask.config.set({method: "spawn"}):  # as without a cluster of another test
        assert worker_processes.dask_config()
    if reason == "an accelerator":
        monkeypatch.setattr(worker_processes, "_ACCELERATORS", (str(tmp_path),))
    if reason == "another system":
        monkeypatch.setattr(worker_processes, "_IS_LINUX", False)
    with dask.config.set({method: "fork" if reason == "Dask's configuration" else "spawn"}):
        assert worker_processes.dask_config() == {}
        assert worker_processes.environment() == {}


def pid_of_run(task: tuple[str, Path, bool]) -> int:
    """Return the pid of this process, which dies in the second run of a task that `dies`."""
    name, runs, dies = task
    with (runs / name).open("a") as file:
        file.write("run\n")
    if dies and len((runs / name).read_text().splitlines()) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def num_results(client: Client) -> int:
    untyped: Any = client
    return sum(len(keys) for keys in untyped.has_what().values())


def test_a_result_whose_worker_dies_before_it_is_fetched_is_computed_again(tmp_path: Path) -> None:
    tasks, deaths = [("first", tmp_path, False), ("second", tmp_path, True)], []
    with connect(ClusterSettings(workers=1)) as client:
        results = run_tasks(client, pid_of_run, tasks, on_death=deaths.append)
        (name, *_), pid = next(results)
        assert name == "first"
        while num_results(client) < 2:  # of both tasks
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        (name, *_), other = next(results)
        assert (name, list(results)) == ("second", [])
    assert other != pid
    # The scheduler repeated it, and its worker died: then it was started again.
    assert len((tmp_path / "second").read_text().splitlines()) == 3
    assert deaths == tasks[1:]


def test_the_error_of_a_task_is_raised_as_it_is(client: Client) -> None:
    with pytest.raises(InputError, match="no 3"):
        list(run_tasks(client, refuse, [3]))


@pytest.mark.parametrize(
    "kind",
    [
        InputError,
        MissingError,
        ExistsError,
        CorpusMismatchError,
        StorageError,
        AccessDeniedError,
        ClusterError,
    ],
)
def test_every_kind_of_error_comes_back_from_a_worker_as_what_it_is(
    kind: type[AttentError], client: Client
) -> None:
    with pytest.raises(kind) as caught:
        list(run_tasks(client, fail, [kind]))
    assert (type(caught.value), str(caught.value)) == (kind, "gone")


def test_a_cluster_is_only_started_when_it_is_needed() -> None:
    nowhere = ClusterSettings(scheduler="tcp://127.0.0.1:9", connect_timeout_seconds=0.5)
    with (
        connect_when_needed(nowhere) as cluster,
        pytest.raises(InputError, match="no scheduler answered"),
    ):
        cluster()


@contextmanager
def processes(address_file: Path) -> Iterator[tuple[str, dict[str, subprocess.Popen[bytes]]]]:
    """A scheduler and one worker in subprocesses, and the scheduler's address."""
    code = (
        "import asyncio, sys, pathlib\n"
        "from distributed import Scheduler\n"
        "async def main():\n"
        "    async with Scheduler(host='127.0.0.1', port=0, dashboard=False) as s:\n"
        "        path = pathlib.Path(sys.argv[1]); new = path.with_suffix('.new')\n"
        "        new.write_text(s.address); new.rename(path)\n"
        "        await s.finished()\n"
        "asyncio.run(main())\n"
    )
    scheduler = subprocess.Popen([sys.executable, "-c", code, str(address_file)])
    started = {"scheduler": scheduler}
    try:
        while not address_file.exists():
            assert scheduler.poll() is None
        address = address_file.read_text()
        worker = ["-m", "distributed.cli.dask_worker", address, "--no-nanny", "--nthreads=1"]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([*sys.path, os.fspath(Path.cwd())])
        }
        started["worker"] = subprocess.Popen(
            [sys.executable, *worker, "--no-dashboard"], env=environment, stderr=subprocess.DEVNULL
        )
        yield address, started
    finally:
        for process in started.values():
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("lost", "message"),
    [("scheduler", "connection to the Dask scheduler was lost"), ("worker", "had no worker for")],
)
def test_a_lost_cluster_is_noticed_and_the_message_says_how_to_go_on(
    tmp_path: Path, lost: str, message: str
) -> None:
    with processes(tmp_path / "address") as (address, started):
        settings = ClusterSettings(scheduler=address)
        with connect(settings) as client:
            assert list(run_tasks(client, double, [1])) == [(1, 2)]

            def kill_once_running() -> None:
                while not (tmp_path / "running").exists():
                    pass
                started[lost].kill()

            killer = threading.Thread(target=kill_once_running)
            killer.start()
            tasks = [str(tmp_path / "running")]
            with pytest.raises(ClusterError, match=message) as caught:
                list(run_tasks(client, touch_and_hang, tasks, patience_seconds=1.0))
            killer.join()
            assert "run the same command again" in str(caught.value)
            assert caught.value.exit_code == 130


FROM_ANOTHER_FOLDER = """
from pipeline.cluster import connect
from pipeline.config.cluster_settings import ClusterSettings
import pipeline.scoring.driver

if __name__ == "__main__":
    with connect(ClusterSettings(workers=1)) as client:
        print(client.submit(len, "four").result())
"""


def test_workers_do_not_import_from_the_current_folder_of_a_program_elsewhere(
    tmp_path: Path,
) -> None:
    for package in ("attent_select", "pipeline"):
        (tmp_path / "here" / package).mkdir(parents=True)
        (tmp_path / "here" / package / "__init__.py").write_text("raise SystemExit('not mine')")
    program = tmp_path / "program.py"
    program.write_text(FROM_ANOTHER_FOLDER)
    result = subprocess.run(
        [sys.executable, program],
        check=False,
        cwd=tmp_path / "here",
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout) == (0, "4\n"), result.stderr
