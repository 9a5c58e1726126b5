"""The canonical order: complete, the same for every number of ranks, resumable at every step."""

from collections import Counter
from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_select.errors import InputError
from attent_select.schedule.candidate_walk import CandidateWalk, Place
from trainers.settings import OrderSettings, StreamingSettings
from trainers.streaming.index_rows import Selected
from trainers.streaming.order import Order
from trainers.streaming.rank_share import RankShare

# Per shard: how many rows are selected, and how many bytes a sample of it has.
SHARDS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 400)), max_size=7)


def selected(shards: list[tuple[int, int]], *, every: int = 3) -> Selected:
    """Shards 0, 2, 4, … with rows at regular distances."""
    counts = [count for count, _ in shards]
    batch = (
        np.repeat(np.arange(0, 2 * len(shards), 2), counts).astype(np.uint32),
        np.concatenate([[], *(np.arange(count) * every for count in counts)]).astype(np.uint32),
        np.ones(sum(counts), np.float32),
    )
    sizes = {2 * number: float(size) for number, (_, size) in enumerate(shards)}
    return Selected.of([batch], num_samples=sum(counts), sample_bytes=sizes.__getitem__)


def order_of(rows: Selected, *, seed: int = 5, batch_size: int, **settings: Any) -> Order:
    """An order of the rows; `epochs` and `tail` are its own, other settings the stream's."""
    own = {name: settings.pop(name) for name in ("epochs", "tail") if name in settings}
    return Order(rows, OrderSettings(seed, batch_size, **own), StreamingSettings(**settings))


@st.composite
def orders(draw: st.DrawFn) -> Order:
    return order_of(
        selected(draw(SHARDS)),
        seed=draw(st.integers(0, 2**63)),
        batch_size=draw(st.integers(1, 17)),
        epochs=draw(st.integers(1, 3)),
        tail=draw(st.sampled_from(["pad", "drop"])),
        shuffle=draw(st.sampled_from(["block", "full"])),
        block_bytes=draw(st.integers(1, 5000)),
    )


@given(orders())
def test_every_selected_row_comes_exactly_once_per_epoch_unless_the_tail_is_dropped(
    order: Order,
) -> None:
    per_epoch: dict[int, list[int]] = {}
    for step, ids in order.steps():
        per_epoch.setdefault(step // order.steps_per_epoch, []).extend(ids.tolist())
    for ids in per_epoch.values():
        assert max(Counter(ids).values()) == 1
        assert len(ids) == len(order.selected) - order.num_dropped // order.settings.epochs
    if order.settings.tail == "pad":
        assert order.num_dropped == 0
        assert len(per_epoch) == (order.settings.epochs if len(order.selected) else 0)


@given(orders())
def test_the_steps_are_numbered_without_gaps_and_full_but_for_each_epochs_last(
    order: Order,
) -> None:
    steps = list(order.steps())
    assert [step for step, _ in steps] == list(range(order.num_steps))
    short = [step for step, ids in steps if len(ids) != order.batch_size]
    assert all((step + 1) % order.steps_per_epoch == 0 for step in short)
    assert order.num_samples == sum(len(ids) for _, ids in steps)
    assert order.num_samples + order.num_padded == order.num_steps * order.batch_size
    if order.settings.tail == "drop":
        assert not short


@given(orders())
def test_the_samples_before_a_step_are_those_of_the_steps_before_it(order: Order) -> None:
    before = 0
    for step, ids in order.steps():
        assert order.samples_before(step) == before
        before += len(ids)
    assert order.samples_before(order.num_steps) == before


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 60), st.sampled_from([1, 2, 3, 4, 8])),
        max_size=9,
    ),
    st.integers(1, 9),
)
def test_rounds_of_pools_train_each_row_at_most_once_a_pass(
    shard_rows: list[int], rounds: list[tuple[int, int, int]], batch_size: int
) -> None:
    """Before each round, another process with another number of ranks may continue the walk, and
    shards may have been appended.
    """
    place, trained = Place(), []
    for appended, num_rows, world_size in rounds:
        shard_rows = [*shard_rows, *[25] * appended]
        walk = CandidateWalk(np.array(shard_rows), 4, 1)
        drawn = walk.draw(min(num_rows, sum(shard_rows)), start=place)
        if drawn.place.pass_number > 0:
            break  # a draw that crosses the end of a pass leaves out the rows that it has already
        place = drawn.place
        batch = (drawn.shards, drawn.rows, np.ones(len(drawn.rows), np.float32))
        rows = Selected.of([batch], num_samples=len(drawn.rows), sample_bytes=lambda _: 1.0)
        order = order_of(rows, batch_size=batch_size)
        shares = [RankShare(rank, world_size) for rank in range(world_size)]
        for _, ids in order.steps():
            parts = chain(*(share.of_batch(ids, batch_size=batch_size) for share in shares))
            trained += rows.sample_keys(np.concatenate(list(parts))).tolist()
        assert len(trained) == len(set(trained))


