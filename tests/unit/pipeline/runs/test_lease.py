"""The lease: never two drivers on a run, and no driver blocked by a dead one."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from time import time

import pytest
from rival_drivers import most_at_once

from attent_select.errors import ExistsError
from catalogs import storage
from catalogs.layout import Layout
from pipeline.runs import lease
from pipeline.runs.lease import hold_lease
from pipeline.runs.ticket import Ticket

ELSEWHERE = Ticket(
    name="0" * 32, state="holding", host="elsewhere", pid=1, namespace="", expires=0.0
)


def publish_ticket(run: str, ticket: Ticket) -> None:
    url = f"{Layout(run).drivers}/{ticket.name}.json"
    storage.publish(url, json.dumps(asdict(ticket)).encode())


def tickets(run: str) -> list[str]:
    return [item.url for item in storage.list_objects(Layout(run).drivers)]


def test_a_second_driver_is_refused_with_the_process_of_the_first(tmp_path: Path) -> None:
    run = str(tmp_path)
    with hold_lease(run):
        with pytest.raises(ExistsError, match=rf"process {os.getpid()} on .* works on this run"):
            hold_lease(run).__enter__()
        assert len(tickets(run)) == 1, "the refused driver leaves no ticket"
    assert tickets(run) == []
    with hold_lease(run):
        pass


def test_the_lease_of_a_driver_on_another_machine_holds_until_it_expires(tmp_path: Path) -> None:
    run = str(tmp_path)
    publish_ticket(run, replace(ELSEWHERE, expires=time() + 50))
    with pytest.raises(ExistsError, match=r"process 1 on elsewhere .*expires in (49|50) s"):
        hold_lease(run).__enter__()
    publish_ticket(run, replace(ELSEWHERE, expires=time() - 1))
    with hold_lease(run):
        assert len(tickets(run)) == 1


def test_the_lease_of_a_driver_killed_on_this_machine_does_not_block(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from pipeline.runs.lease import hold_lease\n"
        "with hold_lease(sys.argv[1]):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(tickets(str(tmp_path))) == 1
    with hold_lease(str(tmp_path)):
        pass


def test_drivers_that_start_together_never_work_at_the_same_time(tmp_path: Path) -> None:
    assert most_at_once(str(tmp_path), drivers=6, turns=5) == 1
    assert tickets(str(tmp_path)) == []


@pytest.fixture
def fast_renewal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_RENEW_SECONDS", 0.02)


def test_a_lease_is_renewed_while_it_is_held(tmp_path: Path, fast_renewal: None) -> None:
    run = str(tmp_path)
    with hold_lease(run):
        (url,) = tickets(run)
        before = storage.read(url)
        while storage.read(url) == before:
            threading.Event().wait(0.01)
        assert Ticket(**json.loads(storage.read(url))).expires > time() + 50


@pytest.fixture
def sigint_raises() -> Iterator[None]:
    """Handle SIGINT as in a terminal; a script's background job, such as CI, ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_driver_whose_lease_was_taken_over_is_interrupted(
    tmp_path: Path, fast_renewal: None, sigint_raises: None, caplog: pytest.LogCaptureFixture
) -> None:
    run = str(tmp_path)

    def work() -> None:
        with hold_lease(run):
            (mine,) = tickets(run)
            publish_ticket(run, replace(ELSEWHERE, expires=time() + 50))
            storage.delete(mine)
            threading.Event().wait(60)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert "elsewhere works on this run" in caplog.text


def check_read(path: str) -> bytes:
    content = storage.read(path) if storage.info(path) is not None else None
    assert content is not None
    return content


@pytest.mark.parametrize("read", [storage.read, lambda path: Path(path).read_bytes(), check_read])
def test_an_error_of_a_driver_whose_lease_was_taken_over_names_the_other_driver(
    tmp_path: Path, read: Callable[[str], bytes]
) -> None:
    run = str(tmp_path)

    def work() -> None:
        with hold_lease(run):
            publish_ticket(run, replace(ELSEWHERE, expires=time() + 50))
            storage.delete(next(url for url in tickets(run) if ELSEWHERE.name not in url))
            read(f"{run}/removed.parquet")

    with pytest.raises(ExistsError, match="process 1 on elsewhere works on this run"):
        work()


def test_a_background_job_that_ignores_sigint_is_ended_when_its_lease_is_taken_over(
    tmp_path: Path,
) -> None:
    program = (
        "import signal, sys, threading\n"
        "from catalogs import storage\n"
        "from pipeline.runs import lease\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "lease._RENEW_SECONDS = 0.02\n"
        "with lease.hold_lease(sys.argv[1]):\n"
        "    storage.publish(sys.argv[2], sys.argv[3].encode())\n"
        "    threading.Event().wait(60)\n"
    )
    ticket = replace(ELSEWHERE, expires=time() + 500)
    url = f"{Layout(str(tmp_path)).drivers}/{ticket.name}.json"
    arguments = [str(tmp_path), url, json.dumps(asdict(ticket))]
    done = subprocess.run([sys.executable, "-c", program, *arguments], check=False, timeout=100)
    assert done.returncode == -signal.SIGTERM


def test_only_the_first_rank_of_a_launcher_needs_the_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    with hold_lease(str(tmp_path)):
        monkeypatch.setenv("RANK", "1")
        with hold_lease(str(tmp_path)):
            pass


def test_a_damaged_ticket_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    storage.publish(f"{Layout(str(tmp_path)).drivers}/x.json", b"{}")
    with pytest.raises(ExistsError, match=r"x\.json is not a ticket.*delete it if no driver works"):
        hold_lease(str(tmp_path)).__enter__()
