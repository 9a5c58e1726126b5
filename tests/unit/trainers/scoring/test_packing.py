"""Packing: packed samples have the losses and gradients of single ones, or are padded."""

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from task_cases import TEXTS, causal_lm
from transformers import AutoConfig, AutoModelForCausalLM

from catalogs.shard_format import Sample
from trainers.hf import packing
from trainers.scoring.evaluation import held_out_batches
from trainers.scoring.scorer import ScoringNotes, score_rows
from trainers.settings import ScoringSettings
from trainers.tasks.causal_lm import CausalLm

_SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
}
_CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**_SMALL, "num_key_value_heads": 2},
    "qwen2": {**_SMALL, "num_key_value_heads": 2},
    "mistral": {**_SMALL, "num_key_value_heads": 2, "sliding_window": 8},
    "gpt2": {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0),
    },
    # These find positions without position ids, or carry a state from token to token.
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
}


def model_of(kind: str, attention: str = "eager") -> torch.nn.Module:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=300, **_CONFIGS[kind])
    model: torch.nn.Module = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    return model


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> CausalLm:
    task = causal_lm(tmp_path_factory.mktemp("tokenizer")).task
    assert isinstance(task, CausalLm)
    return task


@pytest.fixture
def packed(padded: CausalLm) -> CausalLm:
    return replace(padded, packing=True)


SAMPLES: list[Sample] = [{"prompt": prompt, "response": response} for prompt, response in TEXTS]


@pytest.fixture(params=[40, 10_000], ids=["short rows", "one row"])
def row_tokens(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(packing._ROW_TOKENS, "cpu", request.param)


def measured(task: CausalLm, model: torch.nn.Module) -> tuple[torch.Tensor, ...]:
    """Return losses, their units, and the gradient of every parameter."""
    batch = task.collate([task.prepare(sample, generator=None) for sample in SAMPLES])
    model.zero_grad()
    losses, num_units = task.per_sample_loss(model, batch)
    (losses * torch.arange(1.0, len(losses) + 1)).sum().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return losses.detach(), num_units, *gradients


def assert_equal(found: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6 * float(other.abs().max()))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=0)


@pytest.mark.usefixtures("row_tokens")
@pytest.mark.parametrize(
    ("kind", "attention"),
    [(kind, way) for kind in ("llama", "qwen2", "gpt2", "mistral") for way in ("sdpa", "eager")],
)
def test_packed_samples_have_the_losses_and_gradients_of_padded_ones(
    kind: str, attention: str, padded: CausalLm, packed: CausalLm
) -> None:
    model = model_of(kind, attention)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        packed.check_model(model)
    assert_equal(measured(packed, model), measured(padded, model))


def test_packed_samples_are_computed_without_mask_and_padding(packed: CausalLm) -> None:
    model, seen = model_of("llama"), []
    packed.check_model(model)
    inner: Any = model
    inner.base_model.register_forward_pre_hook(
        lambda _, __, inputs: seen.append(inputs), with_kwargs=True
    )
    items = [packed.prepare(sample, generator=None) for sample in SAMPLES]
    packed.per_sample_loss(model, packed.collate(items))
    inputs = seen[-1]
    assert "attention_mask" not in inputs
    assert not inputs["use_cache"]
    assert inputs["input_ids"].tolist() == [
        [token for item in items for token in item["input_ids"]]
    ]


@pytest.mark.parametrize("kind", ["bloom", "mamba"])
def test_a_model_that_mixes_packed_samples_pads_them_and_says_so(
    kind: str, padded: CausalLm, packed: CausalLm
) -> None:
    model = model_of(kind)
    with pytest.warns(UserWarning, match=rf"{kind.title()}ForCausalLM cannot .*its logits differ"):
        packed.check_model(model)
    assert_equal(measured(packed, model), measured(padded, model))


@pytest.mark.parametrize("kind", ["llama", "bloom"])
def test_the_padding_of_a_packed_batch_is_what_the_model_computes(
    kind: str, packed: CausalLm, recwarn: pytest.WarningsRecorder
) -> None:
    model, shapes = model_of(kind), []
    score_rows(packed, model, enumerate(SAMPLES))  # tries the model first
    inner: Any = model
    inner.base_model.register_forward_pre_hook(
        lambda _, __, inputs: shapes.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    notes = ScoringNotes()
    score_rows(packed, model, enumerate(SAMPLES), notes=notes)
    assert notes.padded_units == sum(shapes)
    assert (notes.padded_units > notes.input_units) == (kind == "bloom")


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_scoring_and_evaluation_of_packed_samples_give_the_same_numbers(
    kind: str, padded: CausalLm, packed: CausalLm
) -> None:
    model, rows = model_of(kind, "sdpa"), list(enumerate(SAMPLES * 3))
    settings = ScoringSettings(functional_gradient=True, batch_units=300)
    one, other = (score_rows(task, model, rows, settings=settings) for task in (packed, padded))
    assert one.drop("loss", "functional_gradient").equals(other.drop("loss", "functional_gradient"))
    for name in ("loss", "functional_gradient"):
        assert one[name].to_list() == pytest.approx(other[name].to_list(), rel=1e-6)
    metrics = [
        task.evaluate(model, held_out_batches(task, SAMPLES, settings=settings))
        for task in (packed, padded)
    ]
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-6)
