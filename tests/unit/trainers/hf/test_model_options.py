"""How a model is loaded: implementation of attention, dtype of its weights."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from task_cases import LLAMA
from transformers.utils import is_flash_attn_2_available

from attent_select.errors import InputError
from trainers.hf import HuggingFaceModels, model_store


def store(**settings: Any) -> HuggingFaceModels:
    return HuggingFaceModels("AutoModelForCausalLM", copy.deepcopy(LLAMA) | settings)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    store().save(store().build(0), tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_a_model_has_the_attention_that_is_asked_for_wherever_it_comes_from(
    saved: Path, name: str
) -> None:
    new, start = store(attn_implementation=name), {"path": str(saved), "attn_implementation": name}
    models: list[Any] = [
        new.build(0),
        new.load(saved),
        model_store("AutoModelForCausalLM", start).build(0),
        model_store("AutoModelForCausalLM", start | {"lora": {"rank": 2}})
        .build(0)
        .base_model.model,
    ]
    assert {model.config._attn_implementation for model in models} == {name}


@pytest.mark.skipif(is_flash_attn_2_available(), reason="flash-attn is installed")
@pytest.mark.parametrize("name", ["flash_attention_2", "no_such_attention"])
def test_an_attention_that_is_not_here_is_found_before_weights_are_read(
    saved: Path, name: str
) -> None:
    (saved / "model.safetensors").unlink()
    models = model_store("AutoModelForCausalLM", {"path": str(saved), "attn_implementation": name})
    with pytest.raises(
        InputError, match=r"the model cannot be built: .*([Ff]lash|no_such_attention)"
    ):
        models.check()


def test_weights_have_their_dtype_in_memory_and_at_rest(tmp_path: Path, saved: Path) -> None:
    for models in (store(torch_dtype="bfloat16"), store(path=str(saved), torch_dtype="bfloat16")):
        models.save(models.build(0), tmp_path / "half")
        model = models.load(tmp_path / "half")
        assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
        size = (tmp_path / "half/model.safetensors").stat().st_size
        assert size < 0.6 * (saved / "model.safetensors").stat().st_size


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(InputError, match="torch_dtype is 'int8': expected one of float32, bfloat"):
        store(torch_dtype="int8")
    with pytest.raises(InputError, match=r"with model\.lora set model\.lora\.base_dtype instead"):
        model_store(
            "AutoModelForCausalLM", {"path": "x", "lora": {"rank": 2}, "torch_dtype": "bfloat16"}
        )
