"""What every task promises. They are found in `trainers/tasks/`: a new one is tested at once."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from tasks_at_hand import CASES, Case

from attent_select import plugins
from attent_select.errors import SampleError
from attent_select.schema import OK, STATUSES
from trainers.task import Batch

NAMES = plugins.names("trainers.tasks")


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


def test_a_loss_does_not_depend_on_the_company_order_or_padding(
    case: Case, model: torch.nn.Module
) -> None:
    prepared = items(case)
    together, _ = losses_of(case, model, case.task.collate(prepared))
    backwards, _ = losses_of(case, model, case.task.collate(prepared[::-1]))
    torch.testing.assert_close(backwards.flip(0), together, rtol=1e-6, atol=1e-6)
    for place, item in enumerate(prepared):
        alone, _ = losses_of(case, model, case.task.collate([item]))
        torch.testing.assert_close(alone[0], together[place], rtol=1e-6, atol=1e-6)
        pair, _ = losses_of(case, model, case.task.collate([prepared[-1], item, prepared[0]]))
        torch.testing.assert_close(pair[1], together[place], rtol=1e-6, atol=1e-6)


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
    known = {name: batch[name] for name in batch if name != "truncated"}
    with torch.inference_mode():
        own = model(**known).loss
    mean = (losses * units).sum() / units.sum()
    torch.testing.assert_close(mean, own, rtol=1e-5, atol=1e-6)


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
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_every_item_says_what_it_costs(case: Case) -> None:
    assert all(item["num_units"] >= 1 for item in items(case))


def test_a_task_reads_only_its_columns(case: Case) -> None:
    for sample in case.good:
        narrow = {name: sample[name] for name in case.task.columns}
        case.task.prepare(narrow, generator=None)


def test_gradients_reach_every_parameter(case: Case) -> None:
    model = case.task.models(case.model).build(3).train()
    losses, _ = case.task.per_sample_loss(model, case.task.collate(items(case)))
    losses.mean().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


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
