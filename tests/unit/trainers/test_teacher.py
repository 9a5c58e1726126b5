"""Teacher: subsets of observed losses in a training loop."""

import logging

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from attent_select import select
from attent_select.errors import InputError
from trainers import Teacher

LOSSES = torch.from_numpy(np.random.default_rng(7).exponential(size=400).astype(np.float32))


def run_epoch(teacher: Teacher, losses: torch.Tensor = LOSSES) -> list[int]:
    """One epoch of a loop; the samples in their order."""
    order = list(teacher.sampler)
    teacher.observe(torch.tensor(order), losses[order])
    return order


def test_all_samples_are_seen_first_and_then_those_that_select_chooses() -> None:
    teacher = Teacher(400, strategy="hard", ratio=0.25, seed=3)
    assert sorted(run_epoch(teacher)) == list(range(400))
    rows = pl.int_range(400, dtype=pl.UInt32, eager=True).alias("row")
    frame = pl.DataFrame([rows, pl.Series("loss", LOSSES.numpy())]).with_columns(
        shard_id=pl.lit(0, pl.UInt32)
    )
    expected = select(frame, strategy="hard", ratio=0.25).rows.collect()["row"].to_list()
    assert sorted(run_epoch(teacher)) == expected
    assert len(expected) == 100


def test_losses_of_samples_that_were_left_out_stay_as_they_were() -> None:
    teacher = Teacher(400, strategy="hard", ratio=0.25)
    run_epoch(teacher)
    chosen = run_epoch(teacher, LOSSES / 100)
    teacher.finish_epoch()
    expected = LOSSES.clone()
    expected[chosen] /= 100
    assert torch.equal(torch.from_numpy(teacher.losses), expected)


def test_an_epoch_without_a_loss_is_repeated() -> None:
    teacher = Teacher(400, ratio=0.5)
    run_epoch(teacher)
    first = list(teacher.sampler)
    assert list(teacher.sampler) == first
    assert teacher.epoch == 1
    teacher.observe(torch.tensor(first[:3]), LOSSES[first[:3]])
    assert list(teacher.sampler) != first
    assert teacher.epoch == 2


def test_the_last_epochs_are_on_all_samples() -> None:
    teacher = Teacher(400, ratio=0.5, num_epochs=4, last_epochs=1)
    assert [len(run_epoch(teacher)) for _ in range(4)] == [400, 200, 200, 400]


def test_a_sample_that_was_never_observed_counts_as_the_hardest() -> None:
    teacher = Teacher(400, strategy="hard", ratio=0.01)
    seen = [i for i in list(teacher.sampler) if i != 17]
    teacher.observe(torch.tensor(seen), LOSSES[seen])
    assert 17 in list(teacher.sampler)


@given(num_samples=st.integers(1, 60), num_ranks=st.integers(1, 5), seed=st.integers(0, 99))
def test_the_ranks_divide_an_epoch(num_samples: int, num_ranks: int, seed: int) -> None:
    def shares(ranks: int) -> list[list[int]]:
        teachers = [
            Teacher(num_samples, ratio=0.5, seed=seed, num_replicas=ranks, rank=rank)
            for rank in range(ranks)
        ]
        for teacher in teachers:
            teacher.observe(torch.arange(num_samples), LOSSES[:num_samples])
        return [list(teacher.sampler) for teacher in teachers]

    (whole,), divided = shares(1), shares(num_ranks)
    assert len({len(share) for share in divided}) == 1
    dealt = [index for group in zip(*divided, strict=True) for index in group]
    assert dealt[: len(whole)] == whole
    assert set(dealt) == set(whole)


def test_the_rule_of_infobatch_keeps_the_hard_and_weighs_the_easy() -> None:
    # Official: of the b samples below the mean, ⌊(1 − r)·b⌋ at random are kept and weigh 1/(1 − r).
    teacher = Teacher(400, strategy="infobatch", ratio=0.5, seed=1)
    run_epoch(teacher)
    kept = run_epoch(teacher)
    easy = LOSSES.mean() > LOSSES
    num_easy = int(easy.sum())
    assert len(kept) == 400 - num_easy + num_easy // 2
    assert set(np.flatnonzero(~easy.numpy())) <= set(kept)
    expected = torch.where(easy[kept], 2.0, 1.0)
    assert torch.equal(teacher.weights_of(torch.tensor(kept)), expected)
    # The weighted sum estimates that of all samples, without bias.
    sums = []
    for _ in range(200):
        kept = run_epoch(teacher)
        sums.append(float((teacher.weights_of(torch.tensor(kept)) * LOSSES[kept]).sum()))
    assert np.mean(sums) == pytest.approx(float(LOSSES.sum()), rel=0.005)


