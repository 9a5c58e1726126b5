"""A shortened copy of a model's configuration: fewer layers, a smaller width. Pure."""

from collections.abc import Mapping
from typing import Any, Final

_LAYERS, _WIDTH = "num_hidden_layers", "hidden_size"
_HEADS, _KEY_HEADS, _INNER = "num_attention_heads", "num_key_value_heads", "intermediate_size"
_MAX_LAYERS: Final = 4
_MAX_WIDTH: Final = 128


def small_fields(known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a configuration that a small model has otherwise.

    The width of a head stays. Models whose width is not that of their heads only lose layers.

    Args:
        known: all fields of the configuration, as transformers resolves them.
    """
    changed: dict[str, Any] = {}
    if _is_number(known, _LAYERS) and known[_LAYERS] > _MAX_LAYERS:
        changed[_LAYERS] = _MAX_LAYERS
    if not (_is_number(known, _WIDTH) and _is_number(known, _HEADS)):
        return changed
    width, heads = known[_WIDTH], known[_HEADS]
    of_head = width // heads
    if width <= _MAX_WIDTH or width % heads or known.get("head_dim") not in (None, of_head):
        return changed
    fewer = max(1, _MAX_WIDTH // of_head)
    changed |= {_WIDTH: fewer * of_head, _HEADS: fewer}
    if _is_number(known, _KEY_HEADS):
        most = max(1, known[_KEY_HEADS] * fewer // heads)
        changed[_KEY_HEADS] = next(n for n in range(most, 0, -1) if fewer % n == 0)
    if _is_number(known, _INNER):
        changed[_INNER] = max(1, known[_INNER] * fewer // heads)
    return changed


def _is_number(known: Mapping[str, Any], name: str) -> bool:
    return isinstance(known.get(name), int) and known[name] > 0
