"""Tests that every task must pass."""

import copy
import dataclasses
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from attent_select.errors import SampleError
from attent_select.schema import OK, STATUSES
from catalogs.shard_format import Sample
from trainers.antk import Function, Output, eigenvalues, empirical_kernel
from trainers.scoring.hidden_states import mean_state
from trainers.scoring.scorer import score_rows
from trainers.settings import ScoringSettings
from trainers.task import (
    Batch,
    HasColumns,
    HasFunctionalGradient,
    HasModelInputs,
    Item,
    Task,
    draws,
)

Dtype = Literal["float32", "bfloat16"]
# Computes the model's own loss of a batch.
ReferenceLoss = Callable[[torch.nn.Module, Batch], torch.Tensor]


class TaskConformance:
    """Conformance suite of a task: subclass it in a test file, and define three fixtures.

    The fixtures must have the scope `class`, `module` or `session`:
        task: the task.
        samples: samples that the task can use, of different lengths or contents; at least 6.
        model_settings: the `model:` section of a small model.

    Optional fixtures:
        bad_samples: samples that the task cannot use, each with the status that it must get.
        num_units: the number of counted units of each sample.
        reference_loss: a function of (model, batch) that returns the model's own mean loss per
            unit.
        unused_parameters: names of parameters that the architecture has but does not use.
    """

    @pytest.fixture(scope="class")
    def task(self) -> Task:
        """Return the task; defined by the subclass."""
        raise NotImplementedError("define a fixture `task` that returns the task")

    @pytest.fixture(scope="class")
    def samples(self) -> Sequence[Sample]:
        """Return samples that the task can use; defined by the subclass."""
        raise NotImplementedError("define a fixture `samples` that returns a few samples")

    @pytest.fixture(scope="class")
    def model_settings(self) -> dict[str, Any]:
        """Return the `model:` section of a small model; defined by the subclass."""
        raise NotImplementedError("define a fixture `model_settings`: the `model:` section")

    @pytest.fixture(scope="class")
    def bad_samples(self) -> Sequence[tuple[Sample, str]]:
        return []

    @pytest.fixture(scope="class")
    def num_units(self) -> Sequence[int] | None:
        return None

    @pytest.fixture(scope="class")
    def reference_loss(self) -> ReferenceLoss | None:
        return None

    @pytest.fixture(scope="class")
    def unused_parameters(self) -> Sequence[str]:
        return []

    @pytest.fixture(scope="class")
    def model(self, task: Task, model_settings: dict[str, Any]) -> torch.nn.Module:
        """Return a model in eval mode, which no test changes."""
        return task.models(model_settings).build(3).eval()

    @pytest.fixture(scope="class")
    def items(self, task: Task, samples: Sequence[Sample]) -> list[Item]:
        """Return the prepared samples."""
        return [task.prepare(sample, generator=None) for sample in samples]

    @pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 2e-3)])
    def test_a_loss_does_not_depend_on_the_rest_of_its_batch(
        self,
        task: Task,
        model: torch.nn.Module,
        items: list[Item],
        dtype: Dtype,
        tolerance: float,
    ) -> None:
        def losses(batch_items: list[Item]) -> torch.Tensor:
            return _losses(task, model, batch_items, dtype=dtype)[0]

        expected = losses(items)
        reverse_order = losses(items[::-1]).flip(0)
        torch.testing.assert_close(reverse_order, expected, rtol=tolerance, atol=0)
        for place, item in enumerate(items):
            for batch_items in ([item], [items[-1], item, items[0]]):
                loss = losses(batch_items)[len(batch_items) // 2]
                torch.testing.assert_close(loss, expected[place], rtol=tolerance, atol=0)

    def test_hidden_states_depend_on_the_input_columns_of_a_sample_only(
        self, task: Task, model: torch.nn.Module, samples: Sequence[Sample]
    ) -> None:
        if not isinstance(task, HasModelInputs):
            return
        inputs = [{name: sample[name] for name in task.input_columns} for sample in samples]
        items = [item for item in task.prepare_inputs(inputs) if not isinstance(item, SampleError)]
        assert len(items) == len(samples)
        assert all(item["num_units"] > 0 for item in items)

        def states(batch_items: list[Item]) -> torch.Tensor:
            batch, num_units = task.collate_inputs(batch_items)
            assert (num_units.shape, num_units.dtype) == ((len(batch_items),), torch.int64)
            with torch.inference_mode():
                return mean_state(model, batch)

        together = states(items)
        assert together.dtype == torch.float32
        assert together.isfinite().all()
        alone = torch.cat([states([item]) for item in items])
        torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)
        assert len(together.unique(dim=0)) > 1

    @pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 2e-3)])
    def test_scoring_returns_the_loss_of_the_task(
        self,
        task: Task,
        model: torch.nn.Module,
        samples: Sequence[Sample],
        bad_samples: Sequence[tuple[Sample, str]],
        items: list[Item],
        dtype: Dtype,
        tolerance: float,
    ) -> None:
        settings = ScoringSettings(batch_units=150, max_batch_samples=3, dtype=dtype)
        rows = enumerate([*samples, *(sample for sample, _ in bad_samples)])
        scores = score_rows(task, model, list(rows), settings=settings)
        losses, units = _losses(task, model, items, dtype=dtype)
        scored = scores.head(len(samples))
        scored_losses = torch.from_numpy(scored["loss"].to_numpy().copy())
        torch.testing.assert_close(scored_losses, losses, rtol=tolerance, atol=0)
        assert scored["num_units"].to_list() == units.tolist()
        statuses = [OK] * len(samples) + [status for _, status in bad_samples]
        assert scores["status"].to_list() == statuses
        assert scores["loss"].is_null().sum() == len(bad_samples)

    def test_every_sample_has_a_float32_loss_and_an_int64_number_of_units(
        self,
        task: Task,
        model: torch.nn.Module,
        items: list[Item],
        num_units: Sequence[int] | None,
    ) -> None:
        losses, units = _losses(task, model, items)
        assert losses.shape == units.shape == (len(items),)
        assert (losses.dtype, units.dtype) == (torch.float32, torch.int64)
        assert bool((losses > 0).all())
        assert bool((units > 0).all())
        if num_units is not None:
            assert units.tolist() == list(num_units)

    def test_the_mean_over_all_units_is_the_model_s_own_loss(
        self,
        task: Task,
        model: torch.nn.Module,
        items: list[Item],
        reference_loss: ReferenceLoss | None,
    ) -> None:
        if reference_loss is None:
            pytest.skip("no fixture `reference_loss`")
        losses, units = _losses(task, model, items)
        mean = (losses * units).sum() / units.sum()
        with torch.inference_mode():
            expected = reference_loss(model, task.collate(items))
        torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-6)

    def test_the_functional_gradient_comes_with_the_loss_and_is_one_number_per_sample(
        self, task: Task, model: torch.nn.Module, items: list[Item]
    ) -> None:
        if not isinstance(task, HasFunctionalGradient):
            pytest.skip("the task has no `loss_and_gradient`")
        with torch.inference_mode():
            *measured, gradients = task.loss_and_gradient(model, task.collate(items))
            alone = [task.loss_and_gradient(model, task.collate([item]))[2] for item in items]
        torch.testing.assert_close(measured, list(_losses(task, model, items)), rtol=1e-6, atol=0)
        assert gradients.dtype == torch.float32
        assert bool((gradients > 0).all())
        torch.testing.assert_close(torch.cat(alone), gradients, rtol=1e-5, atol=0)

    @pytest.mark.parametrize("output", ["loss", None], ids=["loss", "default"])
    def test_the_kernel_of_the_task_can_be_measured(
        self,
        task: Task,
        model_settings: dict[str, Any],
        items: list[Item],
        output: str | None,
    ) -> None:
        batches = [task.collate([item]) for item in items]
        model = task.models(model_settings).build(3)
        function = Function(model, batches, Output.of(task, output))
        kernel = empirical_kernel(function)
        assert kernel.total.shape == (len(batches), len(batches))
        spectrum = eigenvalues(kernel.total)
        assert spectrum[0] > 0
        assert spectrum.sum() == pytest.approx(kernel.total.trace(), rel=1e-5)
        assert kernel.values == pytest.approx(function.values().flatten().tolist())

    def test_a_sample_that_cannot_be_used_raises_an_error_with_its_status(
        self, task: Task, bad_samples: Sequence[tuple[Sample, str]]
    ) -> None:
        if not bad_samples:
            pytest.skip("no fixture `bad_samples`")
        for sample, status in bad_samples:
            with pytest.raises(SampleError) as caught:
                task.prepare(sample, generator=None)
            assert caught.value.status == status
            assert status in set(STATUSES) - {OK}

    def test_a_batch_from_columns_is_that_of_the_prepared_samples(
        self, task: Task, samples: Sequence[Sample], bad_samples: Sequence[tuple[Sample, str]]
    ) -> None:
        if not isinstance(task, HasColumns):
            pytest.skip("the task has no `collate_columns`")
        mixed = [sample for sample, _ in bad_samples[:1]] + list(samples)
        mixed += [sample for sample, _ in bad_samples[1:]]
        columns = {name: [sample[name] for sample in mixed] for name in task.columns}
        batch, errors = task.collate_columns(columns)
        expected = task.collate([task.prepare(sample, generator=None) for sample in samples])
        assert batch.keys() == expected.keys()
        for name in batch:
            torch.testing.assert_close(batch[name], expected[name], rtol=0, atol=0, equal_nan=True)
        statuses = [errors[position].status for position in sorted(errors)]
        assert statuses == [status for _, status in bad_samples]

    def test_preparing_twice_gives_the_same_and_changes_neither_sample_nor_random_state(
        self, task: Task, samples: Sequence[Sample]
    ) -> None:
        before = [dict(sample) for sample in samples]
        torch.manual_seed(1)
        state = torch.random.get_rng_state()
        first, second = (
            task.collate([task.prepare(sample, generator=None) for sample in samples])
            for _ in range(2)
        )
        assert [dict(sample) for sample in samples] == before
        assert torch.equal(torch.random.get_rng_state(), state)
        assert first.keys() == second.keys()
        for name in first:
            torch.testing.assert_close(first[name], second[name], rtol=0, atol=0, equal_nan=True)

    def test_a_task_that_declares_no_random_draws_makes_none(
        self, task: Task, samples: Sequence[Sample]
    ) -> None:
        tasks: list[Task] = [task]
        if hasattr(task, "augment"):
            frozen: Any = task
            tasks.append(dataclasses.replace(frozen, augment=True))
        for each in tasks:
            generator = torch.Generator().manual_seed(0)
            before = generator.get_state()
            for sample in samples:
                each.prepare(sample, generator=generator)
            assert draws(each) or torch.equal(generator.get_state(), before)

    def test_every_prepared_sample_has_a_cost(self, items: list[Item]) -> None:
        assert all(item["num_units"] >= 1 for item in items)

    def test_only_the_declared_columns_are_read(
        self, task: Task, samples: Sequence[Sample]
    ) -> None:
        for sample in samples:
            task.prepare({name: sample[name] for name in task.columns}, generator=None)

    def test_the_checks_before_a_run_pass(self, task: Task, model_settings: dict[str, Any]) -> None:
        for checked in (task, task.models(model_settings)):
            if hasattr(checked, "check"):
                checked.check()

    def test_gradients_reach_every_parameter(
        self,
        task: Task,
        model_settings: dict[str, Any],
        items: list[Item],
        unused_parameters: Sequence[str],
    ) -> None:
        model = task.models(model_settings).build(3).train()
        losses, _ = task.per_sample_loss(model, task.collate(items))
        losses.mean().backward()
        without_gradient = [
            name
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and parameter.grad is None
        ]
        assert without_gradient == list(unused_parameters)

    def test_a_model_is_the_same_for_the_same_seed_and_after_saving(
        self, task: Task, model_settings: dict[str, Any], tmp_path: Path
    ) -> None:
        models = task.models(model_settings)
        first, second, other_seed = models.build(3), models.build(3), models.build(4)
        models.save(first, tmp_path)
        loaded = models.load(tmp_path)
        differs = False
        for name, tensor in first.state_dict().items():
            assert torch.equal(tensor, second.state_dict()[name])
            assert torch.equal(tensor, loaded.state_dict()[name])
            differs |= not torch.equal(tensor, other_seed.state_dict()[name])
        assert differs
        assert not loaded.training

    def test_evaluation_returns_the_mean_loss_and_restores_the_training_mode(
        self, task: Task, model_settings: dict[str, Any], items: list[Item]
    ) -> None:
        model = task.models(model_settings).build(3).train()
        metrics = task.evaluate(model, [task.collate(items)])
        assert model.training
        halves = [task.collate(half) for half in (items[:5], items[5:])]
        assert task.evaluate(model, halves) == pytest.approx(metrics, rel=1e-5)
        losses, units = _losses(task, model.eval(), items)
        mean = (losses * units).sum() / units.sum()
        assert metrics["eval_loss"] == pytest.approx(float(mean), rel=1e-5)

    def test_a_task_can_be_sent_to_another_process(
        self, task: Task, samples: Sequence[Sample], items: list[Item]
    ) -> None:
        assert pickle.dumps(task)
        copied = copy.deepcopy(task)
        assert copied == task
        assert copied.prepare(samples[0], generator=None).keys() == items[0].keys()


def _losses(
    task: Task, model: torch.nn.Module, items: Sequence[Item], *, dtype: Dtype = "float32"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return losses and units of the items as one batch."""
    bfloat16 = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")
    with torch.inference_mode(), bfloat16:
        return task.per_sample_loss(model, task.collate(items))
