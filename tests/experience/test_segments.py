"""Segments on disk, and the way from a segment back to pictures of it."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file, save
from torch import Generator, Tensor

from tutelage.evaluate.clips import draw_segment
from tutelage.experience.replay import Replay
from tutelage.experience.rollout import Rollout
from tutelage.experience.segments import SegmentArchive, SegmentError, StoredSegment, cut, segment_hash
from tutelage.games.make import make
from tutelage.games.spec import Nested


def segment(seed: int = 0, H: int = 5, L: int = 2) -> StoredSegment:
    g = Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(shape, generator=g)
    return StoredSegment(draw(H, 3), draw(H, 1), draw(H), {"angle": draw(2), "count": 3, "rest": [None, "x", 2**70]}, draw(L, 1))


def test_what_is_put_comes_back_from_the_disk(tmp_path):
    for original in (segment(), segment(1, L=0), dataclasses.replace(segment(2), snapshot=None)):
        name = SegmentArchive(tmp_path / "segments").put(original)
        found = SegmentArchive(tmp_path / "segments").get(name)
        for part in ("observation", "action", "reward", "lead_in"):
            assert torch.equal(getattr(found, part), getattr(original, part))
        if original.snapshot is not None:
            assert found.snapshot is not None
            assert torch.equal(found.snapshot.pop("angle"), original.snapshot["angle"])
            assert found.snapshot == {"count": 3, "rest": [None, "x", 2**70]}
        else:
            assert found.snapshot is None


def test_the_name_is_that_of_what_a_rater_sees(tmp_path):
    one = segment()
    same_clip = dataclasses.replace(one, reward=one.reward + 1.0, snapshot=None)
    archive = SegmentArchive(tmp_path)
    assert archive.put(one) == archive.put(same_clip) == segment_hash(one.observation, one.action)
    assert len(list(tmp_path.iterdir())) == 1
    assert torch.equal(SegmentArchive(tmp_path).get(archive.put(one)).reward, one.reward)  # the first one stays
    assert archive.put(segment(1)) != archive.put(one)
    narrow, wide = torch.zeros(4, 1), torch.zeros(4, 2)
    assert segment_hash(narrow, wide) != segment_hash(wide, narrow)
    assert segment_hash(one.observation.mT.contiguous().mT, one.action) == segment_hash(one.observation, one.action)


def test_nothing_is_on_the_disk_before_the_first_segment(tmp_path):
    archive = SegmentArchive(tmp_path / "segments")
    assert not (tmp_path / "segments").exists()
    with pytest.raises(SegmentError, match="segment abc is not in"):
        archive.get("abc")


def damaged(tmp_path, change) -> str:
    archive = SegmentArchive(tmp_path)
    name = archive.put(segment())
    path = tmp_path / f"{name}.safetensors"
    change(path)
    with pytest.raises(SegmentError, match="is damaged|does not hold the segment") as error:
        SegmentArchive(tmp_path).get(name)
    return str(error.value)


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_a_torn_file_is_one_sentence(tmp_path, size: int):
    damaged(tmp_path, lambda path: path.write_bytes(path.read_bytes()[:size]))


def test_another_segment_under_this_name_is_found_out(tmp_path):
    other = SegmentArchive(tmp_path / "other").put(segment(1))
    swap = lambda path: path.write_bytes((tmp_path / "other" / f"{other}.safetensors").read_bytes())
    assert "does not hold the segment that its name says" in damaged(tmp_path / "own", swap)


@pytest.mark.parametrize(
    "tree",
    [
        None,
        "",
        "{",
        "[]",
        "{}",
        '{"observation": 3, "action": 4, "reward": 5, "snapshot": null, "lead_in": 6}',
        '{"observation": {"$tensor": "/nowhere"}}',
        '{"observation": {"$tensor": ["/observation"]}}',
        '{"observation": {"$tensor": "/observation"}, "action": {"$tensor": "/action"}, "reward": "much", "snapshot": 1, "lead_in": []}',
        "[" * 100_000,
    ],
)
def test_a_file_with_another_tree_is_one_sentence(tmp_path, tree: str | None):
    damaged(tmp_path, lambda path: path.write_bytes(save(load_file(path), None if tree is None else {"tree": tree})))


@pytest.mark.parametrize("part", ["/observation", "/action", "/reward", "/lead_in"])
@pytest.mark.parametrize("value", [torch.zeros(3), torch.zeros(2, 2, 2), torch.zeros(4, 9), torch.zeros(5, 3, dtype=torch.int64)])
def test_a_file_with_tensors_that_are_no_clip_is_one_sentence(tmp_path, part: str, value: Tensor):
    def change(path):
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        path.write_bytes(save(load_file(path) | {part: value}, metadata))

    damaged(tmp_path, change)


H = 6


def first(observation: Nested) -> Tensor:
    assert isinstance(observation, Tensor)
    return observation[0]


def played(steps: int, capacity: int = 1000, anchor_every: int = 25) -> tuple[Rollout, Replay]:
    game = make("gym:Pendulum-v1", 4)
    rollout, replay = Rollout(game, 2, [5, 6, 7, 8], anchor_every), Replay(capacity, 2, 2, (3,), 1)
    g = Generator().manual_seed(0)
    for _ in range(steps):
        replay.add(rollout.step(4.0 * torch.rand(2, 2, 1, generator=g) - 2.0))
    return rollout, replay


@pytest.mark.parametrize(("steps", "capacity"), [(230, 1000), (330, 120), (60, 60)])
def test_a_clip_replays_from_its_anchor_to_the_same_observations(tmp_path, steps: int, capacity: int):
    rollout, replay = played(steps, capacity)
    starts = replay.draw_starts(12, H, 100, [Generator().manual_seed(i) for i in range(2)])
    segments = replay.segments(starts, H)
    archive, game = SegmentArchive(tmp_path), make("gym:Pendulum-v1", 1)
    for seed in range(2):
        for index in range(12):
            clip = cut(replay, rollout.anchors, segments, seed, index)
            clip = SegmentArchive(tmp_path).get(archive.put(clip))
            if clip.snapshot is None:
                assert capacity < steps  # the way back was forgotten with the ring
                continue
            assert len(clip.lead_in) < 25
            observation = game.restore(0, clip.snapshot)
            for action in clip.lead_in:
                observation = first(game.step(action[None]).observation)
            for t in range(H):
                assert torch.equal(torch.as_tensor(observation), clip.observation[t])
                step = game.step(clip.action[t][None])
                assert step.reward[0] == clip.reward[t]
                observation = first(step.observation)


def test_no_way_leads_from_an_anchor_whose_actions_are_forgotten():
    rollout, replay = played(103, capacity=20, anchor_every=50)  # anchors at 0, 50 and 100; steps 83 to 102 are held
    starts = replay.segment_starts(2, 100)
    segments = replay.segments(torch.stack([own[:38] for own in starts]), 2)
    ways = {}
    for index in range(38):
        clip = cut(replay, rollout.anchors, segments, 1, index)
        ways[83 + index // 2] = None if clip.snapshot is None else len(clip.lead_in)
    assert ways == dict.fromkeys(range(83, 100)) | {100: 0, 101: 1}


def test_a_world_without_snapshots_still_gives_clips():
    rollout, replay = played(40, anchor_every=0)
    segments = replay.segments(torch.stack([own[:1] for own in replay.segment_starts(H, 10)]), H)
    clip = cut(replay, rollout.anchors, segments, 0, 0)
    assert clip.snapshot is None and clip.lead_in.shape == (0, 1) and torch.equal(clip.observation, segments.observation[0, 0])


def test_the_clip_can_be_drawn():
    rollout, replay = played(60)
    segments = replay.segments(torch.stack([own[70:71] for own in replay.segment_starts(H, 10)]), H)
    clip = cut(replay, rollout.anchors, segments, 1, 0)
    assert clip.snapshot is not None
    frames = draw_segment(make("gym:Pendulum-v1", 1), clip.snapshot, clip.lead_in, clip.action, size=64)
    assert frames.shape == (H + 1, 64, 64, 3) and len({frame.tobytes() for frame in frames}) == H + 1
