import subprocess
import sys

import pytest

STEPS = """
import resource, torch
from pocketdet.training.memory import keep_freed_memory
if {keeps}:
    keep_freed_memory()
def step():
    torch.ones(16 * 2**20)  # 64 MiB
for _ in range(10):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_a_large_tensor_of_every_step_gets_the_memory_of_the_step_before() -> None:
    faults = [
        int(subprocess.run([sys.executable, "-c", STEPS.format(keeps=keeps)], capture_output=True, check=True).stdout)
        for keeps in (False, True)
    ]
    assert faults[1] < 0.1 * faults[0]
