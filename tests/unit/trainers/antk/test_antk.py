"""The kernel: exact, in bounded memory, by groups, sketched; its drift, spectrum and prediction."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from task_cases import CASES, LLAMA, TaskCase
from torch.func import functional_call, jacrev, vmap
from transformers import AutoConfig, AutoModel

from attent_select import plugins
from attent_select.errors import InputError
from trainers.antk import (
    Function,
    Kernel,
    Output,
    check_steps,
    drift,
    effective_rank,
    eigenvalues,
    empirical_kernel,
    kernel,
    sketch_error,
)
from trainers.antk.groups import group_of
from trainers.antk.sketch import Sketch
from trainers.checkpoint import digest_of
from trainers.hf import HuggingFaceModels, model_store

EVERY_TASK = pytest.mark.parametrize("name", plugins.plugin_names("trainers.tasks"))


def function_of(
    case: TaskCase, output: str | None = None, *, dtype: str = "float64", seed: int = 3
) -> Function:
    batches = [case.task.collate([case.task.prepare(s, generator=None)]) for s in case.samples]
    model = case.task.models(case.model_settings).build(seed)
    return Function(model, batches, Output.of(case.task, output), dtype=dtype)


@EVERY_TASK
def test_the_kernel_is_the_product_of_the_gradients_and_the_sum_of_its_groups(
    name: str, tmp_path: Path
) -> None:
    function = function_of(CASES[name](tmp_path))
    found = empirical_kernel(function)
    rows = []
    for batch in function.batches:
        function.model.zero_grad(set_to_none=True)
        function.output.values(function.model, batch)[0].backward()
        gradients = [p.grad for p in function.model.parameters() if p.grad is not None]
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    expected = (torch.stack(rows) @ torch.stack(rows).T).numpy()
    np.testing.assert_allclose(found.total, expected, rtol=1e-8, atol=1e-9 * expected.max())
    assert list(found.groups) == ["q", "k", "v", "mlp", "other"]
    for group in found.groups.values():
        assert eigenvalues(group)[-1] >= 0
        assert np.trace(group) > 0 or name == "diffusion", "its layers begin closed"
    assert found.error == 0


def test_the_kernel_equals_that_of_torch_func(tmp_path: Path) -> None:
    case = CASES["image_classification"](tmp_path)
    function = function_of(case, "logits")
    model, pixels = function.model, torch.cat([b["pixel_values"] for b in function.batches])
    weights = {name: weight.detach() for name, weight in model.named_parameters()}

    def logits(weights: Any, image: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = functional_call(model, weights, (image[None],)).logits[0]
        return found

    jacobians = vmap(jacrev(logits), (None, 0))(weights, pixels)
    rows = torch.cat([each.reshape(len(pixels) * 10, -1) for each in jacobians.values()], dim=1)
    found = empirical_kernel(function)
    np.testing.assert_allclose(found.total, (rows @ rows.T).numpy(), rtol=1e-8, atol=1e-8)
    assert found.values == pytest.approx(logits_of(model, pixels))


@torch.no_grad()
def logits_of(model: Any, pixels: torch.Tensor) -> list[float]:
    found: list[float] = model(pixel_values=pixels).logits.flatten().tolist()
    return found


@pytest.mark.parametrize("memory_bytes", [1, 20_000, 1 << 30])
def test_less_memory_takes_more_passes_and_gives_the_same_kernel(
    memory_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES["image_classification"](tmp_path)
    case = TaskCase(
        case.task, case.model_settings | {"config": TINY}, case.samples[:4], [1] * 4, []
    )
    function = function_of(case)
    expected = empirical_kernel(function).groups
    passes: list[Any] = []
    gradients = function.gradients
    monkeypatch.setattr(function, "gradients", lambda some: gradients(passes.append(some) or some))
    done: list[int] = []
    found = empirical_kernel(function, memory_bytes=memory_bytes, advance=done.append)
    for group, values in found.groups.items():
        np.testing.assert_allclose(values, expected[group], rtol=1e-10)
    most = max(1, memory_bytes // (4 * 8))
    assert len(passes) == -(-function.num_parameters // most)
    assert sum(done) == 4, "samples, whatever the number of passes"


TINY = {
    "model_type": "vit", "hidden_size": 2, "num_hidden_layers": 1, "num_attention_heads": 1,
    "intermediate_size": 2, "image_size": 8, "patch_size": 8, "num_channels": 1, "num_labels": 2,
}  # fmt: skip


def test_the_kernel_in_float32_is_close_to_float64(tmp_path: Path) -> None:
    case = CASES["causal_lm"](tmp_path)
    single = empirical_kernel(function_of(case, dtype="float32")).total
    double = empirical_kernel(function_of(case)).total
    assert drift(single, double) < 1e-5


NAMES = {
    "vit.encoder.layer.0.attention.attention.query.weight": "q",
    "vit.layers.3.attention.k_proj.bias": "k",
    "model.layers.0.self_attn.v_proj.weight": "v",
    "transformer.h.0.attn.c_attn.weight": "qkv",
    "encoder.layers.1.self_attention.query_key_value.weight": "qkv",
    "model.layers.0.mlp.down_proj.weight": "mlp",
    "vit.encoder.layer.0.intermediate.dense.weight": "mlp",
    "vit.encoder.layer.0.output.dense.bias": "mlp",
    "vit.encoder.layer.0.attention.output.dense.bias": "other",
    "layers.0.feed_forward.2.weight": "mlp",
    "model.layers.0.self_attn.o_proj.weight": "other",
    "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight": "adapters",
    "base_model.model.layers.0.mlp.up_proj.lora_magnitude_vector.default.weight": "adapters",
    "base_model.model.classifier.modules_to_save.default.weight": "adapters",
    "model.embed_tokens.weight": "other",
    "lm_head.weight": "other",
    "keynote.weight": "other",
}


@pytest.mark.parametrize("name", NAMES)
def test_the_group_of_a_parameter_follows_from_its_name(name: str) -> None:
    assert group_of(name) == NAMES[name]


APART = ("vit", "swin", "segformer", "dinov2", "dpt", "llama", "qwen3", "opt", "bert", "t5")
TOGETHER = ("gpt2", "gpt_neox", "phi3", "bloom", "falcon", "modernbert")


@pytest.mark.parametrize("kind", [*APART, *TOGETHER])
def test_the_attention_of_an_architecture_of_transformers_is_found_in_every_layer(
    kind: str,
) -> None:
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model(kind))
    groups: dict[str, set[str]] = {}
    for name, _ in model.named_parameters():
        groups.setdefault(group_of(name), set()).update(re.findall(r"\.(\d+)\.", name)[:1])
    wanted = ("q", "k", "v", "mlp") if kind in APART else ("qkv", "mlp")
    for group in wanted:
        assert groups[group] == groups["mlp"], group


def test_the_kernel_of_a_model_with_adapters_is_that_of_the_adapters(tmp_path: Path) -> None:
    case = CASES["causal_lm"](tmp_path / "tokenizer")
    whole = HuggingFaceModels("AutoModelForCausalLM", LLAMA)
    whole.save(whole.build(3), tmp_path / "base")
    lora = {"path": str(tmp_path / "base"), "lora": {"rank": 2}}
    models = model_store("AutoModelForCausalLM", lora)
    model = models.build(1)
    models.save(model, tmp_path / "adapter")
    digest = digest_of(model, models)
    batches = [case.task.collate([case.task.prepare(s, generator=None)]) for s in case.samples]
    for dtype in ("float64", "float32"):
        function = Function(model, batches, Output.of(case.task), dtype=dtype)
        assert function.num_parameters < 10_000
        assert list(empirical_kernel(function).groups) == ["adapters"]
        # What is loaded next shares the base, which stayed what it was.
        model = models.load(tmp_path / "adapter")
        assert digest_of(model, models) == digest


@pytest.mark.parametrize("size", [64, 1024])
def test_sketches_are_unbiased_and_their_error_is_as_estimated(size: int, tmp_path: Path) -> None:
    function = function_of(CASES["image_classification"](tmp_path))
    exact = empirical_kernel(function).total
    found = [empirical_kernel(function, sketch=Sketch(size, seed)) for seed in range(12)]
    errors = [np.linalg.norm(one.total - exact) / np.linalg.norm(exact) for one in found]
    said = sketch_error(exact, size)
    # Each group has its own sketch, which makes their sum somewhat more accurate.
    assert 0.4 * said < np.mean(errors) < 1.1 * said
    mean = np.mean([one.total for one in found], axis=0)
    assert drift(exact, mean) < 1.6 * said / np.sqrt(len(found))
    assert np.mean([one.error for one in found]) == pytest.approx(said, rel=0.5)


def test_a_sketch_depends_only_on_its_seed_and_the_parameter_names() -> None:
    cpu = torch.device("cpu")
    table = Sketch(1000, seed=7).table("a.weight", 5, device=cpu)
    assert table.buckets.tolist() == GOLDEN_BUCKETS
    assert table.signs.tolist() == GOLDEN_SIGNS
    longer = Sketch(1000, seed=7).table("a.weight", 9, device=cpu)
    assert longer.buckets[:5].tolist() == GOLDEN_BUCKETS
    for other in (Sketch(1000, 8).table("a.weight", 5, device=cpu),
                  Sketch(1000, 7).table("b.weight", 5, device=cpu)):  # fmt: skip
        assert other.buckets.tolist() != GOLDEN_BUCKETS
    many = Sketch(1000, seed=7).table("a.weight", 100_000, device=cpu)
    assert many.buckets.min() >= 0
    assert many.buckets.max() == 999
    assert torch.bincount(many.buckets).float().std() < 1.3 * 100**0.5
    assert set(many.signs.tolist()) == {-1, 1}
    assert abs(many.signs.float().mean()) < 0.02


GOLDEN_BUCKETS = [136, 608, 929, 90, 716]
GOLDEN_SIGNS = [-1, -1, -1, -1, 1]


RATES = (1e-2, 1e-3, 1e-4)


@pytest.mark.parametrize("output", ["logits", "loss"])
def test_the_kernel_predicts_a_step_up_to_the_square_of_the_learning_rate(
    output: str, tmp_path: Path
) -> None:
    """Δf = −η·K·∂L/∂f + O(η²), on a ViT in float64."""
    function = function_of(CASES["image_classification"](tmp_path), output)
    before = [p.clone() for p in function.model.parameters()]
    steps = list(check_steps(function, empirical_kernel(function), learning_rates=RATES))
    assert steps[1].error / steps[2].error == pytest.approx(100, rel=0.05)
    assert steps[2].error < 2e-3 * steps[2].predicted
    assert steps[2].seen == pytest.approx(steps[2].predicted, rel=2e-3)
    assert all(map(torch.equal, before, function.model.parameters())), "the weights are put back"


def test_float32_norms_of_llama_limit_the_precision_of_the_kernel(tmp_path: Path) -> None:
    function = function_of(CASES["causal_lm"](tmp_path), "loss")
    steps = list(check_steps(function, empirical_kernel(function), learning_rates=RATES))
    assert steps[0].error / steps[1].error == pytest.approx(100, rel=0.7)
    assert steps[2].error < 2e-3 * steps[2].predicted


def test_a_target_logit_alone_does_not_predict_the_loss(tmp_path: Path) -> None:
    function = function_of(CASES["causal_lm"](tmp_path), "target")
    with pytest.raises(InputError, match="does not depend on the target's logit alone"):
        list(check_steps(function, empirical_kernel(function), learning_rates=RATES))


@pytest.mark.parametrize(
    ("name", "output", "having"),
    [
        ("causal_lm", "logits", "expected one of target, loss"),
        ("diffusion", "target", "expected one of loss"),
        ("masked_image_modeling", "logits", "expected one of loss"),
        ("image_classification", "probability", "expected one of target, logits, loss"),
    ],
)
def test_an_output_that_the_task_lacks_is_an_error_that_lists_the_others(
    name: str, output: str, having: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=having):
        Output.of(CASES[name](tmp_path).task, output)


@pytest.mark.parametrize(("name", "output"), [("causal_lm", "target"), ("diffusion", "loss")])
def test_the_default_output_is_the_target_logit_if_the_task_has_logits(
    name: str, output: str, tmp_path: Path
) -> None:
    assert Output.of(CASES[name](tmp_path).task).name == output


def test_the_target_logit_of_a_text_is_the_mean_over_its_counted_tokens(tmp_path: Path) -> None:
    case = CASES["causal_lm"](tmp_path)
    model = case.task.models(case.model_settings).build(3).eval()
    batch = case.task.collate([case.task.prepare(case.samples[0], generator=None)])
    with torch.no_grad():
        found = Output.of(case.task).values(model, batch)
        logits = model(batch["input_ids"]).logits[0, :-1]
    labels = batch["labels"][0, 1:]
    right = [float(logits[place, label]) for place, label in enumerate(labels) if label >= 0]
    assert found.tolist() == pytest.approx([np.mean(right)], rel=1e-5)


def test_a_kernel_that_is_too_large_is_an_error_that_suggests_a_sketch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = function_of(CASES["image_classification"](tmp_path), dtype="float32")
    num_bytes = 12 * function.num_parameters * 4
    monkeypatch.setattr(kernel, "MAX_GRADIENT_BYTES", num_bytes - 1)
    with pytest.raises(InputError, match=r"0\.0 GB of gradients .12 rows × .* use --sketch 4096"):
        empirical_kernel(function)
    empirical_kernel(function, sketch=Sketch(16, 0))
    monkeypatch.setattr(kernel, "MAX_KERNEL_BYTES", 8 * 12 * 12 * 5 - 1)
    with pytest.raises(InputError, match="use a smaller --probe, or --output target"):
        empirical_kernel(function, sketch=Sketch(16, 0))


def test_the_kernel_of_diverged_weights_is_refused(tmp_path: Path) -> None:
    function = function_of(CASES["image_classification"](tmp_path))
    with torch.no_grad():
        next(function.model.parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match="training has diverged"):
        empirical_kernel(function)


SQUARE = arrays(np.float64, (4, 3), elements=st.floats(-10, 10, width=32))


@given(SQUARE, SQUARE, st.floats(0.01, 100))
def test_drift_eigenvalues_and_effective_rank_follow_their_definitions(
    one: np.ndarray, other: np.ndarray, scale: float
) -> None:
    first, second = one @ one.T, other @ other.T
    assert drift(first, first) == 0
    assert drift(scale * first, scale * second) == pytest.approx(drift(first, second), rel=1e-6)
    values = eigenvalues(first)
    assert values.sum() == pytest.approx(np.trace(first), abs=1e-9)
    assert list(values) == sorted(values, reverse=True)
    if first.any():
        assert 1 - 1e-9 <= effective_rank(first) <= 3 + 1e-9
        assert sketch_error(first, 100) == pytest.approx(
            np.trace(first) / (10 * np.linalg.norm(first))
        )


def test_the_effective_rank_counts_equal_eigenvalues() -> None:
    assert effective_rank(2.0 * np.eye(5)) == pytest.approx(5)
    assert effective_rank(np.zeros((2, 2))) == 0
    assert drift(np.zeros((2, 2)), np.eye(2)) == float("inf")
    assert Kernel({"q": np.eye(2), "k": np.eye(2)}, np.zeros(2)).total.tolist() == [[2, 0], [0, 2]]
