"""One sample under a model: its tokens with their losses, and its classes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from digits import VIT, samples
from saved_models import save_language_model
from task_cases import semantic_segmentation

from attent_select.errors import InputError
from trainers.scoring.single_sample import (
    class_probabilities_of,
    pixel_maps_of,
    token_losses_of,
)
from trainers.tasks.causal_lm import CausalLm
from trainers.tasks.image_classification import ImageClassification

TEXT = "How many? Größe: 3 €"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language_model(tmp_path_factory.mktemp("model"))


def test_tokens_form_the_text_and_their_mean_is_the_loss_of_the_sample(folder: Path) -> None:
    task = CausalLm(tokenizer=str(folder), text="text")
    model = task.models({"path": str(folder)}).load(folder).eval()
    tokens = token_losses_of(task, model, {"text": TEXT})
    assert TEXT in "".join(token.text for token in tokens)
    assert tokens[0].nats is None  # nothing comes before it
    batch = task.collate([task.prepare({"text": TEXT}, generator=None)])
    with torch.no_grad():
        losses, units = task.per_sample_loss(model, batch)
    total = sum(token.nats or 0.0 for token in tokens)
    assert total == pytest.approx(float(losses[0] * units[0]), rel=1e-4)


def test_only_the_tokens_of_a_response_count(folder: Path) -> None:
    task = CausalLm(tokenizer=str(folder), response="answer", template="{question} ")
    model = task.models({"path": str(folder)}).load(folder).eval()
    tokens = token_losses_of(task, model, {"question": "How many?", "answer": "three"})
    counted = "".join(token.text for token in tokens if token.nats is not None)
    assert "three" in counted
    assert "many" not in counted


def test_the_most_probable_classes_come_first_by_name() -> None:
    task = ImageClassification(
        image_size=8, num_channels=1, classes=tuple(f"digit {number}" for number in range(10))
    )
    model = task.models(VIT).build(0).eval()
    classes = class_probabilities_of(task, model, samples(1)[0], count=10)
    assert sum(share for _, share in classes) == pytest.approx(1.0)
    assert classes == sorted(classes, key=lambda pair: -pair[1])
    assert classes[0][0].startswith("digit ")


def test_a_task_without_tokens_and_a_sample_that_cannot_be_used_are_refused(folder: Path) -> None:
    images = ImageClassification(image_size=8, num_channels=1)
    model = images.models(VIT).build(0).eval()
    with pytest.raises(InputError, match="no loss for each token"):
        token_losses_of(images, model, samples(1)[0])
    with pytest.raises(InputError, match="cannot use the sample"):
        class_probabilities_of(images, model, {"image": b"no image", "label": 1})


def test_maps_of_a_segmented_image_have_the_loss_of_the_sample(tmp_path: Path) -> None:
    case = semantic_segmentation(tmp_path)
    task: Any = case.task
    model = task.models(case.model_settings).build(0).eval()
    maps = pixel_maps_of(task, model, case.samples[0])
    batch = task.collate([task.prepare(case.samples[0], generator=None)])
    with torch.no_grad():
        losses, units = task.per_sample_loss(model, batch)
    assert maps["predicted"].shape == maps["classes"].shape == (16, 16)
    assert float(maps["nats"].sum()) == pytest.approx(float(losses[0] * units[0]), rel=1e-4)
    assert int((maps["classes"] >= 0).sum()) == int(units[0])
