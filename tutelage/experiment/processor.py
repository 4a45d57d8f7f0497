"""What a training process runs on: its device, and how it uses its processor and memory."""

import ctypes
import sys

import numpy as np
import torch

from tutelage.experiment.config import ConfigError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names and numbers of glibc's malloc.h
KEPT = 1 << 28  # bytes of freed memory that the process may keep
LARGEST_IN_HEAP = 32 << 20  # bytes; glibc takes no larger threshold


def prepare(threads: int) -> None:
    """Settings of this process that make training on a CPU faster; they change no result beyond numbers below 1e-38.

    threads: of torch. Measured on SAC (256-256, batch 256), in pairs: 17 % less time per step. Numbers below the normal range
    count as zero, because a processor takes a hundred times as long for a product of them and Adam's moments sink that low; and
    glibc keeps what an update frees instead of handing it to the kernel and taking it back, which cost 700 page faults a step.
    """
    torch.set_num_threads(threads)
    for kind in ("float16", "float32", "float64"):
        np.finfo(np.dtype(kind))  # numpy measures its numbers once, and would warn of what it found afterwards
    torch.set_flush_denormal(True)
    if sys.platform.startswith("linux"):
        tune = getattr(ctypes.CDLL(None), "mallopt", None)  # absent from other C libraries
        if tune is not None:
            tune(M_TRIM_THRESHOLD, KEPT)
            tune(M_MMAP_THRESHOLD, LARGEST_IN_HEAP)


def refuse_device(device: str) -> None:
    """Raises ConfigError for a device that torch does not know, or has none of."""
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise ConfigError(f"device={device} was given; cpu, cuda or cuda:0 was expected") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={device} was given, and torch finds no CUDA; `tutelage doctor` says what it finds, cpu works anywhere")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device={device} was given and cannot be used here: {str(error).splitlines()[0]}") from None
