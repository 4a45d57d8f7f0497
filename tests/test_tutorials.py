"""Every Python block of every tutorial runs, in order, as a reader would run them; shell blocks name real options."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIALS = sorted((Path(__file__).parents[1] / "docs" / "tutorials").glob("*.md"))
BLOCK = re.compile(r"```(python|bash)\n(.*?)```", re.DOTALL)


def test_there_are_three() -> None:
    assert [path.stem for path in TUTORIALS] == ["your_own_game", "your_own_rater", "your_own_reward"]


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda path: path.stem)
def test_the_python_of_a_tutorial_runs(page: Path, tmp_path: Path) -> None:
    blocks = [text for language, text in BLOCK.findall(page.read_text()) if language == "python"]
    for text in blocks:
        if named := re.match(r"# file: (\w+\.py)\n", text):
            (tmp_path / named.group(1)).write_text(text)
    (tmp_path / "tutorial.py").write_text("\n".join(blocks))
    package = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), package])}
    command = [sys.executable, "tutorial.py"]
    answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert any((tmp_path / "runs").glob("*/report.html"))


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda path: path.stem)
def test_the_commands_of_a_tutorial_have_options_that_exist(page: Path) -> None:
    from tutelage.experiment.config import ALGORITHMS
    from tutelage.verbs import train_options

    for language, text in BLOCK.findall(page.read_text()):
        for line in text.splitlines() if language == "bash" else []:
            words = shlex.split(line)
            if words[:2] != ["tutelage", "train"]:
                continue
            import tyro

            given = tyro.cli(train_options(ALGORITHMS[words[2]].config), args=words[3:])
            assert given.steps > 0
