"""Per-token losses in chunks are those of the whole matrix, forwards and backwards."""

from typing import Any

import pytest
import torch
from task_cases import LLAMA
from torch.nn import functional

from attent_select.errors import InputError
from trainers.hf import HuggingFaceModels
from trainers.scoring.token_loss import IGNORED, Limits, token_losses, token_scores

Batch = dict[str, torch.Tensor]


def model_of(settings: dict[str, Any] | None = None) -> Any:
    return HuggingFaceModels("AutoModelForCausalLM", settings or LLAMA).build(3)


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 300, (4, 11), generator=generator)
    mask = (torch.arange(11) < torch.tensor([11, 7, 3, 9])[:, None]).to(torch.int64)
    labels = torch.where(mask.bool(), ids, IGNORED)
    labels[0, :5] = IGNORED
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def whole_matrix(model: Any, batch: Batch) -> torch.Tensor:
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    flat = functional.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]), batch["labels"][:, 1:].reshape(-1),
        reduction="none", ignore_index=IGNORED,
    )  # fmt: skip
    return flat.reshape(len(logits), -1)


@pytest.mark.parametrize("chunk_elements", [1, 300 * 7, 1 << 24])
def test_chunks_of_any_size_give_the_losses_and_gradients_of_the_whole_matrix(
    batch: Batch, chunk_elements: int
) -> None:
    model, reference = model_of(), model_of()
    nats, counted = token_losses(model, batch, limits=Limits(chunk_elements=chunk_elements))
    expected = whole_matrix(reference, batch)
    torch.testing.assert_close(nats, expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(counted, batch["labels"][:, 1:] != IGNORED)
    nats.sum().backward()
    expected.sum().backward()
    for one, other in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("chunk_elements", [1, 1 << 24])
def test_a_token_is_a_hit_where_it_is_the_first_choice(batch: Batch, chunk_elements: int) -> None:
    model = model_of().eval()
    counted = batch["labels"][:, 1:] != IGNORED
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        batch["labels"][2, 1] = logits[2, 0].argmax()  # at least one hit
        nats, hits = token_scores(model, batch, limits=Limits(chunk_elements=chunk_elements))
        expected_nats = token_losses(model, batch)[0][counted]
    expected = logits[:, :-1].argmax(-1)[counted] == batch["labels"][:, 1:][counted]
    assert torch.equal(hits, expected)
    assert hits.any()
    assert not hits.all()
    torch.testing.assert_close(nats, expected_nats)


# What is more than a head on hidden states: capped, scaled, divided.
MORE: dict[str, dict[str, Any]] = {
    "gemma2": {"head_dim": 8, "final_logit_softcapping": 0.5, "pad_token_id": 0},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 3.0},
}


@pytest.mark.parametrize("kind", ["llama", *MORE])
def test_the_logits_of_all_tokens_never_exist_at_once(batch: Batch, kind: str) -> None:
    model = model_of({"config": LLAMA["config"] | {"model_type": kind} | MORE.get(kind, {})})
    rows: list[int] = []
    model.lm_head.register_forward_hook(lambda *call: rows.append(call[2].shape[:-1].numel()))
    with torch.inference_mode():
        token_losses(model, batch, limits=Limits(chunk_elements=300 * 4))  # and tries the head once
        rows.clear()
        token_losses(model, batch, limits=Limits(chunk_elements=300 * 4))
    assert max(rows) == 4
    assert sum(rows) == int((batch["labels"][:, 1:] != IGNORED).sum())


def test_tokens_that_do_not_count_never_reach_the_head_at_all(batch: Batch) -> None:
    model = model_of()
    token_losses(model, batch)
    rows: list[int] = []
    model.lm_head.register_forward_hook(lambda *call: rows.append(call[2].shape[:-1].numel()))
    batch["labels"][1:] = IGNORED
    token_losses(model, batch)
    assert rows == [6]


@pytest.mark.parametrize("kind", MORE)
def test_a_model_that_does_more_than_its_head_gives_its_own_logits_and_gradients(
    batch: Batch, kind: str
) -> None:
    model = model_of({"config": LLAMA["config"] | {"model_type": kind} | MORE[kind]})
    gradients = []
    for losses in (
        token_losses(model, batch, limits=Limits(chunk_elements=300 * 7))[0],
        whole_matrix(model, batch),
    ):
        model.zero_grad()
        losses.sum().backward()
        gradients.append((losses, {name: p.grad.clone() for name, p in model.named_parameters()}))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_a_model_that_cannot_be_taken_apart_is_taken_as_it_is(batch: Batch) -> None:
    model = model_of().eval()
    model.register_forward_hook(lambda *call: call[2] | {"logits": call[2].logits / 2})
    with torch.inference_mode():
        nats, _ = token_losses(model, batch, limits=Limits(chunk_elements=1))
        torch.testing.assert_close(nats, whole_matrix(model, batch), rtol=1e-5, atol=1e-6)


def test_a_model_whose_tokens_see_later_ones_is_refused(batch: Batch) -> None:
    bert = LLAMA["config"] | {"model_type": "bert", "pad_token_id": 0}
    del bert["num_key_value_heads"]
    with pytest.raises(InputError, match=r"is not causal.*another model than BertLMHeadModel"):
        token_losses(model_of({"config": bert}), batch)
    token_losses(model_of({"config": bert | {"is_decoder": True}}), batch)


def test_trying_the_head_leaves_every_module_in_its_mode(batch: Batch) -> None:
    model = model_of().train()
    model.model.layers[0].eval()
    before = {name: module.training for name, module in model.named_modules()}
    token_losses(model, batch)
    assert {name: module.training for name, module in model.named_modules()} == before


def test_a_model_with_adapters_gives_the_losses_of_its_own_logits(batch: Batch) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        model_of(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    ).eval()
    plain = model_of().eval()
    with torch.inference_mode():
        nats, _ = token_losses(model, batch)
        torch.testing.assert_close(nats, whole_matrix(model, batch), rtol=1e-6, atol=1e-6)
        assert not torch.allclose(nats, whole_matrix(plain, batch))
