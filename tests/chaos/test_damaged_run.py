"""Every file of a run, with bytes changed at random: refused by name, or the same result."""

import itertools
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import small_run
from typer.testing import CliRunner

from attent_select.errors import AttentError
from catalogs import Corpus, IndexFile, LossCatalog
from catalogs.layout import Layout
from pipeline import metrics
from pipeline.cli.app import app
from pipeline.cluster import Client
from pipeline.config import run_config
from pipeline.stages import run
from trainers import checkpoint

CHANGES_PER_FILE = 25


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, shards: Path, client: Client) -> Path:
    folder = tmp_path_factory.mktemp("damaged") / "run"
    run(run_config.parse(small_run(folder, shards)), client=client)
    return folder


def _index(path: Path) -> Any:
    folder = str(path.parents[1])
    corpus = Corpus.open(folder)
    index = IndexFile.open(str(path), corpus=corpus)
    rows = [[values.tolist() for values in batch] for batch in index.batches()]
    return index.provenance, rows, index.uniform_positions().tolist()


def _losses(path: Path) -> Any:
    catalog = LossCatalog(str(path.parents[2]))
    return [catalog.digest(number) for number in catalog.rounds()]


def _checkpoint(path: Path) -> Any:
    folder = path.parent
    opened = checkpoint.open(str(folder))
    if opened is None:
        return None
    config = run_config.load_frozen(str(folder.parents[1]))
    models = config.task.task.load().models(config.model)
    with opened.local(with_state=True) as files:
        opened.load(models, folder=files)
    return opened


# The folder of a file in the run → what a command reads from it.
READERS: dict[str, Callable[[Path], Any]] = {
    "run.yaml": lambda path: run_config.load_frozen(str(path.parent)).to_plain_values(),
    "corpus": lambda path: Corpus.open(str(path.parents[1])).manifest().rows(),
    "index": _index,
    "losses/parts": _losses,
    "losses/snapshots": _losses,
    "losses/observed": lambda path: (
        LossCatalog(str(path.parents[3])).observed_losses().collect().rows()
    ),
    "metrics": lambda path: metrics.table(str(path.parents[1])).rows(),
    "checkpoints": _checkpoint,
}


def reader_of(path: Path, folder: Path) -> Callable[[Path], Any] | None:
    name = path.relative_to(folder).as_posix()
    return next((READERS[start] for start in READERS if name.startswith(start)), None)


def test_bytes_changed_at_random_are_refused_or_change_nothing(
    finished: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    source, times = random.Random(20), itertools.count(10**18)
    accepted = []
    for path in sorted(file for file in copy.rglob("*") if file.is_file()):
        read = reader_of(path, copy)
        if read is None:
            continue
        original, expected = path.read_bytes(), read(path)
        # Loading weights takes a moment.
        for _ in range(CHANGES_PER_FILE if "checkpoints" not in path.parts else 3):
            data = bytearray(original)
            for _ in range(source.choice([1, 1, 4])):
                data[source.randrange(len(data))] = source.randrange(256)
            if source.random() < 0.1:
                data = data[: source.randrange(len(data))]
            path.write_bytes(data)
            # A new time for each change: caches know a file by its time and size.
            os.utime(path, ns=(next(times), next(times)))
            try:
                result = read(path)
            except AttentError as error:
                is_right = error.exit_code == 2 and str(copy) in str(error)
                result = expected if is_right else error
            if result != expected:
                accepted.append((path.relative_to(copy), result, bytes(data)))
        path.write_bytes(original)
    assert not accepted


def test_damaged_weights_are_not_exported(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    weights = Path(Layout(str(copy)).checkpoint(2)) / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-4:] = b"\x00\x50\x9a\x44"
    weights.write_bytes(data)
    out = tmp_path / "model"
    done = CliRunner().invoke(app, ["export", str(copy), "--out", str(out)])
    assert done.exit_code == 2
    assert str(weights.parent) in done.output
    assert not out.exists()
