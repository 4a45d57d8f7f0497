"""The recipes of language models: every study runs small and leaves its rows once, and the chain learns."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tutelage.evaluate.text import excess
from tutelage.experiment.text_page import write_page
from tutelage.recipes import language, language_challenges
from tutelage.recipes.language import held_out
from tutelage.recipes.text_chain import Chain, Setting

METHODS = {
    ("text:valence", "dpo"), ("text:valence", "ppo-lm"), ("text:valence/stages", "sft"), ("text:valence/stages", "reward-model"),
    *(("text:valence/frontier", f"{name}-beta-{beta}") for name in ("dpo", "ppo-lm") for beta in ("0.1", "0.5", "2.5")),
    ("text:valence/frontier", "ppo-gold-beta-0.5"), *(("text:valence/frontier", f"best-of-{n}") for n in (4, 16, 64)),
    *(("text:valence/alignment-tax", name) for name in ("ppo-lm", "ppo-ptx")),
    *(("text:valence/k-wise", name) for name in ("per-prompt", "shuffled-pairs")),
    *(("text:valence/win-rates", name) for name in ("pretrained", "sft", "dpo", "ppo-lm")),
}  # fmt: skip


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_study_runs_small_and_leaves_its_rows_once(tmp_path: Path):
    studies = ("chain", "win-rates", "frontier", "alignment-tax", "k-wise")
    recipe = language.Recipe(studies, 1, 4, 0.01, tmp_path / "runs", tmp_path / "rows.jsonl")
    for _ in range(2):
        language.main(recipe, Console(quiet=True))
    found = rows(tmp_path / "rows.jsonl")
    assert len(found) == len(METHODS) and {(row["task"], row["method"]) for row in found} == METHODS
    assert all(row["seed"] == 4 and list(row)[-3:] == ["seconds", "hardware", "commit"] for row in found)
    chain = {row["method"]: row for row in found if row["task"] == "text:valence"}
    for row in chain.values():
        assert {"score", "low", "high", "kl", "kl_error", "gold", "gold_error"} <= row.keys()
        assert row["low"] <= row["score"] <= row["high"]
    page = (tmp_path / "runs" / "report.html").read_text()
    for words in ("What is possible, and what was reached", "The alignment tax", "Answers side by side", "&lt;eos&gt;"):
        assert words in page
    assert "over-optimization" not in page and "http" not in page.replace("http://www.w3.org", "")


def test_over_optimization_runs_small_with_two_seeds_more(tmp_path: Path):
    recipe = language.Recipe(("over-optimization",), 1, 0, 0.01, tmp_path, tmp_path / "rows.jsonl")
    language.main(recipe, Console(quiet=True))
    found = rows(tmp_path / "rows.jsonl")
    methods = ("best-of-n", "ppo-lm-single", "ppo-lm-disagreement", "ppo-lm-worst")
    assert [(row["seed"], row["method"]) for row in found] == [(seed, method) for seed in (0, 1, 2) for method in methods]
    assert {row["task"] for row in found} == {"text:valence-once/over-optimization"}
    assert all(row["fall"] >= 0.0 for row in found if row["method"] != "best-of-n")
    assert "When the proxy is optimized too far" in (tmp_path / "report.html").read_text()


def test_every_challenge_runs_small_and_leaves_its_rows_once(tmp_path: Path):
    recipe = language_challenges.Recipe(seeds=1, scale=0.01, out=tmp_path / "runs", results=tmp_path / "rows.jsonl")
    for _ in range(2):
        language_challenges.main(recipe, Console(quiet=True))
    found = rows(tmp_path / "rows.jsonl")
    assert [(row["task"].partition("/")[2], row["method"]) for row in found] == [
        ("ai-rater", "one-order"), ("ai-rater", "both-orders"),
        ("queries", "uniform"), ("queries", "disagreement"), ("queries", "information-gain"),
        ("objectives", "rewarded-soups"), ("objectives", "modpo"),
        ("length", "none"), ("length", "penalty"), ("length", "odin"),
        ("iterations", "one-round"), ("iterations", "kl-budget-trigger"),
    ]  # fmt: skip
    assert len({row["labels"] for row in found if row["task"].endswith("queries")}) == 1


def test_a_front_by_hand():
    dominated = language_challenges._dominated
    assert dominated([(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)], (0.0, 0.0)) == pytest.approx(6.0)
    assert dominated([(1.0, 1.0), (0.5, 0.5)], (0.0, 0.0)) == pytest.approx(1.0)
    assert dominated([(-1.0, 5.0)], (0.0, 0.0)) == 0.0


def test_the_page_of_an_empty_folder_has_no_sections(tmp_path: Path):
    assert "<section>" not in write_page(tmp_path).read_text()


def test_a_chain_of_a_quarter_of_the_size_learns_and_stays_below_what_is_possible(tmp_path: Path):
    whole = Setting()
    setting = replace(
        whole, demonstrations=2_500, general_texts=0, ranked_prompts=400, held_out=100, test_prompts=300,
        dpo=replace(whole.dpo, learning_rate=8e-4), ppo=replace(whole.ppo, iterations=12),
    )  # fmt: skip
    chain = Chain(setting, 0, tmp_path)
    frontier = chain.frontier(draws=600, betas=(float("inf"), 4.0, 2.0, 1.5, 1.0, 0.8))
    assert held_out(chain, [chain.reward])["order"] > 0.65
    for name in ("dpo", "ppo-lm"):
        found = chain.evaluate(chain.tuned(name), name)
        above = excess(found, frontier)
        assert found.win.wilson.low > 0.55 and found.kl.mean > 0.05 and found.finished > 0.9
        assert above is None or above < 3.5
    again = Chain(setting, 0, tmp_path)  # stages that were kept are the same to the bit
    assert chain.answers(chain.sft, chain.test_prompts[:20], "x").text.tokens.equal(
        again.answers(again.sft, again.test_prompts[:20], "x").text.tokens
    )
