"""Adapters: saved without their base, switched without loading it again, merged on request."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from task_cases import LLAMA
from transformers import AutoModelForCausalLM

from attent_select.errors import InputError, MissingError
from catalogs import storage
from trainers import checkpoint
from trainers.hf import HuggingFaceModels, model_store, save_plain
from trainers.hf.lora import ADAPTER_FILE, LoraModels

TOKENS = torch.arange(12)[None]


def saved_base(folder: Path, seed: int = 3) -> str:
    whole = HuggingFaceModels("AutoModelForCausalLM", LLAMA)
    whole.save(whole.build(seed), folder)
    return str(folder)


@pytest.fixture
def base(tmp_path: Path) -> str:
    return saved_base(tmp_path / "base")


def store(base: str, **lora: Any) -> LoraModels:
    models = model_store("AutoModelForCausalLM", {"path": base, "lora": lora})
    assert isinstance(models, LoraModels)
    return models


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(input_ids=TOKENS).logits
        return found


def disturbed(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """As if it had been trained: an adapter begins as one that changes nothing."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1
    return model


@pytest.mark.parametrize("lora", [{}, {"dora": True}, {"targets": ["q_proj", "v_proj"]}])
def test_a_new_adapter_does_not_change_the_outputs_and_only_it_is_trained(
    base: str, lora: Any
) -> None:
    models = store(base, rank=2, **lora)
    model = models.build(5)
    plain = AutoModelForCausalLM.from_pretrained(base)
    torch.testing.assert_close(logits(model), logits(plain), rtol=1e-5, atol=1e-6)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert trained
    assert all("lora" in name for name in trained)


