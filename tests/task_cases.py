"""Settings, a tiny model, samples and unusable samples for every task in `trainers/tasks/`.

A new task adds one entry to `CASES`; `tests/conformance/test_tasks.py` fails until it has one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from digits import TASK, VIT, png, samples
from transformers import AutoTokenizer

from catalogs.shard_format import Sample
from trainers.inputs.draws import uniforms
from trainers.inputs.tokenizer import train_tokenizer
from trainers.task import Batch, Task
from trainers.tasks.causal_lm import CausalLm
from trainers.tasks.dense_regression import DenseRegression
from trainers.tasks.diffusion import Diffusion
from trainers.tasks.image_text import ImageText
from trainers.tasks.masked_image_modeling import MaskedImageModeling
from trainers.tasks.preference_pairs import PreferencePairs
from trainers.tasks.semantic_segmentation import SemanticSegmentation

TEXTS = [
    ("add(a, b)", "Return the sum of a and b."),
    (
        "open(file, mode='r')",
        "Open file and return a corresponding file object. The mode says how.",
    ),
    ("len(s)", "Return the number of items in a container."),
    ("sorted(iterable)", "Return a new list with all items from the iterable in ascending order."),
    ("id(obj)", "Return the identity."),
    ("äöü(ß)", "Größe: 3 µm — naïve façade 漢字 🙂"),
    ("exit()", "x"),
]

LLAMA: dict[str, Any] = {
    "config": {
        "model_type": "llama",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "vocab_size": 300,
        "max_position_embeddings": 128,
    }
}


@dataclass(frozen=True)
class TaskCase:
    """Task under test, with the values of the fixtures of `trainers.testing.TaskConformance`."""

    task: Task
    model_settings: dict[str, Any]
    samples: list[Sample]
    num_units: list[int]
    bad_samples: list[tuple[Sample, str]]
    reference_loss: Callable[[torch.nn.Module, Batch], torch.Tensor] | None = None
    unused_parameters: list[str] = field(default_factory=list)


def with_labels(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Return the loss of models that take the batch as it is."""
    known = {name: value for name, value in batch.items() if name != "truncated"}
    loss: torch.Tensor = model(**known).loss
    return loss


