"""Settings of training, and the `transformers.TrainingArguments` that they allow."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from attent_select.errors import InputError
from trainers.settings.bounds import MAX_BATCH_SIZE, Dtype

_MAXIMA = {"torch_threads": 4096, "micro_batch_units": 1 << 40}
# The Trainer's arguments for mixed precision.
_MIXED_PRECISION = {"bf16": "bfloat16", "fp16": "float16"}
# Arguments of the Trainer that cannot change a result.
REPORTING = frozenset({
    "logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node", "log_level",
    "log_level_replica", "disable_tqdm", "report_to", "run_name", "ddp_timeout",
})  # fmt: skip
# Arguments of the Trainer that may be set. Excluded are those that need the bare model (neftune;
# ours holds model and loss), leave files out of a checkpoint (save_only_model), or break exact
# sharding, loss scale or resuming.
ARGUMENTS = REPORTING | frozenset({
    "optim", "optim_args", "optim_target_modules", "adam_beta1", "adam_beta2", "adam_epsilon",
    "lr_scheduler_kwargs", "tf32", "use_cpu", "full_determinism",
    "activation_checkpointing", "activation_checkpointing_kwargs",
    "gradient_checkpointing", "gradient_checkpointing_kwargs",
    "torch_compile", "torch_compile_backend", "torch_compile_mode", "torch_empty_cache_steps",
    "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers",
    "ddp_static_graph", "ddp_backend",
    "deepspeed", "fsdp", "fsdp_config", "bf16", "fp16", "use_liger_kernel", "liger_kernel_config",
})  # fmt: skip


@dataclass(frozen=True)
class TokenSelection:
    """Which tokens of a text are learned.

    Attributes:
        reference: a saved model with the tokenizer of the task: a folder, a URL or a name on the
            hub.
        keep: share of the counted tokens of each sample that is learned: those whose loss exceeds
            the reference's the most.
    """

    # Unknown keys are errors also where these settings stand alone.
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    reference: str
    keep: float = 0.6

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise InputError(f"keep is {self.keep}: expected a share, above 0 and at most 1")


@dataclass(frozen=True)
class TrainingSettings:
    """How a round trains.

    Attributes:
        batch_size: samples per optimizer step, over all ranks.
        micro_batch_size: samples per forward pass of one rank; default: its whole share.
        micro_batch_units: units (tokens) per forward pass of one rank, padding included, instead;
            the default for text is 4096.
        average: what a step's loss is the mean over: `tokens` Σ wᵢnᵢℓᵢ / Σ nᵢ (nᵢ: the counted
            units of a sample), or `samples` Σ wᵢℓᵢ / batch_size; the default for text is `tokens`.
        token_selection: learn some of the tokens only; default: all that count.
        learning_rate: peak of the schedule.
        weight_decay: of the optimizer; 0 turns it off.
        lr_scheduler: a schedule of transformers, over all rounds.
        warmup_steps: optimizer steps until the learning rate reaches its peak.
        max_grad_norm: gradients are clipped to this norm; 0 turns it off.
        save_steps: optimizer steps between checkpoints inside a round; 0: only at its end.
        dtype: autocast of the computation, unless `arguments` set it (see `computes_in`); the
            weights stay float32.
        torch_threads: CPU threads; part of what makes two runs equal bit by bit. Default: torch's.
        arguments: some of `ARGUMENTS`, passed unchanged to `transformers.TrainingArguments`.
    """

    batch_size: int = 256
    micro_batch_size: int | None = None
    micro_batch_units: int | None = None
    average: Literal["tokens", "samples"] | None = None
    token_selection: TokenSelection | None = None
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    lr_scheduler: str = "cosine"
    warmup_steps: int = 0
    max_grad_norm: float = 1.0
    save_steps: int = 0
    dtype: str = "float32"
    torch_threads: int | None = None
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("batch_size", "micro_batch_size", "micro_batch_units", "torch_threads"):
            value = getattr(self, name)
            most = _MAXIMA.get(name, MAX_BATCH_SIZE)
            if value is not None and not 1 <= value <= most:
                raise InputError(f"{name} is {value}: expected 1 to {most}")
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise InputError(
                f"micro_batch_size is {self.micro_batch_size}: expected at most batch_size, which "
                f"is {self.batch_size}"
            )
        if self.micro_batch_size is not None and self.micro_batch_units is not None:
            raise InputError("micro_batch_size and micro_batch_units: expected only one of them")
        if self.average not in (None, "tokens", "samples"):
            raise InputError(f"average is {self.average!r}: expected tokens or samples")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"learning_rate is {self.learning_rate}: expected a positive number")
        for name in ("weight_decay", "max_grad_norm", "warmup_steps", "save_steps"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}: expected 0 (off) or more")
        if self.dtype not in get_args(Dtype):
            raise InputError(
                f"dtype is {self.dtype!r}: expected one of {', '.join(get_args(Dtype))}"
            )
        self._check_arguments()
        self._check_mixed_precision()

    @property
    def computes_in(self) -> str:
        """What training and its evaluation compute in: the `bf16` or `fp16` of `arguments`, else
        `dtype`.
        """
        chosen = (dtype for key, dtype in _MIXED_PRECISION.items() if self.arguments.get(key))
        return next(chosen, self.dtype)

    def _check_arguments(self) -> None:
        if refused := sorted(self.arguments.keys() - ARGUMENTS):
            raise InputError(
                f"training.arguments may not set {', '.join(refused)}: the training section has "
                "its own keys, and the stream and its checkpoints decide the rest; expected some "
                f"of {', '.join(sorted(ARGUMENTS))}"
            )

    def _check_mixed_precision(self) -> None:
        flags = {key: self.arguments[key] for key in _MIXED_PRECISION if key in self.arguments}
        dtypes = {_MIXED_PRECISION[key] for key, is_on in flags.items() if is_on}
        dtypes |= {self.dtype} - {"float32"}
        if len(dtypes) > 1 or (self.dtype == "bfloat16" and not flags.get("bf16", True)):
            written = ", ".join(f"{key}: {is_on}".lower() for key, is_on in flags.items())
            raise InputError(
                f"dtype is {self.dtype} and arguments say {written}: expected only one of them to "
                "set what training computes in"
            )
