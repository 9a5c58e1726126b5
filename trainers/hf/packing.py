"""Packing: samples side by side in one row, without attention across them.

transformers keeps packed samples apart if position ids restart at each of them, and if there is
neither an attention mask nor a cache (`transformers.masking_utils`). Architectures that find their
positions in another way, or carry a state from token to token, mix the samples without an error.
So each model is compared with itself before its samples are packed.
"""

import warnings
from typing import Any
from weakref import WeakKeyDictionary

import torch

# Samples of the comparison, in tokens.
_LENGTHS = (5, 3, 6)
# Difference of logits and gradients, relative to the largest of them, that rounding explains.
_TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}
_TOLERANCE_16_BITS = 3e-2
# Tokens of a packed row. Without flash attention every token is compared with all of its row, so
# that long rows cost more than they save.
_ROW_TOKENS = {"cpu": 512}
_ROW_TOKENS_ON_GPU = 4096

_known: "WeakKeyDictionary[torch.nn.Module, bool]" = WeakKeyDictionary()


def packs_exactly(model: torch.nn.Module) -> bool:
    """Whether a model of transformers gives packed samples the logits and gradients of single ones.

    Compared once per model; a model that does not is named in a warning.
    """
    inner: Any = model
    if hasattr(inner, "get_base_model"):  # adapters are injected into the base model's modules
        inner = inner.get_base_model()
    if inner not in _known:
        problem = _difference(inner)
        _known[inner] = problem is None
        if problem is not None:
            warnings.warn(
                f"task.packing: {type(inner).__name__} cannot keep packed samples apart "
                f"({problem}): they are padded instead",
                stacklevel=2,
            )
    return _known[inner]


def row_tokens(model: Any) -> int | None:
    """Return the most tokens of a packed row that are worth it; None: any number."""
    if str(getattr(model.config, "_attn_implementation", "")).startswith("flash"):
        return None
    return _ROW_TOKENS.get(next(model.parameters()).device.type, _ROW_TOKENS_ON_GPU)


def _difference(model: Any) -> str | None:
    """Return how far packed samples are from single ones; None: no further than rounding."""
    dtype = next(model.parameters()).dtype
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        packed, single = _both_ways(model, dtype)
    except (TypeError, ValueError, NotImplementedError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        for module, training in modes.items():
            module.training = training
    for name, one, other in zip(("logits", "gradients"), packed, single, strict=True):
        difference = float((one - other).abs().max() / other.abs().max().clamp(min=1e-30))
        if not difference <= _TOLERANCES.get(dtype, _TOLERANCE_16_BITS):
            return f"its {name} differ by {difference:.1e} of the largest"
    return None


def _both_ways(
    model: Any, dtype: torch.dtype
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Return logits [tokens, vocabulary] and gradients [tokens, width] of packed samples, and of
    the same samples one by one.
    """
    device = next(model.parameters()).device
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(sum(_LENGTHS), device=device)[None] * 7 % min(vocabulary, 101)
    positions = torch.cat([torch.arange(length, device=device) for length in _LENGTHS])[None]
    is_16_bit = dtype not in _TOLERANCES
    with (
        torch.inference_mode(mode=False),
        torch.enable_grad(),
        torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_16_bit),
    ):
        packed = _logits_and_gradients(model, ids.clone(), position_ids=positions.clone())
        single = [_logits_and_gradients(model, part) for part in ids.clone().split(_LENGTHS, dim=1)]
    logits, gradients = (torch.cat(parts) for parts in zip(*single, strict=True))
    return packed, (logits, gradients)


def _logits_and_gradients(
    model: Any, ids: torch.Tensor, **inputs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and the gradients of their squares at the embeddings: they pass all layers."""
    embedded: list[torch.Tensor] = []

    def keep(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    hook = model.get_input_embeddings().register_forward_hook(keep)
    try:
        logits = model(input_ids=ids, use_cache=False, **inputs).logits[0].float()
    finally:
        hook.remove()
    (gradient,) = torch.autograd.grad(logits.square().sum(), embedded[:1])
    return logits.detach(), gradient[0].float()
