"""Random changes of images: against Pillow, the same for any number of ranks, bad settings."""

import colorsys
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from digits import TASK, VIT, png, samples, stream_of, write_corpus, write_index
from PIL import Image, ImageEnhance, ImageOps
from transformers import ViTImageProcessorPil

from attent_select.errors import InputError, MissingExtraError
from trainers.inputs.augmentation import operations
from trainers.inputs.augmentation.random_crops import random_box
from trainers.inputs.augmentation.settings import (
    Augmentation,
    ColorJitter,
    RandAugment,
    RandomResizedCrop,
)
from trainers.tasks.dense_regression import DenseRegression
from trainers.tasks.diffusion import Diffusion
from trainers.tasks.image_classification import ImageClassification
from trainers.tasks.masked_image_modeling import MaskedImageModeling
from trainers.tasks.semantic_segmentation import SemanticSegmentation

ROWS, COLUMNS = np.indices((24, 32))
COLOURS = np.stack([ROWS * 9 + 20, COLUMNS * 5 + 50, (ROWS + COLUMNS) * 4 % 200], -1).astype(
    np.uint8
)
EVERYTHING = Augmentation(
    random_resized_crop=RandomResizedCrop(scale=(0.3, 1.0)),
    flip=0.5,
    rand_augment=RandAugment(num_ops=3, magnitude=12),
    color_jitter=ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
)
GREY = Augmentation(
    random_resized_crop=RandomResizedCrop(scale=(0.3, 1.0)),
    flip=0.5,
    rand_augment=RandAugment(),
    color_jitter=ColorJitter(brightness=0.4, contrast=0.4),
    mixup=0.2,
    cutmix=1.0,
)


@pytest.fixture
def kornia() -> None:
    pytest.importorskip("kornia", reason="the extra `augment` is not installed")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def changed(change: Any, pixels: np.ndarray = COLOURS) -> np.ndarray:
    layers = operations._Layers([torch.from_numpy(pixels.copy()).movedim(-1, 0)], [])
    layers.change(change)
    return layers.images[0].movedim(0, -1).numpy()


# --- operations, against Pillow -----------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.1, 0.7, 1.0, 1.9])
@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
        ("sharpness", ImageEnhance.Sharpness),
    ],
)
def test_factors_change_an_image_as_pillow_does(
    kornia: None, name: str, reference: Any, factor: float
) -> None:
    expected = np.asarray(reference(Image.fromarray(COLOURS)).enhance(factor)).astype(int)
    got = changed(operations._by_factor(name, factor)).astype(int)
    assert np.abs(got - expected).max() <= 2  # Pillow rounds the grey in between


@pytest.mark.parametrize(
    ("name", "share", "reference"),
    [
        ("posterize", 0.5, lambda image: ImageOps.posterize(image, 6)),
        ("posterize", 0.0, lambda image: image),
        ("solarize", 0.4, lambda image: ImageOps.solarize(image, 153)),
        ("auto_contrast", 0.3, ImageOps.autocontrast),
        ("equalize", 0.3, ImageOps.equalize),
    ],
)
def test_other_operations_change_an_image_as_pillow_does(
    kornia: None, name: str, share: float, reference: Any
) -> None:
    expected = np.asarray(reference(Image.fromarray(COLOURS))).astype(int)
    got = changed(operations._by_share(name, share)).astype(int)
    assert np.abs(got - expected).max() <= 1


def test_hue_turns_the_colour_wheel(kornia: None) -> None:
    got = changed(operations._by_hue(0.25)) / 255
    for place in ((0, 0), (5, 20), (23, 31)):
        hue, saturation, value = colorsys.rgb_to_hsv(*(COLOURS[place] / 255))
        expected = colorsys.hsv_to_rgb((hue + 0.25) % 1, saturation, value)
        assert got[place] == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("degrees", [-30, 17])