def image_classification(folder: Path) -> TaskCase:
    good = samples(12)
    half = good[0]["image"][: len(good[0]["image"]) // 2]
    return TaskCase(
        task=TASK,
        model_settings=VIT,
        samples=good,
        num_units=[1] * len(good),
        reference_loss=with_labels,
        bad_samples=[
            ({"image": b"not an image", "label": 1}, "unreadable"),
            ({"image": half, "label": 1}, "unreadable"),
            ({"image": "text", "label": 1}, "unreadable"),
            ({"image": None, "label": 1}, "empty"),
            ({"image": good[0]["image"], "label": None}, "empty"),
            ({"image": good[0]["image"], "label": "seven"}, "unreadable"),
            ({"image": good[0]["image"], "label": -1}, "unreadable"),
            ({"image": good[0]["image"], "label": 10**30}, "unreadable"),
        ],
    )


def causal_lm(folder: Path) -> TaskCase:
    train_tokenizer((f"{prompt}\n{response}" for prompt, response in TEXTS), folder, vocab_size=300)
    task = CausalLm(tokenizer=str(folder), prompt="prompt", response="response", max_length=96)
    good = [{"prompt": prompt, "response": response} for prompt, response in TEXTS]
    counted = [sum(label >= 0 for label in task.prepare(s, generator=None)["labels"]) for s in good]
    return TaskCase(
        task=task,
        model_settings=LLAMA,
        samples=good,
        num_units=counted,
        reference_loss=with_labels,
        bad_samples=[
            ({"prompt": "f()", "response": ""}, "empty"),
            ({"prompt": "f()", "response": None}, "empty"),
            ({"prompt": 3, "response": "three"}, "unreadable"),
            ({"prompt": "f()", "response": "\ud800"}, "unreadable"),
            ({"prompt": "long " * 200, "response": "never reached"}, "empty"),
        ],
    )


def preference_pairs(folder: Path) -> TaskCase:
    train_tokenizer((f"{prompt}\n{response}" for prompt, response in TEXTS), folder, vocab_size=300)
    good = [
        {"prompt": f"{prompt}\n", "chosen": response, "rejected": response[::-1] + "?"}
        for prompt, response in TEXTS
    ]

    def reference_loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        names = ("input_ids", "attention_mask", "labels")
        losses = [
            model(**{name: batch[name][row : row + 1] for name in names}).loss
            for row in range(len(batch["labels"]))
        ]
        chosen, rejected = torch.stack(losses).chunk(2)
        return -torch.nn.functional.logsigmoid(rejected - chosen).mean()

    return TaskCase(
        task=PreferencePairs(tokenizer=str(folder), prompt="prompt", max_length=96),
        model_settings=LLAMA,
        samples=good,
        num_units=[1] * len(good),
        reference_loss=reference_loss,
        bad_samples=[
            ({"prompt": "f()", "chosen": "", "rejected": "x"}, "empty"),
            ({"prompt": "f()", "chosen": "x", "rejected": None}, "empty"),
            ({"prompt": "f()", "chosen": "x", "rejected": "x"}, "empty"),
            ({"prompt": "f()", "chosen": ["x"], "rejected": "y"}, "unreadable"),
            ({"prompt": "f()", "chosen": "x", "rejected": "\ud800"}, "unreadable"),
            ({"prompt": "long " * 200, "chosen": "never", "rejected": "reached"}, "empty"),
        ],
    )


def scenes(number: int) -> list[Sample]:
    """Return grey images of 16 × 16 with a bright square, its mask (class 1), and the distances to
    its corner (0: invalid).
    """
    generator = np.random.default_rng(2)
    scene_samples = []
    for _ in range(number):
        top, left, side = generator.integers(1, 7, 3)
        pixels = generator.integers(0, 120, (16, 16)).astype(np.uint8)
        mask = np.zeros((16, 16), np.uint8)
        mask[top : top + side, left : left + side] = 1
        pixels[mask == 1] += 120
        rows, columns = np.indices((16, 16))
        distances = (np.hypot(rows - top, columns - left) * 10).astype(np.uint8)
        mask[0, : int(generator.integers(1, 9))] = 255
        scene_samples.append({"image": png(pixels), "mask": png(mask), "target": png(distances)})
    return scene_samples


SEGFORMER: dict[str, Any] = {
    "config": {
        "model_type": "segformer",
        "num_channels": 1,
        "num_encoder_blocks": 2,
        "depths": [1, 1],
        "sr_ratios": [2, 1],
        "hidden_sizes": [8, 16],
        "patch_sizes": [3, 3],
        "strides": [2, 2],
        "num_attention_heads": [1, 2],
        "mlp_ratios": [2, 2],
        "decoder_hidden_size": 16,
        "num_labels": 2,
    }
}


def semantic_segmentation(folder: Path) -> TaskCase:
    good = scenes(8)
    image, small = good[0]["image"], png(np.zeros((8, 8), np.uint8))
    task = SemanticSegmentation(image_size=16, num_channels=1)
    counted = [int((task.prepare(s, generator=None)["labels"] >= 0).sum()) for s in good]
    return TaskCase(
        task=task,
        model_settings=SEGFORMER,
        samples=good,
        num_units=counted,
        reference_loss=lambda model, batch: (
            model(
                pixel_values=batch["pixel_values"],
                labels=batch["labels"].where(batch["labels"] >= 0, 255),
            ).loss
        ),
        bad_samples=[
            ({"image": image, "mask": None}, "empty"),
            ({"image": None, "mask": good[0]["mask"]}, "empty"),
            ({"image": image, "mask": png(np.full((16, 16), 255, np.uint8))}, "empty"),
            ({"image": image, "mask": small}, "unreadable"),
            ({"image": image, "mask": png(np.zeros((16, 16, 3), np.uint8))}, "unreadable"),
            ({"image": image, "mask": [[0.5] * 16] * 16}, "unreadable"),
            ({"image": image, "mask": [[0, 1], [0]]}, "unreadable"),
            ({"image": b"not an image", "mask": good[0]["mask"]}, "unreadable"),
        ],
    )


DPT: dict[str, Any] = {
    "config": {
        "model_type": "dpt",
        "image_size": 16,
        "patch_size": 4,
        "num_channels": 1,
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "backbone_out_indices": [0, 1, 2, 3],
        "neck_hidden_sizes": [8, 8, 8, 8],
        "fusion_hidden_size": 8,
        "reassemble_factors": [4, 2, 1, 0.5],
    }
}


def dense_regression(folder: Path) -> TaskCase:
    good = scenes(8)
    task = DenseRegression(image_size=16, num_channels=1, invalid=0, scale=0.01)
    valid = [int(task.prepare(s, generator=None)["targets"].isfinite().sum()) for s in good]
    image = good[0]["image"]
    return TaskCase(
        task=task,
        model_settings=DPT,
        samples=good,
        num_units=valid,
        unused_parameters=[
            *(f"dpt.layernorm.{kind}" for kind in ("weight", "bias")),
            *(
                f"neck.fusion_stage.layers.0.residual_layer1.convolution{number}.{kind}"
                for number in (1, 2)
                for kind in ("weight", "bias")
            ),
        ],
        bad_samples=[
            ({"image": image, "target": None}, "empty"),
            ({"image": image, "target": png(np.zeros((16, 16), np.uint8))}, "empty"),
            ({"image": image, "target": [[float("nan")] * 16] * 16}, "empty"),
            ({"image": image, "target": png(np.ones((16, 8), np.uint8))}, "unreadable"),
            ({"image": image, "target": "text"}, "unreadable"),
        ],
    )


MAE: dict[str, Any] = {
    "config": {
        "model_type": "vit_mae",
        "image_size": 16,
        "patch_size": 4,
        "num_channels": 1,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 32,
        "norm_pix_loss": True,
    }
}


def masked_image_modeling(folder: Path) -> TaskCase:
    good = scenes(8)
    half = good[0]["image"][: len(good[0]["image"]) // 2]
    return TaskCase(
        task=MaskedImageModeling(image_size=16, num_channels=1),
        model_settings=MAE,
        samples=good,
        num_units=[12] * len(good),
        reference_loss=lambda model, batch: (
            model(
                pixel_values=batch["pixel_values"], noise=uniforms(batch["keys"], 16, purpose=1)
            ).loss
        ),
        bad_samples=[
            ({"image": b"not an image"}, "unreadable"),
            ({"image": half}, "unreadable"),
            ({"image": b""}, "empty"),
        ],
    )


DIT: dict[str, Any] = {
    "config": {
        "model_type": "dit",
        "image_size": 8,
        "patch_size": 4,
        "num_channels": 1,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "num_classes": 10,
    }
}


def diffusion(folder: Path) -> TaskCase:
    good = samples(8)
    return TaskCase(
        task=Diffusion(label="label", image_size=8, num_channels=1, score_timesteps=3),
        model_settings=DIT,
        samples=good,
        num_units=[3] * len(good),
        bad_samples=[
            ({"image": b"not an image", "label": 1}, "unreadable"),
            ({"image": good[0]["image"], "label": None}, "empty"),
            ({"image": good[0]["image"], "label": -1}, "unreadable"),
        ],
    )


def llava_processor(folder: Path) -> int:
    """Save a processor for text and 8 × 8 images; return the id of its image token."""
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    train_tokenizer((f"{prompt}\n{response}" for prompt, response in TEXTS), folder, vocab_size=300)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    images = CLIPImageProcessorPil(
        size={"height": 8, "width": 8}, crop_size={"height": 8, "width": 8}
    )
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=4,
        vision_feature_select_strategy="full",
        image_token="<image>",
    )
    processor.save_pretrained(folder)
    return int(tokenizer.convert_tokens_to_ids("<image>"))


def image_text(folder: Path) -> TaskCase:
    image_token = llava_processor(folder)
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
        "vision_use_head": False,
    }
    model = {
        "config": {
            "model_type": "llava",
            "vision_config": vision,
            "text_config": LLAMA["config"] | {"vocab_size": 304},
            "image_token_index": image_token,
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
        }
    }
    task = ImageText(processor=str(folder), template="<image>{prompt}: ", max_length=128)
    images = [each["image"] for each in samples(len(TEXTS))]
    good = [
        {"image": image, "prompt": prompt, "response": response}
        for image, (prompt, response) in zip(images, TEXTS, strict=True)
    ]
    counted = [sum(label >= 0 for label in task.prepare(s, generator=None)["labels"]) for s in good]
    return TaskCase(
        task=task,
        model_settings=model,
        samples=good,
        num_units=counted,
        unused_parameters=[
            f"model.vision_tower.post_layernorm.{kind}" for kind in ("weight", "bias")
        ],
        reference_loss=lambda model, batch: (
            model(
                **{
                    name.rpartition(".")[2]: value
                    for name, value in batch.items()
                    if name != "truncated"
                }
            ).loss
        ),
        bad_samples=[
            ({"image": images[0], "prompt": "f()", "response": ""}, "empty"),
            ({"image": images[0], "prompt": "f()" * 200, "response": "gone"}, "empty"),
            ({"image": images[0], "prompt": None, "response": "x"}, "empty"),
            ({"image": b"not an image", "prompt": "f()", "response": "x"}, "unreadable"),
        ],
    )


CASES: dict[str, Callable[[Path], TaskCase]] = {
    case.__name__: case
    for case in (
        causal_lm,
        dense_regression,
        diffusion,
        image_classification,
        image_text,
        masked_image_modeling,
        preference_pairs,
        semantic_segmentation,
    )
}
