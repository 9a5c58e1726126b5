"""Plug-ins are loaded by file name or dotted path; anything else is an error."""

import pytest

from attent_select import plugins
from attent_select.errors import InputError
from attent_select.strategies.below_mean import BelowMean

PACKAGE = "attent_select.strategies"


def test_the_file_name_is_the_key_of_a_plugin() -> None:
    assert {"uniform", "hard", "soft", "below_mean"} <= set(plugins.plugin_names(PACKAGE))
    assert plugins.load_plugin(PACKAGE, "below_mean") is BelowMean


def test_a_dotted_path_names_any_class() -> None:
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
def test_any_other_name_is_an_input_error_with_the_reason(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plugins.load_plugin(PACKAGE, name)


def test_a_class_of_another_kind_lacks_methods() -> None:
    with pytest.raises(InputError, match=r"fractions\.Fraction' has no method key"):
        plugins.load_plugin(PACKAGE, "fractions.Fraction", methods=("key",))


@pytest.mark.parametrize("name", [".Strategy", "fractions.", "a..b", "..", "./x.Y"])
def test_a_malformed_dotted_path_is_an_input_error(name: str) -> None:
    with pytest.raises(InputError, match="cannot load"):
        plugins.load_plugin(PACKAGE, name)
