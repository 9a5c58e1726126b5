"""MultiMAE: a masked autoencoder over several modalities of one scene (image, depth, mask, …).

Every modality has its own patch projections; tokens of all of them are hidden independently, so a
hidden patch of one can be predicted from the others. It is implemented here because transformers
lacks it.

Source: Bachmann et al., "MultiMAE: Multi-modal Multi-task Masked Autoencoders", ECCV 2022, with one
small decoder for all modalities, and the decoder and loss of ViT-MAE (He et al. 2022).
"""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from trainers.hf.architectures.configs import MultiMaeConfig
from trainers.hf.architectures.layers import EncoderLayer, patchify, position_embeddings


class MultiMaeModel(PreTrainedModel):
    """Predict the pixels of hidden patches of all modalities; noise decides which are hidden."""

    config_class = MultiMaeConfig
    supports_gradient_checkpointing = True
    _no_split_modules = ["EncoderLayer"]  # noqa: RUF012  (a list in transformers)

    def __init__(self, config: MultiMaeConfig) -> None:
        super().__init__(config)
        width, inner = config.hidden_size, config.decoder_hidden_size
        patch = config.patch_size**2 * config.num_channels

        def projections(before: int, after: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Linear(before, after) for _ in range(config.num_modalities))

        self.inputs, self.outputs = projections(patch, width), projections(inner, patch)
        self.modality = nn.Embedding(config.num_modalities, width)
        self.encoder = nn.ModuleList(
            EncoderLayer(width, config.num_attention_heads, config.intermediate_size)
            for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.bridge = nn.Linear(width, inner)
        self.hidden = nn.Embedding(config.num_modalities, inner)
        decoder = inner, config.decoder_num_attention_heads, config.decoder_intermediate_size
        self.decoder = nn.ModuleList(
            EncoderLayer(*decoder) for _ in range(config.decoder_num_hidden_layers)
        )
        self.decoder_norm = nn.LayerNorm(inner)
        self.post_init()  # type: ignore[no-untyped-call]  # untyped in transformers

    def patchify(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Split float[batch, modalities × channels, side, side] into [batch, modalities × patches,
        pixels of a patch].
        """
        return torch.cat(self._patches(pixel_values), dim=1)

    def forward(self, pixel_values: torch.Tensor, noise: torch.Tensor | None = None) -> ModelOutput:
        """Return `logits` float[batch, modalities × patches, pixels of a patch] and `mask`
        float32[batch, modalities × patches], 1 where hidden.

        Args:
            pixel_values: float32[batch, modalities × channels, side, side].
            noise: float32[batch, modalities × patches]: patches with the largest are
                hidden. None: random, as in ViT-MAE.
        """
        parts = self._patches(pixel_values)
        tokens = torch.cat(
            [project(part) for project, part in zip(self.inputs, parts, strict=True)], dim=1
        )
        if noise is None:
            noise = torch.rand(tokens.shape[:2], device=tokens.device)
        modalities = self._modalities(noise)
        tokens = tokens + self._positions(tokens) + self.modality(modalities)
        num_visible = max(1, int(noise.shape[1] * (1 - self.config.mask_ratio)))
        visible = noise.argsort(dim=1, stable=True)[:, :num_visible, None]
        decoded = self._decode(self._encode(tokens, visible), visible, modalities)
        chunks = decoded.chunk(self.config.num_modalities, dim=1)
        pixels = [project(chunk) for project, chunk in zip(self.outputs, chunks, strict=True)]
        mask = torch.ones_like(noise).scatter(1, visible[..., 0], 0.0)
        return ModelOutput(logits=torch.cat(pixels, dim=1), mask=mask)

    def _encode(self, tokens: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Encode the visible tokens only: float[batch, visible, decoder width]."""
        encoded = tokens.gather(1, visible.expand(-1, -1, tokens.shape[-1]))
        for layer in self.encoder:
            encoded = layer(encoded)
        output: torch.Tensor = self.bridge(self.norm(encoded))
        return output

    def _decode(
        self, encoded: torch.Tensor, visible: torch.Tensor, modalities: torch.Tensor
    ) -> torch.Tensor:
        """Decode all tokens, hidden ones included: float[batch, modalities × patches, width]."""
        tokens = self.hidden(modalities).expand(len(visible), -1, -1).to(encoded.dtype)
        tokens = tokens.scatter(1, visible.expand(-1, -1, encoded.shape[-1]), encoded)
        tokens = tokens + self._positions(tokens)
        for layer in self.decoder:
            tokens = layer(tokens)
        output: torch.Tensor = self.decoder_norm(tokens)
        return output

    def _patches(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        images = torch.split(pixel_values, self.config.num_channels, dim=1)
        return [patchify(image, self.config.patch_size) for image in images]

    def _modalities(self, noise: torch.Tensor) -> torch.Tensor:
        """Return the modality of each patch, int64[modalities × patches]."""
        numbers = torch.arange(self.config.num_modalities, device=noise.device)
        return numbers.repeat_interleave(noise.shape[1] // len(numbers))

    def _positions(self, tokens: torch.Tensor) -> torch.Tensor:
        side = self.config.image_size // self.config.patch_size
        embeddings = position_embeddings(side, tokens.shape[-1], device=tokens.device)
        return embeddings.repeat(self.config.num_modalities, 1)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
