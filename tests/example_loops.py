"""The loops of examples/, run as their first lines say, on a few digits."""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import launched
import polars as pl
import torch
from digits import VIT, samples, stream_of, write_corpus, write_index
from safetensors.torch import load_file

from catalogs import Corpus, IndexFile
from pipeline.config import run_config

ROOT = Path(__file__).parents[1]
LOOPS = ("torch_loop", "lightning_loop", "hf_trainer")
NUM_SAMPLES, BATCH_SIZE = 58, 5  # 12 steps, the last of 3 samples; checkpoints after 5 and 10
Steps = dict[int, list[list[int]]]


@dataclass(frozen=True)
class Loop:
    """An example, to be run on a run that says how."""

    name: str
    folder: Path
    micro_batch_size: int | None = None
    dropout: float = 0.0
    num_ranks: int = 1
    suffix: str = ""

    @property
    def label(self) -> str:
        settings = (self.name, self.num_ranks, self.micro_batch_size, self.dropout, self.suffix)
        return "-".join(map(str, settings))

    @property
    def out(self) -> Path:
        return self.folder / self.label

    def launch(self, *, kill: str = "", restarts: int = 0) -> int:
        """Run the command; its exit code. `kill` is the rank and the step in which it dies."""
        program = ROOT / f"examples/{self.name}.py"
        run, index = self._run(), self.folder / "index.parquet"
        return launched.launch(
            *(program, run, index, self.out),
            output=Path(f"{self.out}.output"),
            num_ranks=self.num_ranks,
            restarts=restarts,
            environment=os.environ | {"WATCHED_LOG": str(self.out), "WATCHED_KILL": kill},
        )

    def trained_on(self, *, attempt: int = 0) -> Steps:
        """Step → the (shard, row) that all ranks together took in it, sorted; since the
        launcher's restart number `attempt`.
        """
        found: Steps = {}
        for path in self.folder.glob(f"{self.label}-{attempt}-[01].jsonl"):
            for step, rows in map(json.loads, path.read_text().splitlines()):
                found[step] = sorted([*found.get(step, []), *rows])
        return found

    def weights(self) -> dict[str, torch.Tensor]:
        """Weights of the model at the end."""
        if self.name == "hf_trainer":
            return load_file(self.out / "model.safetensors")
        path = self.out / "last.ckpt" if self.name == "lightning_loop" else self.out
        saved = torch.load(path, weights_only=True)
        found = saved["learner" if self.name == "torch_loop" else "state_dict"]
        return {name.removeprefix("model."): tensor for name, tensor in found.items()}

    def _run(self) -> Path:
        """A run with these settings, made unless it is there."""
        run = self.folder / f"run-{self.label}"
        rates = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), self.dropout)
        values: dict[str, Any] = {
            "run": str(run),
            "corpus": {"shards": [str(self.folder / "shards")]},
            "task": {"name": "watched.Watched", "image_size": 8, "num_channels": 1},
            "model": {"config": VIT["config"] | rates},
            "schedule": {"epochs": 1},
            "training": {
                "batch_size": BATCH_SIZE,
                "micro_batch_size": self.micro_batch_size,
                "save_steps": 5,
                "torch_threads": 1,
                "lr_scheduler": "constant",
                # Adam and clipping forgive a loss of the wrong scale; this does not.
                "learning_rate": 0.1,
                "max_grad_norm": 0.0,
                "arguments": {"optim": "sgd"},
            },
        }
        run_config.freeze(run_config.parse(values))
        Corpus.open(str(self.folder)).save(str(run))
        return run


def write_data(folder: Path) -> Path:
    """Write a corpus and an index of all its rows, with weights of 0.5 and 1.5."""
    corpus = write_corpus(folder / "shards", samples(NUM_SAMPLES))
    corpus.save(str(folder))
    write_index(folder / "index.parquet", corpus, weights=0.5 + pl.col("row") % 2)
    return folder


def canonical(folder: Path) -> Steps:
    """The global batches, read off a stream that has nothing to do with the loops."""
    corpus = Corpus.open(str(folder))
    index = IndexFile.open(str(folder / "index.parquet"), corpus=corpus)
    stream = stream_of(index, corpus, None, seed=0, batch_size=BATCH_SIZE)
    rows = {
        int(batch["step"]): sorted(torch.stack([batch["shard_id"], batch["row"]], dim=1).tolist())
        for batch in stream
    }
    assert len(rows) == 12
    return rows


def assert_a_killed_rank_resumes(loop: Loop) -> None:
    """Kill one of two ranks of a loop that ended undisturbed; compare batches and weights."""
    killed = replace(loop, suffix="killed")
    assert killed.launch(kill="1,7", restarts=1) == 0
    assert list(killed.trained_on(attempt=1)) == list(range(5, 12))
    before = {step: rows for step, rows in killed.trained_on().items() if step < 7}
    assert before | killed.trained_on(attempt=1) == loop.trained_on()
    found = killed.weights()
    for name, tensor in loop.weights().items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-7, msg=name)
