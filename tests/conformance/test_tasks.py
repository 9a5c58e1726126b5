"""What every task promises. They are found in `trainers/tasks/`: a new one is tested at once."""

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from tasks_at_hand import CASES, Case

from attent_select import plugins
from attent_select.errors import SampleError
from attent_select.schema import OK, STATUSES
from trainers.antk import Function, Output, eigenvalues, empirical_kernel
from trainers.scoring.scorer import score_rows
from trainers.settings import ScoringSettings
from trainers.task import Batch, HasFunctionalGradient, draws

NAMES = plugins.plugin_names("trainers.tasks")


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return CASES[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def model(case: Case) -> torch.nn.Module:
    return case.task.models(case.model).build(3).eval()


def items(case: Case) -> list[dict[str, Any]]:
    return [case.task.prepare(sample, generator=None) for sample in case.good]


def losses_of(
    case: Case, model: torch.nn.Module, batch: Batch
) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode():
        return case.task.per_sample_loss(model, batch)


def test_every_task_has_a_case() -> None:
    assert set(CASES) == set(NAMES)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 2e-3)], ids=["float32", "bfloat16"]
)
def test_a_loss_does_not_depend_on_the_company_order_or_padding(
    case: Case, model: torch.nn.Module, dtype: str, tolerance: float
) -> None:
    def losses(some: list[dict[str, Any]]) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            return losses_of(case, model, case.task.collate(some))[0]

    prepared = items(case)
    together = losses(prepared)
    torch.testing.assert_close(losses(prepared[::-1]).flip(0), together, rtol=tolerance, atol=0)
    for place, item in enumerate(prepared):
        alone = losses([item])[0]
        torch.testing.assert_close(alone, together[place], rtol=tolerance, atol=0)
        between = losses([prepared[-1], item, prepared[0]])[1]
        torch.testing.assert_close(between, together[place], rtol=tolerance, atol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 2e-3)])
def test_scoring_measures_the_loss_of_the_task_in_eval_mode(
    case: Case, model: torch.nn.Module, dtype: str, tolerance: float
) -> None:
    settings = ScoringSettings(batch_units=150, max_batch_samples=3, dtype=dtype)
    rows = [*case.good, *(sample for sample, _ in case.bad)]
    scored = score_rows(case.task, model, list(enumerate(rows)), settings=settings)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        losses, units = losses_of(case, model, case.task.collate(items(case)))
    good = scored.head(len(case.good))
    measured = torch.from_numpy(good["loss"].to_numpy().copy())
    torch.testing.assert_close(measured, losses, rtol=tolerance, atol=0)
    assert good["num_units"].to_list() == units.tolist()
    assert scored["status"].to_list() == [OK] * len(case.good) + [status for _, status in case.bad]
    assert scored["loss"].is_null().sum() == len(case.bad)


def test_losses_are_float32_and_units_int64_one_per_sample(
    case: Case, model: torch.nn.Module
) -> None:
    losses, units = losses_of(case, model, case.task.collate(items(case)))
    assert losses.shape == units.shape == (len(case.good),)
    assert (losses.dtype, units.dtype) == (torch.float32, torch.int64)
    assert units.tolist() == case.units
    assert bool((losses > 0).all())


def test_the_mean_over_all_units_is_the_models_own_loss(case: Case, model: torch.nn.Module) -> None:
    batch = case.task.collate(items(case))
    losses, units = losses_of(case, model, batch)
    if case.own_loss is None:
        pytest.skip("this model has no loss of its own")
    with torch.inference_mode():
        own = case.own_loss(model, batch)
    mean = (losses * units).sum() / units.sum()
    torch.testing.assert_close(mean, own, rtol=1e-5, atol=1e-6)


def test_a_functional_gradient_comes_with_the_loss_and_does_not_depend_on_the_company(
    case: Case, model: torch.nn.Module
) -> None:
    if not isinstance(case.task, HasFunctionalGradient):
        return
    prepared = items(case)
    with torch.inference_mode():
        *measured, together = case.task.loss_and_gradient(model, case.task.collate(prepared))
        alone = [case.task.loss_and_gradient(model, case.task.collate([i]))[2] for i in prepared]
    expected = losses_of(case, model, case.task.collate(prepared))
    torch.testing.assert_close(measured, list(expected), rtol=1e-6, atol=0)
    assert together.dtype == torch.float32
    assert bool((together > 0).all())
    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-5, atol=0)


