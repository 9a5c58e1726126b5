"""Configurations of DiT and MultiMAE: the fields of `model.config`."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


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


@strict
class MultiMaeConfig(PreTrainedConfig):
    """Fields of `model.config` with `model_type: multi_mae`."""

    model_type = "multi_mae"

    num_modalities: int = 2
    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    decoder_hidden_size: int = 256
    decoder_num_hidden_layers: int = 2
    decoder_num_attention_heads: int = 8
    decoder_intermediate_size: int = 1024
    mask_ratio: float = 0.75
    norm_pix_loss: bool = True
    initializer_range: float = 0.02
