"""A tokenizer with more tokens than the model, and weights that may be new."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageClassification, ViTConfig

from attent_select.errors import InputError, MissingError
from trainers.hf import HuggingFaceModels, load_tokenizer, model_store
from trainers.hf.paths import is_local

GPT2 = {"model_type": "gpt2", "n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "tie_word_embeddings": False,
}
# With a head that has a bias.
PHI = {**LLAMA, "model_type": "phi"}
TRAINED, GROWN = 300, 302


def saved(folder: Path, config: dict[str, Any]) -> Any:
    models = HuggingFaceModels(
        "AutoModelForCausalLM",
        {"config": {"bos_token_id": 1, "eos_token_id": 1, **config, "vocab_size": TRAINED}},
    )
    model: Any = models.build(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(1, 2)
    models.save(model, folder)
    return model


def store(folder: Path, **settings: Any) -> HuggingFaceModels:
    settings = {"path": str(folder), **settings}
    return HuggingFaceModels("AutoModelForCausalLM", settings, num_tokens=GROWN)


@pytest.mark.parametrize("config", [GPT2, LLAMA, PHI], ids=lambda config: config["model_type"])
@pytest.mark.parametrize("override", [{}, {"config": {"vocab_size": GROWN}}], ids=["plain", "set"])
def test_new_tokens_get_rows_beside_the_trained_ones(
    tmp_path: Path,
    config: dict[str, Any],
    override: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    base = saved(tmp_path / "base", config)
    models = store(tmp_path / "base", **override)
    models.check()
    with caplog.at_level(logging.INFO, logger="attent"):
        model: Any = models.build(0)
    assert "added 2 rows" in caplog.text
    before, after = base.state_dict(), model.state_dict()
    assert before.keys() == after.keys()
    grown = [name for name in before if before[name].shape != after[name].shape]
    tied = config is GPT2
    assert len(grown) == (2 if config is not PHI else 3)
    for name in before:
        assert torch.equal(after[name][: len(before[name])], before[name])
    for name in grown:
        assert after[name].shape[0] == GROWN
        mean = before[name].mean(dim=0)
        torch.testing.assert_close(after[name][TRAINED:], mean.expand_as(after[name][TRAINED:]))
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied
    assert torch.isfinite(model(input_ids=torch.tensor([[1, GROWN - 1]])).logits).all()


def test_a_grown_model_is_the_same_for_every_seed_and_is_saved_whole(tmp_path: Path) -> None:
    saved(tmp_path / "base", LLAMA)
    models = store(tmp_path / "base")
    first, second = models.build(1), models.build(2)
    models.save(first, tmp_path / "grown")
    loaded = store(tmp_path / "grown").load(tmp_path / "grown")
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
        assert torch.equal(tensor, loaded.state_dict()[name])


def test_adapters_on_a_grown_model_are_loaded_again(tmp_path: Path) -> None:
    saved(tmp_path / "base", LLAMA)
    settings = {"path": str(tmp_path / "base"), "lora": {"rank": 2}}
    models = model_store("AutoModelForCausalLM", settings, num_tokens=GROWN)
    models.save(models.build(1), tmp_path / "adapter")
    model: Any = models.load(tmp_path / "adapter")
    assert model.get_input_embeddings().num_embeddings == GROWN


def test_embeddings_are_never_removed(tmp_path: Path) -> None:
    saved(tmp_path, LLAMA)
    with pytest.raises(InputError, match=r"vocab_size is 200.* 300 trained embeddings"):
        HuggingFaceModels(
            "AutoModelForCausalLM", {"path": str(tmp_path), "config": {"vocab_size": 200}}
        ).build(0)


@pytest.mark.parametrize(
    ("change", "tensor"),
    [
        ({"image_size": 16}, "vit.embeddings.position_embeddings"),
        ({"num_channels": 1}, "vit.embeddings.patch_embeddings.projection.weight"),
    ],
)
def test_a_trained_input_layer_is_only_replaced_if_it_is_named(
    tmp_path: Path, change: dict[str, int], tensor: str
) -> None:
    config = ViTConfig(
        image_size=8, patch_size=4, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1,
    )  # fmt: skip
    AutoModelForImageClassification.from_config(config).save_pretrained(tmp_path)

    def models(new_weights: Any, **config: int) -> HuggingFaceModels:
        settings = {"path": str(tmp_path), "config": config, "new_weights": new_weights}
        return HuggingFaceModels("AutoModelForImageClassification", settings)

    with pytest.raises(InputError, match=rf"would replace {tensor} .*new_weights: .{tensor}"):
        models(True, **change).build(0)
    with pytest.raises(InputError, match=r"would replace classifier\.bias"):
        models([tensor], **change, num_labels=5).build(0)
    models([tensor], **change).build(0)
    models(True, num_labels=5).build(0)


def test_a_folder_that_does_not_exist_is_not_searched_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for path in (
        "data/tokenizer",
        "./tokenizer",
        "../x",
        "~/no-such",
        str(tmp_path / "x"),
        "a/b/c",
    ):
        with pytest.raises(MissingError, match=r"task.tokenizer is .*no such folder"):
            load_tokenizer(path)
        with pytest.raises(MissingError, match=r"model.path is .*no such folder"):
            HuggingFaceModels("AutoModelForCausalLM", {"path": path}).check()
    assert not is_local("gpt2")
    assert not is_local("owner/name")
