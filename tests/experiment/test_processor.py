"""What a training process sets: threads, numbers too small to count, and memory that stays."""

import subprocess
import sys

PROGRAM = """
import resource
import warnings

import numpy as np
import torch

from tutelage.experiment.processor import prepare

warnings.simplefilter("error")
small = torch.tensor([1e-39])
assert (small * 0.5 > 0).all()
prepare(1)
assert torch.get_num_threads() == 1
assert (small * 0.5 == 0).all() and (torch.tensor([2e-38]) * 0.9 > 0).all()
np.finfo(np.float32).eps, np.finfo(np.float64).tiny


def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        [torch.zeros(1_000_000) for _ in range(10)]  # 40 MB, all freed at once, as after an update
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


faults()
print(faults())
"""


def test_a_training_process_rounds_the_smallest_numbers_to_zero_and_keeps_its_memory():
    # In a process of its own: the settings are the process's.
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1000, "40 MB that come from the kernel each time are ten thousand page faults a time"
