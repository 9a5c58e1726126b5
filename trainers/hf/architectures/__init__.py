"""Architectures that transformers lacks: DiT and MultiMAE.

`register_configs` and `register_models` make them available by `model_type`, like those of
transformers. They are two, because the modules of a model take seconds to import.
"""

from transformers import AutoConfig

from trainers.hf.architectures.configs import DitConfig, MultiMaeConfig

__all__ = ["DitConfig", "MultiMaeConfig", "register_configs", "register_models"]


def register_configs() -> None:
    """Add the configurations to the auto class of transformers."""
    for config in (DitConfig, MultiMaeConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)


def register_models() -> None:
    """Add the models to the auto class of transformers."""
    from transformers import AutoModelForPreTraining

    from trainers.hf.architectures.dit import DitModel
    from trainers.hf.architectures.multi_mae import MultiMaeModel

    AutoModelForPreTraining.register(DitConfig, DitModel, exist_ok=True)
    AutoModelForPreTraining.register(MultiMaeConfig, MultiMaeModel, exist_ok=True)
