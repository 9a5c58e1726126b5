"""Kernel of a function on its probe samples, group by group in bounded memory: exact, or sketched.

The exact kernel needs the gradients of a parameter for all samples at once. One pass over the
samples handles as many parameters as fit into memory; the next pass handles the following ones.
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

# Limits of the gradients held at once, of all gradients (sixteen passes), and of the kernels.
MEMORY_BYTES = 1 << 30
MAX_GRADIENT_BYTES = 16 << 30
MAX_KERNEL_BYTES = 1 << 30


@dataclass(frozen=True)
class Kernel:
    """K = Σ_g K_g, each float64[rows, rows]; a row is a component of f of a sample, in order.

    `values` is f, float64[rows]; `sketch_size` is the r of the sketch, None for the exact kernel.
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
        """Estimate of ‖K̂ − K‖_F / ‖K‖_F; 0 for the exact kernel."""
        return sketch_error(self.total, self.sketch_size)


def empirical_kernel(
    function: Function,
    *,
    sketch: Sketch | None = None,
    memory_bytes: int = MEMORY_BYTES,
    advance: Callable[[int], None] = lambda _: None,
) -> Kernel:
    """Return the kernel of `function`.

    Args:
        function: f on its probe samples.
        sketch: estimates the kernel, for models with many parameters; None: the exact kernel.
        memory_bytes: limit of the gradients that the exact kernel holds at once; changes only its
            last bits.
        advance: called with the number of samples done.

    Raises:
        InputError: the kernel, or the gradients behind the exact one, are too large, or not finite.
    """
    values = function.values()
    _check_kernel_bytes(values, len(function.groups))
    if sketch is None:
        groups = _exact(function, values, memory_bytes=memory_bytes, advance=advance)
    else:
        groups = _sketch_gradients(function, values, sketch=sketch, advance=advance)
    if not all(np.isfinite(group).all() for group in groups.values()):
        raise InputError(
            "the gradients of f are not finite at these weights: training has diverged. Choose "
            "earlier rounds with --round"
        )
    return Kernel(groups, _numpy(values.flatten()), sketch.size if sketch else None)


@dataclass(frozen=True)
class _Slice:
    """Consecutive numbers of a parameter."""

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
    _check_gradient_bytes(function, values)
    num_rows = values.numel()
    kernels = {group: np.zeros((num_rows, num_rows)) for group in function.groups}
    passes = _passes(function, num_rows, memory_bytes=memory_bytes)
    num_done = 0
    for slices in passes:
        rows = values.new_empty(num_rows, sum(part.end - part.first for part in slices))
        for place, gradients in enumerate(_gradients(function, slices)):
            rows[_rows_of(place, values)] = gradients
            num_done += 1
            advance(int(num_done % len(passes) == 0))
        for group, columns in _columns_of_groups(slices):
            columns_of_group = rows[:, columns]
            kernels[group] += _numpy(columns_of_group @ columns_of_group.T)
    return kernels


def _gradients(function: Function, slices: Sequence[_Slice]) -> Iterator[torch.Tensor]:
    """Yield, for each sample, the gradients [components, numbers] of the slices, side by side."""
    for gradients in function.gradients([part.parameter for part in slices]):
        columns = [
            gradient[:, part.first : part.end]
            for gradient, part in zip(gradients, slices, strict=True)
        ]
        yield torch.cat(columns, dim=1)


def _rows_of(place: int, values: torch.Tensor) -> slice:
    """Return the kernel's rows of the sample at `place`."""
    components = values.shape[1]
    return slice(place * components, (place + 1) * components)


def _passes(function: Function, num_rows: int, *, memory_bytes: int) -> list[list[_Slice]]:
    """Split all parameters into passes whose gradients fit into memory."""
    capacity = max(1, memory_bytes // (num_rows * function.parameters[0].tensor.element_size()))
    passes: list[list[_Slice]] = [[]]
    remaining = capacity
    for parameter in function.parameters:
        first, size = 0, parameter.tensor.numel()
        while first < size:
            if not remaining:
                passes.append([])
                remaining = capacity
            end = min(size, first + remaining)
            passes[-1].append(_Slice(parameter, first, end))
            remaining -= end - first
            first = end
    return passes


def _columns_of_groups(slices: Sequence[_Slice]) -> Iterator[tuple[str, slice]]:
    """Yield the columns of each group, which are adjacent."""
    first = end = 0
    for place, part in enumerate(slices):
        end += part.end - part.first
        group = part.parameter.group
        if place + 1 == len(slices) or slices[place + 1].parameter.group != group:
            yield group, slice(first, end)
            first = end


def _sketch_gradients(
    function: Function, values: torch.Tensor, *, sketch: Sketch, advance: Callable[[int], None]
) -> dict[str, Floats]:
    tables = [
        sketch.table(parameter.name, parameter.tensor.numel(), device=values.device)
        for parameter in function.parameters
    ]
    rows = {
        group: torch.zeros(values.numel(), sketch.size, dtype=torch.float64, device=values.device)
        for group in function.groups
    }
    for place, gradients in enumerate(function.gradients(function.parameters)):
        sample_rows = _rows_of(place, values)
        for parameter, table, gradient in zip(function.parameters, tables, gradients, strict=True):
            table.add(gradient, rows[parameter.group][sample_rows])
        advance(1)
    return {group: _numpy(sketches @ sketches.T) for group, sketches in rows.items()}


def _check_kernel_bytes(values: torch.Tensor, num_groups: int) -> None:
    num_bytes = 8 * values.numel() ** 2 * num_groups
    if num_bytes > MAX_KERNEL_BYTES:
        raise InputError(
            f"the kernel of {len(values)} samples with {values.shape[1]} outputs each has "
            f"{num_bytes / 1e9:.1f} GB in {num_groups} groups, at most "
            f"{MAX_KERNEL_BYTES / 1e9:.1f} are allowed: use a smaller --probe, or --output target"
        )


def _check_gradient_bytes(function: Function, values: torch.Tensor) -> None:
    num_bytes = values.numel() * function.num_parameters * values.element_size()
    if num_bytes > MAX_GRADIENT_BYTES:
        raise InputError(
            f"the exact kernel needs {num_bytes / 1e9:,.1f} GB of gradients "
            f"({values.numel()} rows × {function.num_parameters:,} parameters), at most "
            f"{MAX_GRADIENT_BYTES / 1e9:.1f} are allowed: use --sketch 4096, or a smaller --probe"
        )


def _numpy(values: torch.Tensor) -> Floats:
    return values.double().cpu().numpy()
