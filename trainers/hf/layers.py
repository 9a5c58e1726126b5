"""The few layers that our own architectures share (`dit.py`, `multi_mae.py`)."""

import math

import torch
from torch import nn
from torch.nn import functional
from transformers.modeling_layers import GradientCheckpointingLayer


class SelfAttention(nn.Module):
    """Multi-head attention of tokens among themselves."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """float[batch, tokens, width] → the same shape."""
        heads = (
            part(tokens).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(*heads)
        found: torch.Tensor = self.output(mixed.transpose(1, 2).flatten(-2))
        return found


class FeedForward(nn.Sequential):
    """Two linear layers with a GELU in between."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__(
            nn.Linear(width, inner), nn.GELU(approximate="tanh"), nn.Linear(inner, width)
        )


class EncoderLayer(GradientCheckpointingLayer):
    """A transformer layer that normalises before attention and feed-forward (ViT)."""

    def __init__(self, width: int, num_heads: int, inner: int) -> None:
        super().__init__()
        self.norm_before, self.norm_after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, num_heads)
        self.feed_forward = FeedForward(width, inner)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """float[batch, tokens, width] → the same shape."""
        tokens = tokens + self.attention(self.norm_before(tokens))
        return tokens + self.feed_forward(self.norm_after(tokens))


def positions(side: int, width: int, *, device: torch.device) -> torch.Tensor:
    """Sines and cosines of both coordinates float32[side², width] (ViT-MAE, DiT)."""
    place = torch.arange(side, dtype=torch.float32, device=device)
    rows, columns = (grid.flatten() for grid in torch.meshgrid(place, place, indexing="ij"))
    return torch.cat([waves(rows, width // 2), waves(columns, width // 2)], dim=1)


def waves(values: torch.Tensor, width: int) -> torch.Tensor:
    """Cosines and sines float32[values, width] of numbers, at `width` / 2 frequencies."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=values.device) / half
    angles = values.float()[:, None] * torch.exp(-math.log(10_000) * steps)
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)


def patchify(pixels: torch.Tensor, patch_size: int) -> torch.Tensor:
    """float[batch, channels, height, width] → [batch, patches, patch_size² × channels]."""
    patches = functional.unfold(pixels, patch_size, stride=patch_size)
    return patches.transpose(1, 2)


def unpatchify(patches: torch.Tensor, patch_size: int, side: int) -> torch.Tensor:
    """What `patchify` made patches of, for an image of `side` pixels a side."""
    return functional.fold(patches.transpose(1, 2), side, patch_size, stride=patch_size)
