"""What DeepSpeed cannot train or resume exactly is refused, if possible before a run is created."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from transformers.integrations.deepspeed import is_deepspeed_available

from attent_select.errors import InputError
from trainers import ranks
from trainers.hf.training_arguments import check_training_arguments
from trainers.hf.zero.state import load_zero
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


@pytest.fixture
def one_rank() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"ranks": [{}, {}]}, r"by DeepSpeed with 2 processes, and this command has 1: start it"),
        ({"state": {}, "param_groups": []}, r"by training without DeepSpeed.*: remove"),
    ],
    ids=["other ranks", "plain"],
)
@pytest.mark.usefixtures("one_rank")
def test_state_of_other_ranks_or_of_plain_training_is_not_resumed(
    tmp_path: Path, state: dict[str, Any], message: str
) -> None:
    torch.save(state, tmp_path / "optimizer.pt")
    with pytest.raises(InputError, match=message):
        load_zero(None, None, tmp_path)  # refused before the engine is used
