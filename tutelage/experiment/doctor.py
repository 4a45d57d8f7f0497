"""Can this machine train, draw, encode and store? Every check tries the thing itself and, where it fails, names the fix.

Where a check needs a process of its own (a graphics driver may hang or crash), it gets one, with a time limit.
"""

import importlib.metadata
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tutelage.evaluate.clips import ClipError, encode

LEAST_FREE_GIB = 2.0
"""A PEBBLE run of the recipes keeps replay, checkpoints and clips in about this much."""
LEAST_MEMORY_GIB = 4.0
"""Replay of a million transitions of a small robot, nets and simulators together."""
PATIENCE = 60.0
"""Seconds that drawing one frame may take; a missing driver can hang."""

SIMULATORS = ("gymnasium", "mujoco", "dm_control", "metaworld", "box2d", "pygame-ce")
CONTROL = "pip install 'tutelage[control]' -c constraints.txt"
MIN_PYTHON = (3, 11)
MIN_TORCH = (2, 11)

# Draws one lit red ball and prints the mean brightness of the picture. EGL needs neither a screen nor a GPU.
DRAW = """
import os
os.environ.setdefault("MUJOCO_GL", "egl")
import mujoco
ball = '<geom type="sphere" size="0.5" rgba="1 0 0 1"/>'
model = mujoco.MjModel.from_xml_string(f'<mujoco><worldbody><light pos="0 0 3"/>{ball}</worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 64, 64)
renderer.update_scene(data)
print(float(renderer.render().mean()))
"""


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    name: str
    ok: bool
    found: str
    """What is there, in words for a person."""
    fix: str = ""
    """What to do about it; empty where nothing needs doing."""
    required: bool = True
    """Whether nothing can be trained without it."""


def checks(directory: Path) -> list[Check]:
    """Look at everything. `directory` is where runs will be written; it may not exist yet."""
    return [
        _python(),
        _torch(),
        _cores(),
        _memory(),
        _gpu(),
        *_simulators(),
        _rendering(),
        _video(),
        _database(directory),
        _postgres(),
        _disk(directory),
    ]


def table(found: Sequence[Check]) -> Table:
    """The checks as rows: a mark, the name, what was found and, where something is wrong, the fix."""
    rows = Table(box=None, pad_edge=False)
    for column in ("", "check", "found", "fix"):
        rows.add_column(column, overflow="fold")
    for check in found:
        mark = "[green]ok[/]" if check.ok else "[red]fail[/]" if check.required else "[yellow]note[/]"
        rows.add_row(mark, check.name, escape(check.found), escape(check.fix))
    return rows


def main(directory: Path, console: Console | None = None) -> int:
    """Print the table; 1 if something is wrong that training needs, else 0."""
    found = checks(directory)
    (console or Console()).print(table(found))
    return int(any(check.required and not check.ok for check in found))


def pinned_versions() -> dict[str, str]:
    """Package -> tested version, from the constraints.txt that lies in an installed package or beside a checkout; else empty."""
    package = Path(__file__).resolve().parents[1]
    for path in (package / "constraints.txt", package.parent / "constraints.txt"):
        if path.is_file():
            lines = (line.strip() for line in path.read_text().splitlines())
            return dict(line.split("==", 1) for line in lines if line and not line.startswith("#"))
    return {}


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2])


def _beside_tested(package: str, version: str) -> str:
    tested = pinned_versions().get(package)
    return version if tested is None or version.split("+")[0] == tested else f"{version} (tested with {tested})"


def _python() -> Check:
    least = ".".join(map(str, MIN_PYTHON))
    fix = "" if sys.version_info >= MIN_PYTHON else f"install Python {least} or newer"
    return Check("Python", not fix, f"{platform.python_version()} on {platform.system()} {platform.machine()}", fix)


def _torch() -> Check:
    least = ".".join(map(str, MIN_TORCH))
    fix = "" if _release(torch.__version__) >= MIN_TORCH else f"pip install 'torch>={least}'"
    return Check("PyTorch", not fix, f"{_beside_tested('torch', torch.__version__)}, {torch.get_num_threads()} threads", fix)


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cores() -> Check:
    cores, threads = _usable_cores(), torch.get_num_threads()
    # More threads than cores wait for one another: a step of a millisecond can take 0.2 s.
    fix = f"export OMP_NUM_THREADS={cores}" if threads > cores else ""
    return Check("CPU cores", not fix, f"{cores} usable, {threads} threads in PyTorch", fix, required=False)


