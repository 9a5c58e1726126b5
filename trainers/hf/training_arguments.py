"""`transformers.TrainingArguments` from our training settings."""

import os
import re
from collections.abc import Mapping
from typing import Any, Final

import torch
from transformers import SchedulerType, TrainingArguments
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
    is_flyte_deck_standard_available,
    is_flytekit_available,
)
from transformers.integrations.liger import apply_liger_kernel
from transformers.training_args import OptimizerNames
from transformers.utils.import_utils import is_liger_kernel_available

from attent_select.errors import InputError
from trainers.hf.zero.config import check_deepspeed, deepspeed_config
from trainers.settings import TrainingSettings

_NUMBERS: Final = {
    "adam_beta1": (0.0, 1.0),
    "adam_beta2": (0.0, 1.0),
    "adam_epsilon": (0.0, 1.0),
    "logging_steps": (0.0, 1e9),
    "ddp_timeout": (1, 1e9),
    "torch_empty_cache_steps": (1, 1e9),
}
# Refused without a certain GPU, or without several processes: a run may be checked on another
# machine than it is trained on.
_NOT_PORTABLE = frozenset({"tf32", "deepspeed"})
# Used by `use_kernels`: the Trainer would look for the layers in its own model, which has a loss.
_KERNELS = ("use_liger_kernel", "liger_kernel_config")
# Packages of the programs that metrics are reported to, where they have another name.
_PACKAGES: Final = {
    "azure_ml": "azureml-core",
    "comet_ml": "comet-ml",
    "dagshub": "dagshub mlflow",
    "flyte": "flytekit flytekitplugins-deck-standard",
}
_TENSORBOARD_FOLDER = "TENSORBOARD_LOGGING_DIR"


def training_arguments(settings: TrainingSettings, **loop_arguments: Any) -> TrainingArguments:
    """Combine the settings with the arguments that the training loop sets.

    Raises:
        InputError: transformers lacks the schedule or refuses a value.
    """
    known = [kind.value for kind in SchedulerType]
    if settings.lr_scheduler not in known:
        raise InputError(
            f"lr_scheduler is {settings.lr_scheduler!r}: expected one of {', '.join(known)}"
        )
    arguments = {n: value for n, value in settings.arguments.items() if n not in _KERNELS}
    values = loop_arguments | {
        "learning_rate": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "lr_scheduler_type": settings.lr_scheduler,
        "warmup_steps": settings.warmup_steps,
        "max_grad_norm": settings.max_grad_norm,
        "report_to": [],
        "logging_strategy": "steps" if _reports(arguments) else "no",
    }
    _check_numbers(settings.arguments)
    if "deepspeed" in arguments:
        arguments["deepspeed"] = deepspeed_config(settings)
    try:
        return TrainingArguments(**values | arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"arguments: transformers refuses them: {error}") from error


def _check_numbers(arguments: Mapping[str, Any]) -> None:
    """Check numbers that transformers takes as they are, and that fail in the middle of a round."""
    for name, (low, high) in _NUMBERS.items():
        value = arguments.get(name, low)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:
            raise InputError(f"arguments.{name} is {value!r}: expected a number, {low} to {high}")


def check_training_arguments(settings: TrainingSettings) -> None:
    """Check the settings on any machine.

    Raises:
        InputError: `training_arguments` would refuse them, or a package that they need is missing.
    """
    if "deepspeed" in settings.arguments:
        check_deepspeed(settings)
    portable = {
        name: value for name, value in settings.arguments.items() if name not in _NOT_PORTABLE
    }
    arguments = training_arguments(
        TrainingSettings(lr_scheduler=settings.lr_scheduler, arguments=portable),
        use_cpu=True,
    )
    _check_optimizer(arguments)
    _check_reports(_reports(settings.arguments))
    if settings.arguments.get("use_liger_kernel") and not is_liger_kernel_available():
        raise InputError(
            "arguments.use_liger_kernel: liger-kernel is not installed: run pip install "
            "liger-kernel, or remove the argument"
        )


def _check_optimizer(arguments: TrainingArguments) -> None:
    """Check that the package of the optimizer is installed: the Trainer imports it in training."""
    from transformers import Trainer

    try:
        any_model: Any = torch.nn.Linear(1, 1)
        Trainer.get_optimizer_cls_and_kwargs(arguments, any_model)
    except (ImportError, ValueError) as error:
        if isinstance(error, ImportError) or re.search(r"install|import", str(error)):
            name, reason = OptimizerNames(arguments.optim).value, " ".join(str(error).split())
            raise InputError(f"arguments.optim is {name}: {reason}") from error


def use_kernels(model: torch.nn.Module, settings: TrainingSettings) -> None:
    """Replace layers of the model by those of Liger, where `use_liger_kernel` is set."""
    if settings.arguments.get("use_liger_kernel"):
        apply_liger_kernel(model, settings.arguments.get("liger_kernel_config"))


def _reports(arguments: dict[str, Any]) -> list[str]:
    """Return the programs that metrics are reported to."""
    names = arguments.get("report_to") or []
    names = [names] if isinstance(names, str) else list(names)
    return [] if names == ["none"] else names


def _check_reports(names: list[str]) -> None:
    known = [*INTEGRATION_TO_CALLBACK, "all", "none"]
    for name in names:
        if name not in known:
            raise InputError(
                f"arguments.report_to: {name!r} is unknown: expected one of {', '.join(known)}"
            )
        if not _is_available(name):
            raise InputError(
                f"arguments.report_to: the package of {name} is not installed, or its environment "
                f"turns it off: run pip install {_PACKAGES.get(name, name)}, or remove the name"
            )
        if name == "tensorboard" and not os.environ.get(_TENSORBOARD_FOLDER):
            raise InputError(
                "arguments.report_to: tensorboard needs a folder for its files: set "
                f"{_TENSORBOARD_FOLDER} in the environment"
            )


def _is_available(name: str) -> bool:
    if name == "flyte":  # is not in the list of those that are available
        return bool(is_flytekit_available() and is_flyte_deck_standard_available())
    return name in (*get_available_reporting_integrations(), "all", "none")
