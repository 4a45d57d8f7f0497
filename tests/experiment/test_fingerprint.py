"""What a row says of the code that wrote it."""

import subprocess
from pathlib import Path

import pytest

from tutelage.experiment import fingerprint


def git(folder: Path, *command: str) -> str:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    return subprocess.run(["git", "-C", str(folder), *who, *command], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one module and one file of results, from which the package seems to run."""
    for name in ("package/module.py", "benchmarks/results/speed.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("first\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "First")
    monkeypatch.setattr(fingerprint, "__file__", str(tmp_path / "package" / "fingerprint.py"))
    return tmp_path


def test_a_changed_result_leaves_the_code_clean_and_a_changed_module_does_not(checkout: Path):
    clean = git(checkout, "rev-parse", "HEAD")[:7]
    assert fingerprint.commit() == clean
    (checkout / "benchmarks/results/speed.jsonl").write_text("first\nsecond\n")
    assert fingerprint.commit() == clean
    (checkout / "package/module.py").write_text("second\n")
    assert fingerprint.commit() == f"{clean}-dirty"
    git(checkout, "add", ".")
    assert fingerprint.commit() == f"{clean}-dirty"


def test_outside_a_checkout_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fingerprint, "__file__", str(tmp_path / "fingerprint.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert fingerprint.commit() == ""
