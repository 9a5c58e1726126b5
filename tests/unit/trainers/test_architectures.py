"""Other architectures than those of the conformance suite, as saved models named by path."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digits import png, samples
from task_cases import DPT, LLAMA, TEXTS, causal_lm, scenes
from transformers import AutoTokenizer
from transformers.utils import is_torchvision_available

from attent_select.errors import InputError
from catalogs.shard_format import Sample
from trainers.hf.lora import LoraModels
from trainers.inputs.tokenizer import train_tokenizer
from trainers.task import Task
from trainers.tasks.dense_regression import DenseRegression
from trainers.tasks.image_classification import ImageClassification
from trainers.tasks.image_text import ImageText
from trainers.tasks.semantic_segmentation import SemanticSegmentation


@dataclass(frozen=True)
class Case:
    task: Task
    config: dict[str, Any]
    good: list[Sample]


def classes(config: dict[str, Any]) -> Callable[[Path], Case]:
    common = {"image_size": 16, "patch_size": 4, "num_channels": 1, "num_labels": 10}
    task = ImageClassification(image_size=16, num_channels=1)
    return lambda folder: Case(task, common | config, samples(6))


def masks(config: dict[str, Any]) -> Callable[[Path], Case]:
    task = SemanticSegmentation(image_size=32, num_channels=1)
    return lambda folder: Case(task, {"num_labels": 2} | config, scenes(6))


def depths(config: dict[str, Any]) -> Callable[[Path], Case]:
    task = DenseRegression(image_size=32, num_channels=1, invalid=0, scale=0.01)
    return lambda folder: Case(task, {"num_channels": 1} | config, scenes(6))


def words(config: dict[str, Any]) -> Callable[[Path], Case]:
    known = LLAMA["config"] if config["model_type"] != "gpt2" else {"vocab_size": 300}

    def case(folder: Path) -> Case:
        found = causal_lm(folder)
        return Case(found.task, known | config, found.samples)

    return case


def marked(folder: Path, marks: list[str], **special: str) -> Any:
    """A tokenizer of the texts, that also has these tokens."""
    train_tokenizer((f"{prompt}\n{response}" for prompt, response in TEXTS), folder, vocab_size=300)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": marks, **special})
    return tokenizer


def pictures(folder: Path, config: dict[str, Any], *, template: str, backend: str = "pil") -> Case:
    """Images of different sizes, with a prompt and a response."""
    task = ImageText(processor=str(folder), template=template, max_length=128, backend=backend)
    good: list[Sample] = [
        {"image": scene["image"], "prompt": prompt, "response": response}
        for scene, (prompt, response) in zip(scenes(len(TEXTS)), TEXTS, strict=True)
    ]
    good[0] = good[0] | {"image": png(np.zeros((40, 24), dtype=np.uint8))}
    return Case(task, config, good)


def smol_vlm(folder: Path) -> Case:
    """Idefics3 and SmolVLM: several images a sample, and which of their pixels are padding."""
    from transformers import Idefics3ImageProcessorPil, Idefics3Processor

    marks = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    tokenizer = marked(folder, marks)
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": 16}, max_image_size={"longest_edge": 16}, do_image_splitting=False
    )
    Idefics3Processor(image_processor=images, tokenizer=tokenizer, image_seq_len=4).save_pretrained(
        folder
    )
    config = {
        "model_type": "idefics3",
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "pad_token_id": 0,
        "scale_factor": 2,
        "vision_config": SMALL
        | {"model_type": "idefics3_vision", "image_size": 16, "patch_size": 4},
        "text_config": LLAMA["config"] | {"vocab_size": 304},
    }
    return pictures(folder, config, template="<image>{prompt}: ")


def paligemma(folder: Path) -> Case:
    """What is before the response is seen as a whole, and told from it by its tokens' type."""
    from transformers import PaliGemmaProcessor, SiglipImageProcessorPil

    tokenizer = marked(folder, ["<image>"], bos_token="<start>")
    images = SiglipImageProcessorPil(size={"height": 16, "width": 16})
    images.image_seq_length = 16
    PaliGemmaProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    config = {
        "model_type": "paligemma",
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "projection_dim": 16,
        "vision_config": SMALL
        | {
            "model_type": "siglip_vision_model",
            "image_size": 16,
            "patch_size": 4,
            "projection_dim": 16,
            "vision_use_head": False,
        },
        # The processor adds a thousand tokens for places in the image.
        "text_config": LLAMA["config"]
        | {"model_type": "gemma", "vocab_size": 1500, "hidden_size": 16, "head_dim": 8},
    }
    return pictures(folder, config, template="<image>{prompt}")


