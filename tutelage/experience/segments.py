"""Segments on disk, named by their content, each with the way to draw it later."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Shaped
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from tutelage.experience.files import sync
from tutelage.experience.replay import Replay
from tutelage.experience.rollout import Anchor
from tutelage.experience.trajectory import Segments
from tutelage.experience.trees import pack, unpack


class SegmentError(ValueError):
    """A segment file that is missing, damaged or not what its name says."""


@dataclass(frozen=True)
class StoredSegment:
    """One clip of H steps."""

    observation: Shaped[Tensor, "H *O"]
    """Vectors, or images of bytes."""
    action: Float[Tensor, "H A"]
    reward: Float[Tensor, "H"]
    """The game's own."""
    snapshot: Any | None
    """Where to put the game back to, some steps before the clip; None where the world cannot snapshot."""
    lead_in: Float[Tensor, "L A"]
    """Actions from the snapshot to the first step of the clip."""
    wide_observation: Float[Tensor, "W D"] | None = None
    """With as many steps before the clip as after it, which a crop may reach into and no rater sees. None: the clip alone is kept."""
    wide_action: Float[Tensor, "W A"] | None = None

    @property
    def whole(self) -> tuple[Tensor, Tensor]:
        """Observation and action with the steps that were not shown, where they are kept."""
        if self.wide_observation is None or self.wide_action is None:
            return self.observation, self.action
        return self.wide_observation, self.wide_action


def segment_hash(observation: Shaped[Tensor, "H *O"], action: Float[Tensor, "H A"]) -> str:
    """SHA-256 over what a rater could have seen: observations, images as bytes and all else as float32, and actions."""
    digest = hashlib.sha256()
    for tensor in (observation, action):
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def _is_whole(segment: StoredSegment) -> bool:
    """Whether what a file held has the types and shapes that it must have."""
    tensors: list[Any] = [segment.observation, segment.action, segment.lead_in, segment.reward]
    if not all(isinstance(tensor, Tensor) for tensor in tensors):
        return False
    kinds = [(tensor.dtype, tensor.dim()) for tensor in tensors]
    vectors, images = (torch.float32, 2), (torch.uint8, 4)
    if kinds[0] not in (vectors, images) or kinds[1:] != [vectors, vectors, (torch.float32, 1)]:
        return False
    same_steps = len(segment.observation) == len(segment.action) == len(segment.reward)
    return same_steps and segment.lead_in.shape[1] == segment.action.shape[1] and _is_wider(segment)


def _is_wider(segment: StoredSegment) -> bool:
    """Whether the clip lies in the middle of its wide form, where there is one."""
    wide: list[Any] = [segment.wide_observation, segment.wide_action]
    if wide == [None, None]:
        return True
    if not all(isinstance(tensor, Tensor) and tensor.dtype == torch.float32 and tensor.dim() == 2 for tensor in wide):
        return False
    margin, odd = divmod(len(wide[0]) - len(segment.reward), 2)
    inside = slice(margin, margin + len(segment.reward))
    pairs = zip(wide, (segment.observation, segment.action), strict=True)
    return not odd and margin > 0 and len(wide[0]) == len(wide[1]) and all(torch.equal(whole[inside], part) for whole, part in pairs)


class SegmentArchive:
    """A folder of segments; writing the same segment twice is writing it once."""

    def __init__(self, directory: Path) -> None:
        """directory: created when the first segment is put."""
        self.directory = directory
        self._known: dict[str, StoredSegment] = {}
        self._unsynced: list[Path] = []

    def put(self, segment: StoredSegment) -> str:
        """Keep a segment; returns its hash."""
        name = segment_hash(segment.observation, segment.action)
        if name not in self._known:
            self._known[name] = segment
            path = self._path(name)
            if not path.exists():
                self.directory.mkdir(parents=True, exist_ok=True)
                tensors, text = pack(
                    {
                        "observation": segment.observation,
                        "action": segment.action,
                        "reward": segment.reward,
                        "lead_in": segment.lead_in,
                        "snapshot": segment.snapshot,
                        "wide_observation": segment.wide_observation,
                        "wide_action": segment.wide_action,
                    }
                )
                partial = path.with_suffix(f".partial-{os.getpid()}")
                try:
                    partial.write_bytes(save(tensors, {"tree": text}))
                    os.replace(partial, path)
                finally:
                    partial.unlink(missing_ok=True)
                self._unsynced.append(path)
        return name

    def sync(self) -> None:
        """Return only when every segment put so far is on the disk; a checkpoint that names segments calls this first."""
        for path in [*self._unsynced, *([self.directory] if self._unsynced else [])]:
            sync(path)
        self._unsynced.clear()

    def get(self, name: str) -> StoredSegment:
        """Raises SegmentError when the file is missing or damaged."""
        if name not in self._known:
            path = self._path(name)
            try:
                opened: Any = safe_open(path, framework="pt")
                with opened as file:
                    tree = unpack({key: file.get_tensor(key) for key in file.keys()}, file.metadata()["tree"])  # noqa: SIM118
                segment = StoredSegment(**tree)
            except FileNotFoundError:
                raise SegmentError(f"segment {name} is not in {self.directory}") from None
            except (SafetensorError, KeyError, TypeError, ValueError, OSError, RecursionError) as error:
                raise SegmentError(f"segment file {path} is damaged: {error}") from None
            if not _is_whole(segment):
                raise SegmentError(f"segment file {path} is damaged: it does not hold tensors of one clip")
            if segment_hash(segment.observation, segment.action) != name:
                raise SegmentError(f"segment file {path} does not hold the segment that its name says")
            self._known[name] = segment
        return self._known[name]

    def _path(self, name: str) -> Path:
        return self.directory / f"{name}.safetensors"


def cut(replay: Replay, anchors: Sequence[Sequence[Anchor]], segments: Segments, seed: int, index: int, margin: int = 0) -> StoredSegment:
    """The index-th segment of a seed with its way back: the newest anchor at or before its start, and the actions from there.

    segments: as `Replay.segments` gave them `[R, N, W, ...]`; anchors: those of the rollout. margin: steps at either end that belong
    to the wide form only.
    """
    slot, copy = divmod(int(segments.start[seed, index]), replay.copies)
    newest = replay.steps - 1
    time = newest - (newest - slot) % replay.slots + margin  # of the clip's first step, counted from the start of the run
    oldest = replay.steps - len(replay)  # the actions before it are forgotten: no way leads from an anchor that is older
    before = [anchor for anchor in anchors[seed * replay.copies + copy] if oldest <= anchor.slot <= time]
    anchor = before[-1] if before else None
    first = time if anchor is None else anchor.slot
    lead_in = [replay.action_at(seed, copy, t) for t in range(first, time)]
    wide, shown = segments[seed][index], segments.inner(margin)[seed][index]
    return StoredSegment(
        observation=shown.observation.cpu(),
        action=shown.action.cpu(),
        reward=shown.reward.cpu(),
        snapshot=None if anchor is None else anchor.snapshot,
        lead_in=torch.stack(lead_in).cpu() if lead_in else torch.empty(0, replay.action_width),
        wide_observation=wide.observation.cpu() if margin else None,
        wide_action=wide.action.cpu() if margin else None,
    )
