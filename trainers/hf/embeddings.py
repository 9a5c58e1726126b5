"""Embeddings that grow: rows for new tokens, beside the trained ones."""

import logging
from typing import TYPE_CHECKING

import torch

from attent_select.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_log = logging.getLogger("attent.model")


def grow_embeddings(
    model: "PreTrainedModel", *, num_tokens: int, vocab_size: int, path: str
) -> None:
    """Add rows to the embedding and the head until there are enough for the tokenizer and for
    `model.config.vocab_size` (0: not set).

    The trained rows keep their bits; new ones are the mean of them, the same in every process.

    Raises:
        InputError: the model does not support it, or has more rows than `vocab_size`.
    """
    try:
        num_trained = getattr(model.get_input_embeddings(), "num_embeddings", None)
    except NotImplementedError:
        return  # a model without tokens
    if not isinstance(num_trained, int):
        return
    if 0 < vocab_size < num_trained:
        raise InputError(
            f"model.config.vocab_size is {vocab_size}, but the model in {path} has {num_trained} "
            "trained embeddings, of which none are removed: remove the key"
        )
    num_tokens = max(num_tokens, vocab_size)
    if num_trained >= num_tokens:
        return
    try:
        model.resize_token_embeddings(num_tokens, mean_resizing=False)
    except (NotImplementedError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(
            f"the model in {path} has {num_trained} embeddings for {num_tokens} tokens, and rows "
            f"cannot be added: {error}. Use the tokenizer that belongs to the model"
        ) from error
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        for tensor in () if module is None else module.parameters(recurse=False):
            _fill_with_mean(tensor, num_trained=num_trained, num_tokens=num_tokens)
    _log.info(
        "the model in %s has %d embeddings, the tokenizer or model.config.vocab_size asks for %d: "
        "added %d rows, each the mean of the trained ones",
        path,
        num_trained,
        num_tokens,
        num_tokens - num_trained,
    )


def _fill_with_mean(tensor: torch.Tensor, *, num_trained: int, num_tokens: int) -> None:
    """Set the rows after the trained ones to their mean."""
    if tensor.shape[0] != num_tokens or tensor.is_meta:
        return
    with torch.no_grad():
        mean = tensor[:num_trained].float().mean(dim=0)
        tensor[num_trained:] = mean.to(tensor.dtype)
