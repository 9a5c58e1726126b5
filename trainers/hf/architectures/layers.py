"""Layers and patch functions that DiT and MultiMAE share."""

import math

import torch
from torch import nn
from torch.nn import functional
from transformers.modeling_layers import GradientCheckpointingLayer


class SelfAttention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map float[batch, tokens, width] to the same shape."""
        heads = (
            project(tokens).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(*heads)
        output: torch.Tensor = self.output(mixed.transpose(1, 2).flatten(-2))
        return output


class FeedForward(nn.Sequential):
    """Two linear layers with a GELU in between."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__(
            nn.Linear(width, inner), nn.GELU(approximate="tanh"), nn.Linear(inner, width)
        )


class EncoderLayer(GradientCheckpointingLayer):
    """Transformer layer that normalises before attention and feed-forward (ViT)."""

    def __init__(self, width: int, num_heads: int, inner: int) -> None:
        super().__init__()
        self.norm_before, self.norm_after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, num_heads)
        self.feed_forward = FeedForward(width, inner)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map float[batch, tokens, width] to the same shape."""
        tokens = tokens + self.attention(self.norm_before(tokens))
        output: torch.Tensor = tokens + self.feed_forward(self.norm_after(tokens))
        return output


def position_embeddings(side: int, width: int, *, device: torch.device) -> torch.Tensor:
    """Sines and cosines of both coordinates float32[side², width] (ViT-MAE, DiT)."""
    coordinates = torch.arange(side, dtype=torch.float32, device=device)
    grids = torch.meshgrid(coordinates, coordinates, indexing="ij")
    rows, columns = (grid.flatten() for grid in grids)
    return torch.cat([sinusoids(rows, width // 2), sinusoids(columns, width // 2)], dim=1)


def sinusoids(values: torch.Tensor, width: int) -> torch.Tensor:
    """Cosines and sines float32[values, width] of numbers, at `width` / 2 frequencies."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=values.device) / half
    angles = values.float()[:, None] * torch.exp(-math.log(10_000) * steps)
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)


def patchify(pixels: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Split float[batch, channels, height, width] into [batch, patches, patch_size² × channels]."""
    patches = functional.unfold(pixels, patch_size, stride=patch_size)
    return patches.transpose(1, 2)


def unpatchify(patches: torch.Tensor, patch_size: int, side: int) -> torch.Tensor:
    """Undo `patchify` for images of `side` × `side` pixels."""
    return functional.fold(patches.transpose(1, 2), side, patch_size, stride=patch_size)
