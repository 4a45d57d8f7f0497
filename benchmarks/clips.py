"""What a rater waits for: a clip, and the first pair on the screen: `python benchmarks/clips.py [--row]`, with nothing else on the machine.

Clips of 60 frames at 256 pixels, drawn and encoded as the room does, of worlds of every kind, from a snapshot 139 steps before the clip.
Then a run asks eight pairs, the room is opened on it, and a browser that has never been there opens its page:
seconds until both clips of the first pair can play. The largest of five each. With --row the result is appended to
benchmarks/results/rating_room.jsonl. Chromium and the extras `zoo` and `web` are needed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measures import append
from playwright.sync_api import sync_playwright

from tutelage.evaluate.clips import draw_segment, encode
from tutelage.experiment.config import RunConfig
from tutelage.experiment.fingerprint import commit, hardware
from tutelage.experiment.processor import prepare
from tutelage.experiment.run import Experiment
from tutelage.games.make import make
from tutelage.games.nested import action_width
from tutelage.games.spec import Box
from tutelage.learn.deep import sac
from tutelage.learn.preference import pebble
from tutelage.web.clips import CLIP_RATE

RESULTS = Path(__file__).resolve().parent / "results" / "rating_room.jsonl"
WORLDS = (
    "gym:Pendulum-v1", "gym:HalfCheetah-v5", "christiano:hopper", "christiano:ant", "dm:walker-walk", "dm:quadruped-walk",
    "atari:Breakout?endless=1", "particle:simple_spread?max_steps=200",
)  # fmt: skip
"""Whose episodes have 199 steps, whatever is done."""
LEAD_IN, FRAMES, SIZE, TURNS = 139, 60, 256, 5


def clip_seconds(address: str, folder: Path) -> float:
    """The longest of some turns, after a first one that opens the window."""
    game, chance = make(address, 1), np.random.default_rng(0)
    game.reset(seed=[0])
    snapshot = game.snapshot(0)
    shape = (LEAD_IN + FRAMES, action_width(game.action_space))
    reals = isinstance(game.action_space, Box)
    actions = torch.as_tensor(chance.uniform(-1.0, 1.0, shape) if reals else chance.integers(2, size=shape), dtype=torch.float32)
    taken: list[float] = []
    for _ in range(1 + TURNS):
        began = time.perf_counter()
        frames = draw_segment(game, snapshot, actions[:LEAD_IN], actions[LEAD_IN:], SIZE)
        encode(frames, folder / "clip.mp4", CLIP_RATE)
        taken.append(time.perf_counter() - began)
    game.close()
    return max(taken[1:])


def a_run_that_asks(out: Path) -> None:
    """PEBBLE on the cheetah, up to its first session of eight pairs."""
    settings = pebble.Config(
        labels=80, session_labels=8, session_every=500, pretraining_steps=400, sac=sac.Config(hidden=(64, 64), random_steps=300)
    )
    with Experiment(RunConfig(settings, "gym:HalfCheetah-v5", 100_000, rater="human", clips=0), out) as experiment:
        experiment.begin()
        lesson = experiment.lesson
        assert lesson is not None
        while not lesson.asked[0]:
            experiment.step()
        experiment.save()


def first_pair_seconds(run: Path) -> float:
    """The longest of some openings, each by a browser that has kept nothing."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert found is not None, "Chromium is not installed"
    command = [sys.executable, "-m", "tutelage.cli", "rate", str(run), "--no-browser", "--port", "0"]
    room = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"})
    assert room.stdout is not None
    taken: list[float] = []
    playable = "[...document.querySelectorAll('#pair video')].filter(video => video.readyState >= 3).length === 2"
    try:
        link = room.stdout.readline().split()[-1]
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
            first = browser.new_context()
            page = first.new_page()
            page.goto(link)
            known, address = first.storage_state(), page.url  # the session's cookie, and nothing else
            first.close()
            for _ in range(1 + TURNS):
                page = browser.new_context(viewport={"width": 1280, "height": 900}, storage_state=known).new_page()
                began = time.perf_counter()
                page.goto(address)
                while not page.evaluate(playable):
                    time.sleep(0.01)
                taken.append(time.perf_counter() - began)
                page.context.close()
            browser.close()
    finally:
        room.terminate()
        room.wait(30)
    return max(taken[1:])


def main() -> None:
    """Measure, print, and keep on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", action="store_true", help=f"append to {RESULTS.name}")
    given = parser.parse_args()
    prepare(1)
    row: dict[str, Any] = {"task": "clips"}
    with tempfile.TemporaryDirectory() as folder:
        for address in WORLDS:
            row[f"clip of {address} s"] = round(clip_seconds(address, Path(folder)), 3)
        a_run_that_asks(Path(folder) / "run")
        row["first pair s"] = round(first_pair_seconds(Path(folder) / "run"), 3)
    row |= {"hardware": hardware(), "commit": commit()}
    print(json.dumps(row, indent=1))
    if given.row:
        append(RESULTS, [row])


if __name__ == "__main__":
    main()
