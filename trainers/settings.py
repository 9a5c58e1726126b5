"""Settings of training and reading ahead: plain values.

Names, defaults, checks.
"""

import math
import os
from dataclasses import dataclass, field
from typing import Any

from attent_select.errors import InputError

# Threads that read: local files wait for nothing, requests to an object store for their latency.
LOCAL_THREADS = 4
REMOTE_THREADS = 16
PREPARE_THREADS = 2

DTYPES = ("float32", "bfloat16")
# The Trainer's own words for what training computes in.
_MIXED = {"bf16": "bfloat16", "fp16": "float16"}
# What may be said to the Trainer beside ours. Not all of its arguments: some need the model itself
# where the Trainer has model and loss in one (neftune), leave files out of a checkpoint
# (save_only_model), or undo what makes sharding, scale and resuming exact.
ARGUMENTS = frozenset({
    "optim", "optim_args", "optim_target_modules", "adam_beta1", "adam_beta2", "adam_epsilon",
    "lr_scheduler_kwargs", "tf32", "use_cpu", "full_determinism",
    "activation_checkpointing", "activation_checkpointing_kwargs",
    "gradient_checkpointing", "gradient_checkpointing_kwargs",
    "torch_compile", "torch_compile_backend", "torch_compile_mode", "torch_empty_cache_steps",
    "logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node", "log_level",
    "log_level_replica", "disable_tqdm", "report_to", "run_name",
    "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers",
    "ddp_static_graph", "ddp_backend", "ddp_timeout",
    "fsdp", "fsdp_config", "bf16", "fp16",
})  # fmt: skip


@dataclass(frozen=True)
class ReadAhead:
    """How far a rank reads ahead. `max_bytes` of memory bounds what was read and not yet prepared,
    and again what was prepared and not yet handed out, beside the one shuffle block that is being
    handed out. A batch that does not come within `timeout_seconds` ends the stream.

    Threads that are None: 4 read local files, 16 others, and 2 prepare; but on a process's only
    processor they would take turns with the learner, so that none is used where nothing is waited
    for. With 0 the consumer's own thread does the work when it asks for a batch; a local file that
    never answers is then waited for.
    """

    num_read_threads: int | None = None
    num_prepare_threads: int | None = None
    max_bytes: int = 64 << 20
    timeout_seconds: float = 300.0

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise InputError(f"max_bytes is {self.max_bytes}: expected at least 1")
        for name in ("num_read_threads", "num_prepare_threads"):
            if (getattr(self, name) or 0) < 0:
                raise InputError(f"{name} is {getattr(self, name)}: expected 0 or more")
        if not self.timeout_seconds > 0:
            raise InputError(f"timeout_seconds is {self.timeout_seconds}: expected more than 0")

    def read_threads(self, *, is_local: bool) -> int:
        """How many read, local files or others."""
        if self.num_read_threads is not None:
            return self.num_read_threads
        if not is_local:
            return REMOTE_THREADS
        return 0 if _has_one_processor() else LOCAL_THREADS

    @property
    def prepare_threads(self) -> int:
        """How many decode and collate."""
        if self.num_prepare_threads is not None:
            return self.num_prepare_threads
        return 0 if _has_one_processor() else PREPARE_THREADS


def _has_one_processor() -> bool:
    # macOS does not say what a process may use.
    allowed = getattr(os, "sched_getaffinity", None)
    return (os.cpu_count() if allowed is None else len(allowed(0))) == 1


@dataclass(frozen=True)
class TrainingSettings:
    """How a round trains.

    `batch_size` is global: samples per optimizer step over all ranks; `micro_batch_size` is what
    one rank takes through the model at once (None: its whole share). `save_steps` is the distance
    of the checkpoints inside a round (0: only at its end). `dtype` is that of the computation
    (autocast), or `arguments` say it: see `computes_in`; the weights stay float32. `torch_threads`
    is part of what makes two runs the same bit by bit. `arguments`, of those in `ARGUMENTS`, goes
    unchanged to `transformers.TrainingArguments`.
    """

    batch_size: int = 256
    micro_batch_size: int | None = None
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
        for name in ("batch_size", "micro_batch_size", "torch_threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}: expected at least 1")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"learning_rate is {self.learning_rate}: expected a positive number")
        for name in ("weight_decay", "max_grad_norm", "warmup_steps", "save_steps"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}: expected 0 (off) or more")
        if self.dtype not in DTYPES:
            raise InputError(f"dtype is {self.dtype!r}: expected one of {', '.join(DTYPES)}")
        if refused := sorted(self.arguments.keys() - ARGUMENTS):
            raise InputError(
                f"training.arguments may not set {', '.join(refused)}: the training section has "
                "keys for what can be chosen, and the rest is decided by the stream and its "
                f"checkpoints; expected some of {', '.join(sorted(ARGUMENTS))}"
            )
        self._check_mixed()

    @property
    def computes_in(self) -> str:
        """What training and the evaluation after it compute in: `dtype`, or the `bf16` or `fp16` of
        `arguments`.
        """
        asked = (name for key, name in _MIXED.items() if self.arguments.get(key))
        return next(asked, self.dtype)

    def _check_mixed(self) -> None:
        said = {key: self.arguments[key] for key in _MIXED if key in self.arguments}
        asked = {_MIXED[key] for key, on in said.items() if on} | {self.dtype} - {"float32"}
        if len(asked) > 1 or (self.dtype == "bfloat16" and not said.get("bf16", True)):
            words = ", ".join(f"{key}: {on}".lower() for key, on in said.items())
            raise InputError(
                f"dtype is {self.dtype} and arguments say {words}: expected one of them to say "
                "what training computes in; leave the others out"
            )
