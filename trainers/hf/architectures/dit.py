"""DiT: a transformer over patches of a noisy image, conditioned on the timestep and the class.

Source: Peebles and Xie, "Scalable Diffusion Models with Transformers", ICCV 2023 (adaLN-Zero).
It is implemented here because transformers lacks it; the one in diffusers would add a dependency
with its own loading and saving.
"""

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.generic import ModelOutput

from trainers.hf.architectures.configs import DitConfig
from trainers.hf.architectures.layers import (
    FeedForward,
    SelfAttention,
    patchify,
    position_embeddings,
    sinusoids,
    unpatchify,
)

_NUM_FREQUENCIES = 256


class DitModel(PreTrainedModel):
    """Predict the noise from noisy images, timesteps and classes."""

    config_class = DitConfig
    supports_gradient_checkpointing = True
    _no_split_modules = ["DitLayer"]  # noqa: RUF012  (a list in transformers)

    def __init__(self, config: DitConfig) -> None:
        super().__init__(config)
        width, patch = config.hidden_size, config.patch_size**2 * config.num_channels
        self.patches = nn.Linear(patch, width)
        self.timestep = nn.Sequential(
            nn.Linear(_NUM_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.classes = nn.Embedding(config.num_classes, width)
        self.layers = nn.ModuleList(DitLayer(config) for _ in range(config.num_hidden_layers))
        self.modulation = ZeroLinear(width, 2 * width)
        self.noise = ZeroLinear(width, patch)
        self.post_init()  # type: ignore[no-untyped-call]  # untyped in transformers

    def forward(
        self, pixel_values: torch.Tensor, timesteps: torch.Tensor, labels: torch.Tensor
    ) -> ModelOutput:
        """Return `logits`: the noise, float32[batch, channels, side, side].

        Args:
            pixel_values: float32[batch, channels, side, side].
            timesteps: int64[batch].
            labels: int64[batch].
        """
        config = self.config
        tokens = self.patches(patchify(pixel_values, config.patch_size))
        side = config.image_size // config.patch_size
        positions = position_embeddings(side, config.hidden_size, device=tokens.device)
        tokens = tokens + positions.to(pixel_values.dtype)
        time = self.timestep(sinusoids(timesteps, _NUM_FREQUENCIES).to(pixel_values.dtype))
        condition = functional.silu(time + self.classes(labels))[:, None]
        for layer in self.layers:
            tokens = layer(tokens, condition)
        shift, scale = self.modulation(condition).chunk(2, dim=-1)
        noise = self.noise(_modulate(tokens, shift, scale))
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
    """Linear layer initialised to 0: at first, layers pass their input on and the noise is 0."""


class DitLayer(GradientCheckpointingLayer):
    """Transformer layer that is shifted, scaled and gated by the condition (adaLN-Zero)."""

    def __init__(self, config: DitConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.attention = SelfAttention(width, config.num_attention_heads)
        self.feed_forward = FeedForward(width, config.intermediate_size)
        self.modulation = ZeroLinear(width, 6 * width)

    def forward(self, tokens: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Map float[batch, tokens, width] to the same shape; condition float[batch, 1, width]."""
        shift, scale, gate, shift_after, scale_after, gate_after = self.modulation(condition).chunk(
            6, dim=-1
        )
        tokens = tokens + gate * self.attention(_modulate(tokens, shift, scale))
        modulated = _modulate(tokens, shift_after, scale_after)
        output: torch.Tensor = tokens + gate_after * self.feed_forward(modulated)
        return output


def _modulate(tokens: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return functional.layer_norm(tokens, tokens.shape[-1:]) * (1 + scale) + shift
