"""The method of losses, as it is stored in their provenance. Pure.

It is the dtype of the arithmetic, the share of a sample that was measured, and the digest of a
proxy. Losses of different methods are never mixed.
"""

from collections.abc import Mapping
from typing import Any, Final

from attent_select.errors import InputError

METHOD: Final = "method"
# Of losses that were measured before there was another.
_WHOLE: Final = {"dtype": "float32", "units_share": None, "proxy": None}


def method_of(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the method of the losses with this provenance."""
    return dict(provenance.get(METHOD, _WHOLE))


def check_same(mine: Mapping[str, Any], kept: Mapping[str, Any], *, what: str) -> None:
    """Check that losses of the provenance `kept` can stand beside those that are measured.

    Raises:
        InputError: they were measured by another method.
    """
    if differ := [name for name in mine if mine[name] != kept[name]]:
        values = "; ".join(f"{n} {kept[n] or 'none'}, now {mine[n] or 'none'}" for n in differ)
        raise InputError(
            f"{what} were measured by another method ({values}): losses of both cannot be compared;"
            " restore the settings or the files of the proxy, or start a new run"
        )
