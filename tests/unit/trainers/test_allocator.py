"""A process that computes keeps freed memory."""

import os
import subprocess
import sys

import pytest

# Allocates, fills and frees 8 MiB in a thread, as a layer does in every batch.
LAYERS = """
import resource, sys, threading
import numpy as np
from trainers.allocator import keep_freed_memory

def layers(count):
    for _ in range(count):
        np.ones(2 ** 20)

def page_faults():
    layers(3)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    layers(100)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

faults = []
if sys.argv[1] == "keep":
    assert keep_freed_memory()
thread = threading.Thread(target=page_faults)
thread.start()
thread.join()
print(faults[0])
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
def test_memory_freed_by_a_layer_is_reused_without_page_faults() -> None:
    assert page_faults("keep") < 0.05 * page_faults("leave")