def test_weights_are_the_inverse_of_probabilities() -> None:
    teacher = Teacher(400, strategy="soft", ratio=0.5, weights="inverse_probability")
    run_epoch(teacher)
    kept = torch.tensor(list(teacher.sampler))
    weights = teacher.weights_of(kept)
    assert weights.mean() == pytest.approx(1, abs=1e-6)
    assert weights[LOSSES[kept].argmin()] > weights[LOSSES[kept].argmax()]


@pytest.mark.parametrize("num_observed", [0, 130, 400])
def test_a_saved_state_continues_as_if_nothing_had_happened(num_observed: int) -> None:
    def trained() -> Teacher:
        teacher = Teacher(400, seed=5)
        for _ in range(3):
            run_epoch(teacher)
        part = list(teacher.sampler)[:num_observed]
        teacher.observe(torch.tensor(part, dtype=torch.int64), LOSSES[part] * 2)
        return teacher

    undisturbed, saved = trained(), trained().state_dict()
    resumed = Teacher(400, seed=5)
    resumed.load_state_dict(saved)
    for _ in range(3):
        assert run_epoch(resumed) == run_epoch(undisturbed)


def test_a_state_is_read_without_pickled_code(tmp_path) -> None:  # type: ignore[no-untyped-def]
    teacher = Teacher(400)
    run_epoch(teacher)
    torch.save(teacher.state_dict(), tmp_path / "state.pt")
    Teacher(400).load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))


def test_workers_of_a_loader_do_not_disturb_the_epochs() -> None:
    teacher = Teacher(400, ratio=0.5)
    dataset = TensorDataset(torch.arange(400))
    loader = DataLoader(dataset, 32, sampler=teacher.sampler, num_workers=2)
    sizes = []
    for _ in range(3):
        batches = [indices for (indices,) in loader]
        for indices in batches:
            teacher.observe(indices, LOSSES[indices])
        sizes.append(sum(map(len, batches)))
    assert sizes == [400, 200, 200]


def test_a_loss_that_is_not_finite_is_named(caplog: pytest.LogCaptureFixture) -> None:
    teacher = Teacher(400)
    run_epoch(teacher)
    teacher.finish_epoch()
    teacher.observe(torch.tensor([3, 5]), torch.tensor([float("nan"), 2.0]))
    with caplog.at_level(logging.WARNING, logger="attent.trainers.teacher"):
        teacher.finish_epoch()
    assert "1 losses are not finite, such as that of sample 3" in caplog.text
    assert teacher.losses[3] == LOSSES[3]
    assert teacher.losses[5] == 2.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, r"num_samples is 0: expected 1 to"),
        ({"ratio": 0.0}, r"ratio is 0.0: expected a share in \(0, 1\]"),
        ({"ratio": 1.0, "strategy": "infobatch"}, r"ratio is 1.0: expected a share in \[0, 1\)"),
        ({"first_epochs": 0}, "first_epochs is 0: expected at least 1"),
        ({"last_epochs": 1}, "last_epochs: expected at least 0, and num_epochs"),
        ({"num_replicas": 2, "rank": 2}, "rank is 2: expected 0 to 1"),
    ],
)
def test_a_wrong_setting_is_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Teacher(**{"num_samples": 4} | arguments)  # type: ignore[arg-type]


def test_a_wrong_observation_is_named() -> None:
    teacher = Teacher(4)
    with pytest.raises(InputError, match=r"losses of shape \(\), expected one loss for each index"):
        teacher.observe(torch.tensor([1, 2]), torch.tensor(0.5))
    teacher.observe(torch.tensor([4]), torch.tensor([0.5]))
    with pytest.raises(InputError, match="index 4 is outside 0 to 3"):
        teacher.finish_epoch()
    with pytest.raises(InputError, match="the state is of 4 samples, the data set has 5"):
        Teacher(5).load_state_dict(Teacher(4).state_dict())
    with pytest.raises(InputError, match="sample 9 is not one of the 4 of this epoch"):
        Teacher(4).weights_of(torch.tensor([9]))
