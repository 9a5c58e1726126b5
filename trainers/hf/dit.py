"""DiT: a transformer over patches of a noisy image, told the timestep and the class.

Source: Peebles and Xie, "Scalable Diffusion Models with Transformers", ICCV 2023 (adaLN-Zero).
It is ours because transformers has none; the one of diffusers would be a dependency with stores
of its own.
"""

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.generic import ModelOutput

from trainers.hf.layers import FeedForward, SelfAttention, patchify, positions, unpatchify, waves

_FREQUENCIES = 256


@strict
class DitConfig(PreTrainedConfig):
    """Fields of `model.config` with `model_type: dit`."""

    model_type = "dit"

    image_size: int = 32
    patch_size: int = 2
    num_channels: int = 3
    hidden_size: int = 384
    num_hidden_layers: int = 12
    num_attention_heads: int = 6
    intermediate_size: int = 1536
    num_classes: int = 1
    initializer_range: float = 0.02


class DitModel(PreTrainedModel):
    """Noisy images, timesteps and classes → the noise."""

    config_class = DitConfig
    supports_gradient_checkpointing = True
    _no_split_modules = ["DitLayer"]  # noqa: RUF012  (theirs is a list)

    def __init__(self, config: DitConfig) -> None:
        super().__init__(config)
        width, patch = config.hidden_size, config.patch_size**2 * config.num_channels
        self.patches = nn.Linear(patch, width)
        self.timestep = nn.Sequential(
            nn.Linear(_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.classes = nn.Embedding(config.num_classes, width)
        self.layers = nn.ModuleList(DitLayer(config) for _ in range(config.num_hidden_layers))
        self.modulation = ZeroLinear(width, 2 * width)
        self.noise = ZeroLinear(width, patch)
        self.post_init()

    def forward(
        self, pixel_values: torch.Tensor, timesteps: torch.Tensor, labels: torch.Tensor
    ) -> ModelOutput:
        """`logits`: the noise, float32[batch, channels, side, side].

        Args:
            pixel_values: float32[batch, channels, side, side].
            timesteps: int64[batch].
            labels: int64[batch].
        """
        config = self.config
        tokens = self.patches(patchify(pixel_values, config.patch_size))
        side = config.image_size // config.patch_size
        tokens = tokens + positions(side, config.hidden_size, device=tokens.device).to(
            pixel_values.dtype
        )
        told = self.timestep(waves(timesteps, _FREQUENCIES).to(pixel_values.dtype))
        told = told + self.classes(labels)
        told = functional.silu(told)[:, None]
        for layer in self.layers:
            tokens = layer(tokens, told)
        shift, scale = self.modulation(told).chunk(2, dim=-1)
        noise = self.noise(_modulated(tokens, shift, scale))
        return ModelOutput(logits=unpatchify(noise, config.patch_size, config.image_size))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ZeroLinear):
            nn.init.zeros_(module.weight)
        elif isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


class ZeroLinear(nn.Linear):
    """Begins as 0: at first every layer passes its input on, and the noise is 0 (adaLN-Zero)."""


class DitLayer(GradientCheckpointingLayer):
    """A transformer layer that is shifted, scaled and gated by what the model is told."""

    def __init__(self, config: DitConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.attention = SelfAttention(width, config.num_attention_heads)
        self.feed_forward = FeedForward(width, config.intermediate_size)
        self.modulation = ZeroLinear(width, 6 * width)

    def forward(self, tokens: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """Tokens float[batch, tokens, width], told float[batch, 1, width]."""
        shift, scale, gate, shift_after, scale_after, gate_after = self.modulation(told).chunk(
            6, dim=-1
        )
        tokens = tokens + gate * self.attention(_modulated(tokens, shift, scale))
        return tokens + gate_after * self.feed_forward(_modulated(tokens, shift_after, scale_after))


def _modulated(tokens: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return functional.layer_norm(tokens, tokens.shape[-1:]) * (1 + scale) + shift
