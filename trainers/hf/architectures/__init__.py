"""Architectures that transformers lacks: DiT and MultiMAE.

`register` makes them available by `model_type`, like those of transformers.
"""

from transformers import AutoConfig, AutoModelForPreTraining

from trainers.hf.architectures.dit import DitConfig, DitModel
from trainers.hf.architectures.multi_mae import MultiMaeConfig, MultiMaeModel

__all__ = ["DitConfig", "DitModel", "MultiMaeConfig", "MultiMaeModel", "register"]


def register() -> None:
    """Add the architectures to the auto classes of transformers."""
    for config, model in ((DitConfig, DitModel), (MultiMaeConfig, MultiMaeModel)):
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModelForPreTraining.register(config, model, exist_ok=True)
