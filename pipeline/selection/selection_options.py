"""The section `selection` of a configuration, given as options of `attent select`."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from attent_select.errors import InputError
from attent_select.plugins import load_plugin
from pipeline.config.sections import SelectionSection, selection_section_of
from pipeline.config.validation import check
from pipeline.config.yaml_values import parse_yaml

# Keys of the section that `--set` must not replace: they hold its other parts.
_SECTION_KEYS = ("strategy", "settings", "composition")


@dataclass(frozen=True)
class SelectionOptions:
    """The options that make a section `selection`.

    Attributes:
        strategy: name of a plug-in.
        settings: `key=value` for each key of the section that is not the default.
        where: polars SQL condition that eligible rows fulfil.
        by: column whose values are strata; each stratum gets its quota of the budget.
        granularity: `sample`, `row_group`, `shard` or rows per block.
    """

    strategy: str = "soft"
    settings: Sequence[str] = ()
    where: str | None = None
    by: str | None = None
    granularity: str | None = None

    def section(self) -> SelectionSection[Any]:
        """Return the checked section.

        Raises:
            InputError: there is no such strategy, or a setting is wrong.
        """
        values: dict[str, Any] = {"strategy": self.strategy}
        values |= dict(_parse_setting(text) for text in self.settings)
        own = {"where": self.where, "by": self.by, "granularity": self.granularity}
        values |= {key: value for key, value in own.items() if value is not None}
        if isinstance(rows := values.get("granularity"), str) and rows.isdecimal():
            values["granularity"] = int(rows)
        plugin = load_plugin("attent_select.strategies", self.strategy)
        if not dataclasses.is_dataclass(plugin) or not hasattr(plugin, "probability"):
            raise InputError(
                f"--strategy {self.strategy}: expected a strategy's class, see docs/extending.md"
            )
        return check(selection_section_of(plugin), values, source="selection")


def _parse_setting(setting: str) -> tuple[str, Any]:
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise InputError(f"--set {setting}: expected key=value, such as temperature=0.5")
    if key in _SECTION_KEYS:
        raise InputError(f"--set {setting}: {key} is not a setting of a strategy")
    return key, parse_yaml(text, source=f"--set {setting}")