def qwen2_vl(folder: Path) -> Case:
    """Qwen2-VL: the number of tokens depends on the image size; each has three positions."""
    from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    marks = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    tokenizer = marked(folder, marks)
    image, video, start, end = tokenizer.convert_tokens_to_ids(marks)
    images = Qwen2VLImageProcessor(
        size={"shortest_edge": 16 * 16, "longest_edge": 32 * 32}, patch_size=4
    )
    Qwen2VLProcessor(
        image_processor=images, tokenizer=tokenizer, video_processor=Qwen2VLVideoProcessor()
    ).save_pretrained(folder)
    rotated = {"rope_type": "default", "mrope_section": [2, 1, 1]}
    config = {
        "model_type": "qwen2_vl",
        "image_token_id": image,
        "video_token_id": video,
        "vision_start_token_id": start,
        "vision_end_token_id": end,
        "vision_config": {
            "depth": 2,
            "embed_dim": 16,
            "hidden_size": 32,
            "num_heads": 2,
            "patch_size": 4,
        },
        "text_config": {key: value for key, value in LLAMA["config"].items() if key != "model_type"}
        | {"vocab_size": 304, "hidden_size": 32, "rope_parameters": rotated},
    }
    template = "<|vision_start|><|image_pad|><|vision_end|>{prompt}: "
    return pictures(folder, config, template=template, backend="torchvision")


SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2}
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
CASES: dict[str, Callable[[Path], Case]] = {
    "deit": classes({"model_type": "deit"} | SMALL),
    "swin": classes({"model_type": "swin"} | SWIN),
    "upernet on swin": masks(
        {
            "model_type": "upernet",
            "backbone_config": {
                "model_type": "swin",
                "image_size": 32,
                "patch_size": 2,
                "num_channels": 1,
                "out_features": ["stage1", "stage2", "stage3", "stage4"],
                **SWIN,
                "depths": [1, 1, 1, 1],
                "num_heads": [1, 2, 2, 2],
            },
            "hidden_size": 8,
            "auxiliary_in_channels": 32,
            "auxiliary_channels": 8,
        }
    ),
    "dpt, segmentation": masks(DPT["config"] | {"image_size": 32, "auxiliary_loss_weight": 0.0}),
    "dpt": depths(DPT["config"] | {"image_size": 32}),
    "glpn": depths(
        {
            "model_type": "glpn",
            "num_encoder_blocks": 4,
            "depths": [1, 1, 1, 1],
            "sr_ratios": [2, 1, 1, 1],
            "hidden_sizes": [8, 8, 16, 16],
            "strides": [2, 2, 2, 2],
            "num_attention_heads": [1, 1, 2, 2],
            "mlp_ratios": [2, 2, 2, 2],
            "decoder_hidden_size": 8,
        }
    ),
    "gpt2": words({"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2}),
    "qwen2": words({"model_type": "qwen2"}),
    # What is more than a head on hidden states: capped, scaled, divided.
    "gemma2": words({"model_type": "gemma2", "head_dim": 8, "final_logit_softcapping": 2.0}),
    "cohere": words({"model_type": "cohere", "logit_scale": 0.25}),
    "granite": words({"model_type": "granite", "logits_scaling": 3.0}),
    "idefics3": smol_vlm,
    "paligemma": paligemma,
}
if is_torchvision_available():  # transformers has Qwen's processor only with it
    CASES["qwen2_vl"] = qwen2_vl


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return CASES[request.param](tmp_path_factory.mktemp("processor"))


@pytest.fixture(scope="module")
def saved(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in the layout of the hub, without anything of ours."""
    folder = tmp_path_factory.mktemp("saved")
    model: Any = case.task.models({"config": case.config}).build(3)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-3)], ids=str
)
def test_a_saved_model_has_the_same_losses_in_any_batch(
    case: Case, saved: Path, dtype: torch.dtype, tolerance: float
) -> None:
    store = case.task.models({"path": str(saved)})
    store.check()  # type: ignore[attr-defined]
    model = store.build(5).eval()

    def losses(items: list[Any]) -> torch.Tensor:
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16)
        with torch.inference_mode(), autocast:
            return case.task.per_sample_loss(model, case.task.collate(items))[0]

    items = [case.task.prepare(sample, generator=None) for sample in case.good]
    together = losses(items)
    assert bool((together > 0).all())
    torch.testing.assert_close(losses(items[::-1]).flip(0), together, rtol=tolerance, atol=0)
    alone = torch.cat([losses([item]) for item in items])
    torch.testing.assert_close(alone, together, rtol=tolerance, atol=0)


def test_a_step_of_training_a_saved_model_lowers_its_loss(case: Case, saved: Path) -> None:
    model = case.task.models({"path": str(saved)}).build(5).train()
    batch = case.task.collate([case.task.prepare(each, generator=None) for each in case.good])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(3):
        torch.manual_seed(1)  # of dropout
        loss = case.task.per_sample_loss(model, batch)[0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > losses[1] > losses[2]


def test_the_loss_of_a_language_model_is_that_of_its_own_logits(case: Case, saved: Path) -> None:
    batch = case.task.collate([case.task.prepare(each, generator=None) for each in case.good])
    if "input_ids" not in batch:
        pytest.skip("no language model")
    model: Any = case.task.models({"path": str(saved)}).build(5).eval()
    inputs = {name.rpartition(".")[2]: value for name, value in batch.items()}
    with torch.inference_mode():
        losses, units = case.task.per_sample_loss(model, batch)
        own = model(**{name: inputs[name] for name in inputs if name != "truncated"}).loss
    torch.testing.assert_close((losses * units).sum() / units.sum(), own, rtol=1e-5, atol=1e-6)


def test_tokens_do_not_attend_to_later_tokens_of_the_response(case: Case, saved: Path) -> None:
    item = case.task.prepare(case.good[0], generator=None)
    if "input_ids" not in item:
        pytest.skip("no language model")
    model = case.task.models({"path": str(saved)}).build(5).eval()
    item["labels"][-1] = -100
    other = item | {"input_ids": [*item["input_ids"][:-1], 7]}
    with torch.inference_mode():
        losses = [
            case.task.per_sample_loss(model, case.task.collate([x]))[0] for x in (item, other)
        ]
    torch.testing.assert_close(*losses, rtol=1e-6, atol=0)


def test_an_adapter_fits_every_architecture(case: Case, saved: Path, tmp_path: Path) -> None:
    store = case.task.models({"path": str(saved), "lora": {"rank": 2}})
    assert isinstance(store, LoraModels)
    store.check()
    model = store.build(5)
    batch = case.task.collate([case.task.prepare(each, generator=None) for each in case.good])
    case.task.per_sample_loss(model.train(), batch)[0].mean().backward()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert any(weight.grad is not None and bool(weight.grad.any()) for weight in trained)
    store.save(model, tmp_path)
    assert store.digest(store.load(tmp_path)) == store.digest(model)


def test_images_with_another_number_of_channels_are_refused_before_a_run_starts(
    case: Case, saved: Path
) -> None:
    if "pixel_values" not in case.task.collate([case.task.prepare(case.good[0], generator=None)]):
        pytest.skip("no images that the task makes itself")
    wrong: Any = replace(case.task, num_channels=3)  # type: ignore[type-var]
    for settings in ({"path": str(saved)}, {"config": case.config}):
        with pytest.raises(InputError, match=r"does not take images of 3 × .*num_channels"):
            wrong.models(settings).check()
