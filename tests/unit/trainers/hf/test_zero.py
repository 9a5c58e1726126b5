"""What DeepSpeed cannot train or resume exactly is refused, if possible before a run is created."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.integrations.deepspeed import is_deepspeed_available

from attent_select.errors import InputError
from trainers import ranks
from trainers.checkpoint import Checkpoint
from trainers.fitting.start import Start
from trainers.hf.training_arguments import check_training_arguments
from trainers.settings import TrainingSettings

ZERO = {"zero_optimization": {"stage": 2}}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("ds.json", r"deepspeed is 'ds.json': expected a mapping"),
        ({"zero_optimization": {"stage": 3}}, r"stage is 3: .* whole ones. Set stage 2, or fsdp"),
        ({"zero_optimization": {"stage": 0}}, r"stage is 0: expected 1 or 2"),
        ({"zero_optimization": 2}, r"zero_optimization is 2: expected a mapping with stage"),
        (ZERO | {"optimizer": {"type": "Adam"}}, r"deepspeed may not set optimizer: expected"),
        (ZERO | {"bf16": {"enabled": True}}, r"may not set bf16: .* precision \(float32\)"),
        (ZERO | {"fp16": {"enabled": True}}, r"may not set fp16: .* precision \(float32\)"),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
            r"may not set offload_optimizer: .* could not be resumed",
        ),
        (
            {"zero_optimization": {"stage": 2, "offload_param": {"device": "nvme"}}},
            r"may not set offload_param: .* could not be resumed",
        ),
        (ZERO | {"gradient_clipping": 1.0}, r"gradient_clipping is 1.0: expected auto"),
    ],
)
def test_what_deepspeed_cannot_resume_exactly_is_refused(config: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_training_arguments(TrainingSettings(arguments={"deepspeed": config}))


def test_deepspeed_with_weights_in_bfloat16_or_with_fsdp_is_refused() -> None:
    with pytest.raises(InputError, match=r"with bfloat16: .* Set training.dtype to float32"):
        check_training_arguments(TrainingSettings(dtype="bfloat16", arguments={"deepspeed": ZERO}))
    arguments = {"deepspeed": ZERO, "fsdp": True}
    with pytest.raises(InputError, match=r"both shard the model"):
        check_training_arguments(TrainingSettings(arguments=arguments))


@pytest.mark.skipif(is_deepspeed_available(), reason="deepspeed is installed")
def test_missing_deepspeed_is_named_with_the_command_that_installs_it() -> None:
    with pytest.raises(InputError, match=r"not installed: run pip install deepspeed"):
        check_training_arguments(TrainingSettings(arguments={"deepspeed": ZERO}))


def test_a_single_process_is_refused() -> None:
    with pytest.raises(InputError, match=r"deepspeed shards a model .* start several \(torchrun\)"):
        ranks.check_sharding(TrainingSettings(arguments={"deepspeed": ZERO}))


PLAIN_STATE = {"state": {}, "param_groups": []}


@pytest.mark.parametrize(
    ("file", "state", "arguments", "message"),
    [
        ("optimizer.pt", {"ranks": [{}, {}]}, {}, r"with deepspeed, .* train without sharding: "),
        ("optimizer.pt", PLAIN_STATE, {"deepspeed": ZERO}, r"without sharding, .* with deepspeed:"),
        ("optimizer.bin", PLAIN_STATE, {}, r"with fsdp, .* without sharding: train with fsdp here"),
        ("optimizer.pt", PLAIN_STATE, {"fsdp": True}, r"without sharding, .* train with fsdp: "),
        ("optimizer.pt", {"ranks": [{}, {}]}, {"deepspeed": ZERO}, r"with 2 .* this command has 1"),
    ],
    ids=["zero, then plain", "plain, then zero", "fsdp, then plain", "plain, then fsdp", "ranks"],
)
def test_state_of_other_ranks_or_of_another_sharding_is_not_resumed(
    tmp_path: Path, file: str, state: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    torch.save(state, tmp_path / file)
    for name in ("trainer_state.json", "scheduler.pt"):
        (tmp_path / name).touch()
    start = Start(Checkpoint(url="run/checkpoints/1", step=3, weights_digest="", files={}))
    with pytest.raises(InputError, match=message):
        start.trainer_state(tmp_path, TrainingSettings(arguments=arguments))
