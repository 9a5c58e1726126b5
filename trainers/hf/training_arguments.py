"""`transformers.TrainingArguments` from our training settings."""

from typing import Any

from transformers import SchedulerType, TrainingArguments

from attent_select.errors import InputError
from trainers.settings import TrainingSettings

# Refused without a certain GPU: a run may be checked on another machine than it is trained on.
_MACHINE_DEPENDENT = frozenset({"tf32"})


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
    values = loop_arguments | {
        "learning_rate": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "lr_scheduler_type": settings.lr_scheduler,
        "warmup_steps": settings.warmup_steps,
        "max_grad_norm": settings.max_grad_norm,
        "report_to": [],
    }
    try:
        return TrainingArguments(**values | settings.arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"arguments: transformers refuses them: {error}") from error


def check_training_arguments(settings: TrainingSettings) -> None:
    """Check the settings on any machine.

    Raises:
        InputError: `training_arguments` would refuse them.
    """
    portable = {
        name: value for name, value in settings.arguments.items() if name not in _MACHINE_DEPENDENT
    }
    training_arguments(
        TrainingSettings(lr_scheduler=settings.lr_scheduler, arguments=portable),
        use_cpu=True,
    )
