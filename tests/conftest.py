"""What every test runs under: shapes checked at each call, one thread, no window; and the rule about skipping."""

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

# Before anything imports a simulator or a plotting library: none of them may look for a screen.
os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from jaxtyping import install_import_hook

torch.set_num_threads(1)
# Stays installed: from here on every import of the package is compiled with its shapes and types checked.
install_import_hook("tutelage", "beartype.beartype")

# The only things a machine may lack. A reason to skip names one of them in these words; any other fails the session.
MAY_BE_MISSING = ("absent data", "Chromium", "PostgreSQL", "GPU")


def skip_counts(reasons: Iterable[str]) -> tuple[Counter[str], list[str]]:
    """How often each permitted cause occurs, and the reasons that name none."""
    counts: Counter[str] = Counter()
    refused: list[str] = []
    for reason in reasons:
        cause = next((cause for cause in MAY_BE_MISSING if re.search(rf"\b{cause}\b", reason)), None)
        if cause is None:
            refused.append(reason)
        else:
            counts[cause] += 1
    return counts, refused


def _skipped(terminal: pytest.TerminalReporter) -> list[str]:
    reports = [report for report in terminal.stats.get("skipped", []) if not hasattr(report, "wasxfail")]
    return [report.longrepr[2].removeprefix("Skipped: ") for report in reports]


def pytest_sessionfinish(session: pytest.Session) -> None:
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal is None or hasattr(session.config, "workerinput"):  # a worker of pytest-xdist: the controller counts
        return
    if skip_counts(_skipped(terminal))[1] and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts, refused = skip_counts(_skipped(terminalreporter))
    if counts:
        terminalreporter.write_line("skipped: " + ", ".join(f"{n} x {cause}" for cause, n in sorted(counts.items())))
    for reason, n in sorted(Counter(refused).items()):
        permitted = ", ".join(MAY_BE_MISSING)
        terminalreporter.write_line(f'FAILED: {n} skipped because "{reason}"; only these may be missing: {permitted}', red=True)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of data sets that are not part of the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("TUTELAGE_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"absent data: {folder} is no folder; TUTELAGE_DATA names another")
    return folder
