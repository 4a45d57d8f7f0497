import io
import shutil
import sqlite3
import subprocess
from collections import namedtuple
from pathlib import Path

import pytest
from rich.console import Console

from tutelage.experiment import doctor
from tutelage.experiment.doctor import Check, checks, main, pinned_versions, table


def found(name: str, directory: Path) -> Check:
    return next(check for check in checks(directory) if check.name == name)


def completed(stdout: str = "", stderr: str = "", returncode: int = 0):
    return lambda command, **_: subprocess.CompletedProcess(command, returncode, stdout, stderr)


def test_this_machine_can_train_and_draw(tmp_path: Path):
    result = checks(tmp_path / "not" / "yet" / "there")
    names = {"Python", "PyTorch", "CPU cores", "memory", "GPU", "rendering", "video", "database", "PostgreSQL driver", "disk", "mujoco"}
    assert names <= {check.name for check in result}
    assert [check for check in result if not check.ok and (check.required or check.name in {"rendering", "video"})] == []
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


def test_whatever_is_wrong_comes_with_a_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "_installed", lambda package: None)
    wrong = [check for check in checks(tmp_path) if not check.ok]
    assert {"mujoco", "rendering", "PostgreSQL driver"} <= {check.name for check in wrong}
    assert all(check.fix for check in wrong)


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (completed("0.0\n"), "black"),
        (completed(stderr="Traceback\nImportError: no libEGL", returncode=1), "ImportError: no libEGL"),
        (completed(returncode=-11), "exit code -11"),
    ],
)
def test_rendering_that_fails_says_how(outcome, words: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor.subprocess, "run", outcome)
    check = doctor._rendering()
    assert not check.ok
    assert words in check.found
    assert "libegl1" in check.fix


def test_a_driver_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "DRAW", "import time; time.sleep(60)")
    monkeypatch.setattr(doctor, "PATIENCE", 0.2)
    check = doctor._rendering()
    assert not check.ok
    assert "within 0.2 s" in check.found


def test_a_disk_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "NamedTemporaryFile", refuse)
    check = found("disk", tmp_path)
    assert not check.ok
    assert f"{tmp_path} cannot be written: Permission denied" in check.found


def test_a_disk_that_is_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usage = namedtuple("usage", "total used free")(2**40, 2**40, 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    check = found("disk", tmp_path)
    assert not check.ok
    assert "0.0 GiB free" in check.found


def test_a_file_system_without_wal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    connect = sqlite3.connect
    monkeypatch.setattr(doctor.sqlite3, "connect", lambda path: connect(":memory:"))  # memory has no WAL
    check = found("database", tmp_path)
    assert not check.ok
    assert "stays in memory mode" in check.found


def test_other_versions_than_the_tested_ones_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "pinned_versions", lambda: {"mujoco": "0.0.1"})
    check = found("mujoco", tmp_path)
    assert not check.ok
    assert check.found.endswith("(tested with 0.0.1)")


def test_tested_versions_are_those_of_the_constraints():
    constraints = Path(__file__).resolve().parents[2] / "constraints.txt"
    assert f"mujoco=={pinned_versions()['mujoco']}" in constraints.read_text().splitlines()


def test_more_threads_than_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor.torch, "get_num_threads", lambda: 10_000)
    assert found("CPU cores", tmp_path).fix.startswith("export OMP_NUM_THREADS=")


@pytest.mark.parametrize(("required", "code"), [(True, 1), (False, 0)])
def test_the_exit_code_counts_what_is_required(required: bool, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    broken = Check("disk", False, "full", "free some", required=required)
    monkeypatch.setattr(doctor, "checks", lambda directory: [Check("Python", True, "3.11"), broken])
    assert main(tmp_path, Console(file=io.StringIO())) == code


def test_the_table_shows_the_fix_to_the_letter():
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(table([Check("mujoco", False, "not installed", "pip install 'tutelage[control]'")]))
    text = console.export_text()
    assert "fail" in text and "pip install 'tutelage[control]'" in text