def test_there_is_a_kernel_of_what_the_task_can_say(case: Case) -> None:
    model = case.task.models(case.model).build(3)
    batches = [case.task.collate([item]) for item in items(case)]
    for name in ("loss", None):
        function = Function(model, batches, Output.of(case.task, name))
        kernel = empirical_kernel(function)
        assert kernel.total.shape == (len(batches), len(batches))
        values = eigenvalues(kernel.total)
        assert values[0] > 0
        assert values.sum() == pytest.approx(kernel.total.trace(), rel=1e-5)
        assert kernel.values == pytest.approx(function.values().flatten().tolist())


def test_a_sample_that_cannot_be_used_is_an_error_with_its_status(case: Case) -> None:
    assert case.bad
    for sample, status in case.bad:
        with pytest.raises(SampleError) as caught:
            case.task.prepare(sample, generator=None)
        assert caught.value.status == status
        assert status in STATUSES
        assert status != OK


def test_preparing_twice_gives_the_same_and_leaves_the_sample_and_random_state_alone(
    case: Case,
) -> None:
    before = [dict(sample) for sample in case.good]
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first, second = case.task.collate(items(case)), case.task.collate(items(case))
    assert case.good == before
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0, equal_nan=True)


def test_a_task_that_says_it_draws_nothing_does_not(case: Case) -> None:
    tasks = [case.task]
    if hasattr(case.task, "augment"):
        tasks.append(dataclasses.replace(case.task, augment=True))
    for task in tasks:
        generator = torch.Generator().manual_seed(0)
        before = generator.get_state()
        for sample in case.good:
            task.prepare(sample, generator=generator)
        assert draws(task) or torch.equal(generator.get_state(), before)


def test_every_item_says_what_it_costs(case: Case) -> None:
    assert all(item["num_units"] >= 1 for item in items(case))


def test_a_task_reads_only_its_columns(case: Case) -> None:
    for sample in case.good:
        narrow = {name: sample[name] for name in case.task.columns}
        case.task.prepare(narrow, generator=None)


def test_what_a_run_checks_before_it_starts_is_in_order(case: Case) -> None:
    for checked in (case.task, case.task.models(case.model)):
        if hasattr(checked, "check"):
            checked.check()


def test_gradients_reach_every_parameter(case: Case) -> None:
    model = case.task.models(case.model).build(3).train()
    losses, _ = case.task.per_sample_loss(model, case.task.collate(items(case)))
    losses.mean().backward()
    trained = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert [name for name, gradient in trained.items() if gradient is None] == case.unused


def test_a_model_is_the_same_for_the_same_seed_and_after_saving(case: Case, tmp_path: Path) -> None:
    models = case.task.models(case.model)
    first, second, other = models.build(3), models.build(3), models.build(4)
    models.save(first, tmp_path)
    loaded = models.load(tmp_path)
    differs = False
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
        assert torch.equal(tensor, loaded.state_dict()[name])
        differs |= not torch.equal(tensor, other.state_dict()[name])
    assert differs
    assert not loaded.training


def test_evaluation_has_a_loss_and_leaves_the_model_in_its_mode(case: Case) -> None:
    model = case.task.models(case.model).build(3).train()
    prepared = items(case)
    whole = case.task.evaluate(model, [case.task.collate(prepared)])
    assert model.training
    parts = [case.task.collate(prepared[:5]), case.task.collate(prepared[5:])]
    assert case.task.evaluate(model, parts) == pytest.approx(whole, rel=1e-5)
    losses, units = losses_of(case, model.eval(), case.task.collate(prepared))
    mean = (losses * units).sum() / units.sum()
    assert whole["eval_loss"] == pytest.approx(float(mean), rel=1e-5)


def test_a_task_travels_to_another_process(case: Case) -> None:
    copy = pickle.loads(pickle.dumps(case.task))
    assert copy == case.task
    assert copy.prepare(case.good[0], generator=None).keys() == items(case)[0].keys()
