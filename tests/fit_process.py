"""One call of `fit` in a subprocess, for tests that kill it or run several ranks.

`python fit_process.py REQUEST.json`: see `FitRequest`. The first rank writes observed losses and
the result beside the checkpoint.
"""

import json
import os
import signal
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import launched
import polars as pl


@dataclass(frozen=True)
class FitRequest:
    """What to train. `out` is the checkpoint; results are in `<out>.losses` and `<out>.json`."""

    run: str  # holds the corpus
    index: str
    out: str
    model: dict[str, Any]
    training: dict[str, Any]
    stream: dict[str, Any]
    start: str | None = None
    first_step: int = 0
    total_steps: int = 0  # 0: those of the stream
    kill_after_step: int = 0  # 0: never
    shard_on_cpu: bool = False
    text: dict[str, Any] | None = None  # settings of causal_lm; None: the digits
    patches: dict[str, float] | None = None  # of the digits


def launch(request: FitRequest, *, num_ranks: int = 1) -> int:
    """Run `request` in a process for each rank and return the exit code of the first that fails."""
    path = Path(f"{request.out}.request.json")
    path.write_text(json.dumps(asdict(request)))
    return launched.launch(
        __file__, path, output=Path(f"{request.out}.output"), num_ranks=num_ranks
    )


def observed(request: FitRequest) -> pl.DataFrame:
    """Return the observed losses of a launched request."""
    files = sorted(Path(f"{request.out}.losses").glob("*.parquet"))
    return pl.concat([pl.read_parquet(file) for file in files]).sort("step", "shard_id", "row")


def result(request: FitRequest) -> dict[str, Any]:
    """Return the `FitResult` of a launched request."""
    values: dict[str, Any] = json.loads(Path(f"{request.out}.json").read_text())
    return values


def let_cpus_shard() -> None:
    """Let Accelerate use FSDP without an accelerator.

    It ignores an FSDP plug-in on CPUs, although sharding, gathering and saving work with gloo.
    """
    from accelerate import state
    from accelerate.utils import DistributedType

    plain = state.AcceleratorState.__init__

    def init(self: Any, *args: Any, fsdp_plugin: Any = None, **others: Any) -> None:
        plain(self, *args, fsdp_plugin=fsdp_plugin, **others)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            state.PartialState._shared_state["distributed_type"] = self.distributed_type

    state.AcceleratorState.__init__ = init


def main(request: FitRequest) -> None:
    from digits import TASK, stream_of
    from pydantic import TypeAdapter

    from catalogs.corpus import Corpus
    from catalogs.index import IndexFile
    from trainers import fit
    from trainers.scoring.patches import PatchDropping
    from trainers.settings import TrainingSettings
    from trainers.tasks.causal_lm import CausalLm

    patches = None if request.patches is None else PatchDropping(**request.patches)
    task = replace(TASK, patches=patches) if request.text is None else CausalLm(**request.text)
    if request.shard_on_cpu:
        let_cpus_shard()
    corpus = Corpus.open(request.run)
    settings = TypeAdapter(TrainingSettings).validate_python(request.training)
    stream = stream_of(
        IndexFile.open(request.index, corpus=corpus),
        corpus,
        task,
        batch_size=settings.batch_size,
        micro_batch_size=settings.micro_batch_size,
        micro_batch_units=settings.micro_batch_units,
        rank=int(os.environ.get("RANK", "0")),
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        **request.stream,
    )
    losses = Path(f"{request.out}.losses")

    def on_losses(first_step: int, frame: pl.DataFrame) -> None:
        losses.mkdir(exist_ok=True)
        frame.write_parquet(losses / f"{first_step:06d}.parquet")

    def on_step(step: int) -> None:
        if step == request.kill_after_step:
            os.kill(os.getpid(), signal.SIGKILL)

    finished = fit(
        stream,
        task=task,
        models=task.models(request.model),
        start=request.start,
        out=request.out,
        settings=settings,
        first_step=request.first_step,
        total_steps=request.total_steps or stream.num_steps,
        seed=7,
        on_losses=on_losses,
        on_step=on_step,
    )
    if stream.share.rank == 0:
        Path(f"{request.out}.json").write_text(json.dumps(asdict(finished)))


if __name__ == "__main__":
    main(FitRequest(**json.loads(Path(sys.argv[1]).read_text())))
