"""DeepSpeed's configuration: what it may set, and what the training loop sets."""

from collections.abc import Mapping
from typing import Any, Final

from transformers.integrations.deepspeed import is_deepspeed_available

from attent_select.errors import InputError
from trainers.settings import TrainingSettings

# Set by the Trainer, from the settings of training.
_AUTOMATIC: Final = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
)
_REPORTING: Final = ("steps_per_print", "wall_clock_breakdown", "dump_state", "memory_breakdown")
# Of ZeRO. Others move the state elsewhere, or change the numbers.
_ZERO: Final = (
    "stage",
    "allgather_partitions",
    "allgather_bucket_size",
    "overlap_comm",
    "reduce_scatter",
    "reduce_bucket_size",
    "contiguous_gradients",
)
_NAME: Final = "arguments.deepspeed"


def deepspeed_config(settings: TrainingSettings) -> dict[str, Any]:
    """Return the configuration with what the training loop sets.

    Raises:
        InputError: see `check_deepspeed`.
    """
    check_deepspeed(settings)
    printing = {"steps_per_print": 1 << 31}  # stdout belongs to the command's own answer
    automatic: dict[str, Any] = dict.fromkeys(_AUTOMATIC, "auto")
    return printing | dict(settings.arguments["deepspeed"]) | automatic


def check_deepspeed(settings: TrainingSettings) -> None:
    """Check the configuration, without starting DeepSpeed.

    Raises:
        InputError: it sets what cannot be resumed exactly, or DeepSpeed is not installed.
    """
    config = settings.arguments["deepspeed"]
    if not isinstance(config, Mapping):
        raise InputError(
            f"{_NAME} is {config!r}: expected a mapping, such as {{zero_optimization: {{stage: "
            "2}}"
        )
    _check_keys(config, known=("zero_optimization", *_AUTOMATIC, *_REPORTING), where=_NAME)
    for name in _AUTOMATIC:
        if config.get(name, "auto") != "auto":
            raise InputError(
                f"{_NAME}.{name} is {config[name]!r}: expected auto, the training section sets it"
            )
    _check_zero(config.get("zero_optimization"))
    if settings.arguments.get("fsdp"):
        raise InputError(f"{_NAME} and arguments.fsdp both shard the model: expected one of them")
    if settings.computes_in != "float32":
        raise InputError(
            f"{_NAME} with {settings.computes_in}: DeepSpeed would keep the weights in it, and "
            "checkpoints have float32. Set training.dtype to float32, or fsdp instead"
        )
    if not is_deepspeed_available():
        raise InputError(
            f"{_NAME}: deepspeed is not installed: run pip install deepspeed, or remove the "
            "argument"
        )


def _check_zero(zero: Any) -> None:
    where = f"{_NAME}.zero_optimization"
    if not isinstance(zero, Mapping):
        raise InputError(f"{where} is {zero!r}: expected a mapping with stage: 1 or 2")
    stage = zero.get("stage")
    if stage == 3:
        raise InputError(
            f"{where}.stage is 3: the ranks would hold parts of the weights, and checkpoints are "
            "written from whole ones. Set stage 2, or fsdp instead, which shards weights, "
            "gradients and optimizer state"
        )
    if isinstance(stage, bool) or stage not in (1, 2):
        raise InputError(f"{where}.stage is {stage!r}: expected 1 or 2")
    _check_keys(zero, known=_ZERO, where=where)


def _check_keys(config: Mapping[str, Any], *, known: tuple[str, ...], where: str) -> None:
    if unknown := [str(name) for name in config if name not in known]:
        raise InputError(
            f"{where} may not set {', '.join(unknown)}: expected some of {', '.join(known)}. The "
            "training section sets optimizer, schedule and precision (float32), and a state that "
            "is offloaded could not be resumed"
        )
