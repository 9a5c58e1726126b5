"""Threads that all want the lease of a run at the same moment."""

import threading
from concurrent.futures import ThreadPoolExecutor

from attent_select.errors import ExistsError
from pipeline.runs.lease import hold_lease


def most_at_once(run: str, *, drivers: int, turns: int) -> int:
    """Return how many drivers held the lease at the same time at most; one gets it in each turn."""
    inside, most = 0, 0
    lock, start = threading.Lock(), threading.Barrier(drivers)

    def drive(_: int) -> bool:
        nonlocal inside, most
        start.wait()
        try:
            with hold_lease(run):
                with lock:
                    inside += 1
                    most = max(most, inside)
                threading.Event().wait(0.02)
                with lock:
                    inside -= 1
        except ExistsError:
            return False
        return True

    with ThreadPoolExecutor(drivers) as pool:
        for _ in range(turns):
            assert any(list(pool.map(drive, range(drivers))))
    return most
