"""A task that writes down what it was trained on, and that can kill its process; for loops that run
in separate processes. As the name of a configuration's task: `watched.Watched`.
"""

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import torch

from trainers.task import Batch
from trainers.tasks.image_classification import ImageClassification

RANK = int(os.environ.get("RANK", "0"))
ATTEMPT = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
# Where to write down; and the rank that dies in the first attempt, with the step in which it does.
LOG = os.environ.get("WATCHED_LOG", "")
KILL = os.environ.get("WATCHED_KILL", "")


@dataclass(frozen=True)
class Watched(ImageClassification):
    """Write the step and (shard, row)s of each micro-batch, without stand-ins, to
    `$WATCHED_LOG-<attempt>-<rank>.jsonl`.
    """

    def per_sample_loss(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        step = int(batch["step"])
        if f"{RANK},{step}" == KILL and ATTEMPT == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        rows = torch.stack([batch["shard_id"], batch["row"]], dim=1)[batch["weight"] > 0]
        with Path(f"{LOG}-{ATTEMPT}-{RANK}.jsonl").open("a") as file:
            file.write(json.dumps([step, rows.tolist()]) + "\n")
        return super().per_sample_loss(model, batch)