@given(orders(), st.data())
def test_starting_at_any_step_gives_the_rest_of_the_same_order(
    order: Order, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, order.num_steps))
    rest = [(step, ids.tolist()) for step, ids in order.steps(start)]
    assert rest == [(step, ids.tolist()) for step, ids in order.steps() if step >= start]


WORLD_SIZES = st.sampled_from([1, 2, 3, 4, 8])


@given(orders(), WORLD_SIZES, st.none() | st.integers(1, 5))
def test_the_ranks_shares_are_the_global_batches_and_of_equal_size(
    order: Order, world_size: int, micro_batch_size: int | None
) -> None:
    shares = [RankShare(rank, world_size, micro_batch_size) for rank in range(world_size)]
    for _, ids in order.steps():
        taken = [share.of_batch(ids, batch_size=order.batch_size) for share in shares]
        assert sorted(np.concatenate([*chain(*taken)]).tolist()) == sorted(ids.tolist())
        sizes = [sum(map(len, parts)) for parts in taken]
        assert max(sizes) - min(sizes) <= 1
        assert {len(parts) for parts in taken} == {shares[0].num_micro_batches(order.batch_size)}
        assert max(len(part) for part in chain(*taken)) <= (micro_batch_size or order.batch_size)


@given(orders(), WORLD_SIZES, st.none() | st.integers(2, 5))
def test_the_same_pairs_stay_together_for_any_number_of_ranks_and_micro_batches(
    order: Order, world_size: int, micro_batch_size: int | None
) -> None:
    shares = [
        RankShare(rank, world_size, micro_batch_size, in_pairs=True) for rank in range(world_size)
    ]
    for _, ids in order.steps():
        parts = [
            part for share in shares for part in share.of_batch(ids, batch_size=order.batch_size)
        ]
        pairs = [tuple(part[k : k + 2]) for part in parts for k in range(0, len(part), 2)]
        assert sorted(pairs) == sorted(tuple(ids[k : k + 2]) for k in range(0, len(ids), 2))
        assert max(map(len, parts)) <= (micro_batch_size or order.batch_size)
        assert len(parts) == world_size * shares[0].num_micro_batches(order.batch_size)


@given(orders(), WORLD_SIZES, st.data())
def test_what_a_rank_reads_of_the_blocks_is_what_it_trains_on(
    order: Order, world_size: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, order.num_steps))
    for rank in range(world_size):
        share = RankShare(rank, world_size)
        read = list(share.of_blocks(order, start))
        blocks = list(order.blocks(start))
        assert len(read) == len(blocks)
        assert all(np.isin(ids, block.ids).all() for ids, block in zip(read, blocks, strict=True))
        trained = [
            part
            for _, ids in order.steps(start)
            for part in share.of_batch(ids, batch_size=order.batch_size)
        ]
        empty = [np.zeros(0, np.int64)]
        assert np.array_equal(np.concatenate(empty + read), np.concatenate(empty + trained))


@given(orders(), WORLD_SIZES, WORLD_SIZES, st.data())
def test_after_any_step_another_number_of_ranks_goes_on_with_the_same_batches(
    order: Order, before: int, after: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, order.num_steps))

    def trained(world_size: int, first: int, last: int) -> list[tuple[int, list[int]]]:
        shares = [RankShare(rank, world_size) for rank in range(world_size)]
        return [
            (
                step,
                sorted(
                    chain(
                        *(
                            part.tolist()
                            for s in shares
                            for part in s.of_batch(ids, batch_size=order.batch_size)
                        )
                    )
                ),
            )
            for step, ids in order.steps(first)
            if step < last
        ]

    whole = [(step, sorted(ids.tolist())) for step, ids in order.steps()]
    assert trained(before, 0, start) + trained(after, start, order.num_steps) == whole


@given(orders(), st.integers(1, 6))
def test_the_ranks_of_a_batch_take_neighbours_in_the_index(order: Order, world_size: int) -> None:
    for _, ids in order.steps():
        taken = [
            np.concatenate(RankShare(rank, world_size).of_batch(ids, batch_size=order.batch_size))
            for rank in range(world_size)
        ]
        in_turn = np.concatenate([np.sort(share) for share in taken])
        assert in_turn.tolist() == sorted(ids.tolist())


@given(orders())
def test_a_rank_alone_trains_in_the_order_of_the_batches(order: Order) -> None:
    share = RankShare()
    for _, ids in order.steps():
        assert np.array_equal(np.concatenate(share.of_batch(ids, batch_size=order.batch_size)), ids)


