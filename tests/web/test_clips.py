"""Clips are drawn off the training path, once, and say why where they cannot be."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import pytest
import torch

from tests.web.serving import ENVIRONMENT
from tutelage.experience.segments import SegmentArchive, StoredSegment
from tutelage.feedback.query import SegmentRecord, new_query
from tutelage.feedback.queue import Queue
from tutelage.feedback.store import Store
from tutelage.games.make import make
from tutelage.web.clips import ClipService, draw
from tutelage.web.instructions import ATARI, GENERAL, instructions
from tutelage.web.runs import Runs

GAME = "gym:Pendulum-v1"


def played(archive: SegmentArchive, seed: int, steps: int = 20, snapshot: bool = True) -> str:
    """A segment of Pendulum pushed one way; returns its hash."""
    game = make(GAME, 1)
    observation = [game.reset(seed=[seed])]
    anchor = game.snapshot(0)
    action = torch.full((steps, 1), -2.0 if seed % 2 else 2.0)
    reward = torch.zeros(steps)
    for t in range(steps):
        step = game.step(action[t : t + 1])
        observation.append(step.observation)
        reward[t] = step.reward[0]
    game.close()
    seen = torch.cat(observation[:-1])  # type: ignore[arg-type]
    return archive.put(StoredSegment(seen, action, reward, anchor if snapshot else None, torch.empty(0, 1)))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ClipService]:
    (tmp_path / "run").mkdir()
    with Store(f"sqlite:///{tmp_path / 'l.sqlite'}") as store:
        service = ClipService(Queue(store), Runs((tmp_path / "run",)), tmp_path / "clips", quota=2**30, size=64)
        yield service
        service.close()


def told(service: ClipService, name: str, location: str | None = None) -> None:
    service.queue.store.add([SegmentRecord(name, location or f"segments/{name}.safetensors", GAME, 20)])


def until(condition: object, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.05)


def test_what_waits_is_drawn_before_it_is_asked_for_and_moves(service: ClipService, tmp_path: Path):
    archive = SegmentArchive(tmp_path / "run" / "segments")
    one, other = played(archive, 0), played(archive, 1)
    told(service, one)
    told(service, other)
    service.queue.submit([new_query("pair", [one, other], "run/seed-0", "uniform", 20)])
    service.start()
    until(lambda: service.path(one).is_file() and service.path(other).is_file())
    frames: list[list[bytes]] = []
    for name in (one, other):
        reader = imageio_ffmpeg.read_frames(str(service.ready(name)))
        about = next(reader)
        assert about["codec"] == "h264" and about["size"] == (64, 64) and about["fps"] == 30
        frames.append(list(reader))
    assert all(len(own) == 21 and len(set(own)) > 10 for own in frames) and frames[0] != frames[1]


@pytest.mark.parametrize("location", ["../secret/x.safetensors", "/etc/passwd", "segments/../../x", "https://elsewhere.example/x"])
def test_nothing_outside_a_run_is_opened(service: ClipService, location: str, tmp_path: Path):
    (tmp_path / "x").write_bytes(b"secret")
    told(service, "abc", location)
    assert service.locate("abc") is None


def test_the_reason_takes_the_place_of_a_clip(tmp_path: Path):
    archive = SegmentArchive(tmp_path / "segments")
    name = played(archive, 0, snapshot=False)
    out = str(tmp_path / "x.mp4")
    file = tmp_path / "segments" / f"{name}.safetensors"
    assert "cannot be put back" in draw(str(file), GAME, out, 64)
    assert "did you mean gym:Pendulum-v1" in draw(
        str(tmp_path / "segments" / f"{played(archive, 1)}.safetensors"), "gym:Pendulun-v1", out, 64
    )
    assert "is not in" in draw(str(tmp_path / "segments" / "absent.safetensors"), GAME, out, 64)
    file.write_bytes(b"damaged")
    assert "is damaged" in draw(str(file), GAME, out, 64)
    assert not Path(out).exists()


def test_the_quota_deletes_what_nobody_looked_at_for_longest(service: ClipService):
    service.folder.mkdir()
    service.quota = 250
    for number, name in enumerate("abc"):
        service.path(name).write_bytes(b"x" * 100)
        os.utime(service.path(name), (number, number))
    assert service.ready("a") is not None  # looked at just now
    service._keep_quota()
    assert [path.name[0] for path in sorted(service.folder.iterdir())] == ["a", "c"]


def test_every_game_of_the_lecture_has_its_instructions():
    games = ["gym:Hopper-v5", "gym:HalfCheetah-v5", "gym:InvertedPendulum-v5", "atari:Breakout", "atari:Pong", "gym:Pendulum-v1"]
    told = [instructions(game) for game in games]
    assert all(own[: len(GENERAL)] == GENERAL and len(own) > len(GENERAL) for own in told) and len(set(told)) == len(games)
    assert instructions("atari:Seaquest") == (*GENERAL, *ATARI) and instructions("") == GENERAL


DRAWER = """
import multiprocessing, sys, time
from concurrent.futures import ProcessPoolExecutor
import os
from tutelage.web.clips import be_nice

if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), be_nice)
    print(pool.submit(os.getpid).result(), flush=True)
    time.sleep(600)
"""


def test_a_server_that_is_killed_leaves_no_process_behind(tmp_path: Path):
    script = tmp_path / "drawer.py"
    script.write_text(DRAWER)
    server = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert server.stdout is not None
    drawer = int(server.stdout.readline())
    server.kill()
    server.wait(30)
    until(lambda: not Path(f"/proc/{drawer}").exists() or "Z" in Path(f"/proc/{drawer}/stat").read_text().rsplit(")", 1)[1][:3])
