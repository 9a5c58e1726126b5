"""What is said to `transformers.TrainingArguments`, from our settings.

Building them, and the check of that before a run starts.
"""

from typing import Any

from transformers import SchedulerType, TrainingArguments

from attent_select.errors import InputError
from trainers.settings import TrainingSettings

# Refused without a certain GPU: a run may be read on another machine than it is trained on.
_OF_THE_MACHINE = frozenset({"tf32"})


def training_arguments(settings: TrainingSettings, **decided: Any) -> TrainingArguments:
    """The arguments of the settings, and of what the loop has `decided`.

    Raises:
        InputError: transformers has no such schedule or refuses a value.
    """
    known = [kind.value for kind in SchedulerType]
    if settings.lr_scheduler not in known:
        raise InputError(
            f"lr_scheduler is {settings.lr_scheduler!r}: expected one of {', '.join(known)}"
        )
    ours = decided | {
        "learning_rate": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "lr_scheduler_type": settings.lr_scheduler,
        "warmup_steps": settings.warmup_steps,
        "max_grad_norm": settings.max_grad_norm,
        "report_to": [],
    }
    try:
        return TrainingArguments(**ours | settings.arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"arguments: they are refused by transformers: {error}") from error


def check(settings: TrainingSettings) -> None:
    """Raises `InputError` for what `training_arguments` would refuse on any machine."""
    portable = {
        name: value for name, value in settings.arguments.items() if name not in _OF_THE_MACHINE
    }
    training_arguments(
        TrainingSettings(lr_scheduler=settings.lr_scheduler, arguments=portable),
        use_cpu=True,
    )