def test_row_groups_are_read_by_few_ranks() -> None:
    # 4 shards of 256 rows in row groups of 32; one block, and batches of 256.
    order = order_of(selected([(256, 100)] * 4, every=1), seed=3, batch_size=256)
    groups = [
        len(np.unique(ids // 32)) for r in range(8) for ids in RankShare(r, 8).of_blocks(order)
    ]
    assert sum(groups) < 2 * 32  # dealt out in turn, each of 8 ranks would read all 32


@given(orders())
def test_a_block_holds_no_more_bytes_than_allowed_unless_it_is_one_piece(order: Order) -> None:
    if order.streaming.shuffle == "full":
        most = max(order.streaming.block_bytes / max(order.selected.mean_bytes, 1), 1)
        assert all(len(block.ids) <= most for block in order.blocks())
        return
    for block in order.blocks():
        ordinals = order.selected.shard_ordinals(block.ids)
        num_bytes = order.selected.sample_bytes[ordinals].sum()
        assert num_bytes <= order.streaming.block_bytes or len(set(ordinals.tolist())) == 1


@given(orders())
def test_another_seed_or_epoch_is_another_order_of_the_same_rows(order: Order) -> None:
    if len(order.selected) < 30 or order.settings.tail == "drop":
        return
    epochs = [ids.tolist() for _, ids in order.steps()]
    again = order_of(
        order.selected,
        seed=order.settings.seed ^ 1,
        batch_size=order.batch_size,
        block_bytes=order.streaming.block_bytes,
    )
    other = [ids.tolist() for _, ids in again.steps()]
    first = epochs[: order.steps_per_epoch]
    assert first != other
    assert sorted(chain(*first)) == sorted(chain(*other))
    if order.settings.epochs > 1:
        assert first != epochs[order.steps_per_epoch : 2 * order.steps_per_epoch]


def test_the_first_blocks_are_small_and_the_later_ones_are_not() -> None:
    for shuffle in ("block", "full"):
        order = order_of(
            selected([(10, 10)] * 200), seed=5, batch_size=50, shuffle=shuffle, block_bytes=12800
        )
        sizes = [len(block.ids) for block in order.blocks()]
        assert sizes == [10, 20, 40, 80, 160, 320, 640, 730]


def test_a_full_shuffle_brings_together_what_lies_far_apart() -> None:
    order = order_of(
        selected([(1000, 10)] * 10), seed=5, batch_size=100, shuffle="full", block_bytes=2000
    )
    shards = [np.unique(order.selected.shard_ordinals(ids)) for _, ids in order.steps()]
    assert all(len(found) >= 8 for found in shards)


def test_a_shard_larger_than_a_block_is_cut_and_mixed_with_the_others() -> None:
    order = order_of(selected([(400, 100), (400, 100)]), seed=5, batch_size=50, block_bytes=20_000)
    for _, ids in order.steps():
        shards = order.selected.shard_ordinals(ids)
        assert len(np.unique(ids)) == 50
        if len(set(shards.tolist())) == 2:
            return
    pytest.fail("no batch mixes the two shards")


def test_the_rows_of_one_block_are_spread_over_its_batches_evenly() -> None:
    order = order_of(selected([(1000, 1), (1000, 1)]), seed=11, batch_size=200)
    shares = [np.mean(order.selected.shard_ordinals(ids)) for _, ids in order.steps()]
    # Binomial, standard deviation 0.035 without replacement: five of them.
    assert all(0.32 < share < 0.68 for share in shares)


def test_the_order_is_the_same_on_every_machine_and_in_every_version() -> None:
    order = order_of(selected([(5, 10), (3, 20), (1, 900)]), seed=2026, batch_size=4, epochs=2)
    assert order.digest() == "f589b41625298c5a0a0bf55cf4ed8662"


def test_an_empty_index_has_no_steps() -> None:
    order = order_of(selected([]), seed=1, batch_size=4)
    assert (order.num_steps, list(order.steps()), list(order.blocks())) == (0, [], [])


def test_an_index_smaller_than_a_batch_is_one_short_step_or_none() -> None:
    rows = selected([(3, 10)])
    assert [len(ids) for _, ids in order_of(rows, seed=1, batch_size=8).steps()] == [3]
    dropped = order_of(rows, seed=1, batch_size=8, tail="drop", epochs=2)
    assert (dropped.num_steps, dropped.num_dropped) == (0, 6)


@pytest.mark.parametrize(
    "wrong",
    [{"batch_size": 0}, {"epochs": 0}, {"tail": "wrap"}, {"block_bytes": 0}, {"shuffle": "a"}],
)
def test_a_setting_that_makes_no_order_is_refused_by_name(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        order_of(selected([]), **{"seed": 0, "batch_size": 4, **wrong})
