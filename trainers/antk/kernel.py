"""The kernel of a function on its probe samples: exact, or from sketches.

Gradients → K, group by group, in bounded memory.

The exact kernel needs, of every parameter, its gradients for all samples together: as many
parameters as fit are done in one pass over the samples, and the next ones in another.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from attent_select.errors import InputError
from trainers.antk.gradients import Function, Parameter
from trainers.antk.sketch import Sketch
from trainers.antk.spectrum import sketch_error

Floats = npt.NDArray[np.float64]

# Of the gradients that are held at once, and of all of them: sixteen passes are plenty.
MEMORY_BYTES = 1 << 30
MOST_BYTES = 16 << 30
# Of the kernels of all groups.
KERNEL_BYTES = 1 << 30


@dataclass(frozen=True)
class Kernel:
    """K = Σ_g K_g, each float64[rows, rows]; a row is a component of f of a sample, in order.

    `values` is f, float64[rows]; `sketch_size` the r of the sketch, None for the exact kernel.
    """

    groups: Mapping[str, Floats]
    values: Floats
    sketch_size: int | None = None

    @property
    def total(self) -> Floats:
        """The kernel of all trained parameters."""
        total: Floats = np.sum(list(self.groups.values()), axis=0)
        return total

    @property
    def error(self) -> float:
        """About ‖K̂ − K‖_F / ‖K‖_F; 0 for the exact kernel."""
        return sketch_error(self.total, self.sketch_size)


def empirical_kernel(
    function: Function,
    *,
    sketch: Sketch | None = None,
    memory_bytes: int = MEMORY_BYTES,
    advance: Callable[[int], None] = lambda _: None,
) -> Kernel:
    """The kernel of `function`.

    Args:
        function: f on its probe samples.
        sketch: instead of the exact kernel, for models of many parameters.
        memory_bytes: of the gradients that the exact kernel holds at once; makes no difference to
            it but in the last bits.
        advance: told of samples that are done.

    Raises:
        InputError: the kernel, or the gradients behind the exact one, are too large, or not finite.
    """
    values = function.values()
    _check_kernel(values, len(function.groups))
    if sketch is None:
        groups = _exact(function, values, memory_bytes=memory_bytes, advance=advance)
    else:
        groups = _sketched(function, values, sketch=sketch, advance=advance)
    if not all(np.isfinite(group).all() for group in groups.values()):
        raise InputError(
            "the gradients of f are not finite at these weights: training has diverged. Name the "
            "rounds before that by --round"
        )
    return Kernel(groups, _numpy(values.flatten()), sketch.size if sketch else None)


@dataclass(frozen=True)
class _Piece:
    """Some consecutive numbers of a parameter."""

    parameter: Parameter
    first: int
    end: int


def _exact(
    function: Function,
    values: torch.Tensor,
    *,
    memory_bytes: int,
    advance: Callable[[int], None],
) -> dict[str, Floats]:
    num_rows, components = values.numel(), values.shape[1]
    _check_size(function, values)
    kernels = {group: np.zeros((num_rows, num_rows)) for group in function.groups}
    parcels = _parcels(function, num_rows, memory_bytes=memory_bytes)
    done = 0
    for parcel in parcels:
        width = sum(piece.end - piece.first for piece in parcel)
        rows = values.new_empty(num_rows, width)
        found = function.gradients([piece.parameter for piece in parcel])
        for place, gradients in enumerate(found):
            parts = [
                gradient[:, piece.first : piece.end]
                for gradient, piece in zip(gradients, parcel, strict=True)
            ]
            rows[place * components : (place + 1) * components] = torch.cat(parts, dim=1)
            done += 1
            advance(int(done % len(parcels) == 0))
        for group, columns in _columns(parcel):
            part = rows[:, columns]
            kernels[group] += _numpy(part @ part.T)
    return kernels


def _parcels(function: Function, num_rows: int, *, memory_bytes: int) -> list[list[_Piece]]:
    """All numbers of all parameters, in parcels whose gradients fit into the memory."""
    most = max(1, memory_bytes // (num_rows * function.parameters[0].tensor.element_size()))
    parcels: list[list[_Piece]] = [[]]
    left = most
    for parameter in function.parameters:
        first, num = 0, parameter.tensor.numel()
        while first < num:
            if not left:
                parcels.append([])
                left = most
            end = min(num, first + left)
            parcels[-1].append(_Piece(parameter, first, end))
            left -= end - first
            first = end
    return parcels


def _columns(parcel: Sequence[_Piece]) -> Iterator[tuple[str, slice]]:
    """The columns of each group, which are neighbours."""
    first = end = 0
    for place, piece in enumerate(parcel):
        end += piece.end - piece.first
        group = piece.parameter.group
        if place + 1 == len(parcel) or parcel[place + 1].parameter.group != group:
            yield group, slice(first, end)
            first = end


def _sketched(
    function: Function, values: torch.Tensor, *, sketch: Sketch, advance: Callable[[int], None]
) -> dict[str, Floats]:
    num_rows, components = values.numel(), values.shape[1]
    tables = [
        sketch.table(each.name, each.tensor.numel(), device=values.device)
        for each in function.parameters
    ]
    rows = {
        group: torch.zeros(num_rows, sketch.size, dtype=torch.float64, device=values.device)
        for group in function.groups
    }
    for place, gradients in enumerate(function.gradients(function.parameters)):
        own = slice(place * components, (place + 1) * components)
        for parameter, table, gradient in zip(function.parameters, tables, gradients, strict=True):
            table.add(gradient, rows[parameter.group][own])
        advance(1)
    return {group: _numpy(found @ found.T) for group, found in rows.items()}


def _check_kernel(values: torch.Tensor, num_groups: int) -> None:
    num_bytes = 8 * values.numel() ** 2 * num_groups
    if num_bytes > KERNEL_BYTES:
        raise InputError(
            f"the kernel of {len(values)} samples with {values.shape[1]} outputs each has "
            f"{num_bytes / 1e9:.1f} GB in {num_groups} groups, at most {KERNEL_BYTES / 1e9:.1f} "
            "are allowed: take a smaller --probe, or --output target"
        )


def _check_size(function: Function, values: torch.Tensor) -> None:
    num_bytes = values.numel() * function.num_parameters * values.element_size()
    if num_bytes > MOST_BYTES:
        raise InputError(
            f"the exact kernel goes through {num_bytes / 1e9:,.1f} GB of gradients "
            f"({values.numel()} rows × {function.num_parameters:,} parameters), at most "
            f"{MOST_BYTES / 1e9:.1f} are allowed: take --sketch 4096, or a smaller --probe"
        )


def _numpy(values: torch.Tensor) -> Floats:
    return values.double().cpu().numpy()
