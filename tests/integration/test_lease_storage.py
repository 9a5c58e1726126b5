"""The lease on S3 servers that honour, ignore or reject conditional writes."""

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from time import time

import pytest
from faults import Faults, faulty, rejected
from rival_drivers import most_at_once
from servers import S3Server, moto_s3, rclone_s3

from attent_select.errors import ExistsError
from catalogs import storage
from catalogs.layout import Layout
from pipeline.runs import lease
from pipeline.runs.lease import hold_lease
from pipeline.runs.ticket import HOLDING, Ticket

ELSEWHERE = Ticket("0" * 32, HOLDING, host="elsewhere", pid=1, namespace="", expires=0.0)
HONOURS, IGNORES, REJECTS = "honours", "ignores", "rejects"


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, tuple[S3Server, Faults]]]:
    with ExitStack() as stack:
        moto, rclone = stack.enter_context(moto_s3()), stack.enter_context(rclone_s3())
        real = {HONOURS: moto, IGNORES: rclone, REJECTS: moto}
        yield {name: stack.enter_context(faulty(server)) for name, server in real.items()}


@pytest.fixture(params=[HONOURS, IGNORES, REJECTS])
def run(
    servers: dict[str, tuple[S3Server, Faults]],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """A run on one of the servers."""
    server, faults = servers[request.param]
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    faults.rule = rejected if request.param == REJECTS else lambda *_: None
    return f"{server.url}/{request.param}-{request.node.originalname}"


honoured = pytest.mark.parametrize("run", [HONOURS], indirect=True)


def test_drivers_that_start_together_never_work_at_the_same_time(run: str) -> None:
    assert most_at_once(run, drivers=4, turns=3) == 1


def test_a_second_driver_is_refused_until_the_first_has_ended(run: str) -> None:
    with hold_lease(run), pytest.raises(ExistsError, match="works on this run"):
        hold_lease(run).__enter__()
    with hold_lease(run):
        is_conditional = storage.info(Layout(run).lease) is not None
        assert is_conditional == (HONOURS in run)
        assert bool(storage.list_objects(Layout(run).drivers)) == (not is_conditional)


@honoured
def test_a_lease_of_another_machine_is_taken_over_once_it_has_expired(run: str) -> None:
    def publish(ticket: Ticket) -> None:
        storage.publish(Layout(run).lease, json.dumps(asdict(ticket)).encode())

    publish(replace(ELSEWHERE, expires=time() + 50))
    with pytest.raises(ExistsError, match=r"process 1 on elsewhere .*expires in (49|50) s"):
        hold_lease(run).__enter__()
    publish(replace(ELSEWHERE, expires=time() - 1))
    with hold_lease(run):
        assert b"elsewhere" not in storage.read(Layout(run).lease)


@honoured
def test_a_driver_whose_lease_was_taken_over_is_interrupted_and_one_that_lost_an_answer_is_not(
    run: str,
    servers: dict[str, tuple[S3Server, Faults]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(lease, "_RENEW_SECONDS", 0.02)
    interrupted = threading.Event()
    monkeypatch.setattr(lease, "_interrupt_main_thread", interrupted.set)
    url, faults = Layout(run).lease, servers[HONOURS][1]
    with hold_lease(run):
        for _ in range(3):
            faults.planned = ["lose"]
            before = storage.read(url)
            while faults.planned or storage.read(url) == before:
                threading.Event().wait(0.01)
        assert not interrupted.is_set()
        taken = replace(ELSEWHERE, expires=time() + 50)
        storage.publish(url, json.dumps(asdict(taken)).encode())
        assert interrupted.wait(60)
    assert "elsewhere works on this run" in caplog.text
    assert b"elsewhere" in storage.read(url), "the other's lease is left"