def _memory_gib() -> float:
    """What this process may use: the machine's memory or its container's limit, whichever is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        total = min(total, int(text))
    return total / 2**30


def _memory() -> Check:
    memory = _memory_gib()
    fix = "" if memory >= LEAST_MEMORY_GIB else f"use a smaller replay; {LEAST_MEMORY_GIB:g} GiB are comfortable"
    return Check("memory", not fix, f"{memory:.1f} GiB", fix, required=False)


def _gpu() -> Check:
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return Check("GPU", True, ", ".join(f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for gpu in names), required=False)
    return Check("GPU", True, "none; everything runs on the CPU", required=False)


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _simulators() -> list[Check]:
    found: list[Check] = []
    for package in SIMULATORS:
        version, tested = _installed(package), pinned_versions().get(package)
        if version is None:
            found.append(Check(package, False, "not installed", CONTROL, required=False))
        else:
            differs = tested is not None and version != tested
            found.append(Check(package, not differs, _beside_tested(package, version), CONTROL if differs else "", required=False))
    return found


def _rendering() -> Check:
    if _installed("mujoco") is None:
        return Check("rendering", False, "mujoco is not installed", CONTROL, required=False)
    driver = os.environ.get("MUJOCO_GL", "egl")
    fix = "apt-get install libegl1 libgl1, then MUJOCO_GL=egl; or libosmesa6, then MUJOCO_GL=osmesa"
    try:
        done = subprocess.run([sys.executable, "-c", DRAW], capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return Check("rendering", False, f"MUJOCO_GL={driver} drew nothing within {PATIENCE:g} s", fix, required=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Check("rendering", False, f"MUJOCO_GL={driver}: {reason}", fix, required=False)
    brightness = float(done.stdout.strip().splitlines()[-1])
    if brightness < 1.0:
        return Check("rendering", False, f"MUJOCO_GL={driver} draws black pictures", fix, required=False)
    return Check("rendering", True, f"MUJOCO_GL={driver} draws", required=False)


def _video() -> Check:
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    frames = np.broadcast_to(ramp[None, None, :, None], (4, 64, 64, 3))
    try:
        with tempfile.TemporaryDirectory() as folder:
            size = encode(frames, Path(folder) / "doctor.mp4", fps=10).stat().st_size
    except (ClipError, OSError) as error:
        return Check("video", False, str(error), "pip install --force-reinstall imageio-ffmpeg", required=False)
    return Check("video", True, f"h264, 4 frames in {size} bytes", required=False)


def _existing(directory: Path) -> Path:
    """The nearest folder that exists: where `directory` would be created."""
    return next(folder for folder in (directory.absolute(), *directory.absolute().parents) if folder.is_dir())


def _database(directory: Path) -> Check:
    # In the directory of the runs itself: WAL needs shared memory, which many network file systems lack.
    fix = "choose a directory on a local disk, or --store postgresql+psycopg://..."
    try:
        with (
            tempfile.TemporaryDirectory(dir=_existing(directory)) as folder,
            closing(sqlite3.connect(Path(folder) / "doctor.sqlite")) as db,
        ):
            mode = db.execute("PRAGMA journal_mode=WAL").fetchone()[0]
            db.execute("PRAGMA synchronous=FULL")
            db.execute("CREATE TABLE doctor (row INTEGER)")
            db.execute("INSERT INTO doctor VALUES (1)")
            db.commit()
    except (sqlite3.Error, OSError) as error:
        return Check("database", False, f"SQLite {sqlite3.sqlite_version}: {error}", fix)
    if mode != "wal":
        return Check("database", False, f"SQLite {sqlite3.sqlite_version} refuses WAL and stays in {mode} mode", fix)
    return Check("database", True, f"SQLite {sqlite3.sqlite_version}, WAL, synchronous FULL")


def _postgres() -> Check:
    version = _installed("psycopg")
    if version is None:
        return Check(
            "PostgreSQL driver", False, "not installed", "only for a shared store: pip install 'tutelage[postgres]'", required=False
        )
    return Check("PostgreSQL driver", True, f"psycopg {_beside_tested('psycopg', version)}", required=False)


def _disk(directory: Path) -> Check:
    folder = _existing(directory)
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Check("disk", False, f"{folder} cannot be written: {error.strerror}", f"chmod u+w {folder}, or choose another --out")
    free = shutil.disk_usage(folder).free / 2**30
    fix = "" if free >= LEAST_FREE_GIB else f"free some space, or choose another --out; {LEAST_FREE_GIB:g} GiB are comfortable"
    return Check("disk", not fix, f"{folder} can be written, {free:.1f} GiB free", fix)
