"""Settings of the model of a run: a saved one to start from, or one to train from scratch."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ModelSettings:
    """Keys of the section `model`. At least one of `path` and `config` is needed.

    Attributes:
        config: the fields of a transformers configuration, with `model_type`: a new model.
        path: a saved model (a local folder, or a name on the hub) to start from; fields of `config`
            then override its configuration.
        new_weights: with `path`, initialise weights at random that the saved model lacks or has in
            another shape. `true`: those of a new head; a list: the tensors that it names, which
            may be embeddings, position tables and patch projections; default false.
        trust_remote_code: run code that comes with `path`; default false.
        attn_implementation: an implementation of attention that transformers and the model have
            (`eager`, `sdpa`, `flash_attention_2`, …); default: transformers' choice.
        torch_dtype: dtype of the weights, at rest and in training, `float32` (default), `bfloat16`
            or `float16`.
        lora: train an adapter instead of the model.
    """

    config: dict[str, Any] | None = None
    path: str | None = None
    new_weights: bool | tuple[str, ...] = False
    trust_remote_code: bool = False
    attn_implementation: str | None = None
    torch_dtype: str = "float32"
    lora: Any = None
