"""Daemon pool and ordered map: order, budget, errors, and no threads left behind."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from time import monotonic
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogs import concurrency
from catalogs.concurrency import DaemonPool, ordered_map


@pytest.fixture(autouse=True)
def no_thread_outlives_its_test() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [thread.name for thread in threading.enumerate() if thread not in before]
    assert left == []


@given(st.lists(st.integers(0, 100)), st.integers(0, 5), st.integers(1, 50))
def test_results_are_in_the_order_of_the_items(
    items: list[int], num_threads: int, budget: int
) -> None:
    squares = ordered_map(
        lambda item: item * item, items, num_threads=num_threads, budget=budget, cost=lambda i: i
    )
    assert list(squares) == [item * item for item in items]


def test_started_items_stay_within_the_budget_until_they_are_yielded() -> None:
    lock = threading.Lock()
    inside = 0
    highest = 0

    def enter(item: int) -> int:
        nonlocal inside, highest
        with lock:
            inside += item
            highest = max(highest, inside)
        return item

    items = [7, 3, 5, 1, 9, 2, 8, 4] * 20
    for item in ordered_map(enter, items, num_threads=4, budget=16, cost=lambda item: item):
        with lock:
            inside -= item
    assert highest <= 16 + max(items)  # and the item that was just yielded


def test_an_item_over_the_budget_runs_alone() -> None:
    pair = threading.Barrier(2, timeout=0.5)

    def meets_another(item: int) -> bool:
        try:
            pair.wait()
        except threading.BrokenBarrierError:  # no second call arrived in time
            return False
        return True

    met = ordered_map(meets_another, range(2), num_threads=4, budget=1, cost=lambda _: 100)
    assert list(met) == [False, False]


def test_calls_run_at_the_same_time() -> None:
    together = threading.Barrier(3, timeout=60)

    def meet(item: int) -> int:
        together.wait()  # fails unless three calls run at once
        return item

    results = ordered_map(meet, range(6), num_threads=3)
    assert list(results) == list(range(6))


def test_an_exception_is_raised_at_its_place_in_the_order() -> None:
    def fail_at_three(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    results = ordered_map(fail_at_three, range(9), num_threads=4)
    assert [next(results), next(results), next(results)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_an_exception_of_the_items_comes_after_the_results_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the source is gone")

    results = ordered_map(lambda item: item, items(), num_threads=2)
    assert next(results) == 1
    with pytest.raises(OSError, match="the source is gone"):
        next(results)


def test_without_threads_each_call_runs_on_request_in_the_thread_of_the_consumer() -> None:
    calls: list[tuple[int, threading.Thread]] = []

    def note(item: int) -> int:
        calls.append((item, threading.current_thread()))
        return item

    results = ordered_map(note, [1, 2], num_threads=0)
    assert next(results) == 1
    assert calls == [(1, threading.current_thread())]


@pytest.mark.parametrize("num_threads", [0, 2])
def test_closing_early_stops_and_closes_an_endless_source(num_threads: int) -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            number = 0
            while True:
                yield (number := number + 1)
        finally:
            closed.set()

    results = ordered_map(lambda item: item, endless(), num_threads=num_threads)
    assert next(results) == 1
    results.close()
    assert closed.is_set()


class Contended(SimpleQueue[Any]):
    """Queue whose last item is taken by another thread right after `empty()` returned False."""

    def empty(self) -> bool:
        is_empty = super().empty()
        if not is_empty:
            super().get_nowait()
        return is_empty


def test_closing_does_not_wait_for_a_call_that_a_thread_takes_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(concurrency, "SimpleQueue", Contended)
    running, release = threading.Event(), threading.Event()

    def work(_: int) -> None:
        running.set()
        release.wait(60)

    pool = DaemonPool(1, name="test")
    pool.submit(work, 0)
    assert running.wait(60)
    pool.submit(work, 1)  # queued: the only thread is busy
    closing = threading.Thread(target=pool.close, args=(monotonic() + 60,), daemon=True)
    closing.start()
    release.set()
    closing.join(30)
    assert not closing.is_alive()


def test_one_map_feeds_another_and_both_stop_together() -> None:
    inner = ordered_map(lambda item: item + 1, iter(range(10**9)), num_threads=2)
    outer = ordered_map(lambda item: item * 10, inner, num_threads=2)
    assert [next(outer), next(outer)] == [10, 20]
    outer.close()
    with pytest.raises(StopIteration):
        next(inner)


def test_nothing_starts_before_the_first_result_is_requested() -> None:
    calls: list[int] = []
    results = ordered_map(calls.append, [1, 2], num_threads=1)
    assert calls == []
    results.close()


def test_the_default_budget_is_two_items_per_thread() -> None:
    started: list[int] = []
    gate = threading.Event()

    def work(item: int) -> int:
        started.append(item)
        if item == 0:
            gate.wait(60)
        return item

    results = ordered_map(work, iter(range(1000)), num_threads=3)
    gate.set()
    assert next(results) == 0
    assert max(started) <= 7  # six items, and one more after the first was yielded
    assert list(results) == list(range(1, 1000))


HUNG_CALL = """
import threading
from catalogs.concurrency import ordered_map
list(ordered_map(lambda _: threading.Event().wait(), range(9), num_threads=2, timeout_seconds=0.1))
"""


def test_a_hung_call_does_not_block_interpreter_exit() -> None:
    command = [sys.executable, "-c", HUNG_CALL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "TimeoutError" in done.stderr


HUNG_AT_EXIT = """
import threading
from catalogs import concurrency
concurrency._EXIT_SECONDS = 0.2

hung = threading.Event()
def work(item):
    if item:
        hung.set()
        threading.Event().wait()

results = concurrency.ordered_map(work, range(9), num_threads=1)
next(results)
hung.wait()
"""


def test_a_map_whose_call_hangs_does_not_block_interpreter_exit() -> None:
    command = [sys.executable, "-c", HUNG_AT_EXIT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
