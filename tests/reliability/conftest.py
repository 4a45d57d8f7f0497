"""What the kills of this folder counted, as rows of benchmarks/results/reliability.jsonl."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.feedback.conftest import postgresql, postgresql_url, sqlite_url, url
from tutelage.experiment.fingerprint import commit, hardware

__all__ = ["postgresql", "postgresql_url", "sqlite_url", "url"]

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "reliability.jsonl"


@pytest.fixture(autouse=True)
def row(request: pytest.FixtureRequest) -> Iterator[None]:
    """`make reliability` asks for a row per test: whatever the test has recorded as properties, also where it then failed."""
    began = time.perf_counter()
    yield
    counted: dict[str, Any] = dict(request.node.user_properties)
    if os.environ.get("TUTELAGE_RELIABILITY_ROW") == "1" and counted:
        task = {"task": request.node.path.stem.removeprefix("test_")}
        about = {"seconds": round(time.perf_counter() - began, 1), "hardware": hardware(), "commit": commit()}
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        with RESULTS.open("a") as file:
            file.write(json.dumps(task | counted | about) + "\n")
