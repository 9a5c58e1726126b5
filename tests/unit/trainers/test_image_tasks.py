"""Image tasks: processors, aligned maps, augmentation, metrics, masks and noise."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digits import VIT, png
from PIL import Image
from task_cases import DIT, DPT, MAE, SEGFORMER, image_text, scenes
from transformers import AutoTokenizer, SegformerImageProcessorPil, ViTImageProcessorPil

from attent_select.errors import InputError, SampleError
from trainers.hf import load_image_processor
from trainers.inputs.pixels import crop_and_flip
from trainers.tasks.dense_regression import DenseRegression
from trainers.tasks.diffusion import Diffusion
from trainers.tasks.image_classification import ImageClassification
from trainers.tasks.masked_image_modeling import MaskedImageModeling
from trainers.tasks.semantic_segmentation import SemanticSegmentation

COLOURS = np.random.default_rng(3).integers(0, 256, (20, 30, 3)).astype(np.uint8)
GREY = COLOURS[..., 0]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


class Constant(torch.nn.Module):
    """Answers what it is told, whatever the image."""

    def __init__(self, **answers: torch.Tensor) -> None:
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(1))
        self.answers = answers

    def forward(self, pixel_values: torch.Tensor) -> Any:
        return type("Output", (), self.answers)


# --- preprocessing ------------------------------------------------------------------------------


def test_pixels_come_from_the_processor_of_the_model(tmp_path: Path) -> None:
    processor = ViTImageProcessorPil(size={"height": 12, "width": 8}, image_mean=[0.2, 0.4, 0.6])
    processor.save_pretrained(tmp_path)
    task = ImageClassification(processor=str(tmp_path))
    task.check()
    item = task.prepare({"image": png(COLOURS), "label": 1}, generator=None)
    expected = processor(Image.fromarray(COLOURS), return_tensors="pt")["pixel_values"]
    assert expected.shape == (1, 3, 12, 8)
    assert torch.equal(task.collate([item])["pixel_values"], expected)


def test_a_backend_that_is_not_installed_is_refused(tmp_path: Path) -> None:
    ViTImageProcessorPil().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no backend 'torchvision' here"):
        load_image_processor(str(tmp_path), backend="torchvision")
    with pytest.raises(InputError, match="expected pil or torchvision"):
        ImageClassification(processor=str(tmp_path), backend="numpy")
    with pytest.raises(InputError, match=r"task\.processor is .*nowhere: there is no such folder"):
        ImageClassification(processor=str(tmp_path / "nowhere")).check()


def test_a_processor_that_crops_is_refused_for_tasks_with_maps(tmp_path: Path) -> None:
    ViTImageProcessorPil(do_center_crop=True).save_pretrained(tmp_path)
    ImageClassification(processor=str(tmp_path)).check()
    for task in (
        SemanticSegmentation(processor=str(tmp_path)),
        DenseRegression(processor=str(tmp_path)),
    ):
        with pytest.raises(InputError, match="sets do_center_crop"):
            task.check()


def test_a_processor_without_a_fixed_size_is_refused(tmp_path: Path) -> None:
    SegformerImageProcessorPil(do_resize=False).save_pretrained(tmp_path)
    task = ImageClassification(processor=str(tmp_path))
    items = [
        task.prepare({"image": png(COLOURS[:side]), "label": 0}, generator=None) for side in (9, 10)
    ]
    with pytest.raises(InputError, match="images of different sizes"):
        task.collate(items)


@pytest.mark.parametrize(
    "data",
    [
        png(GREY),
        encoded(Image.fromarray(COLOURS).convert("CMYK"), "JPEG"),
        encoded(Image.fromarray(GREY.astype(np.uint16) * 257), "PNG"),
        encoded(Image.fromarray(COLOURS).convert("P"), "PNG"),
        encoded(Image.fromarray(COLOURS).convert("RGBA"), "PNG"),
    ],
    ids=["grey", "cmyk", "sixteen bits", "palette", "alpha"],
)
@pytest.mark.parametrize("with_processor", [False, True])
def test_any_kind_of_image_becomes_three_channels(
    data: bytes, *, with_processor: bool, tmp_path: Path
) -> None:
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(tmp_path)
    processor = str(tmp_path) if with_processor else None
    task = ImageClassification(image_size=8, processor=processor)
    pixels = task.collate([task.prepare({"image": data, "label": 0}, generator=None)])
    assert pixels["pixel_values"].shape == (1, 3, 8, 8)
    assert pixels["pixel_values"].std() > 0.1


# --- maps ---------------------------------------------------------------------------------------


def test_image_and_mask_are_resized_and_augmented_together() -> None:
    task = SemanticSegmentation(image_size=16, num_channels=1, augment=True, flip=True)
    mask = np.zeros((32, 32), np.uint8)
    mask[8:20, 4:16] = 1
    sample = {"image": png(mask * 255), "mask": png(mask)}
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        item = task.prepare(sample, generator=generator)
        bright = item["pixels"][0] > 127
        counted = item["labels"] >= 0
        agree = (bright == (item["labels"] == 1))[counted].float().mean()
        assert agree > 0.97  # the edges of the two are resized differently


def test_augmentation_keeps_the_size_and_pads_each_layer_with_its_fill_value() -> None:
    ones = torch.ones(1, 16, 16)
    moved = [
        crop_and_flip(
            (ones, 0.0), (ones[0], -100), flip=True, generator=torch.Generator().manual_seed(s)
        )
        for s in range(20)
    ]
    for pixels, labels in moved:
        assert pixels.shape == (1, 16, 16)
        assert torch.equal(pixels[0] == 0, labels == -100)
    assert len({float(pixels.sum()) for pixels, _ in moved}) > 3


def test_a_mask_with_a_class_that_the_model_lacks_has_no_units() -> None:
    task = SemanticSegmentation(image_size=16, num_channels=1)
    model = task.models(SEGFORMER).build(1).eval()
    good, bad = scenes(2)
    bad["mask"] = png(np.full((16, 16), 7, np.uint8))
    batch = task.collate([task.prepare(s, generator=None) for s in (good, bad)])
    with torch.inference_mode():
        losses, units = task.per_sample_loss(model, batch)
    assert units[0] > 0
    assert (losses[1], units[1]) == (0, 0)


UPERNET: dict[str, Any] = {
    "config": {
        "model_type": "upernet",
        "backbone_config": {
            "model_type": "convnext",
            "num_channels": 1,
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [8, 8, 8, 8],
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
        },
        "hidden_size": 8,
        "auxiliary_in_channels": 8,
        "auxiliary_channels": 8,
        "num_labels": 2,
    }
}


def test_upernet_scores_a_single_image_but_cannot_train_on_it() -> None:
    task = SemanticSegmentation(image_size=32, num_channels=1)
    model = task.models(UPERNET).build(1)
    batch = task.collate([task.prepare(s, generator=None) for s in scenes(2)])
    one = {name: value[:1] for name, value in batch.items()}
    with torch.inference_mode():
        both, _ = task.per_sample_loss(model.eval(), batch)
        alone, _ = task.per_sample_loss(model, one)
    torch.testing.assert_close(alone[0], both[0], rtol=1e-6, atol=0)
    task.per_sample_loss(model.train(), batch)[0].mean().backward()
    with pytest.raises(InputError, match="every micro-batch has at least two"):
        task.per_sample_loss(model, one)


def test_reduce_labels_ignores_class_zero() -> None:
    task = SemanticSegmentation(image_size=2, num_channels=1, reduce_labels=True)
    mask = [[0, 1], [2, 255]]
    item = task.prepare({"image": png(GREY[:2, :2]), "mask": mask}, generator=None)
    assert item["labels"].tolist() == [[-100, 0], [1, -100]]


def test_segmentation_metrics_are_those_of_the_confusion_matrix() -> None:
    task = SemanticSegmentation(image_size=4, num_channels=1)
    labels = torch.tensor([[[0, 0, 1, 1], [0, 0, 1, -100]]])
    answers = torch.tensor([[[0, 1, 1, 1], [0, 0, 0, 0]]])
    logits = torch.nn.functional.one_hot(answers, 3).permute(0, 3, 1, 2) * 20.0
    batch = {"pixel_values": torch.zeros(1, 1, 2, 4), "labels": labels}
    found = task.evaluate(Constant(logits=logits), [batch, batch])
    # Class 0: 3 both, 5 either; class 1: 2 both, 4 either; class 2 does not occur.
    assert found["pixel_accuracy"] == pytest.approx(5 / 7)
    assert found["mean_iou"] == pytest.approx((3 / 5 + 2 / 4) / 2)
    with pytest.raises(InputError, match="no pixel to evaluate"):
        task.evaluate(Constant(logits=logits), [])


def test_targets_support_validity_scale_and_16_bit_images() -> None:
    task = DenseRegression(
        image_size=2, num_channels=1, invalid=0, valid="valid", scale=0.001, loss="l2"
    )
    sample = {
        "image": png(GREY[:2, :2]),
        "target": png(np.array([[0, 1000], [2000, 60_000]], np.uint16)),
        "valid": png(np.array([[1, 1], [0, 255]], np.uint8)),
    }
    targets = task.prepare(sample, generator=None)["targets"]
    assert targets.isnan().tolist() == [[True, False], [True, False]]
    assert targets[0, 1] == 1.0
    assert targets[1, 1] == pytest.approx(60.0)
    assert task.columns == ("image", "target", "valid")
    with pytest.raises(SampleError, match="expected the same"):
        task.prepare(sample | {"valid": png(GREY[:3, :2])}, generator=None)


def test_regression_metrics_are_over_valid_pixels() -> None:
    targets = torch.tensor([[[1.0, 2.0, 0.0, math.nan]]])
    predicted = torch.tensor([[[1.2, 4.0, -1.0, 9.0]]])
    batch = {"pixel_values": torch.zeros(1, 1, 1, 4), "targets": targets}
    found = DenseRegression(num_channels=1).evaluate(Constant(predicted_depth=predicted), [batch])
    errors = torch.tensor([0.2, 2.0, 1.0])
    assert found["mae"] == found["eval_loss"] == pytest.approx(float(errors.mean()))
    assert found["rmse"] == pytest.approx(float(errors.square().mean().sqrt()))
    assert found["delta1"] == 0.5  # of the two positive targets 1.2 is near 1, 4 not near 2


def test_the_gradient_of_pixels_that_are_not_valid_is_zero_and_not_nan() -> None:
    task = DenseRegression(image_size=16, num_channels=1, invalid=0)
    model = task.models(DPT).build(1)
    batch = task.collate([task.prepare(scenes(1)[0], generator=None)])
    batch["targets"][:] = math.nan
    losses, units = task.per_sample_loss(model, batch)
    losses.sum().backward()
    assert (losses.item(), units.item()) == (0.0, 0)
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


# --- masks and noise ----------------------------------------------------------------------------


def test_masks_follow_from_the_sample_in_scoring_and_are_random_in_training() -> None:
    task = MaskedImageModeling(image_size=16, num_channels=1)
    sample = scenes(1)[0]

    def key(seed: int | None) -> int:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return int(task.prepare(sample, generator=generator)["key"])

    assert key(None) == key(None)
    assert key(1) == key(1)
    assert len({key(None), key(1), key(2)}) == 3
    other = MaskedImageModeling(image_size=16, num_channels=1, seed=1)
    assert other.prepare(sample, generator=None)["key"] != key(None)


MULTI = {
    "config": {
        "model_type": "multi_mae",
        "num_modalities": 3,
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
    }
}


def test_modalities_are_hidden_independently_and_predicted_from_each_other(
    tmp_path: Path,
) -> None:
    task = MaskedImageModeling(image=("image", "mask", "target"), image_size=16, num_channels=1)
    models = task.models(MULTI)
    model = models.build(1)
    batch = task.collate([task.prepare(s, generator=None) for s in scenes(6)])
    assert batch["pixel_values"].shape == (6, 3, 16, 16)
    losses, units = task.per_sample_loss(model, batch)
    assert units.tolist() == [36] * 6
    losses.mean().backward()
    assert all(weight.grad is not None for weight in model.parameters())
    alone = task.collate([task.prepare(scenes(6)[4], generator=None)])
    torch.testing.assert_close(task.per_sample_loss(model, alone)[0][0], losses[4])
    models.save(model, tmp_path)
    torch.testing.assert_close(task.per_sample_loss(models.load(tmp_path), batch)[0], losses)


def test_the_loss_covers_hidden_patches_and_the_model_reads_visible_ones() -> None:
    task = MaskedImageModeling(image=("image", "target"), image_size=16, num_channels=1)
    config = MULTI["config"] | {"num_modalities": 2, "norm_pix_loss": False}
    model: Any = task.models({"config": config}).build(1).eval()
    pixels = task.collate([task.prepare(scenes(1)[0], generator=None)])["pixel_values"]
    noise = torch.rand(1, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        before = model(pixel_values=pixels, noise=noise)
        hidden = int(noise[0, :16].argmax())
        changed = pixels.clone()
        row, column = divmod(hidden, 4)
        changed[0, 0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1
        after = model(pixel_values=changed, noise=noise)
    assert before.mask[0, hidden] == 1
    assert before.mask.sum() == 24
    assert torch.equal(before.logits, after.logits)


def test_modalities_of_different_sizes_and_models_for_one_image_are_refused() -> None:
    task = MaskedImageModeling(image=("image", "mask"), image_size=16, num_channels=1)
    with pytest.raises(SampleError, match="have different sizes"):
        task.prepare(scenes(1)[0] | {"mask": png(GREY)}, generator=None)
    with pytest.raises(InputError, match="model type 'vit_mae' does not fit the task"):
        task.models(MAE).build(1)


def test_a_model_for_another_number_of_modalities_is_refused() -> None:
    task = MaskedImageModeling(image=("image", "mask"), image_size=16, num_channels=1)
    with pytest.raises(InputError, match="the task has 2 modalities, the model 3"):
        task.models(MULTI)


def test_a_score_of_diffusion_is_the_mean_over_fixed_timesteps() -> None:
    task = Diffusion(image_size=8, num_channels=1, score_timesteps=2, num_timesteps=100)
    model = task.models(DIT).build(1).eval()
    image = {"image": png(GREY[:8, :8])}
    batch = task.collate([task.prepare(image, generator=None)])
    steps = task._scored_timesteps(batch["timesteps"])
    assert steps[:, 0].tolist() == [25, 75]
    with torch.inference_mode():
        losses, units = task.per_sample_loss(model, batch)
        each = [task._error(model, batch, batch["labels"], step) for step in steps]
    assert units.tolist() == [2]
    torch.testing.assert_close(losses, torch.stack(each).mean(dim=0))


def test_a_new_dit_predicts_zero() -> None:
    task = Diffusion(image_size=8, num_channels=1)
    model = task.models(DIT).build(1).eval()
    images = [{"image": png(np.full((8, 8), shade, np.uint8))} for shade in range(100)]
    batch = task.collate([task.prepare(image, generator=None) for image in images])
    with torch.inference_mode():
        assert task.per_sample_loss(model, batch)[0].mean() == pytest.approx(1.0, abs=0.03)
        inputs = {name: batch[name] for name in ("pixel_values", "labels")}
        assert not model(**inputs, timesteps=batch["labels"]).logits.any()


def test_training_draws_one_timestep_from_the_generator() -> None:
    task = Diffusion(image_size=8, num_channels=1)
    model = task.models(DIT).build(1).train()
    image = {"image": png(GREY[:8, :8])}

    def loss(seed: int) -> float:
        generator = torch.Generator().manual_seed(seed)
        batch = task.collate([task.prepare(image, generator=generator)])
        losses, units = task.per_sample_loss(model, batch)
        assert units.tolist() == [1]
        return losses.item()

    assert loss(1) == loss(1) != loss(2)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_signal_decreases_with_the_timestep(schedule: str) -> None:
    task = Diffusion(schedule=schedule, num_timesteps=1000)
    left = task._signal(torch.arange(1000))
    assert bool((left.diff() <= 0).all())
    assert left[0] > 0.999
    assert left[-1] < 1e-3
    if schedule == "linear":  # Ho, Jain and Abbeel: the product of 1 − β
        betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        torch.testing.assert_close(left.double(), (1 - betas).cumprod(0), rtol=1e-4, atol=1e-7)


def test_a_label_that_the_model_lacks_has_no_units() -> None:
    task = Diffusion(label="label", image_size=8, num_channels=1)
    model = task.models(DIT).build(1)
    samples = [{"image": png(GREY[:8, :8]), "label": label} for label in (1, 10)]
    batch = task.collate([task.prepare(sample, generator=None) for sample in samples])
    losses, units = task.per_sample_loss(model, batch)
    assert units.tolist() == [4, 0]
    assert losses[1] == 0


def test_a_dit_learns_to_predict_noise() -> None:
    task = Diffusion(image_size=8, num_channels=1, num_timesteps=50)
    model = task.models({"config": DIT["config"] | {"hidden_size": 32}}).build(1)
    samples = [{"image": png(GREY[y : y + 8, :8])} for y in range(8)]
    batch = task.collate([task.prepare(sample, generator=None) for sample in samples])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(60):
        generator = torch.Generator().manual_seed(step)
        drawn = task.collate([task.prepare(s, generator=generator) for s in samples])
        task.per_sample_loss(model, drawn)[0].mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.inference_mode():
        assert task.per_sample_loss(model, batch)[0].mean() < 0.7


@pytest.mark.parametrize(
    "settings",
    [{"config": {"model_type": "bert"}}, {"config": {"model_type": "vit"}}],
)
@pytest.mark.parametrize(
    "task",
    [SemanticSegmentation(), DenseRegression(), MaskedImageModeling(), Diffusion()],
    ids=lambda task: type(task).__name__,
)
def test_a_model_type_that_does_not_fit_the_task_is_refused_before_a_run_starts(
    task: Any, settings: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match="does not fit the task: expected one of"):
        task.models(settings).check()


@pytest.mark.parametrize(
    ("task", "model"),
    [
        (ImageClassification(image_size=12, num_channels=1), VIT),
        (MaskedImageModeling(image_size=24, num_channels=1), MAE),
        (MaskedImageModeling(image=("a", "b", "c"), image_size=24, num_channels=1), MULTI),
        (Diffusion(image_size=12, num_channels=1), DIT),
    ],
    ids=["vit", "vit_mae", "multi_mae", "dit"],
)
def test_images_of_another_size_than_the_model_s_are_refused_before_a_run_starts(
    task: Any, model: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match=r"does not take images of \d × .*set the same image_size"):
        task.models(model).check()
    right = replace(task, image_size=model["config"]["image_size"], num_channels=1)
    right.models(model).check()


def test_a_model_is_checked_with_the_image_size_of_its_processor(tmp_path: Path) -> None:
    for side in (8, 12):
        ViTImageProcessorPil(size={"height": side, "width": side}).save_pretrained(
            tmp_path / str(side)
        )
    model = {"config": VIT["config"] | {"num_channels": 3}}
    ImageClassification(processor=str(tmp_path / "8")).models(model).check()  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="does not take images of 3 × 12 × 12"):
        ImageClassification(processor=str(tmp_path / "12")).models(model).check()  # type: ignore[attr-defined]


@pytest.mark.parametrize("template", ["{prompt}: ", "<image><image>{prompt}: "])
def test_a_template_must_contain_the_image_token_once(tmp_path: Path, template: str) -> None:
    case = image_text(tmp_path)
    with pytest.raises(InputError, match=r"the processor in .* refuses the sample"):
        replace(case.task, template=template).check()  # type: ignore[type-var]


def test_an_encoder_decoder_model_is_refused_before_a_run_starts(tmp_path: Path) -> None:
    task: Any = image_text(tmp_path).task
    with pytest.raises(InputError, match="'florence2' does not fit the task: it has an encoder"):
        task.models({"config": {"model_type": "florence2"}}).check()


def test_a_processor_for_videos_names_the_missing_library(tmp_path: Path) -> None:
    task: Any = image_text(tmp_path).task
    parts = {
        "processor_class": "Qwen2VLProcessor",
        "image_processor": {"image_processor_type": "Qwen2VLImageProcessor"},
        "video_processor": {"video_processor_type": "Qwen2VLVideoProcessor"},
    }
    (tmp_path / "qwen").mkdir()
    AutoTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path / "qwen")
    (tmp_path / "qwen" / "processor_config.json").write_text(json.dumps(parts))
    with pytest.raises(
        InputError, match=r"install torchvision and set task.backend to torchvision"
    ):
        replace(task, processor=str(tmp_path / "qwen"), backend="pil").check()


def test_a_processor_of_another_model_is_an_error_that_names_it(tmp_path: Path) -> None:
    case = image_text(tmp_path)
    config = case.model_settings["config"]
    vision = config["vision_config"] | {"patch_size": 2}  # four times as many tokens an image
    models = case.task.models({"config": config | {"vision_config": vision}})
    batch = case.task.collate([case.task.prepare(case.samples[0], generator=None)])
    with pytest.raises(InputError, match=r"outputs of the processor in"):
        case.task.per_sample_loss(models.build(0), batch)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (SemanticSegmentation, {"mean": [0.5, 0.5]}, "mean has 2 numbers"),
        (DenseRegression, {"loss": "l3"}, "expected one of l1, l2, huber"),
        (DenseRegression, {"scale": 0.0}, "scale is 0.0"),
        (MaskedImageModeling, {"image": []}, "image is an empty list"),
        (Diffusion, {"schedule": "sqrt"}, "expected linear or cosine"),
        (Diffusion, {"score_timesteps": 0}, "score_timesteps is 0"),
        (Diffusion, {"image_size": 0}, "image_size is 0"),
    ],
)
def test_inconsistent_task_settings_are_refused(kind: Any, settings: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind(**settings)
