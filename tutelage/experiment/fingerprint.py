"""What a run's bits depend on."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import tutelage

PACKAGES = ("torch", "numpy", "gymnasium", "mujoco", "dm_control")


def commit() -> str:
    """The short hash of the checkout that this package runs from, or "" outside one. "-dirty" is appended where tracked files differ.

    Results do not count: the row that a benchmark has just appended changes nothing for the next one.
    """
    here = ["git", "-C", str(Path(__file__).parent)]
    code = [":/", ":(top,exclude)benchmarks/results"]
    try:
        named = subprocess.run([*here, "rev-parse", "--short=7", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        same = subprocess.run([*here, "diff", "--quiet", "HEAD", "--", *code], capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return ""
    return named.stdout.strip() + ("" if same else "-dirty")


def hardware(device: str = "cpu") -> str:
    """Such as "2 cores" or the name of the GPU."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"


def fingerprint(device: str, threads: int) -> dict[str, str | int]:
    """Versions, processor and threads: where all of these are equal, equal seeds give equal bits."""
    found: dict[str, str | int] = {"tutelage": tutelage.__version__, "commit": commit(), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    found |= {"system": platform.platform(), "processor": torch.backends.cpu.get_cpu_capability(), "hardware": hardware(device)}
    return found | {"device": device, "threads": threads}
