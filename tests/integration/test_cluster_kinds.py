"""Clusters of every kind, and workers that are not fit for the work."""

import contextlib
import datetime
import ipaddress
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from small_runs import small_run
from typer.testing import CliRunner

from attent_select.errors import ClusterError, InputError
from catalogs import storage
from pipeline import score
from pipeline.cli.app import app
from pipeline.cluster import Client, cluster_size, connect, run_tasks, worker_check
from pipeline.config import run_config
from pipeline.config.cluster_settings import Adaptive, ClusterSettings, SecurityFiles
from pipeline.corpus.ingest import ingest
from pipeline.selection.choice import Budget
from pipeline.selection.select_command import select_losses

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _commands_share_a_cluster() -> None:
    """They do not: clusters are what is tested here."""


def double(number: int) -> int:
    return 2 * number


def test_a_cluster_class_is_started_with_its_arguments_and_scaled() -> None:
    settings = ClusterSettings(
        scheduler="dask.distributed.LocalCluster",
        arguments={"n_workers": 0, "threads_per_worker": 3, "dashboard_address": None},
        workers=1,
        resources={},
    )
    with connect(settings) as client:
        assert cluster_size(client).threads == 3
        assert sorted(run_tasks(client, double, [1, 2])) == [(1, 2), (2, 4)]


def test_an_adaptive_cluster_grows_with_the_work() -> None:
    settings = ClusterSettings(adaptive=Adaptive(minimum=1, maximum=2))
    with connect(settings) as client:
        assert cluster_size(client).workers == 1
        list(run_tasks(client, wait_for_another, [1, 2], window_per_thread=2))


def wait_for_another(number: int) -> int:
    """Return once there are two workers."""
    from distributed import get_client

    get_client().wait_for_workers(2, timeout=300)
    return number


UNUSABLE = [
    ({"scheduler": "no_such_package.Cluster"}, "cannot load no_such_package.Cluster"),
    ({"scheduler": "dask.distributed.NoCluster"}, "cannot load dask.distributed.NoCluster"),
    (
        {"scheduler": "dask.distributed.LocalCluster", "arguments": {"partition": "gpu"}},
        "cluster.arguments: cannot start dask.distributed.LocalCluster with these arguments",
    ),
    (
        {"security": {"ca_file": "/no/ca", "cert_file": "/no/cert", "key_file": "/no/key"}},
        "cluster.security.ca_file: /no/ca was not found",
    ),
]


@pytest.mark.parametrize(("settings", "message"), UNUSABLE)
def test_a_cluster_that_cannot_be_started_says_what_to_change(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message), connect(ClusterSettings(**settings)):
        pass


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arguments": {"queue": "gpu"}}, "arguments need a cluster class"),
        ({"adaptive": {"minimum": 3, "maximum": 2}}, "maximum is 2: expected at least 3"),
        ({"scheduler": "tcp://h:1", "adaptive": {"maximum": 2}}, "adaptive needs a cluster"),
        ({"resources": {"GPU": 0}}, "GPU is 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    settings: dict[str, Any], message: str, tmp_path: Path, shards: Path
) -> None:
    values = small_run(tmp_path / "run", shards, cluster=settings)
    with pytest.raises(InputError, match=f"cluster.*{message}"):
        run_config.parse(values)


