"""Forward passes over a batch of texts: padded rows, or samples packed side by side.

A batch is padded on the right: `input_ids` and `attention_mask` int64[batch, tokens]. `counted`
bool[batch, tokens - 1] are the tokens that are predicted. A pass is what the model takes, and which
of its outputs predict a counted token, in the order of `counted`.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch

from trainers.filling import fill_in_order
from trainers.hf import packs_exactly, row_tokens

# Inputs [rows, tokens] of the model, and the outputs that predict a counted token, as a mask.
Pass = tuple[dict[str, torch.Tensor], torch.Tensor]


def padded_pass(batch: Mapping[str, torch.Tensor], counted: torch.Tensor, rows: slice) -> Pass:
    """Return the pass over some rows of a batch."""
    inputs = {name: batch[name][rows] for name in ("input_ids", "attention_mask")}
    return inputs, torch.nn.functional.pad(counted[rows], (0, 1))


def padded_passes(
    batch: Mapping[str, torch.Tensor], counted: torch.Tensor, *, most_tokens: int | None
) -> Iterator[Pass]:
    """Yield passes of at most `most_tokens`, padding included, or of one row."""
    num_rows, num_tokens = batch["input_ids"].shape
    step = num_rows if most_tokens is None else max(1, most_tokens // num_tokens)
    for first in range(0, num_rows, step):
        yield padded_pass(batch, counted, slice(first, first + step))


def packed_passes(
    model: torch.nn.Module,
    batch: Mapping[str, torch.Tensor],
    counted: torch.Tensor,
    *,
    most_tokens: int | None,
) -> Iterator[Pass]:
    """Yield passes without padding.

    If the model cannot keep packed samples apart, they are padded rows of similar length instead.
    """
    lengths: list[int] = batch["attention_mask"].sum(dim=1).tolist()
    if not packs_exactly(model):
        units = min(sum(lengths), most_tokens or sum(lengths))
        for rows in fill_in_order(lengths, units=units):
            inputs, chosen = padded_pass(batch, counted, rows)
            longest = max(lengths[rows])
            yield {name: value[:, :longest] for name, value in inputs.items()}, chosen[:, :longest]
        return
    limits = [limit for limit in (most_tokens, row_tokens(model)) if limit is not None]
    for rows in _rows_of(lengths, most_tokens=min(limits, default=sum(lengths))):
        inputs, chosen = padded_pass(batch, counted, rows)
        is_token = inputs["attention_mask"].bool()
        # Positions that begin again at each sample, and no mask: see `trainers/hf/packing.py`.
        positions = (inputs["attention_mask"].cumsum(dim=1) - 1)[is_token][None]
        yield (
            {"input_ids": inputs["input_ids"][is_token][None], "position_ids": positions},
            chosen[is_token][None],
        )


def _rows_of(lengths: Sequence[int], *, most_tokens: int) -> Iterator[slice]:
    """Yield consecutive samples with at most `most_tokens` together, or one that is longer."""
    first, total = 0, 0
    for row, length in enumerate(lengths):
        if total and total + length > most_tokens:
            yield slice(first, row)
            first, total = row, 0
        total += length
    yield slice(first, len(lengths))
