"""Selected tokens: those of a plain reference implementation, in numbers known in advance."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attent_select.errors import InputError
from trainers.settings.training import TokenSelection
from trainers.task import Batch
from trainers.tasks.image_classification import ImageClassification
from trainers.token_selection import check_tokens, kept_tokens, num_kept, step_losses

PERCENT = st.integers(1, 100)


@given(st.integers(0, 10**6), PERCENT)
def test_the_number_of_kept_tokens_is_the_share_rounded_up(num_units: int, percent: int) -> None:
    expected = -(-percent * num_units // 100)
    assert num_kept(torch.tensor([num_units]), keep=percent / 100).tolist() == [expected]


@given(
    st.lists(
        st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=7, max_size=7),
        min_size=1,
        max_size=4,
    ),
    PERCENT,
)
def test_the_tokens_of_largest_excess_of_each_sample_are_kept(
    rows: list[list[tuple[int, bool]]], percent: int
) -> None:
    excess = torch.tensor([[value / 4 for value, _ in row] for row in rows])
    counted = torch.tensor([[counts for _, counts in row] for row in rows])
    kept = kept_tokens(excess, counted, keep=percent / 100)
    for row, chosen in zip(rows, kept.tolist(), strict=True):
        places = [place for place, (_, counts) in enumerate(row) if counts]
        first = sorted(places, key=lambda place: (-row[place][0], place))
        expected = first[: math.ceil(percent * len(places) / 100)]
        assert [place for place, is_kept in enumerate(chosen) if is_kept] == sorted(expected)
    assert torch.equal(kept.sum(dim=1), num_kept(counted.sum(dim=1), keep=percent / 100))


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.01, math.nan])
def test_a_share_outside_of_its_range_is_refused(keep: float) -> None:
    with pytest.raises(InputError, match="expected a share, above 0 and at most 1"):
        TokenSelection("reference", keep)


def test_a_task_without_tokens_is_refused() -> None:
    with pytest.raises(InputError, match="ImageClassification has no losses of single tokens"):
        check_tokens(ImageClassification())


class Detached(ImageClassification):
    """A task that forgets the gradient of its losses."""

    def per_sample_loss(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return model(batch["x"])[:, 0].detach(), torch.ones(2, dtype=torch.int64)


def test_a_loss_without_a_gradient_is_refused_by_the_name_of_its_task() -> None:
    model, batch = torch.nn.Linear(3, 1), {"x": torch.ones(2, 3)}
    with pytest.raises(InputError, match="loss of the task Detached does not depend on a weight"):
        step_losses(Detached(), model, batch, selector=None)
    with torch.no_grad():  # as in scoring
        assert len(step_losses(Detached(), model, batch, selector=None).whole) == 2
