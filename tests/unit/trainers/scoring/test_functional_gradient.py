"""‖∂ℓ/∂f‖ of every task is what autograd says of its loss."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from task_cases import CASES, TaskCase
from torch.nn import functional

from attent_select import plugins
from attent_select.errors import InputError
from trainers.scoring.functional_gradient import cross_entropy_norms, rms_over_units
from trainers.scoring.scorer import score_rows
from trainers.scoring.token_loss import Limits, token_gradients, token_losses
from trainers.settings import ScoringSettings
from trainers.task import Batch
from trainers.tasks.dense_regression import DenseRegression


class Answers(torch.nn.Module):
    """A model whose answer is a parameter, under each of the names that the tasks know."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.answers = torch.nn.Parameter(2 * torch.randn(shape, generator=generator))

    def forward(self, **_: Any) -> Any:
        return SimpleNamespace(logits=self.answers, predicted_depth=self.answers)


def batch_of(case: TaskCase, number: int) -> Batch:
    return case.task.collate([case.task.prepare(s, generator=None) for s in case.samples[:number]])


def by_autograd(task: Any, model: Answers, batch: Batch) -> list[float]:
    """√U·‖∂(mean of ℓ_u)/∂f‖, which is the root mean square of ‖∂ℓ_u/∂f_u‖ over the U units."""
    losses, num_units = task.per_sample_loss(model, batch)
    (gradients,) = torch.autograd.grad(losses.sum(), [model.answers])
    norms = gradients.flatten(1).norm(dim=1) * num_units.sqrt()
    return norms.tolist()


SHAPES = {
    "image_classification": (4, 10),
    "semantic_segmentation": (4, 2, 16, 16),
    "dense_regression": (4, 16, 16),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_gradient_of_an_image_task_is_that_of_its_loss(name: str, tmp_path: Path) -> None:
    case, model = CASES[name](tmp_path), Answers(*SHAPES[name])
    batch = batch_of(case, 4)
    with torch.no_grad():
        losses, num_units, gradients = case.task.loss_and_gradient(model, batch)
    assert gradients.tolist() == pytest.approx(by_autograd(case.task, model, batch), rel=1e-5)
    again, units_again = case.task.per_sample_loss(model, batch)
    assert torch.equal(losses, again)
    assert torch.equal(num_units, units_again)


@pytest.mark.parametrize("loss", ["l1", "l2", "huber"])
def test_the_gradient_of_a_regression_is_that_of_the_loss_that_is_asked_for(
    loss: str, tmp_path: Path
) -> None:
    case = CASES["dense_regression"](tmp_path)
    task = DenseRegression(image_size=16, num_channels=1, invalid=0, scale=0.01, loss=loss)
    batch, model = batch_of(case, 4), Answers(4, 16, 16)
    found = task.loss_and_gradient(model, batch)[2]
    assert found.tolist() == pytest.approx(by_autograd(task, model, batch), rel=1e-5)


@pytest.mark.parametrize("name", ["causal_lm", "image_text"])
def test_the_gradient_of_a_language_model_is_that_of_its_tokens_logits(
    name: str, tmp_path: Path
) -> None:
    case = CASES[name](tmp_path)
    model = case.task.models(case.model_settings).build(3).eval()
    batch = batch_of(case, 4)
    with torch.inference_mode():
        losses, num_units, gradients = case.task.loss_and_gradient(model, batch)
        inputs = {
            k.rpartition(".")[2]: v for k, v in batch.items() if k not in ("labels", "truncated")
        }
        logits, labels = model(**inputs).logits[:, :-1], batch["labels"][:, 1:]
        expected = case.task.per_sample_loss(model, batch)
    residual = logits.softmax(-1) - functional.one_hot(labels.clamp(min=0), logits.shape[-1])
    squares = residual.square().sum(-1) * (labels >= 0)
    assert gradients.tolist() == pytest.approx(
        (squares.sum(1) / num_units).sqrt().tolist(), rel=1e-4
    )
    torch.testing.assert_close((losses, num_units), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["masked_image_modeling", "diffusion"])
def test_the_gradient_of_a_mean_of_squares_orders_samples_as_the_loss_does(
    name: str, tmp_path: Path
) -> None:
    case = CASES[name](tmp_path)
    model = case.task.models(case.model_settings).build(3).eval()
    losses, _, gradients = case.task.loss_and_gradient(model, batch_of(case, 8))
    pixels = 16 if name == "masked_image_modeling" else 64
    assert torch.equal(losses.argsort(), gradients.argsort())
    assert (gradients / losses.sqrt()).tolist() == pytest.approx([2 / pixels**0.5] * 8)


def test_a_nearly_sure_answer_keeps_its_digits() -> None:
    logits = torch.tensor([[25.0, 0.0], [40.0, 0.0], [0.0, 0.0]])
    # (1 − p)·√2 with 1 − p = 1/(1 + e^25), …: float32 cannot hold p itself.
    expected = [2**0.5 / (1 + 2.718281828459045**x) for x in (25.0, 40.0, 0.0)]
    assert cross_entropy_norms(logits, torch.tensor([0, 0, 0])).tolist() == pytest.approx(
        expected, rel=1e-5
    )


def test_the_mean_over_units_does_not_see_what_does_not_count() -> None:
    norms = torch.tensor([[3.0, 4.0, 100.0], [1.0, 1.0, 1.0]])
    counted = torch.tensor([[True, True, False], [False, False, False]])
    assert rms_over_units(norms, counted).tolist() == pytest.approx([12.5**0.5, 0.0])


def test_chunks_of_tokens_give_the_gradients_of_the_whole_matrix(tmp_path: Path) -> None:
    case = CASES["causal_lm"](tmp_path)
    model, batch = case.task.models(case.model_settings).build(3).eval(), batch_of(case, 4)
    with torch.inference_mode():
        whole = token_gradients(model, batch)
        chunked = token_gradients(model, batch, limits=Limits(chunk_elements=300 * 3))
        losses, _ = token_losses(model, batch)
    torch.testing.assert_close(chunked, whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(whole[0], losses, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "name", [name for name in plugins.plugin_names("trainers.tasks") if name != "preference_pairs"]
)
def test_scoring_writes_it_beside_the_loss_where_it_is_asked_for(name: str, tmp_path: Path) -> None:
    case = CASES[name](tmp_path)
    model = case.task.models(case.model_settings).build(3)
    rows = list(enumerate([*case.samples, *(sample for sample, _ in case.bad_samples)]))
    plain = score_rows(case.task, model, rows)
    asked = score_rows(case.task, model, rows, settings=ScoringSettings(functional_gradient=True))
    assert asked.columns == [*plain.columns, "functional_gradient"]
    assert asked.drop("functional_gradient", "loss").equals(plain.drop("loss"))
    good = [scores["loss"].drop_nulls().to_list() for scores in (asked, plain)]
    assert good[0] == pytest.approx(good[1], rel=1e-5)
    found = asked["functional_gradient"]
    assert found.head(len(case.samples)).min() > 0
    assert found.null_count() == len(case.bad_samples)


def test_a_task_that_cannot_is_told_so() -> None:
    task: Any = SimpleNamespace(per_sample_loss=None)
    settings = ScoringSettings(functional_gradient=True)
    with pytest.raises(InputError, match="implement `loss_and_gradient`"):
        score_rows(task, torch.nn.Linear(1, 1), [], settings=settings)
