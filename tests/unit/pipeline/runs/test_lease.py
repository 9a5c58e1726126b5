"""One driver per run: refused, taken over, and never two at a time."""

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from time import time

import pytest

from attent_select.errors import ExistsError
from catalogs import storage
from catalogs.layout import Layout
from pipeline.runs import lease
from pipeline.runs.lease import Ticket, held

ELSEWHERE = Ticket(
    name="0" * 32, state="holding", host="elsewhere", pid=1, namespace="", expires=0.0
)


def leave(run: str, ticket: Ticket) -> None:
    url = f"{Layout(run).drivers}/{ticket.name}.json"
    storage.publish(url, json.dumps(asdict(ticket)).encode())


def tickets(run: str) -> list[str]:
    return [found.url for found in storage.list_objects(Layout(run).drivers)]


def test_a_second_driver_is_refused_and_told_who_is_at_work(tmp_path: Path) -> None:
    run = str(tmp_path)
    with held(run):
        with pytest.raises(ExistsError, match=rf"process {os.getpid()} on .* works on this run"):
            held(run).__enter__()
        assert len(tickets(run)) == 1, "the refused one leaves nothing"
    assert tickets(run) == []
    with held(run):
        pass


def test_the_lease_of_a_driver_elsewhere_counts_until_its_time_is_over(tmp_path: Path) -> None:
    run = str(tmp_path)
    leave(run, replace(ELSEWHERE, expires=time() + 50))
    with pytest.raises(ExistsError, match=r"process 1 on elsewhere .*ends in (49|50) s"):
        held(run).__enter__()
    leave(run, replace(ELSEWHERE, expires=time() - 1))
    with held(run):
        assert len(tickets(run)) == 1


def test_a_driver_that_was_killed_here_is_taken_over_at_once(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from pipeline.runs.lease import held\n"
        "with held(sys.argv[1]):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(tickets(str(tmp_path))) == 1
    with held(str(tmp_path)):
        pass


def test_of_many_that_come_at_once_never_two_are_at_work(tmp_path: Path) -> None:
    inside, most, entered = 0, 0, 0
    lock = threading.Lock()
    start = threading.Barrier(6)

    def drive(_: int) -> bool:
        nonlocal inside, most, entered
        start.wait()
        try:
            with held(str(tmp_path)):
                with lock:
                    inside, entered = inside + 1, entered + 1
                    most = max(most, inside)
                threading.Event().wait(0.02)
                with lock:
                    inside -= 1
        except ExistsError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        for _ in range(5):
            assert any(list(pool.map(drive, range(6))))
    assert (most, tickets(str(tmp_path))) == (1, [])


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_RENEW_SECONDS", 0.02)


def test_a_lease_is_renewed_while_it_is_held(tmp_path: Path, hasty: None) -> None:
    run = str(tmp_path)
    with held(run):
        (url,) = tickets(run)
        before = storage.read(url)
        while storage.read(url) == before:
            threading.Event().wait(0.01)
        assert Ticket(**json.loads(storage.read(url))).expires > time() + 50


def test_a_driver_whose_lease_was_taken_over_is_interrupted(
    tmp_path: Path, hasty: None, caplog: pytest.LogCaptureFixture
) -> None:
    run = str(tmp_path)

    def work() -> None:
        with held(run):
            (mine,) = tickets(run)
            leave(run, replace(ELSEWHERE, expires=time() + 50))
            storage.delete(mine)
            threading.Event().wait(60)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert "elsewhere works on this run" in caplog.text


def test_ranks_of_a_training_other_than_the_first_need_no_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    with held(str(tmp_path)):
        monkeypatch.setenv("RANK", "1")
        with held(str(tmp_path)):
            pass


def test_a_ticket_that_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    storage.publish(f"{Layout(str(tmp_path)).drivers}/x.json", b"{}")
    with pytest.raises(ExistsError, match=r"x\.json is no ticket.*delete it if nothing works"):
        held(str(tmp_path)).__enter__()
