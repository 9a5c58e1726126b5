"""The rule of InfoBatch (arXiv 2303.04947) in a teacher, against other implementations of it.

One follows the paper. The other is the authors' code, where the package `infobatch` is installed.
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.datasets import load_digits

from trainers import Teacher

Floats = npt.NDArray[np.float32]
# Losses, pruning ratio and seed → the samples of the next epoch, and the weights of all samples.
Rule = Callable[[Floats, float, int], tuple[npt.NDArray[np.int64], Floats]]

RANDOM = np.random.default_rng(7)
LOSSES = {
    "skewed": RANDOM.lognormal(size=1999).astype(np.float32),
    "normal": (5 + RANDOM.standard_normal(1024)).astype(np.float32),
    "learned": np.concatenate([np.zeros(900), RANDOM.exponential(size=100)]).astype(np.float32),
    "equal": np.full(50, 0.25, np.float32),
}


def published(losses: Floats, ratio: float, seed: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """Leave out a share of the samples below the mean, and weigh the others of them more."""
    is_easy = losses < losses.mean(dtype=np.float64)
    easy = np.random.default_rng(seed).permutation(np.flatnonzero(is_easy))
    kept = easy[: int((1 - ratio) * len(easy))]
    weights = np.ones_like(losses)
    weights[kept] = 1 / (1 - ratio)
    return np.concatenate([np.flatnonzero(~is_easy), kept]), weights


def official(losses: Floats, ratio: float, seed: int) -> tuple[npt.NDArray[np.int64], Floats]:
    import infobatch

    np.random.seed(seed)  # noqa: NPY002  (what that code draws from)
    pruned = infobatch.InfoBatch(range(len(losses)), num_epochs=10, prune_ratio=ratio)
    pruned.scores[:] = torch.from_numpy(losses)
    return np.array(pruned.prune()), pruned.weights.numpy()


@pytest.fixture(params=["published", "official"])
def rule(request: pytest.FixtureRequest) -> Iterator[Rule]:
    if request.param == "published":
        yield published
        return
    # The import replaces a method of torch.
    loader = torch.utils.data.dataloader._BaseDataLoaderIter
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "__next__", loader.__next__)
        pytest.importorskip("infobatch", reason="the authors' code is not installed")
        yield official


def taught(losses: Floats, ratio: float, seed: int) -> tuple[npt.NDArray[np.int64], Floats]:
    teacher = Teacher(len(losses), strategy="infobatch", ratio=ratio, seed=seed)
    teacher.observe(torch.arange(len(losses)), torch.from_numpy(losses))
    teacher.finish_epoch()
    kept = teacher.selected_indices()
    weights = np.ones_like(losses)
    weights[kept] = teacher.weights_of(torch.from_numpy(kept)).numpy()
    return kept, weights


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5, 0.7])
@pytest.mark.parametrize("name", LOSSES)
def test_as_many_samples_are_left_out_and_the_others_weigh_as_much(
    rule: Rule, name: str, ratio: float
) -> None:
    losses = LOSSES[name]
    kept, weights = taught(losses, ratio, 3)
    expected_kept, expected_weights = rule(losses, ratio, 3)
    assert len(kept) == len(expected_kept)
    is_hard = losses >= losses.mean(dtype=np.float64)
    assert set(np.flatnonzero(is_hard)) <= set(kept) & set(expected_kept)
    for of_rule in (weights, expected_weights):
        assert set(of_rule[is_hard]) <= {1.0}
    assert sorted(weights[kept]) == pytest.approx(sorted(expected_weights[expected_kept]))


def gradients() -> npt.NDArray[np.float64]:
    """Return the gradient of each sample of a linear classifier of digits, and nothing learned."""
    images, labels = load_digits(return_X_y=True)
    errors = np.eye(10)[labels] - 0.1
    return np.einsum("nc,nf->ncf", errors, images / 16).reshape(len(images), -1)


def test_the_expected_gradient_is_that_of_all_samples(rule: Rule) -> None:
    of_samples, num_draws = gradients(), 200
    losses = np.random.default_rng(1).lognormal(size=len(of_samples)).astype(np.float32)
    for each in (taught, rule):
        draws = []
        for seed in range(num_draws):
            kept, weights = each(losses, 0.5, seed)
            draws.append((weights[kept, None] * of_samples[kept]).sum(axis=0))
        distance = np.linalg.norm(np.mean(draws, axis=0) - of_samples.sum(axis=0))
        assert distance < 3 * np.sqrt(np.var(draws, axis=0).sum() / num_draws)


def numbers_of_samples(select: Rule, *, seed: int, num_epochs: int = 12) -> list[int]:
    """Train a linear classifier of digits; return how many samples each epoch trains on."""
    images, labels = load_digits(return_X_y=True)
    features, targets = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    model = torch.nn.Linear(64, 10)
    torch.nn.init.zeros_(model.weight), torch.nn.init.zeros_(model.bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses, kept, weights = np.zeros(len(images), np.float32), np.arange(len(images)), None
    sizes = []
    for epoch in range(num_epochs):
        if epoch:
            kept, weights = select(losses, 0.5, 100 * seed + epoch)
        sizes.append(len(kept))
        for batch in np.array_split(np.random.default_rng(epoch).permutation(kept), 28):
            each = torch.nn.functional.cross_entropy(
                model(features[batch]), targets[batch], reduction="none"
            )
            losses[batch] = each.detach().numpy()
            factor = 1 if weights is None else torch.from_numpy(weights[batch])
            optimizer.zero_grad()
            (factor * each).mean().backward()
            optimizer.step()
    return sizes


def test_epochs_of_a_training_have_as_many_samples(rule: Rule) -> None:
    ours, theirs = (
        np.array([numbers_of_samples(each, seed=seed) for seed in range(4)])
        for each in (taught, rule)
    )
    assert (ours[:, 0] == theirs[:, 0]).all()
    assert ours.mean(axis=0) == pytest.approx(theirs.mean(axis=0), rel=0.02)
    assert ours.sum() == pytest.approx(theirs.sum(), rel=0.005)
