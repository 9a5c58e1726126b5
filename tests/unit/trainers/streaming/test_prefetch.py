"""Read-ahead: in order, within its budget, and without threads left behind."""

import threading
from collections.abc import Iterator
from queue import SimpleQueue
from time import monotonic
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogs import daemon_threads
from trainers.streaming.prefetch import ordered_map


@pytest.fixture(autouse=True)
def no_thread_outlives_its_test() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [thread.name for thread in threading.enumerate() if thread not in before]
    assert left == []


@given(st.lists(st.integers(0, 100)), st.integers(0, 5), st.integers(1, 50))
def test_results_come_in_the_order_of_the_items(
    items: list[int], num_threads: int, budget: int
) -> None:
    found = ordered_map(
        lambda item: item * item, items, num_threads=num_threads, budget=budget, cost=lambda i: i
    )
    assert list(found) == [item * item for item in items]


def test_what_is_started_and_not_handed_over_stays_within_the_budget() -> None:
    lock = threading.Lock()
    inside = 0
    highest = 0

    def started(item: int) -> int:
        nonlocal inside, highest
        with lock:
            inside += item
            highest = max(highest, inside)
        return item

    items = [7, 3, 5, 1, 9, 2, 8, 4] * 20
    for item in ordered_map(started, items, num_threads=4, budget=16, cost=lambda item: item):
        with lock:
            inside -= item
    assert highest <= 16 + max(items)  # and the one that has just been handed over


def test_an_item_over_the_budget_runs_alone() -> None:
    two = threading.Barrier(2, timeout=0.5)

    def meets_another(item: int) -> bool:
        try:
            two.wait()
        except threading.BrokenBarrierError:  # nobody came; and for the second: nobody had come
            return False
        return True

    found = ordered_map(meets_another, range(2), num_threads=4, budget=1, cost=lambda _: 100)
    assert list(found) == [False, False]


def test_items_are_worked_on_at_the_same_time() -> None:
    together = threading.Barrier(3, timeout=60)

    def meet(item: int) -> int:
        together.wait()  # breaks, and fails the test, unless three calls are inside at once
        return item

    found = ordered_map(meet, range(6), num_threads=3, budget=6, cost=lambda _: 1)
    assert list(found) == list(range(6))


def test_an_exception_is_raised_at_its_place_in_the_order() -> None:
    def fail_at_three(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    found = ordered_map(fail_at_three, range(9), num_threads=4, budget=9, cost=lambda _: 1)
    assert [next(found), next(found), next(found)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(found)


def test_an_exception_of_the_items_comes_after_the_results_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the source is gone")

    found = ordered_map(lambda item: item, items(), num_threads=2, budget=2, cost=lambda _: 1)
    assert next(found) == 1
    with pytest.raises(OSError, match="the source is gone"):
        next(found)


def test_without_threads_each_item_is_worked_on_when_and_where_it_is_asked_for() -> None:
    calls: list[tuple[int, threading.Thread]] = []

    def note(item: int) -> int:
        calls.append((item, threading.current_thread()))
        return item

    found = ordered_map(note, [1, 2], num_threads=0, budget=9, cost=lambda _: 1)
    assert next(found) == 1
    assert calls == [(1, threading.current_thread())]


@pytest.mark.parametrize("num_threads", [0, 2])
def test_leaving_early_stops_an_endless_source_and_closes_it(num_threads: int) -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            number = 0
            while True:
                yield (number := number + 1)
        finally:
            closed.set()

    found = ordered_map(
        lambda item: item, endless(), num_threads=num_threads, budget=4, cost=lambda _: 1
    )
    assert next(found) == 1
    found.close()
    assert closed.is_set()


class Contended(SimpleQueue[Any]):
    """Whoever asks whether something is in it is told the truth, and then another takes it."""

    def empty(self) -> bool:
        is_empty = super().empty()
        if not is_empty:
            super().get_nowait()
        return is_empty


def test_closing_does_not_wait_for_an_item_that_a_thread_takes_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(daemon_threads, "SimpleQueue", Contended)
    at_work, go_on = threading.Event(), threading.Event()

    def work(_: int) -> None:
        at_work.set()
        go_on.wait(60)

    pool = daemon_threads.Workers(work, 1, name="test")
    pool.submit(0)
    assert at_work.wait(60)
    pool.submit(1)  # waits: the only thread is at work
    closing = threading.Thread(target=pool.close, args=(monotonic() + 60,), daemon=True)
    closing.start()
    go_on.set()
    closing.join(30)
    assert not closing.is_alive()


def test_one_map_feeds_another_and_both_stop_together() -> None:
    inner = ordered_map(
        lambda item: item + 1, iter(range(10**9)), num_threads=2, budget=4, cost=lambda _: 1
    )
    outer = ordered_map(lambda item: item * 10, inner, num_threads=2, budget=4, cost=lambda _: 1)
    assert [next(outer), next(outer)] == [10, 20]
    outer.close()
    with pytest.raises(StopIteration):
        next(inner)


def test_nothing_starts_before_the_first_result_is_asked_for() -> None:
    calls: list[int] = []
    found = ordered_map(calls.append, [1, 2], num_threads=1, budget=1, cost=lambda _: 1)
    assert calls == []
    found.close()
