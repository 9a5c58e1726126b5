"""Plug-ins are found by their file's name or by a dotted path, and nothing else is."""

import pytest

from attent_select import plugins
from attent_select.errors import InputError
from attent_select.strategies.below_mean import BelowMean

PACKAGE = "attent_select.strategies"


def test_a_file_is_a_plugin_under_its_own_name() -> None:
    assert {"uniform", "hard", "soft", "below_mean"} <= set(plugins.plugin_names(PACKAGE))
    assert plugins.load_plugin(PACKAGE, "below_mean") is BelowMean


def test_a_dotted_path_names_a_class_of_anybody() -> None:
    assert plugins.load_plugin(PACKAGE, "fractions.Fraction").__name__ == "Fraction"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hrad", "expected band, below_mean, functional_gradient, hard"),
        ("no_such_module.Strategy", "No module named"),
        ("fractions.NoSuchClass", "has no attribute"),
        ("os.path", "is a module, expected a class"),
        ("math.sqrt", "expected a class"),
    ],
)
def test_anything_else_is_an_input_error_that_says_why(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plugins.load_plugin(PACKAGE, name)
