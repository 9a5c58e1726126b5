"""Checkpoints: they count by their marker, and are the weights that were saved, or an error."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from digits import TASK, VIT

from attent_select.errors import InputError, StorageError
from trainers import checkpoint
from trainers.hf import HuggingFaceModels

MODELS = TASK.models(VIT)


@pytest.fixture
def saved(tmp_path: Path) -> checkpoint.Checkpoint:
    return checkpoint.save_initial(MODELS, seed=3, url=str(tmp_path / "initial"))


def test_what_was_saved_is_loaded_with_the_same_bits(saved: checkpoint.Checkpoint) -> None:
    opened = checkpoint.open(saved.url)
    assert opened == saved
    assert opened.step == 0
    expected = MODELS.build(3).state_dict()
    for name, tensor in opened.load(MODELS).state_dict().items():
        assert torch.equal(tensor, expected[name])


def test_a_folder_without_a_marker_is_not_a_checkpoint(saved: checkpoint.Checkpoint) -> None:
    (Path(saved.url) / checkpoint.MARKER).unlink()
    assert checkpoint.open(saved.url) is None
    assert checkpoint.open(saved.url + "/nowhere") is None


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_checkpoint_is_an_error_that_names_the_file(
    saved: checkpoint.Checkpoint, damage: str
) -> None:
    weights = Path(saved.url) / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-1])
    else:
        weights.unlink()
    with pytest.raises(StorageError, match=r"model\.safetensors"):
        checkpoint.open(saved.url)


def test_files_that_a_store_does_not_list_yet_are_not_missing(
    saved: checkpoint.Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint.storage, "list_objects", lambda url: [])
    assert checkpoint.open(saved.url) == saved


def test_weights_of_another_model_are_detected_by_their_digest(
    saved: checkpoint.Checkpoint, tmp_path: Path
) -> None:
    MODELS.save(MODELS.build(4), tmp_path / "other")
    (Path(saved.url) / "model.safetensors").write_bytes(
        (tmp_path / "other" / "model.safetensors").read_bytes()
    )
    opened = checkpoint.open(saved.url)  # the same sizes
    assert opened is not None
    with pytest.raises(InputError, match="digest"):
        opened.load(MODELS)


def test_the_initial_checkpoint_is_written_once(saved: checkpoint.Checkpoint) -> None:
    again = checkpoint.save_initial(MODELS, seed=99, url=saved.url)
    assert again == saved


def test_the_newest_checkpoint_is_the_marked_one_with_the_highest_step(tmp_path: Path) -> None:
    folder, out = tmp_path / "files", str(tmp_path / "out")
    MODELS.save(MODELS.build(1), folder)
    for step in (9, 100, 20):
        checkpoint.publish(folder, url=f"{out}/step-{step}", step=step, weights_digest="…")
    (Path(out) / "step-300").mkdir()
    (Path(out) / "step-300" / "model.safetensors").write_bytes(b"a piece")
    newest = checkpoint.newest(out)
    assert newest is not None
    assert newest.step == 100
    checkpoint.discard(newest.url)
    found = checkpoint.newest(out)
    assert found is not None
    assert found.step == 20
    checkpoint.discard_steps(out)
    assert checkpoint.newest(out) is None
    assert not list(Path(out).rglob("*.safetensors"))


@pytest.mark.parametrize("damage", ["weights", "marker"])
def test_a_damaged_newest_checkpoint_is_skipped_with_a_warning(tmp_path: Path, damage: str) -> None:
    folder, out = tmp_path / "files", str(tmp_path / "out")
    MODELS.save(MODELS.build(1), folder)
    for step in (9, 100, 20):
        checkpoint.publish(folder, url=f"{out}/step-{step}", step=step, weights_digest="…")
    name = {"weights": "model.safetensors", "marker": checkpoint.MARKER}[damage]
    (Path(out) / "step-100" / name).write_bytes(b"{cut")
    with pytest.warns(UserWarning, match=r"step-100.*damaged.*Resuming from an older one"):
        found = checkpoint.newest(out)
    assert found is not None
    assert found.step == 20


def test_discarding_before_a_step_removes_all_older_ones(
    tmp_path: Path,
) -> None:
    folder, out = tmp_path / "files", str(tmp_path / "out")
    MODELS.save(MODELS.build(1), folder)
    for step in (9, 100, 20):
        checkpoint.publish(folder, url=f"{out}/step-{step}", step=step, weights_digest="…")
    (Path(out) / "step-9" / checkpoint.MARKER).unlink()
    checkpoint.discard_steps(out, before=100)
    assert {path.parent.name for path in Path(out).rglob("*.safetensors")} == {"step-100"}


def test_publishing_again_replaces_the_files_of_a_killed_attempt(tmp_path: Path) -> None:
    folder, out = tmp_path / "files", tmp_path / "out"
    MODELS.save(MODELS.build(1), folder)
    out.mkdir()
    (out / "model-00001-of-00002.safetensors").write_bytes(b"from another attempt")
    (out / "step-5").mkdir()
    (out / "step-5" / "kept.txt").write_text("inside the round")
    checkpoint.publish(folder, url=str(out), step=8, weights_digest="…")
    names = {path.name for path in out.rglob("*") if path.is_file()}
    assert names == {"checkpoint.json", "config.json", "model.safetensors", "kept.txt"}


def test_a_checkpoint_can_be_stored_at_any_url() -> None:
    url = "memory://checkpoints/initial"
    saved = checkpoint.save_initial(MODELS, seed=3, url=url)
    opened = checkpoint.open(url)
    assert opened is not None
    assert opened.files == saved.files
    assert checkpoint.weights_digest(opened.load(MODELS)) == saved.weights_digest
    checkpoint.discard(url)
    assert checkpoint.open(url) is None


def test_the_digest_depends_on_every_bit_name_shape_and_dtype() -> None:
    def digest(**tensors: torch.Tensor) -> str:
        module = torch.nn.Module()
        for name, tensor in tensors.items():
            module.register_buffer(name, tensor)
        return checkpoint.weights_digest(module)

    zeros = torch.zeros(4)
    different = [
        digest(a=zeros),
        digest(a=-zeros),
        digest(b=zeros),
        digest(a=zeros.reshape(2, 2)),
        digest(a=torch.zeros(4, dtype=torch.int32)),
        digest(a=torch.zeros(())),
        digest(a=torch.nextafter(zeros, torch.ones(()))),
    ]
    assert len(set(different)) == len(different)
    assert digest(a=torch.arange(6.0).reshape(2, 3).T) == digest(
        a=torch.arange(6.0).reshape(2, 3).T.contiguous()
    )


def test_loading_names_missing_unexpected_and_mismatched_weights(
    tmp_path: Path,
) -> None:
    MODELS.save(MODELS.build(1), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, kind in (
        ({"num_hidden_layers": 3}, "missing"),
        ({"num_hidden_layers": 1}, "unexpected"),
        ({"intermediate_size": 40}, "mismatched"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(InputError, match=kind):
            MODELS.load(tmp_path)


SMALL = {"image_size": 32, "patch_size": 4, "num_channels": 1, "num_labels": 3}
ARCHITECTURES = {
    "vit": SMALL | {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2},
    "swin": SMALL | {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
    "segformer": {
        "num_channels": 1,
        "num_labels": 3,
        "num_encoder_blocks": 2,
        "depths": [1, 1],
        "sr_ratios": [2, 1],
        "hidden_sizes": [8, 8],
        "patch_sizes": [3, 3],
        "strides": [2, 2],
        "num_attention_heads": [1, 2],
        "mlp_ratios": [2, 2],
        "decoder_hidden_size": 8,
    },
}


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_every_weight_is_restored_for_architectures_that_rename_their_keys(
    model_type: str, tmp_path: Path
) -> None:
    models = TASK.models({"config": {"model_type": model_type, **ARCHITECTURES[model_type]}})
    model = models.build(3)
    with torch.no_grad():
        for parameter in model.parameters():  # no weight at a value that a new model could have
            parameter.uniform_(1, 2)
    models.save(model, tmp_path)
    assert checkpoint.weights_digest(models.load(tmp_path)) == checkpoint.weights_digest(model)


def test_a_new_head_on_a_saved_model_must_be_allowed_in_the_settings(tmp_path: Path) -> None:
    MODELS.save(MODELS.build(1), tmp_path)
    settings = {"path": str(tmp_path), "config": {"num_labels": 3}}
    with pytest.raises(InputError, match="new_weights: true"):
        TASK.models(settings).build(1)
    first, second = (TASK.models({**settings, "new_weights": True}).build(5) for _ in range(2))
    assert first.state_dict()["classifier.weight"].shape == (3, 16)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
        if "classifier" not in name:
            assert torch.equal(tensor, MODELS.build(1).state_dict()[name])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "needs `path`, or `config`"),
        ({"config": {"hidden_size": 4}}, "model_type"),
        ({"pth": "x"}, "unknown model settings"),
    ],
)
def test_model_settings_without_a_model_are_refused(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        HuggingFaceModels("AutoModelForImageClassification", settings)


def test_a_model_type_that_does_not_exist_is_an_input_error() -> None:
    with pytest.raises(InputError, match="cannot be built"):
        TASK.models({"config": {"model_type": "perceptron-1958"}}).build(1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"hidden_sise": 16}, "vit has no field 'hidden_sise'; did you mean 'hidden_size'"),
        ({"num_lables": 3}, "did you mean 'num_labels'"),
    ],
)
def test_a_misspelt_field_of_the_model_is_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TASK.models({"config": VIT["config"] | wrong}).build(1)


def test_a_misspelt_field_over_a_saved_model_is_refused(tmp_path: Path) -> None:
    MODELS.save(MODELS.build(1), tmp_path)
    with pytest.raises(InputError, match="hidden_sise"):
        TASK.models({"path": str(tmp_path), "config": {"hidden_sise": 3}}).build(1)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "gpt2", "hidden_size": 8, "num_hidden_layers": 1, "n_head": 2},
        {"model_type": "llama", "rope_theta": 5000.0, "num_hidden_layers": 1, "hidden_size": 32},
    ],
    ids=lambda config: config["model_type"],
)
def test_alternative_and_older_names_of_fields_are_accepted(
    config: dict[str, Any],
) -> None:
    models = HuggingFaceModels("AutoModelForCausalLM", {"config": config | {"vocab_size": 32}})
    assert models.build(1) is not None
