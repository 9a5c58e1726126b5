"""Losses of a share of each sample: which share, and the same loss as an independent reference."""

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from digits import TASK, VIT, samples
from hypothesis import given
from hypothesis import strategies as st
from patch_reference import logits_on_patches
from raw_text import junk, prose
from task_cases import LLAMA, causal_lm
from torch.nn import functional

from attent_select.errors import InputError
from attent_select.stats.agreement import rank_correlation
from trainers.inputs.tokenizer import train_tokenizer
from trainers.inputs.tokens import first_share
from trainers.scoring import patches
from trainers.scoring.scorer import ScoringNotes, score_rows
from trainers.settings import ScoringSettings
from trainers.tasks.causal_lm import CausalLm
from trainers.tasks.dense_regression import DenseRegression

IGNORED = -100


@given(
    st.lists(st.booleans(), min_size=2, max_size=40).filter(lambda counted: any(counted[1:])),
    st.floats(0.01, 1.0),
)
def test_a_share_has_the_prompt_and_the_first_of_the_counted_tokens(
    counted: list[bool], share: float
) -> None:
    ids = list(range(100, 100 + len(counted)))
    labels = [token if counts else IGNORED for token, counts in zip(ids, counted, strict=True)]
    item = {"input_ids": ids, "labels": labels, "num_units": len(ids), "truncated": False}
    part = first_share(item, share=share)
    kept = [label for label in part["labels"][1:] if label != IGNORED]
    every = [label for label in labels[1:] if label != IGNORED]
    assert 0 <= len(kept) - share * len(every) < 1
    assert kept == every[: len(kept)]
    assert part["labels"][-1] != IGNORED, "tokens after the last one that counts are computed"
    assert (part["input_ids"], part["num_counted"]) == (ids[: len(part["labels"])], len(every))
    assert part["num_units"] == len(part["input_ids"])


@pytest.mark.parametrize("packing", [False, True])
def test_the_loss_of_a_share_of_a_text_is_that_of_the_shortened_text(
    tmp_path: Path, *, packing: bool
) -> None:
    case = causal_lm(tmp_path)
    task = dataclasses.replace(case.task, packing=packing)  # type: ignore[type-var]
    model = task.models(case.model_settings).build(0).eval()
    rows = list(enumerate(case.samples))
    settings = ScoringSettings(units_share=0.5, batch_units=200)
    scores = score_rows(task, model, rows, settings=settings)
    whole = score_rows(task, model, rows, settings=ScoringSettings(batch_units=200))
    assert scores["num_units"].to_list() == whole["num_units"].to_list() == case.num_units
    for row, sample in rows:
        item = task.prepare(sample, generator=None)
        labels = torch.tensor([item["labels"]])
        counted = [place for place in range(1, len(item["labels"])) if labels[0, place] != IGNORED]
        end = counted[-(-len(counted) // 2) - 1] + 1
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([item["input_ids"][:end]])).logits
        reference = functional.cross_entropy(logits[0, :-1], labels[0, 1:end])
        assert scores["loss"][row] == pytest.approx(reference.item(), abs=1e-5)


def test_a_share_of_a_text_costs_a_share_of_its_units(tmp_path: Path) -> None:
    case = causal_lm(tmp_path)
    task = dataclasses.replace(case.task, template="{prompt}")  # type: ignore[type-var]
    model = task.models(case.model_settings).build(0)
    texts = [{"prompt": "a", "response": f"{'word ' * 40}{number}"} for number in range(20)]
    padded = {}
    for share in (None, 0.5):
        notes = ScoringNotes()
        settings = ScoringSettings(units_share=share)
        score_rows(task, model, enumerate(texts), settings=settings, notes=notes)
        padded[share] = notes.padded_units
    assert padded[0.5] <= 0.55 * padded[None]


@pytest.mark.parametrize("model_type", ["vit", "deit", "dinov2"])
def test_the_loss_of_a_share_of_an_image_is_that_of_its_other_patches_left_out(
    model_type: str,
) -> None:
    config = VIT["config"] | {"model_type": model_type, "patch_size": 2, "num_labels": 10}
    if model_type == "dinov2":
        config["mlp_ratio"] = config.pop("intermediate_size") // 16
    model: Any = TASK.models({"config": config}).build(0).eval()
    rows = list(enumerate(samples(6)))
    settings = ScoringSettings(units_share=0.5)
    scores = score_rows(TASK, model, rows, settings=settings)
    kept = patches.evenly_spread(4, 4, share=0.5)
    assert len(kept) == 8
    batch = TASK.collate([TASK.prepare(sample, generator=None) for _, sample in rows])
    with torch.inference_mode():
        logits = logits_on_patches(model, batch["pixel_values"], kept.expand(6, -1))
    reference = functional.cross_entropy(logits, batch["labels"], reduction="none")
    assert scores["loss"].to_list() == pytest.approx(reference.tolist(), abs=1e-5)
    assert scores["num_units"].to_list() == [1] * 6
    again = score_rows(TASK, model, rows)
    assert again["loss"].to_list() != pytest.approx(scores["loss"].to_list(), abs=1e-4)


def test_the_kept_patches_are_spread_over_the_image() -> None:
    for share in (0.25, 0.5, 0.75):
        kept = torch.zeros(14 * 14)
        kept[patches.evenly_spread(14, 14, share=share)] = 1
        grid = kept.reshape(14, 14)
        assert int(grid.sum()) == -(-share * 196 // 1)
        for block in grid.unfold(0, 7, 7).unfold(1, 7, 7).reshape(-1, 49):
            assert abs(block.mean().item() - share) < 0.06


def test_what_needs_whole_samples_is_refused() -> None:
    swin = {"model_type": "swin", "image_size": 8, "patch_size": 2, "num_channels": 1}
    swin |= {"embed_dim": 8, "depths": [1], "num_heads": [1], "window_size": 2}
    model = TASK.models({"config": swin}).build(0)
    settings = ScoringSettings(units_share=0.5)
    with pytest.raises(InputError, match=r"a model of type 'swin' needs all patches"):
        score_rows(TASK, model, enumerate(samples(2)), settings=settings)
    task: Any = DenseRegression(image_size=8)
    with pytest.raises(InputError, match=r"the task DenseRegression needs whole samples"):
        score_rows(task, model, [], settings=settings)


def test_half_of_a_text_ranks_a_raw_pool_almost_as_its_whole_does(tmp_path: Path) -> None:
    """Sources, data files and prose of installed packages, by a model that has learned some."""
    torch.set_num_threads(1)
    texts = [*prose(250), *junk(350)]
    random.Random(0).shuffle(texts)
    train_tokenizer(texts, tmp_path, vocab_size=1024)
    task = CausalLm(tokenizer=str(tmp_path), text="text", max_length=192)
    config = LLAMA["config"] | {"vocab_size": 1024, "max_position_embeddings": 192}
    model = task.models({"config": config}).build(0).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rows = [{"text": text} for text in texts]
    for step in range(40):
        items = [task.prepare(row, generator=None) for row in rows[8 * step : 8 * step + 8]]
        loss = task.per_sample_loss(model, task.collate(items))[0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    losses, padded = {}, {}
    for share in (None, 0.5):
        notes = ScoringNotes()
        settings = ScoringSettings(units_share=share)
        scores = score_rows(task, model, enumerate(rows[320:]), settings=settings, notes=notes)
        losses[share], padded[share] = scores["loss"].to_numpy(), notes.padded_units
    correlation = rank_correlation(losses[0.5], losses[None])
    assert correlation is not None
    assert correlation >= 0.9
    assert padded[0.5] <= 0.55 * padded[None]
