"""The recipe on real rows, with files of the same shapes that are written here."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from tutelage.experience.text_rows import Pair
from tutelage.experiment.config import ConfigError
from tutelage.recipes.real_data import FOLDS, PAIRS, THUMBS, Recipe, folds, run


def write(folder: Path, rows: int) -> None:
    """Pairs of which the longer answer is always preferred, and thumbs."""
    turn = lambda who, said: {"from": who, "value": said}
    pairs: list[Any] = [
        {"conversations": [turn("human", f"Say {i}.")], "chosen": turn("gpt", f"{i}. " * 4), "rejected": turn("gpt", f"{i}.")}
        for i in range(rows)
    ]
    say = lambda role, said: {"role": role, "content": said}
    thumbs = [{"messages": [say("user", f"Say {i}."), say("assistant", f"{i}.")], "label": i % 2 == 0} for i in range(rows)]
    folder.mkdir()
    (folder / PAIRS).write_text(json.dumps([*pairs, pairs[0]]))
    (folder / THUMBS).write_text(json.dumps(thumbs))


def test_the_recipe(tmp_path: Path):
    write(tmp_path / "data", rows=14)
    recipe = Recipe(tmp_path / "data", tmp_path / "runs", tmp_path / "rows.jsonl", context=48, scale=0.05)
    with (tmp_path / "told").open("w") as told:
        rows = run(recipe, Console(file=told, width=200))
    by_method = {(row.task.rpartition("/")[2], row.method): row for row in rows}
    assert [key for key in by_method if key[0] == "stages"] == [
        ("stages", name) for name in ("sft-thumbs", "sft", "reward-model", "dpo", "kto", "ppo-lm")
    ]
    longer, shorter = (by_method["five-folds", f"prefer-the-{rule}"] for rule in ("longer", "shorter"))
    assert (longer.score, shorter.score, longer.numbers["pairs"]) == (1.0, 0.0, 15)
    judged = by_method["five-folds", "reward-model"]
    assert 0.0 <= judged.numbers["low"] <= judged.score <= judged.numbers["high"] <= 1.0
    page = (tmp_path / "runs" / "REAL_DATA.md").read_text()
    assert "1 of 15 rows repeat an earlier row" in page and "prefer the longer: 1.000" in page
    for name in ("sft", "reward-model", "dpo", "kto", "ppo-lm"):
        assert (tmp_path / "runs" / name / "model" / "README.md").is_file()

    # Everything is there: nothing is trained again, and the folds are read from the disk.
    before = load_file(tmp_path / "runs" / "dpo" / "model" / "model.safetensors")
    again = run(recipe, Console(quiet=True))
    assert [row.score for row in again] == [row.score for row in rows]
    after = load_file(tmp_path / "runs" / "dpo" / "model" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 2 * len(rows)


def test_rows_with_one_prompt_are_in_one_fold():
    rows = [Pair(prompt=f"p{i % 40}", chosen="a", rejected="b") for i in range(60)]
    found = folds(rows, FOLDS, torch.Generator().manual_seed(0))
    assert sorted(i for fold in found for i in fold) == list(range(60))
    assert all(
        len({n for n, fold in enumerate(found) for i in fold if rows[i].prompt == prompt}) == 1 for prompt in {r.prompt for r in rows}
    )
    assert max(map(len, found)) - min(map(len, found)) <= 2


def test_files_that_are_not_there(tmp_path: Path):
    with pytest.raises(ConfigError, match=f"{PAIRS} is absent; --data names the folder that holds {PAIRS} and {THUMBS}"):
        run(Recipe(tmp_path, tmp_path / "runs"))
