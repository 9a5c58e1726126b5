"""Small models from scratch for a task and the first rows of its corpus."""

import io
from collections.abc import Mapping
from typing import Any

from attent_select.errors import InputError
from pipeline.first_steps.first_rows import FirstRows, encoded_bytes, label_values

Settings = dict[str, Any]

# Larger images are resized to this side, the usual one of vision transformers.
_MAX_IMAGE_SIZE = 224
_PATCH_SIZES = (16, 8, 7, 4, 2)
# Patches on each side of an image, at least.
_MIN_PATCHES = 4
_IGNORED = 255
_TRANSFORMER = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}


def text_model(tokenizer: str, *, max_length: int) -> Settings:
    """Return a language model with an embedding for every token and every position."""
    from trainers.hf import load_tokenizer

    return {
        "model_type": "llama",
        "vocab_size": len(load_tokenizer(tokenizer)),
        **_TRANSFORMER,
        "intermediate_size": 384,
        "max_position_embeddings": max_length,
        "tie_word_embeddings": True,
    }


def image_settings(rows: FirstRows, column: str) -> Settings:
    """Return `image_size` and `num_channels` of a task, from the first image.

    Raises:
        InputError: the first row has no image that can be read.
    """
    image = _open(rows, column)
    side = min(max(image.size), _MAX_IMAGE_SIZE)
    grey = image.mode in ("1", "L", "I", "I;16", "F")
    return {"image_size": side - side % 2, "num_channels": 1 if grey else 3}


def image_model(task: Mapping[str, Any], rows: FirstRows) -> Settings:
    """Return a model for a task on images.

    Raises:
        InputError: a map in the first rows cannot be read.
    """
    if task["name"] == "semantic_segmentation":
        return {
            "model_type": "segformer",
            "num_channels": task["num_channels"],
            "num_labels": _num_map_classes(rows, task["mask"]),
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [16, 32, 64, 96],
            "num_attention_heads": [1, 2, 4, 8],
            "decoder_hidden_size": 64,
        }
    side = task["image_size"]
    fitting = [size for size in _PATCH_SIZES if side % size == 0 and side // size >= _MIN_PATCHES]
    shape = {
        "image_size": side,
        "num_channels": task["num_channels"],
        "patch_size": fitting[0] if fitting else 1,
        **_TRANSFORMER,
        "intermediate_size": 512,
    }
    if task["name"] == "masked_image_modeling":
        decoder = {
            "decoder_hidden_size": 64,
            "decoder_num_hidden_layers": 2,
            "decoder_num_attention_heads": 4,
            "decoder_intermediate_size": 256,
        }
        return {"model_type": "vit_mae", **shape, **decoder}
    return {"model_type": "vit", **shape, "num_labels": _num_classes(rows, task["label"])}


def _num_classes(rows: FirstRows, column: str) -> int:
    """Return the number of classes among the labels of the first shard."""
    labels = label_values(rows, column)
    if all(isinstance(label, int) for label in labels):
        return int(max(labels)) + 1
    return len(set(labels))


def _num_map_classes(rows: FirstRows, column: str) -> int:
    from trainers.inputs.images import decode_map

    maps = [decode_map(value) for value in rows.values[column] if value is not None]
    counted = [each[each != _IGNORED] for each in maps]
    return max((int(each.max()) for each in counted if each.numel()), default=0) + 1


def _open(rows: FirstRows, column: str) -> Any:
    from PIL import Image

    data = next((each for value in rows.values[column] if (each := encoded_bytes(value))), b"")
    try:
        return Image.open(io.BytesIO(data))
    except OSError as error:
        raise InputError(f"{rows.shard.uri}: column {column}: {error}") from error
