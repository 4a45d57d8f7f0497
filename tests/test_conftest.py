"""The rule about skipping, and that shapes really are checked while tests run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

SESSION = """
import pytest

def test_passes():
    pass

def test_skips():
    pytest.skip({reason!r})
"""


def run_session(folder: Path, reason: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(Path(__file__).with_name("conftest.py").read_text())
    (folder / "test_session.py").write_text(SESSION.format(reason=reason))
    (folder / "pytest.ini").write_text("[pytest]\n")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "1", str(folder)]
    return subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, timeout=120)


def test_a_permitted_skip_is_counted(tmp_path: Path):
    done = run_session(tmp_path, "PostgreSQL is not installed")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped: 1 x PostgreSQL" in done.stdout


def test_any_other_skip_fails_the_session(tmp_path: Path):
    done = run_session(tmp_path, "it was late")
    assert done.returncode == 1, done.stdout + done.stderr
    assert '1 skipped because "it was late"' in done.stdout


def test_shapes_are_checked_under_pytest():
    from tutelage.games.spec import Step

    two, three = torch.zeros(2), torch.zeros(3, dtype=torch.bool)
    with pytest.raises(TypeCheckError):
        Step(observation=two, reward=two, terminated=three, boundary=three, mask=three)