def certificate(folder: Path) -> SecurityFiles:
    """A key and a certificate that signs itself, for this machine."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = signed.public_bytes(serialization.Encoding.PEM)
    (folder / "cert.pem").write_bytes(pem)
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    cert, private = str(folder / "cert.pem"), str(folder / "key.pem")
    return SecurityFiles(ca_file=cert, cert_file=cert, key_file=private)


def test_everything_is_encrypted_with_certificates_and_refused_without(tmp_path: Path) -> None:
    files = certificate(tmp_path)
    with connect(ClusterSettings(workers=1, security=files)) as client:
        address = client.scheduler.address
        assert address.startswith("tls://")
        assert list(run_tasks(client, double, [4])) == [(4, 8)]
        with connect(ClusterSettings(scheduler=address, security=files)) as other:
            assert list(run_tasks(other, double, [5])) == [(5, 10)]
        bare = ClusterSettings(scheduler=address, connect_timeout_seconds=5)
        with pytest.raises(InputError, match="no scheduler answered"), connect(bare):
            pass


@contextlib.contextmanager
def with_worker(client: Client, *arguments: str, path: Path | None = None) -> Iterator[str]:
    """One more worker in a subprocess, with `path` first on its import path."""
    before = set(client.scheduler_info(n_workers=-1)["workers"])
    places = [str(path)] if path else []
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([*places, str(ROOT), str(ROOT / "tests")])
    }
    command = [sys.executable, "-m", "dask", "worker", client.scheduler.address, "--no-nanny"]
    process = subprocess.Popen(
        [*command, "--nthreads", "1", "--no-dashboard", *arguments],
        env=environment,
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        client.wait_for_workers(len(before) + 1, timeout=60)
        (address,) = set(client.scheduler_info(n_workers=-1)["workers"]) - before
        yield address
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def lone() -> Iterator[Client]:
    """A cluster of one worker, to be joined by others."""
    with connect(ClusterSettings(workers=1)) as client:
        yield client


def test_workers_without_what_a_task_needs_are_an_error_and_no_silent_wait(lone: Client) -> None:
    gpu = ClusterSettings(scheduler=lone.scheduler.address, resources={"GPU": 1})
    with (
        pytest.raises(InputError, match=r"needs GPU=1, the worker at tcp.*--resources \"GPU=1\""),
        connect(gpu),
    ):
        pass
    tasks = run_tasks(lone, double, [1], resources={"GPU": 1}, patience_seconds=0.1)
    with pytest.raises(ClusterError, match=r"no worker that offers \{'GPU': 1\}"):
        list(tasks)


def test_a_task_goes_to_the_workers_that_offer_what_it_takes(lone: Client) -> None:
    with with_worker(lone, "--resources", "slot=1") as address:
        assert cluster_size(lone, resources={"slot": 1}).threads == 1
        done = run_tasks(lone, where, range(4), resources={"slot": 1})
        assert {found for _, found in done} == {address}


def where(number: int) -> str:
    from distributed import get_worker

    return str(get_worker().address)


def test_a_gpu_that_torch_does_not_see_is_told_before_anything_is_submitted(
    lone: Client, shards: Path
) -> None:
    with pytest.raises(InputError, match="offers a GPU, but torch there sees none"):
        worker_check.check_workers(lone, objects={}, needs_gpu=True)


def test_a_worker_of_another_version_is_named_with_what_differs(
    lone: Client, tmp_path: Path, shards: Path
) -> None:
    other = tmp_path / "polars-1.0.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: polars\nVersion: 1.0.0\n")
    settings = run_config.parse(small_run(tmp_path / "run", shards, schedule__warmup_epochs=0))
    with (
        with_worker(lone, path=tmp_path) as address,
        pytest.raises(InputError, match=rf"worker {address}: has polars 1\.0\.0, the driver has"),
    ):
        score(settings, client=lone)
    assert score(settings, client=lone).scored == 240, "nothing was submitted before"


def test_selecting_and_ingesting_compare_the_workers_first_too(
    lone: Client, tmp_path: Path, shards: Path
) -> None:
    other = tmp_path / "dask-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: dask\nVersion: 1.0\n")
    losses = tmp_path / "losses.parquet"
    pl.DataFrame({"shard_id": [0], "row": [0], "loss": [1.0]}).write_parquet(losses)
    run, scheduler = tmp_path / "run", lone.scheduler.address
    how = {"out": None, "budget": Budget(ratio=1), "dry_run": True}
    with with_worker(lone, path=tmp_path) as address:
        said = rf"worker {address}: has dask 1\.0, the driver has"
        with pytest.raises(InputError, match=said):
            select_losses(str(losses), scheduler=scheduler, **how)
        with pytest.raises(InputError, match=said):
            ingest([str(shards / "parquet")], folder=str(run), client=lone)
    assert not run.exists()


@pytest.mark.parametrize("command", ["select", "ingest"])
def test_a_scheduler_that_is_none_is_refused(tmp_path: Path, shards: Path, command: str) -> None:
    losses = tmp_path / "losses.parquet"
    pl.DataFrame({"shard_id": [0], "row": [0], "loss": [1.0]}).write_parquet(losses)
    source = losses if command == "select" else shards / "parquet"
    more = ["--ratio", "1"] if command == "select" else []
    out = tmp_path / "out"
    arguments = [command, str(source), "--out", str(out), "--scheduler", "dask", *more]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert "scheduler: expected `local`, an address such as" in done.stderr
    assert not out.exists()


def test_a_worker_that_joins_later_refuses_the_work_of_another_version() -> None:
    worker_check.check_here(worker_check.environment())
    with pytest.raises(ClusterError, match=r"a worker on .* has torch .*, the driver has 1\.0"):
        worker_check.check_here(dict(worker_check.environment()) | {"torch": "1.0"})


def test_a_worker_too_old_to_say_what_it_is_is_named(lone: Client, tmp_path: Path) -> None:
    old = tmp_path / "attent_select"
    old.mkdir()
    (old / "__init__.py").write_text("")
    with (
        with_worker(lone, path=tmp_path) as address,
        pytest.raises(InputError, match=f"worker {address}: .*attent_select"),
    ):
        worker_check.check_workers(lone, objects={}, needs_gpu=False)


@pytest.mark.parametrize("name", ["trainers", "pipeline"])
def test_a_worker_with_another_package_of_the_same_name_is_named(
    lone: Client, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    said = f"the package `{name}` is {tmp_path / name}, which hides"
    with (
        with_worker(lone, path=tmp_path) as address,
        pytest.raises(InputError, match=re.escape(f"worker {address}: {said}")),
    ):
        worker_check.check_workers(lone, objects={}, needs_gpu=False)


def test_a_worker_that_does_not_see_the_shards_is_named(lone: Client, tmp_path: Path) -> None:
    path = tmp_path / "shard.parquet"
    path.write_bytes(b"data")
    found = storage.info(str(path))
    assert found is not None
    worker_check.check_workers(lone, objects={str(path): found.etag}, needs_gpu=False)
    with pytest.raises(InputError, match=r"worker tcp.*: sees another object at .*shard"):
        worker_check.check_workers(lone, objects={str(path): "other"}, needs_gpu=False)
    path.unlink()
    with pytest.raises(InputError, match=r"cannot read .*shard.*local paths need workers on this"):
        worker_check.check_workers(lone, objects={str(path): found.etag}, needs_gpu=False)


def end_at_once() -> list[str]:
    """End the worker that is asked."""
    os.kill(os.getpid(), signal.SIGKILL)
    return []


def test_a_worker_that_ends_during_the_check_is_not_called_an_older_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with connect(ClusterSettings(workers=1)) as client:
        monkeypatch.setattr(worker_check.siblings, "clashes", end_at_once)
        worker_check.check_workers(client, objects={}, needs_gpu=False)
