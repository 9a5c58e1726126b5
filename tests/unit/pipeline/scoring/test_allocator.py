"""Freed memory stays with a worker."""

import os
import subprocess
import sys

import pytest

# What a layer does in every batch, in the thread of a worker: 8 MiB, filled and freed.
LAYERS = """
import resource, sys, threading
import numpy as np
from pipeline.scoring.allocator import keep_freed_memory

def layers(count):
    for _ in range(count):
        np.ones(2 ** 20)

def page_faults():
    layers(3)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    layers(100)
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

found = []
if sys.argv[1] == "keep":
    assert keep_freed_memory()
thread = threading.Thread(target=page_faults)
thread.start()
thread.join()
print(found[0])
"""


def page_faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", LAYERS, how],
        env=os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has these settings")
def test_what_a_layer_frees_is_there_for_the_next_layer() -> None:
    assert page_faults("keep") < 0.05 * page_faults("leave")
