"""Selection from observed losses in any training loop, for data sets whose samples have indices.

    teacher = Teacher(len(dataset), strategy="soft", ratio=0.5)
    loader = DataLoader(dataset, batch_size=64, sampler=teacher.sampler)
    for epoch in range(10):
        for indices, images, labels in loader:          # the data set returns the index, too
            losses = cross_entropy(model(images), labels, reduction="none")
            teacher.observe(indices, losses)
            losses.mean().backward()                    # and a step of the optimizer

Each epoch trains on a subset that is selected by the losses of the epochs before. Nothing is scored
for it: a loss is as old as the last epoch that trained on its sample.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import distributed
from torch.utils.data import Sampler

from attent_select.errors import InputError
from attent_select.schema import LOSS, ROW, SHARD_ID, WEIGHT
from attent_select.selection.composition import Composition
from attent_select.selection.select import select
from attent_select.stats.randomness import Purpose, numpy_sample_uniform, stream_key
from attent_select.strategies.below_mean import BelowMean
from attent_select.strategy import Strategy

_log = logging.getLogger("attent.trainers.teacher")

# Batches whose losses stay on their device: copying each would wait for the device.
_MAX_WAITING = 256
_MAX_SAMPLES = 1 << 32
_RULE = "infobatch"


class Teacher:
    """The samples of each epoch, selected by the losses that a training loop observes.

    An epoch ends when the sampler is iterated again and losses were observed; if none were, the
    same epoch is repeated. A sample without a loss counts as one with the largest loss.

    Attributes:
        epoch: number of the epoch that runs, or that the next iteration begins.
        sampler: sampler for `torch.utils.data.DataLoader`: indices of the epoch's samples, of which
            each rank yields its share.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        strategy: Strategy | str = "soft",
        ratio: float = 0.5,
        seed: int = 0,
        first_epochs: int = 1,
        last_epochs: int = 0,
        num_epochs: int | None = None,
        weights: Literal["none", "inverse_probability"] = "none",
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        """Create a teacher that has observed nothing.

        Args:
            num_samples: number of samples of the data set.
            strategy: name of a strategy that reads only the loss, with its defaults, or a strategy.
                `infobatch` is the rule of InfoBatch: of the samples with a loss below the mean, the
                share `ratio` is left out at random, and the others of them weigh 1/(1 − ratio).
            ratio: share of the samples that an epoch trains on, in (0, 1]; for `infobatch` the
                share of the samples below the mean that it leaves out, in [0, 1).
            seed: seed of all random draws.
            first_epochs: epochs on all samples before the first selection, at least 1.
            last_epochs: epochs on all samples at the end; needs `num_epochs`.
            num_epochs: number of epochs.
            weights: what `weights_of` returns: 1, or 1/probability scaled to mean 1 over the
                subset, so that the weighted mean loss estimates that of all samples.
            num_replicas: number of ranks that divide an epoch. Default: that of
                `torch.distributed`. 1 if the loader is divided later, as by Accelerate.
            rank: rank of this process. Default: that of `torch.distributed`.

        Raises:
            InputError: a value is outside its bounds.
        """
        is_rule = strategy == _RULE
        _check(num_samples, ratio, first_epochs, last_epochs, num_epochs, is_rule=is_rule)
        self._left_out = ratio if is_rule else None
        self._strategy = BelowMean() if is_rule else strategy
        self._composition = Composition(weights=weights)
        self._ratio, self._seed, self._first_epochs = ratio, seed, first_epochs
        self._end = math.inf if num_epochs is None else num_epochs - last_epochs
        self._losses = np.full(num_samples, np.nan, np.float32)
        # Of the running epoch: sum and number of the losses of each sample.
        self._sums = np.zeros(num_samples)
        self._counts = np.zeros(num_samples, np.int32)
        self._waiting: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._subset: tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]] | None = None
        self.epoch = 0
        self.sampler = TeacherSampler(self, num_replicas=num_replicas, rank=rank)

    @property
    def num_samples(self) -> int:
        """Number of samples of the data set."""
        return len(self._losses)

    @property
    def losses(self) -> npt.NDArray[np.float32]:
        """The losses that the epoch was selected by, float32[num_samples]; NaN without one."""
        return self._losses.copy()

    def observe(self, indices: Any, losses: Any) -> None:
        """Take the losses of a batch; later epochs are selected by them.

        A loss that is not finite is left out with a warning: the sample keeps its older one. Of a
        sample that is observed several times in an epoch, the mean counts.

        Args:
            indices: indices of samples, int64[batch], on any device.
            losses: their losses, float[batch], on any device; their gradients are not kept.

        Raises:
            InputError: the shapes differ, or (at the latest when the epoch ends) an index is
                outside the data set.
        """
        where, values = torch.as_tensor(indices).detach(), torch.as_tensor(losses).detach()
        if where.ndim != 1 or where.shape != values.shape:
            raise InputError(
                f"observe: found indices of shape {tuple(where.shape)} and losses of shape"
                f" {tuple(values.shape)}, expected one loss for each index (reduction='none')"
            )
        self._waiting.append((where, values))
        if len(self._waiting) >= _MAX_WAITING:
            self._take_waiting()

    def finish_epoch(self) -> None:
        """End the epoch if a loss was observed in it; on several ranks, call it on all of them.

        The sampler does so when it is iterated again.

        Raises:
            InputError: an observed index is outside the data set.
        """
        self._take_waiting()
        sums, counts = _add_over_ranks(self._sums), _add_over_ranks(self._counts)
        if not counts.any():
            return
        seen = counts > 0
        self._losses[seen] = (sums[seen] / counts[seen]).astype(np.float32)
        self._sums[:] = self._counts[:] = 0
        self._subset = None
        self.epoch += 1

    def selected_indices(self) -> npt.NDArray[np.int64]:
        """Return the indices of the epoch's samples, ascending, int64[m]: of all ranks."""
        return self._select()[0]

    def weights_of(self, indices: Any) -> torch.Tensor:
        """Return the weights of samples of the running epoch, float32[batch].

        Args:
            indices: indices of selected samples, int64[batch]; the weights are on their device.

        Raises:
            InputError: an index is not one of the epoch's.
        """
        where = torch.as_tensor(indices)
        subset, weights = self._select()
        where_on_cpu = where.cpu().numpy()
        places = np.searchsorted(subset, where_on_cpu).clip(max=len(subset) - 1)
        if (wrong := where_on_cpu[subset[places] != where_on_cpu]).size:
            raise InputError(f"sample {wrong[0]} is not one of the {len(subset)} of this epoch")
        return torch.from_numpy(weights[places]).to(where.device)

    def state_dict(self) -> dict[str, Any]:
        """Return the state, as values that `torch.load(weights_only=True)` reads.

        It is that of the beginning of the running epoch with what this rank has observed since. On
        several ranks, call `finish_epoch` on all of them before one saves.
        """
        self._take_waiting()
        return {
            "epoch": self.epoch,
            "losses": torch.from_numpy(self._losses.copy()),
            "sums": torch.from_numpy(self._sums.copy()),
            "counts": torch.from_numpy(self._counts.copy()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state.

        Raises:
            InputError: the state is of a data set with another number of samples.
        """
        if len(state["losses"]) != self.num_samples:
            raise InputError(
                f"the state is of {len(state['losses'])} samples, the data set has"
                f" {self.num_samples}: expected the data set that was trained on"
            )
        self.epoch, self._subset, self._waiting = int(state["epoch"]), None, []
        self._losses = state["losses"].numpy().copy()
        self._sums, self._counts = state["sums"].numpy().copy(), state["counts"].numpy().copy()

    def epoch_order(self) -> npt.NDArray[np.int64]:
        """Return the epoch's samples in the order in which they are trained on, int64[m]."""
        subset = self.selected_indices()
        key = stream_key(self._seed, Purpose.SHUFFLE_ROWS, self.epoch)
        rows = subset.astype(np.uint32)
        return subset[np.argsort(numpy_sample_uniform(key, np.zeros_like(rows), rows))]

    def _select(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Return the epoch's samples, ascending, and their weights."""
        if self._subset is None:
            known = self._losses[~np.isnan(self._losses)]
            is_whole = self.epoch < self._first_epochs or self.epoch >= self._end
            if is_whole or not known.size:
                everything = np.arange(self.num_samples)
                self._subset = everything, np.ones(self.num_samples, np.float32)
            else:
                self._subset = self._select_by(np.nan_to_num(self._losses, nan=known.max()))
        return self._subset

    def _select_by(
        self, losses: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        rows = pl.int_range(self.num_samples, dtype=pl.UInt32, eager=True).alias(ROW)
        frame = pl.DataFrame([rows, pl.Series(LOSS, losses)])
        selection = select(
            frame.with_columns(pl.lit(0, pl.UInt32).alias(SHARD_ID)),
            strategy=self._strategy,
            num_samples=self._num_selected(losses),
            seed=self._seed,
            round_number=self.epoch,
            composition=self._composition,
        )
        index = selection.rows.collect().sort(ROW)
        subset, weights = index[ROW].to_numpy().astype(np.int64), index[WEIGHT].to_numpy()
        if self._left_out is not None:
            is_below = losses[subset] < losses.mean(dtype=np.float64)
            weights = np.where(is_below, 1 / (1 - self._left_out), 1)
        return subset, weights.astype(np.float32)

    def _num_selected(self, losses: npt.NDArray[np.float32]) -> int:
        if self._left_out is None:
            return max(1, round(self._ratio * self.num_samples))
        below = int((losses < losses.mean(dtype=np.float64)).sum())
        return self.num_samples - below + int((1 - self._left_out) * below)

    def _take_waiting(self) -> None:
        """Add the losses of the batches that wait to those of the epoch."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        where = torch.cat([each.reshape(-1).cpu() for each, _ in waiting]).numpy()
        losses = torch.cat([each.reshape(-1).double().cpu() for _, each in waiting]).numpy()
        if where.size and not 0 <= where.min() <= where.max() < self.num_samples:
            wrong = where[(where < 0) | (where >= self.num_samples)][0]
            raise InputError(f"observe: index {wrong} is outside 0 to {self.num_samples - 1}")
        finite = np.isfinite(losses)
        if not finite.all():
            lost = where[~finite]
            _log.warning("%d losses are not finite, such as that of sample %d", len(lost), lost[0])
        np.add.at(self._sums, where[finite], losses[finite])
        np.add.at(self._counts, where[finite], 1)


class TeacherSampler(Sampler[int]):
    """The indices of the samples of a teacher's epoch; of several ranks, the share of one.

    An epoch that the ranks cannot divide equally repeats its first samples, as the
    `DistributedSampler` of torch does.
    """

    def __init__(self, teacher: Teacher, *, num_replicas: int | None, rank: int | None) -> None:
        joined = distributed.is_available() and distributed.is_initialized()
        world = distributed.get_world_size() if joined else 1
        self._teacher = teacher
        self._num_replicas = world if num_replicas is None else num_replicas
        own = distributed.get_rank() if joined and num_replicas is None else 0
        self._rank = own if rank is None else rank
        if not 0 <= self._rank < self._num_replicas:
            raise InputError(f"rank is {self._rank}: expected 0 to {self._num_replicas - 1}")

    def __len__(self) -> int:
        """Return the number of samples of this rank in the epoch that runs, or is next."""
        return math.ceil(len(self._teacher.selected_indices()) / self._num_replicas)

    def __iter__(self) -> Iterator[int]:
        """End the last epoch, and yield the samples of the next one."""
        self._teacher.finish_epoch()
        order = self._teacher.epoch_order()
        padded = np.resize(order, len(self) * self._num_replicas)
        yield from padded[self._rank :: self._num_replicas].tolist()


def _check(
    num_samples: int,
    ratio: float,
    first_epochs: int,
    last_epochs: int,
    num_epochs: int | None,
    *,
    is_rule: bool,
) -> None:
    if not 1 <= num_samples <= _MAX_SAMPLES:
        raise InputError(f"num_samples is {num_samples}: expected 1 to {_MAX_SAMPLES}")
    if not (0 <= ratio < 1 if is_rule else 0 < ratio <= 1):
        expected = "a share in [0, 1)" if is_rule else "a share in (0, 1]"
        raise InputError(f"ratio is {ratio}: expected {expected}")
    if first_epochs < 1:
        raise InputError(f"first_epochs is {first_epochs}: expected at least 1, to observe losses")
    if last_epochs < 0 or (last_epochs and num_epochs is None):
        raise InputError("last_epochs: expected at least 0, and num_epochs to count them from")


def _add_over_ranks(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the sum of an array over all ranks."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return values
    on_gpu = distributed.get_backend() == "nccl"
    total = torch.from_numpy(values.copy()).to("cuda" if on_gpu else "cpu")
    distributed.all_reduce(total)
    return np.asarray(total.cpu().numpy())
