"""Conformance of every strategy in `attent_select/strategies/`, with several settings."""

import pytest

from attent_select.plugins import load_plugin, plugin_names
from attent_select.strategies.band import Band
from attent_select.strategies.rank import Rank
from attent_select.strategies.soft import Soft
from attent_select.strategy import Strategy
from attent_select.testing import StrategyConformance

PACKAGE = "attent_select.strategies"
DEFAULTS = [load_plugin(PACKAGE, name)() for name in plugin_names(PACKAGE)]
VARIANTS = [
    Soft(temperature=0.3),
    Soft(reference=True),
    Rank(exponent=1.5),
    Band(low=0.2, high=0.4),
    Band(low=0.1, high=0.9),
]


class TestStrategies(StrategyConformance):
    @pytest.fixture(params=[*DEFAULTS, *VARIANTS], ids=repr)
    def strategy(self, request: pytest.FixtureRequest) -> Strategy:
        return request.param
