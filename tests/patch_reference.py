"""Reference for models that take some of the patches: embeddings, a gather by hand, the layers."""

from typing import Any

import torch


def logits_on_patches(model: Any, pixels: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Return the logits of each image from its patches int64[batch, number]."""
    inner = getattr(model, model.base_model_prefix)
    logits = []
    for image, places in zip(pixels, kept, strict=True):
        tokens = inner.embeddings(image[None])
        patch = inner.config.patch_size
        others = tokens.shape[1] - (image.shape[1] // patch) * (image.shape[2] // patch)
        tokens = torch.cat([tokens[:, :others], tokens[:, others + places]], dim=1)
        tokens = inner.encoder(tokens) if hasattr(inner, "encoder") else _layers(inner, tokens)
        hidden = inner.layernorm(getattr(tokens, "last_hidden_state", tokens))
        head = hidden[:, 0]
        if "dinov2" in inner.config.model_type:
            head = torch.cat([head, hidden[:, others:].mean(dim=1)], dim=1)
        logits.append(model.classifier(head))
    return torch.cat(logits)


def _layers(inner: Any, tokens: torch.Tensor) -> torch.Tensor:
    for layer in inner.layers:
        output = layer(tokens)
        tokens = output[0] if isinstance(output, tuple) else output
    return tokens