def test_a_rotation_is_that_of_pillow_and_the_map_follows(kornia: None, degrees: float) -> None:
    numbers = torch.from_numpy((ROWS // 6 * 8 + COLUMNS // 8).astype(np.float32))
    numbers[0, 0] = torch.nan
    layers = operations._Layers([torch.from_numpy(COLOURS.copy()).movedim(-1, 0)], [(numbers, -5)])
    layers.move(operations._matrix("rotate", np.radians(degrees), height=24, width=32))
    expected = Image.fromarray(COLOURS).rotate(degrees, Image.Resampling.BILINEAR)
    got, moved = layers.images[0].movedim(0, -1).numpy().astype(int), layers.maps[0][0].numpy()
    inside = np.asarray(Image.new("L", (32, 24), 255).rotate(degrees, Image.Resampling.NEAREST)) > 0
    interior = inside.copy()
    interior[1:-1, 1:-1] = (
        inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    )
    interior[[0, -1]] = interior[:, [0, -1]] = False
    assert np.abs(got - np.asarray(expected).astype(int))[interior].max() <= 2
    map_image = Image.fromarray(numbers.nan_to_num().numpy()).rotate(degrees, fillcolor=-5)
    agree = moved[interior] == np.asarray(map_image)[interior]
    assert agree.mean() > 0.98  # ties between two pixels
    assert (moved[~inside] == -5).mean() > 0.9
    assert layers.maps[0][0].isnan().sum() <= 1


@pytest.mark.parametrize(
    ("name", "strength", "expected"),
    [
        ("translate_x", 0.25, np.pad(COLOURS, ((0, 0), (8, 0), (0, 0)))[:, :32]),
        ("translate_y", -0.25, np.pad(COLOURS, ((0, 6), (0, 0), (0, 0)))[6:]),
    ],
)
def test_a_shift_moves_whole_pixels(
    kornia: None, name: str, strength: float, expected: np.ndarray
) -> None:
    layers = operations._Layers([torch.from_numpy(COLOURS.copy()).movedim(-1, 0)], [])
    layers.move(operations._matrix(name, strength, height=24, width=32))
    difference = layers.images[0].movedim(0, -1).numpy().astype(int) - expected
    assert np.abs(difference).max() <= 1


def test_random_boxes_have_the_areas_and_ratios_that_were_asked_for() -> None:
    how = RandomResizedCrop(scale=(0.2, 0.6), ratio=(0.5, 2.0))
    boxes = [random_box((400, 300), how=how, generator=seeded(seed)) for seed in range(500)]
    sizes = np.array([(right - left, bottom - top) for left, top, right, bottom in boxes])
    assert all(0 <= a < c <= 400 and 0 <= b < d <= 300 for a, b, c, d in boxes)
    areas, ratios = sizes.prod(axis=1) / 120_000, sizes[:, 0] / sizes[:, 1]
    assert 0.195 < areas.min() < 0.25 < 0.5 < areas.max() < 0.605
    assert 0.49 < ratios.min() < 0.6 < 1.7 < ratios.max() < 2.05
    assert len(set(boxes)) == 500


def test_an_image_that_no_box_fits_gives_the_largest_one_in_its_middle() -> None:
    how = RandomResizedCrop(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    assert random_box((300, 100), how=how, generator=seeded(1)) == (100, 0, 200, 100)
    assert random_box((1, 900), how=how, generator=seeded(1)) == (0, 449, 1, 450)


# --- tasks --------------------------------------------------------------------------------------


def test_image_and_map_are_augmented_together(kornia: None) -> None:
    how = Augmentation(
        random_resized_crop=RandomResizedCrop(scale=(0.5, 1.0)),
        flip=0.5,
        rand_augment=RandAugment(num_ops=2, magnitude=15),
    )
    mask = np.zeros((48, 64), np.uint8)
    mask[12:30, 10:40] = 1
    sample = {"image": png(mask * 150 + 50), "mask": png(mask), "target": png(mask + 1)}
    segmentation = SemanticSegmentation(image_size=32, num_channels=1, augment=how)
    regression = DenseRegression(image_size=32, num_channels=1, augment=how)
    num_ignored = 0
    for seed in range(12):
        item = segmentation.prepare(sample, generator=seeded(seed))
        counted = item["labels"] >= 0
        # What is outside of the image has no class.
        assert counted[item["pixels"][0] > 0].float().mean() > 0.95
        same = regression.prepare(sample, generator=seeded(seed))
        assert torch.equal(same["pixels"], item["pixels"])
        assert torch.equal(same["targets"].isfinite(), counted)
        assert torch.equal(same["targets"][counted], item["labels"][counted] + 1.0)
        num_ignored += int((~counted).sum())
    assert num_ignored > 0


@pytest.mark.parametrize("task", [Diffusion(image_size=16), MaskedImageModeling(image_size=16)])
@pytest.mark.parametrize("how", [EVERYTHING, True])
def test_augmentation_leaves_masks_and_noise_as_they_are(kornia: None, task: Any, how: Any) -> None:
    sample = {"image": png(COLOURS)}
    augmented = type(task)(image_size=16, augment=how).prepare(sample, generator=seeded(8))
    plain = task.prepare(sample, generator=seeded(8))
    assert augmented["key"] == plain["key"]
    assert not torch.equal(augmented["pixels"], plain["pixels"])


def test_modalities_of_a_sample_are_changed_alike(kornia: None) -> None:
    task = MaskedImageModeling(image=("a", "b"), image_size=16, augment=EVERYTHING)
    pixels = task.prepare({"a": png(COLOURS), "b": png(COLOURS)}, generator=seeded(5))["pixels"]
    assert torch.equal(pixels[:3], pixels[3:])


def test_scores_and_evaluation_are_not_augmented(kornia: None) -> None:
    sample = {"image": png(COLOURS), "label": 1}
    task = ImageClassification(image_size=16, augment=EVERYTHING)
    plain = ImageClassification(image_size=16).prepare(sample, generator=None)
    for again in (task.prepare(sample, generator=None), task.prepare_inputs([sample])[0]):
        assert isinstance(again, dict)
        assert torch.equal(again["pixels"], plain["pixels"])
    assert task.draws
    assert not ImageClassification().draws


def test_a_processor_gets_augmented_images(kornia: None, tmp_path: Path) -> None:
    processor = ViTImageProcessorPil(size={"height": 12, "width": 8})
    processor.save_pretrained(tmp_path)
    flipped = ImageClassification(processor=str(tmp_path), augment=Augmentation(flip=1.0))
    pixels = flipped.prepare({"image": png(COLOURS), "label": 1}, generator=seeded(1))["pixels"]
    mirrored = Image.fromarray(COLOURS[:, ::-1].copy())
    assert torch.equal(pixels, processor(mirrored, return_tensors="pt")["pixel_values"][0])
    everything = ImageClassification(processor=str(tmp_path), augment=EVERYTHING)
    item = everything.prepare({"image": png(COLOURS), "label": 1}, generator=seeded(1))
    assert item["pixels"].shape == (3, 12, 8)
    scored = everything.prepare({"image": png(COLOURS), "label": 1}, generator=None)["pixels"]
    assert torch.equal(
        scored, processor(Image.fromarray(COLOURS), return_tensors="pt").pixel_values[0]
    )


def test_flips_and_crops_need_no_kornia(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kornia", None)
    crop = {"random_resized_crop": RandomResizedCrop(), "flip": 0.5}
    task = ImageClassification(image_size=8, augment=Augmentation(**crop))
    task.check()
    task.prepare({"image": png(COLOURS), "label": 1}, generator=seeded(1))
    for needs_it in ({"rand_augment": RandAugment()}, {"color_jitter": ColorJitter(hue=0.1)}):
        with pytest.raises(MissingExtraError, match=r'pip install "attent-select\[augment\]"'):
            Diffusion(augment=Augmentation(**needs_it)).check()


# --- mixing -------------------------------------------------------------------------------------


def test_the_loss_of_a_mixed_sample_is_that_of_both_labels_by_their_shares() -> None:
    how = Augmentation(mixup=1.0, cutmix=1.0)
    task = ImageClassification(image_size=8, num_channels=1, augment=how)
    good = samples(8)
    items = [task.prepare(sample, generator=seeded(1)) for sample in good]
    mixed = task.mix(items, [seeded(seed) for seed in range(8)])
    batch = task.collate(mixed)
    model = task.models(VIT).build(1).eval()
    with torch.no_grad():
        losses, num_units = task.per_sample_loss(model, batch)
        logits = model(pixel_values=batch["pixel_values"]).logits
    log_shares = logits.log_softmax(dim=1)
    for row, item in enumerate(mixed):
        share, other = item["share"], good[row ^ 1]["label"]
        own = -log_shares[row, good[row]["label"]]
        expected = share * own - (1 - share) * log_shares[row, other]
        torch.testing.assert_close(losses[row], expected)
    assert num_units.tolist() == [1] * 8
    assert batch["is_mixed"].all()


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_pixels_have_the_shares_of_both_images(kind: str) -> None:
    task = ImageClassification(image_size=16, augment=Augmentation(**{kind: 1.0}))
    bright, dark = np.full((16, 16, 3), 200, np.uint8), np.full((16, 16, 3), 40, np.uint8)
    items = [
        task.prepare({"image": png(pixels), "label": label}, generator=None)
        for label, pixels in enumerate((bright, dark))
    ]
    shares = []
    for seed in range(40):
        first, second = task.mix(items, [seeded(2 * seed), seeded(2 * seed + 1)])
        assert isinstance(first, dict)
        assert isinstance(second, dict)
        for item, own, other in ((first, 200, 40), (second, 40, 200)):
            expected = item["share"] * own + (1 - item["share"]) * other
            assert item["pixels"].float().mean() == pytest.approx(expected, abs=0.51)
            shares.append(item["share"])
        assert items[0]["pixels"].unique().tolist() == [200]  # the originals stay
    assert min(shares) < 0.3 < 0.8 < max(shares)


def test_a_partner_that_the_model_lacks_takes_no_share() -> None:
    task = ImageClassification(image_size=8, num_channels=1, augment=Augmentation(mixup=1.0))
    good = [sample | {"label": label} for sample, label in zip(samples(2), (3, 99), strict=True)]
    items = [task.prepare(sample, generator=None) for sample in good]
    batch = task.collate(task.mix(items, [seeded(1), seeded(2)]))
    model = task.models(VIT).build(1).eval()
    losses, num_units = task.per_sample_loss(model, batch)
    logits = model(pixel_values=batch["pixel_values"]).logits
    own = torch.nn.functional.cross_entropy(logits[:1], torch.tensor([3]))
    torch.testing.assert_close(losses[0], batch["shares"][0] * own)
    assert losses[1] == 0
    assert num_units.tolist() == [1, 0]


# --- streams ------------------------------------------------------------------------------------


Seen = dict[tuple[int, int, int], tuple[torch.Tensor, ...]]


def seen_by(streams: list[Any]) -> Seen:
    """Return pixels, label, share and partner's label of every (step, shard, row)."""
    return {
        (int(batch["step"]), shard, row): (
            batch["pixel_values"][position],
            batch["labels"][position],
            # None is mixed in a micro-batch whose only sample has lost its partner.
            batch.get("shares", torch.ones(99))[position],
            batch.get("other_labels", batch["labels"])[position],
        )
        for stream in streams
        for batch in stream
        for position, (shard, row) in enumerate(
            zip(batch["shard_id"].tolist(), batch["row"].tolist(), strict=True)
        )
        if batch["weight"][position] > 0  # else a stand-in
    }


def assert_same(one: Seen, other: Seen) -> None:
    assert one.keys() == other.keys()
    for key, values in one.items():
        assert all(map(torch.equal, values, other[key])), key


@pytest.mark.parametrize("batch_size", [10, 7])
def test_ranks_micro_batches_and_resumes_see_the_same_augmented_pixels(
    kornia: None, tmp_path: Path, batch_size: int
) -> None:
    corpus = write_corpus(tmp_path / "shards", samples(60))
    broken = write_corpus(
        tmp_path / "broken",
        [s | ({"image": b"x"} if k == 7 else {}) for k, s in enumerate(samples(60))],
    )
    task = ImageClassification(image_size=8, num_channels=1, augment=GREY)
    for each in (corpus, broken):
        index = write_index(tmp_path / f"{each.corpus_id}.parquet", each)

        def streams(
            world_size: int, each: Any = each, index: Any = index, **more: Any
        ) -> list[Any]:
            settings = {"batch_size": batch_size, "epochs": 2, "max_failed_share": 0.5} | more
            return [
                stream_of(index, each, task, rank=rank, world_size=world_size, **settings)
                for rank in range(world_size)
            ]

        whole = seen_by(streams(1))
        assert_same(whole, seen_by(streams(2)))
        assert_same(whole, seen_by(streams(3, micro_batch_size=2)))
        late = {key: value for key, value in whole.items() if key[0] >= 4}
        assert_same(late, seen_by(streams(2, start_step=4)))
        shares = torch.stack([values[2] for values in whole.values()])
        assert (shares < 1).float().mean() > 0.8
        num_steps = max(key[0] for key in whole) // 2 + 1
        first, second = (
            {key[1:]: values for key, values in whole.items() if key[0] // num_steps == epoch}
            for epoch in (0, 1)
        )
        assert len(first.keys() & second.keys()) > 50
        for key in first.keys() & second.keys():
            assert not torch.equal(first[key][0], second[key][0])


def test_micro_batches_of_one_sample_cannot_be_mixed(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "shards", samples(10))
    index = write_index(tmp_path / "index.parquet", corpus)
    task = ImageClassification(image_size=8, num_channels=1, augment=Augmentation(mixup=0.2))
    with pytest.raises(InputError, match="the task mixes samples in pairs: expected at least 2"):
        stream_of(index, corpus, task, micro_batch_size=1)


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Augmentation(flip=1.5), r"flip is 1\.5: expected a probability"),
        (lambda: Augmentation(mixup=-1), r"mixup is -1: expected 0 \(off\) or more"),
        (lambda: RandomResizedCrop(scale=(0.5, 0.2)), r"scale is \[0\.5, 0\.2\]: expected two num"),
        (lambda: RandomResizedCrop(ratio=(0.0, 2.0)), r"ratio is \[0\.0, 2\.0\]: expected two"),
        (lambda: RandAugment(num_ops=0), "num_ops is 0: expected 1 to 14"),
        (lambda: RandAugment(magnitude=31), "magnitude is 31: expected 0 to 30"),
        (lambda: ColorJitter(hue=0.6), r"hue is 0\.6: expected 0 to 0\.5 turns"),
        (lambda: ColorJitter(contrast=float("nan")), "contrast is nan: expected 0"),
        (
            lambda: Diffusion(num_channels=1, augment=EVERYTHING),
            "num_channels is 1: grey images have only brightness and contrast",
        ),
        (lambda: Diffusion(augment=Augmentation(), flip=True), r"`augment: {flip: 0\.5}`"),
        (
            lambda: SemanticSegmentation(augment=Augmentation(cutmix=1.0)),
            "mixup and cutmix are for image_classification",
        ),
        (lambda: Diffusion(resize="squash"), "resize is 'squash': expected stretch, crop, pad"),
        (
            lambda: ImageClassification(resize="pad", processor="x"),
            "the processor resizes images itself",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


# --- a transform of the user's ------------------------------------------------------------------


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module: Any = ModuleType("own_package")

    def shift(image: Any, *, generator: torch.Generator) -> Any:
        pixels = np.roll(np.asarray(image), int(torch.randint(9, (), generator=generator)), 1)
        return Image.fromarray(pixels)

    module.shift, module.number = shift, 3
    module.half = lambda image, *, generator: image.resize((image.width // 2, image.height // 2))
    module.broken = lambda image, *, generator: image.nothing
    module.text = lambda image, *, generator: "text"
    module.old = lambda image: image
    monkeypatch.setitem(sys.modules, "own_package", module)
    from trainers.inputs.augmentation import own_transform

    own_transform._load.cache_clear()
    return module


@pytest.mark.parametrize("path", ["own_package.shift", "own_package:shift"])
def test_a_transform_of_the_user_changes_images_in_training_only(own: Any, path: str) -> None:
    sample = {"image": png(COLOURS), "label": 1}
    task = ImageClassification(image_size=24, transform=path)
    task.check()
    assert task.draws
    first, again, other = (
        task.prepare(sample, generator=seeded(seed))["pixels"] for seed in (1, 1, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    plain = ImageClassification(image_size=24).prepare(sample, generator=None)["pixels"]
    assert torch.equal(task.prepare(sample, generator=None)["pixels"], plain)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere.shift", "cannot load nowhere.shift: ModuleNotFoundError"),
        ("own_package.nothing", "cannot load own_package.nothing: AttributeError"),
        ("own_package.number", "is a int, expected a function"),
        ("shift", "is not the dotted path of a function"),
        ("own_package.old", r"cannot be called as function\(image, generator=generator\)"),
    ],
)
def test_a_transform_that_cannot_be_called_is_refused_before_training(
    own: Any, path: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Diffusion(transform=path).check()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("own_package.broken", "failed on an image of 32 × 24 pixels: AttributeError"),
        ("own_package.text", "returned a str: expected a Pillow image"),
        ("own_package.half", "made 16 × 12 pixels of 32 × 24: expected the same size"),
    ],
)
def test_a_transform_that_fails_names_itself(own: Any, path: str, message: str) -> None:
    task = SemanticSegmentation(image_size=8, transform=path)
    sample = {"image": png(COLOURS), "mask": png(np.zeros((24, 32), np.uint8))}
    with pytest.raises(InputError, match=message):
        task.prepare(sample, generator=seeded(1))


def test_the_base_task_has_the_settings_of_before() -> None:
    assert (TASK.resize, TASK.augment, TASK.transform) == ("stretch", False, None)
