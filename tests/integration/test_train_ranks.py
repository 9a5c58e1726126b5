"""`attent train` and `attent run` under torchrun: all ranks train, the first does the rest."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import launched
import pytest
import yaml
from commands import the_object
from process_copies import ATTENT
from small_runs import often_saved, write_shards

from pipeline import metrics, stages
from pipeline.cluster import Client

ROOT = Path(__file__).parents[2]
# Without dropout, which two ranks draw differently from one.
PLAIN = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SAME = ("train_loss", "samples_seen", "eval_loss", "accuracy")


def on_two_ranks(*arguments: str) -> str:
    """Return the stdout of `attent ARGUMENTS`."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
        *("-m", "attent_select", *arguments),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def write_configuration(folder: Path, name: str, **replaced: Any) -> Path:
    values = often_saved(folder / name, folder / "shards", **replaced)
    values["model"]["config"] |= PLAIN
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_two_ranks_train_a_round_like_one(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards")
    for name in ("one", "two"):
        stages.score(str(write_configuration(tmp_path, name, schedule__epochs=1)))
    stages.train(str(tmp_path / "one"))
    arguments, output = (ATTENT, "train", tmp_path / "two"), tmp_path / "output"
    assert launched.launch(*arguments, output=output, num_ranks=2) == 0
    one, two = (metrics.read(str(tmp_path / name), 0) for name in ("one", "two"))
    assert one is not None
    assert two is not None
    for name in SAME:
        assert two[name] == pytest.approx(one[name], rel=1e-4)


def test_two_ranks_do_a_whole_run_like_one_and_print_one_answer(
    tmp_path: Path, client: Client
) -> None:
    write_shards(tmp_path / "shards")
    one = stages.run(str(write_configuration(tmp_path, "one")), client=client)
    cluster = {"scheduler": client.scheduler.address}  # type: ignore[union-attr]
    output = on_two_ranks(
        "run", str(write_configuration(tmp_path, "two", cluster=cluster)), "--json"
    )
    two = the_object(output)
    assert len(two["rounds"]) == len(one["rounds"]) == 3
    for ours, theirs in zip(two["rounds"], one["rounds"], strict=True):
        for name in ("round", "phase", "num_samples", "samples_seen", "num_steps"):
            assert ours[name] == theirs[name]
        # Losses that differ in their last digits may select another sample at the threshold.
        for name in ("train_loss", "eval_loss"):
            assert ours[name] == pytest.approx(theirs[name], rel=0.02)