def test_a_checkpoint_holds_the_adapter_alone_and_gives_the_same_model(
    base: str, tmp_path: Path
) -> None:
    models = store(base, rank=2)
    model = disturbed(models.build(5), 1)
    models.save(model, tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {
        ADAPTER_FILE,
        "adapter_config.json",
    }
    assert all("lora" in name for name in load_file(tmp_path / "saved" / ADAPTER_FILE))
    loaded = models.load(tmp_path / "saved")
    assert not loaded.training
    assert torch.equal(logits(loaded), logits(model))
    assert models.digest(loaded) == models.digest(model)


def test_switching_adapters_neither_reloads_the_base_nor_changes_adapters_in_use(
    base: str, tmp_path: Path
) -> None:
    models = store(base, rank=2)
    for seed in (1, 2):
        models.save(disturbed(models.build(5), seed), tmp_path / str(seed))
    first = models.load(tmp_path / "1")
    before = logits(first)
    shutil.rmtree(base)  # reading it again would fail
    second = models.load(tmp_path / "2")
    assert not torch.allclose(logits(second), before)
    assert torch.equal(logits(first), before)
    one, other = (
        {name: weight.data_ptr() for name, weight in model.named_parameters()}
        for model in (first, second)
    )
    shared = {name for name in one if one[name] == other[name]}
    assert shared == {name for name in one if "lora" not in name}


def test_the_digest_includes_the_base_model(base: str, tmp_path: Path) -> None:
    other = saved_base(tmp_path / "other", seed=4)
    assert store(base).digest(store(base).build(5)) != store(other).digest(store(other).build(5))
    assert store(base).digest(store(base).build(5)) != store(base).digest(store(base).build(6))


def test_a_replaced_base_model_is_detected(base: str, tmp_path: Path) -> None:
    models = store(base)
    saved = checkpoint.save_initial(models, seed=5, url=str(tmp_path / "initial"))
    saved_base(Path(base), seed=4)
    moved = store(shutil.copytree(base, tmp_path / "exchanged"))
    with pytest.raises(InputError, match=r"the weights loaded from .* have digest"):
        saved.load(moved)


def test_merging_gives_a_plain_model_with_the_same_outputs(base: str, tmp_path: Path) -> None:
    models = store(base, rank=2, also_train=["lm_head"])
    model = disturbed(models.build(5), 1)
    models.save(model, tmp_path / "saved")
    save_plain(models, tmp_path / "saved", tmp_path / "plain")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    torch.testing.assert_close(logits(plain), logits(model), rtol=1e-4, atol=1e-5)
    # The base that others use is not what was merged into.
    assert torch.equal(logits(models.load(tmp_path / "saved")), logits(model))


def test_targets_that_match_nothing_are_refused_before_loading(base: str) -> None:
    models = store(base, targets=["query", "value"])
    for file in Path(base).glob("*.safetensors"):
        file.unlink()
    with pytest.raises(
        InputError, match=r"query.*linear layers of the model are down_proj, .*q_proj"
    ):
        models.check()
    with pytest.raises(InputError, match="also_train: the model has no module classifier"):
        store(base, also_train=["classifier"]).check()


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"ranks": 4}, "ranks.*expected some of rank, alpha"),
        ({"quantize": "8bit"}, "expected 4bit"),
        ({"base_dtype": "float16"}, "expected float32 or bfloat16"),
    ],
)
def test_wrong_settings_are_refused(base: str, lora: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        store(base, **lora)


def test_an_adapter_needs_a_trained_model() -> None:
    with pytest.raises(InputError, match=r"set model\.path"):
        model_store("AutoModelForCausalLM", {**LLAMA, "lora": {}})


def test_an_adapter_with_different_settings_is_refused(base: str, tmp_path: Path) -> None:
    models = store(base, rank=2)
    models.save(models.build(5), tmp_path / "saved")
    for other in (store(base, rank=4), store(base, rank=2, targets=["q_proj"])):
        with pytest.raises(InputError, match=r"does not fit the settings of model\.lora"):
            other.load(tmp_path / "saved")
    state = load_file(tmp_path / "saved" / ADAPTER_FILE)
    save_file({name: state[name] for name in list(state)[1:]}, tmp_path / "saved" / ADAPTER_FILE)
    with pytest.raises(InputError, match="1 tensors differ"):
        models.load(tmp_path / "saved")
    with pytest.raises(MissingError, match="no adapter in"):
        models.load(tmp_path / "nowhere")


def test_a_frozen_base_may_be_bfloat16_with_an_adapter_in_float32(base: str) -> None:
    model = store(base, base_dtype="bfloat16").build(5)
    dtypes = {
        ("adapter" if weight.requires_grad else "base"): weight.dtype
        for weight in model.parameters()
    }
    assert dtypes == {"adapter": torch.float32, "base": torch.bfloat16}


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_an_adapter_on_a_4_bit_base_can_be_saved_loaded_and_merged(
    base: str, tmp_path: Path, *, dora: bool
) -> None:
    pytest.importorskip("bitsandbytes")  # where it has no wheel for this machine
    models = store(base, rank=2, quantize="4bit", dora=dora)
    models.check()
    model = disturbed(models.build(5), 1)
    frozen = [weight for weight in model.parameters() if not weight.requires_grad]
    assert {weight.dtype for weight in frozen if weight.ndim == 2} == {torch.uint8, torch.float32}
    before = logits(model)
    models.save(model, tmp_path / "saved")
    loaded = models.load(tmp_path / "saved")
    assert torch.equal(logits(loaded), before)
    assert torch.equal(logits(model), before)
    assert models.digest(loaded) == models.digest(model)
    merged = logits(models.merged(tmp_path / "saved"))
    assert 0 < (merged - before).std() < 0.5 * before.std()


def test_gradients_pass_through_4_bit_layers_also_after_an_evaluation(base: str) -> None:
    pytest.importorskip("bitsandbytes")
    model: Any = disturbed(store(base, rank=2, quantize="4bit").build(5), 1)
    logits(model)
    model.train()(input_ids=TOKENS, labels=TOKENS).loss.backward()
    lowest = model.get_submodule("base_model.model.model.layers.0.mlp.down_proj")
    weight = lowest.lora_B["default"].weight
    losses = []
    for sign in (1, -1):  # a step up and one down the gradient
        with torch.no_grad():
            weight += sign * 1e-2 * weight.grad / weight.grad.norm()
            losses.append(model(input_ids=TOKENS, labels=TOKENS).loss.item())
            weight -= sign * 1e-2 * weight.grad / weight.grad.norm()
    assert (losses[0] - losses[1]) / 2e-2 == pytest.approx(weight.grad.norm().item(), rel=0.02)


def test_a_published_adapter_is_small(base: str, tmp_path: Path) -> None:
    models = store(base, rank=1, targets=["q_proj"])
    saved = checkpoint.save_initial(models, seed=5, url=str(tmp_path / "initial"))
    adapter = sum(item.num_bytes for item in storage.list_objects(str(tmp_path / "initial")))
    assert sum(saved.files.values()) <= adapter < Path(base, "model.safetensors").stat().st_size / 2
    assert torch.equal(logits(saved.load(models)), logits(models.build(5)))
