"""Models with random weights and generated samples, at the size of an accelerator or of a test."""

import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Workload:
    """A task, its model on the device, and samples.

    `batch_units` is a sensible number of units of a forward pass of a GPU with 80 GB.
    """

    task: Any
    model: Any
    samples: list[dict[str, Any]]
    batch_units: int


@dataclass(frozen=True)
class Size:
    """Size of everything. `toy` runs on a CPU within seconds."""

    is_toy: bool

    def of(self, full: int, toy: int) -> int:
        return toy if self.is_toy else full


def device() -> Any:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def vit(size: Size) -> Workload:
    """ViT-B on images of 224 × 224 pixels, as JPEG."""
    from trainers.tasks.image_classification import ImageClassification

    pixels = size.of(224, 32)
    config = {
        "model_type": "vit",
        "image_size": pixels,
        "patch_size": size.of(16, 8),
        "hidden_size": size.of(768, 32),
        "num_hidden_layers": size.of(12, 2),
        "num_attention_heads": size.of(12, 2),
        "intermediate_size": size.of(3072, 64),
        "num_labels": 10,
    }
    images = [jpeg(number, height=size.of(480, 48)) for number in range(size.of(512, 24))]
    count = size.of(4096, 48)
    samples = [
        {"image": images[number % len(images)], "label": number % 10} for number in range(count)
    ]
    task = ImageClassification(image_size=pixels)
    model = task.models({"config": config}).build(0).to(device())
    return Workload(task, model, samples, size.of(256, 8))


def jpeg(seed: int, *, height: int) -> bytes:
    """Encode a smooth random image, which is about as large as a photograph."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    image = small.resize((height * 4 // 3, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(image).astype(np.int16) + rng.normal(0, 6, (*image.size[::-1], 3))
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def llama(size: Size, *, packing: bool = False, **model: Any) -> Workload:
    """A Llama of 0.4 billion parameters on texts of 20 to 1,000 words."""
    from trainers.inputs.tokenizer import train_tokenizer
    from trainers.tasks.causal_lm import CausalLm

    folder = Path(tempfile.mkdtemp(prefix="attent-accelerator-"))
    words, texts = _texts(size)
    train_tokenizer(words, folder, vocab_size=size.of(8192, 300))
    length = size.of(2048, 64)
    config = {
        "model_type": "llama",
        "vocab_size": size.of(8192, 300),
        "hidden_size": size.of(1280, 32),
        "num_hidden_layers": size.of(20, 2),
        "num_attention_heads": size.of(20, 2),
        "num_key_value_heads": size.of(4, 2),
        "intermediate_size": size.of(3456, 64),
        "max_position_embeddings": length,
    }
    task = CausalLm(tokenizer=str(folder), text="text", max_length=length, packing=packing)
    values: dict[str, Any] = {"config": config}
    if "lora" in model:  # an adapter has a saved base
        task.models(values).build(0).save_pretrained(folder)
        values = {"path": str(folder)}
    built = task.models(values | model).build(0).to(device())
    return Workload(task, built, [{"text": text} for text in texts], size.of(65536, 256))


def _texts(size: Size) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(size.of(4000, 200))]
    lengths = np.exp(rng.normal(4.8, 0.8, size.of(2048, 24))).clip(20, size.of(1000, 40))
    return words, [" ".join(rng.choice(words, int(length))) for length in lengths]
