"""Settings of scoring, streaming and training: plain values, the same in Python and in YAML.

Each class is one concern. Its fields are the keys of a section of the configuration, with their
units, defaults and bounds; nothing here imports torch.
"""

from trainers.settings.scoring import ScoringSettings
from trainers.settings.streaming import OrderSettings, StreamingSettings
from trainers.settings.training import REPORTING, TrainingSettings

__all__ = [
    "REPORTING",
    "OrderSettings",
    "ScoringSettings",
    "StreamingSettings",
    "TrainingSettings",
]
