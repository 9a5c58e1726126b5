"""`attent train` under torchrun: several processes train one round, one of them writes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_runs import small_run, write_shards

from pipeline import metrics, stages

ROOT = Path(__file__).parents[2]


def test_two_processes_train_a_round_as_one_would(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards")
    plain = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    values = small_run(tmp_path / "one", shards, schedule__epochs=1)
    values["model"]["config"] |= plain
    for name in ("one", "two"):
        configuration = tmp_path / f"{name}.yaml"
        configuration.write_text(yaml.safe_dump(values | {"run": str(tmp_path / name)}))
        stages.score(str(configuration))
    stages.train(str(tmp_path / "one"))
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
        *("-m", "pipeline.cli", "train", str(tmp_path / "two")),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment, check=True)
    one, two = (metrics.read(str(tmp_path / name), 0) for name in ("one", "two"))
    assert one is not None
    assert two is not None
    for name in ("train_loss", "samples_seen", "eval_loss", "accuracy"):
        assert two[name] == pytest.approx(one[name], rel=1e-4)
