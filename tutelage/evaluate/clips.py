"""Moving pictures: playing an episode to draw it, drawing a segment again, and encoding both as video."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tutelage.evaluate.episodes import Playing, Policy
from tutelage.games.nested import unflatten_action
from tutelage.games.spec import Game, GameError, Snapshot


class ClipError(ValueError):
    """A clip that cannot be encoded; one sentence: what was given, what was expected."""


def encode(frames: UInt8[np.ndarray, "N H W 3"], path: Path, fps: int | float) -> Path:
    """Write an h264 mp4 that every browser plays (yuv420p, index first) and return `path`.

    A picture with an odd side is widened by its own last row or column, for yuv420p halves both sides. The file appears
    only when it is complete. Raises ClipError for no frames, an fps that is not positive, or an encoder that fails.
    """
    if len(frames) == 0 or not fps > 0:
        raise ClipError(f"{path.name}: {len(frames)} frames at {fps} frames per second; at least one frame and a positive rate are needed")
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise ClipError(f"{path.name}: encoding video needs the package imageio-ffmpeg (pip install imageio-ffmpeg): {error}") from error
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.mp4")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{frames.shape[2]}x{frames.shape[1]}", "-r", f"{fps:g}", "-i", "-", "-an", "-c:v", "libx264", "-threads", "1"]
    command += ["-preset", "veryfast", "-crf", "23", "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(unfinished)]
    try:
        answer = subprocess.run(command, input=np.ascontiguousarray(frames).tobytes(), capture_output=True)
        if answer.returncode != 0:
            reason = answer.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no reason given"]
            raise ClipError(f"{path.name}: ffmpeg could not encode {len(frames)} frames of {width}x{height}: {reason[0]}")
        os.replace(unfinished, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            unfinished.unlink()
    return path


@torch.no_grad()
def record_episode(policy: Policy, game: Game, seed: int, max_steps: int, size: int = 256) -> UInt8[np.ndarray, "N size size 3"]:
    """Draw copy 0 from its reset to the end of its episode, or until `max_steps`: the start and every state after it.

    Frames of steps that a vectorized world spends on a reset are left out. Raises GameError where the world has no picture.
    """
    playing = Playing(policy, game, seed)
    frames = [_picture(game, size)]
    for _ in range(max_steps):
        step = playing.step(playing.act())
        if step.mask[0].any():
            frames.append(_picture(game, size))
        if step.boundary[0]:
            break
    return np.stack(frames)


def draw_segment(
    game: Game,
    anchor: Snapshot,
    actions_before: Float[Tensor, "before A"],
    actions: Float[Tensor, "H A"],
    size: int = 256,
) -> UInt8[np.ndarray, "frames size size 3"]:
    """Draw a segment that was played before: restore its anchor, replay unseen up to its start, then draw its H + 1 states.

    Actions are laid out as `nested.flatten_action` does, and played as whoever learned played them.
    anchor: a snapshot of one copy; actions_before: from the anchor to the segment's first observation; actions: the segment's.
    Raises CannotSnapshot where the world cannot be put back, GameError where it has no picture or has more than one copy, or
    where the episode ends before the actions do (then they were not played from this anchor).
    """
    if game.copies != 1:
        raise GameError(f"draw_segment was given a {type(game).__name__} of {game.copies} copies; it draws in a game of one")
    game.restore(0, anchor)
    played = torch.cat([actions_before, actions])
    for _ in _replay(game, played, 0, len(actions_before)):
        pass
    frames = [_picture(game, size)]
    frames += [_picture(game, size) for _ in _replay(game, played, len(actions_before), len(played))]
    return np.stack(frames)


def _replay(game: Game, actions: Tensor, start: int, stop: int) -> Iterator[None]:
    for t in range(start, stop):
        ended = bool(game.step(unflatten_action(game.action_space, actions[t : t + 1])).boundary[0])
        if ended and t + 1 < len(actions):
            raise GameError(f"the episode ended at action {t + 1} of {len(actions)}: they were not played from this snapshot")
        yield


def _picture(game: Game, size: int) -> UInt8[np.ndarray, "size size 3"]:
    return np.array(game.render(0, width=size, height=size))  # a copy: some worlds draw into one buffer
