"""Clips: what was drawn comes back out of the video, and a segment drawn later equals the one that was played."""

import subprocess
import sys

import imageio_ffmpeg
import numpy as np
import pytest
import torch

from tutelage.evaluate.clips import ClipError, draw_segment, encode, record_episode
from tutelage.games.make import make
from tutelage.games.nested import action_width, unflatten_action
from tutelage.games.spec import Box, CannotSnapshot, Game, GameError, Nested, Snapshot, Step


class Ladder(Game):
    """The state is a sum of actions; the picture is a square of that gray; an episode ends at five steps."""

    def __init__(self, copies: int = 1) -> None:
        self.copies = copies
        self.observation_space = self.action_space = Box((1,), np.array([-99.0]), np.array([99.0]))
        self.state = torch.zeros(copies)
        self.time = torch.zeros(copies, dtype=torch.int64)

    def reset(self, seed=None, where=None):
        where = torch.ones(self.copies, dtype=torch.bool) if where is None else where
        self.state[where], self.time[where] = 0.0, 0
        return self.state[:, None].clone()

    def step(self, actions):
        assert isinstance(actions, torch.Tensor)
        self.state += actions[:, 0]
        self.time += 1
        boundary = self.time >= 5
        return Step(self.state[:, None].clone(), self.state.clone(), torch.zeros_like(boundary), boundary, torch.ones_like(boundary))

    def snapshot(self, copy) -> Snapshot:
        return {"state": self.state[copy].item(), "time": int(self.time[copy])}

    def restore(self, copy, snapshot) -> Nested:
        self.state[copy], self.time[copy] = snapshot["state"], snapshot["time"]
        return self.state[copy : copy + 1].clone()

    def render(self, copy, width=256, height=256):
        return np.full((height, width, 3), int(self.state[copy]), dtype=np.uint8)


class Climb:
    def act(self, observation, deterministic=True):
        return torch.full_like(observation, 10.0)


def grays(frames: np.ndarray) -> list[int]:
    assert (frames == frames[:, :1, :1, :1]).all()
    return frames[:, 0, 0, 0].tolist()


def decode(path, height, width):
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    raw = subprocess.run(
        [ffmpeg, "-loglevel", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True
    ).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


@pytest.mark.parametrize("height, width", [(64, 96), (63, 95)])
def test_the_video_holds_the_frames(tmp_path, height, width):
    ramp = np.linspace(20, 230, 12).astype(np.uint8)
    frames = np.broadcast_to(ramp[:, None, None, None], (12, height, width, 3)).copy()
    path = encode(frames, tmp_path / "new" / "clip.mp4", fps=15)
    video = decode(path, height + height % 2, width + width % 2)
    assert len(video) == 12
    assert np.abs(video.astype(int).mean((1, 2, 3)) - ramp).max() < 4
    assert [p.name for p in path.parent.iterdir()] == ["clip.mp4"]
    content = path.read_bytes()
    assert b"ftyp" in content[:12] and content.index(b"moov") < content.index(b"mdat"), "the index must come first"
    assert b"avc1" in content


def test_bad_requests_are_one_sentence_and_leave_nothing(tmp_path, monkeypatch):
    frame = np.zeros((1, 8, 8, 3), np.uint8)
    with pytest.raises(ClipError, match="0 frames"):
        encode(frame[:0], tmp_path / "a.mp4", 10)
    with pytest.raises(ClipError, match="positive rate"):
        encode(frame, tmp_path / "a.mp4", 0)
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(OSError):
        encode(frame, tmp_path / "a.mp4", 10)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ClipError, match="pip install imageio-ffmpeg"):
        encode(frame, tmp_path / "b.mp4", 10)


def test_a_failing_encoder_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: "false")
    with pytest.raises(ClipError, match=r"c.mp4: ffmpeg could not encode 1 frames of 8x8"):
        encode(np.zeros((1, 8, 8, 3), np.uint8), tmp_path / "c.mp4", 10)
    assert list(tmp_path.iterdir()) == []


def test_an_episode_is_drawn_from_its_first_state_to_its_last():
    assert grays(record_episode(Climb(), Ladder(), seed=0, max_steps=100, size=16)) == [0, 10, 20, 30, 40, 50]
    assert grays(record_episode(Climb(), Ladder(3), seed=0, max_steps=2, size=16)) == [0, 10, 20]


def test_a_segment_drawn_later_shows_the_states_it_was_made_of():
    actions = torch.tensor([[7.0], [11.0], [13.0], [17.0], [19.0]])
    game = Ladder()
    game.reset(seed=[0])
    game.step(actions[:1])
    anchor = game.snapshot(0)
    game.reset()
    frames = draw_segment(game, anchor, actions[1:2], actions[2:], size=8)
    assert grays(frames) == [18, 31, 48, 67]
    assert grays(draw_segment(game, anchor, actions[:0], actions[1:2], size=8)) == [7, 18]


def test_a_segment_that_does_not_fit_its_anchor_is_refused():
    game, actions = Ladder(), torch.ones(6, 1)
    anchor = {"state": 0.0, "time": 0}
    with pytest.raises(GameError, match="ended at action 5 of 6"):
        draw_segment(game, anchor, actions[:3], actions[3:], size=8)
    with pytest.raises(GameError, match="of 2 copies"):
        draw_segment(Ladder(2), anchor, actions[:0], actions[:1], size=8)


def test_a_world_without_snapshots_or_pictures_says_so():
    class Blind(Ladder):
        snapshot, restore, render = Game.snapshot, Game.restore, Game.render

    with pytest.raises(CannotSnapshot, match="Blind"):
        draw_segment(Blind(), {}, torch.ones(0, 1), torch.ones(1, 1), size=8)
    with pytest.raises(GameError, match="Blind has no picture"):
        record_episode(Climb(), Blind(), seed=0, max_steps=1, size=8)


@pytest.mark.parametrize("address", ["gym:CartPole-v1", "gym:Pendulum-v1", "atari:Breakout", "particle:simple_spread"])
def test_what_was_played_is_drawn_again_whatever_actions_are_made_of(address: str):
    """Reals beyond their bounds and choices as the floats that equal them: as replay and archive keep them."""
    game, chance = make(address, 1), torch.Generator().manual_seed(0)
    game.reset(seed=[3])
    width = action_width(game.action_space)
    actions = torch.randint(2, (12, width), generator=chance).float() * (3.0 if isinstance(game.action_space, Box) else 1.0)
    anchor, live = game.snapshot(0), [game.render(0, 64, 64).copy()]
    for action in actions:
        outcome = game.step(unflatten_action(game.action_space, action[None]))
        live.append(game.render(0, 64, 64).copy())
        assert not outcome.boundary.any()
    frames = draw_segment(make(address, 1), anchor, actions[:5], actions[5:], size=64)
    assert np.array_equal(frames, np.stack(live[5:])) and len({frame.tobytes() for frame in frames}) > 2
