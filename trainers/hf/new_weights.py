"""Weights that a saved model lacks or has in another shape, and which of them may be new."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from attent_select.errors import InputError


@dataclass(frozen=True)
class Loading:
    """What loading a saved model reported: the names of tensors, or messages."""

    missing: tuple[str, ...]
    mismatched: tuple[str, ...]
    unexpected: tuple[str, ...]
    errors: tuple[str, ...]
    # Shapes of the mismatched tensors, saved and expected.
    shapes: Mapping[str, str]

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> "Loading":
        """Return the values of transformers' loading info."""
        mismatched = sorted(info["mismatched_keys"])
        return cls(
            missing=tuple(sorted(info["missing_keys"])),
            mismatched=tuple(name for name, *_ in mismatched),
            unexpected=tuple(sorted(info["unexpected_keys"])),
            errors=tuple(map(str, info["error_msgs"])),
            shapes={
                name: f"{name} ({_shape(saved)} saved, {_shape(expected)} expected)"
                for name, saved, expected in mismatched
            },
        )

    @property
    def problems(self) -> str:
        """Description of what is wrong; empty if nothing is."""
        parts = {
            "missing": self.missing,
            "mismatched": [self.shapes[name] for name in self.mismatched],
            "unexpected": self.unexpected,
            "errors": self.errors,
        }
        return "; ".join(f"{name}: {', '.join(names)}" for name, names in parts.items() if names)


def check_new_weights(
    model: torch.nn.Module, loading: Loading, *, requested: bool | Sequence[str], path: str
) -> None:
    """Check that only weights are new that the configuration asks for.

    `True` asks for those of a new head. Embeddings, position tables and patch projections, which
    are trained for long, must be named.

    Raises:
        InputError: others are new, or something else is wrong.
    """
    if not loading.problems:
        return
    new = [*loading.missing, *loading.mismatched]
    if requested is True:
        refused = [name for name in new if _is_input_layer(model, name)]
    else:
        refused = [name for name in new if name not in (requested or ())]
    if loading.unexpected or loading.errors or (refused and requested is False):
        raise InputError(
            f"the weights in {path} do not fit the model ({loading.problems}). Set `new_weights: "
            "true` to initialise those of a new head at random, or remove what model.config changes"
        )
    if refused:
        described = [loading.shapes.get(name, f"{name} (not saved)") for name in refused]
        raise InputError(
            f"model.new_weights would replace {', '.join(described)} in {path} by random numbers. "
            "Remove what model.config changes (image_size, patch_size, num_channels, "
            f"vocab_size, …), or name each tensor: new_weights: [{', '.join(new)}]"
        )


def _is_input_layer(model: torch.nn.Module, name: str) -> bool:
    """Whether a tensor is of an embedding, a position table or a patch projection, or of the head
    over the vocabulary.
    """
    owner, _, _ = name.rpartition(".")
    modules = dict(model.named_modules())
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return (
        any(part in name.lower() for part in ("embed", "position", "patch"))
        or isinstance(modules.get(owner), torch.nn.Embedding)
        or (head is not None and modules.get(owner) is head)
    )


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))
