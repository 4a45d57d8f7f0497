"""The page of the chain from curves made by hand: every section once, nothing that can act, every chart in both widths."""

import json
import math
import re
from pathlib import Path

import pytest

from tutelage.experiment.text_page import side_by_side, write_page

HOSTILE = "<script>alert(1)</script> & \" '"


def row(method: str, score: float, **numbers: float) -> dict:
    return {"method": method, "score": score, "numbers": {"low": score - 0.04, "high": score + 0.04, "kl": 1.7} | numbers}


def study(name: str, seed: int) -> dict:
    """What a study leaves behind, with a little of the seed in it."""
    off = 0.03 * (seed - 1)
    ramp = [i / 39 for i in range(40)]
    if name == "chain":
        prompts, samples = (
            ["<bos> tree happy .", HOSTILE],
            {"SFT": ["the tree was old . <eos>", HOSTILE], "PPO": ["good <eos>", "bad <eos>"]},
        )
        return {"rows": [row("dpo", 0.88 + off), row("ppo-lm", 0.89 - off)], "curves": {"prompts": prompts, "samples": samples}}
    if name == "frontier":
        best = [
            dict(beta=b, kl=1.9 / b**1.7, gold=-0.8 + 2.0 * math.sqrt(1.9 / b**1.7) + off, effective_draws=500.0) for b in (8, 2, 1, 0.7)
        ]
        points = [dict(method=f"dpo-beta-{b}", kl=1.2 / b**0.7, gold=-0.9 + 1.8 * math.sqrt(1.2 / b**0.7) + off) for b in (0.1, 0.5, 2.5)]
        points += [dict(method=p["method"].replace("dpo", "ppo-lm"), kl=1.1 * p["kl"], gold=p["gold"] - 0.05) for p in points]
        points += [dict(method="ppo-gold-beta-0.5", kl=3.0, gold=2.4 + off), dict(method="best-of-4", kl=0.64, gold=0.4 + off)]
        return {"rows": [], "curves": {"frontier": best, "points": points}}
    if name == "over-optimization":
        curve = lambda fall: {
            "kl": [8 * x for x in ramp],
            "proxy": [4 * x for x in ramp],
            "gold": [-0.9 + 3 * x - fall * x * x for x in ramp],
        }
        rows = [row("ppo-lm-single", -1.9, fall=1.8 + off), row("ppo-lm-disagreement", 0.1, fall=0.2 + off), row("best-of-n", 0.4)]
        return {"rows": rows, "curves": {"single": curve(5.0 + off), "disagreement": curve(2.0 + off)}}
    if name == "alignment-tax":
        return {"rows": [row("ppo-lm", 0.95, tax=0.21 + off), row("ppo-ptx", 0.93, tax=0.012 + off / 10)], "curves": {}}
    if name == "k-wise":
        own = lambda fall, rise: [(0.6 - fall * i, 0.58 + rise * (i - 1) ** 2 + off / 10) for i in range(4)]
        return {"rows": [], "curves": {"per-prompt": own(0.02, 0.001), "shuffled-pairs": own(0.05, 0.012)}}
    return {"rows": [row(m, s + off) for m, s in (("pretrained", 0.45), ("sft", 0.5), ("dpo", 0.88), ("ppo-lm", 0.87))], "curves": {}}


@pytest.mark.parametrize("seeds", [1, 3])
def test_every_section_stands_there_once(seeds: int, tmp_path: Path):
    names = ("chain", "frontier", "over-optimization", "alignment-tax", "k-wise", "win-rates")
    for name in names:
        for seed in range(seeds):
            (tmp_path / f"{name}-{seed}.json").write_text(json.dumps(study(name, seed)))
    (tmp_path / "queries-0.json").write_text(json.dumps({"rows": [], "curves": {}}))  # a challenge has no section
    page = write_page(tmp_path).read_text()
    heads = re.findall(r"<h2>(.*?)</h2>", page)
    assert heads == [
        "Better than SFT", "What is possible, and what was reached", "When the proxy is optimized too far", "The alignment tax",
        "All pairs of a prompt at once", "Against people&#x27;s answers", "Answers side by side",
    ]  # fmt: skip
    assert page.count('class="chart wide"') == page.count('class="chart narrow"') == 6
    assert "<script" not in page and "src=" not in page and "&lt;script&gt;alert(1)" in page
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    fall = "1.80" if seeds == 3 else "1.77"
    assert f"gold falls by {fall} with one reward model" in page.replace("\n", " ")
    assert "dots lie further right" in page or seeds == 1


def test_side_by_side_escapes_and_keeps_the_order():
    table = side_by_side(["p", HOSTILE], {"first": ["a", "b"], "second": ["c", HOSTILE]})
    assert "<script" not in table and table.index("first") < table.index("second") < table.index(">a<") < table.index(">c<") < table.index(
        ">b<"
    )
