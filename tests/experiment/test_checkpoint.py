"""Checkpoints: whole or not there, whatever happens to their bytes."""

import errno
import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from tutelage.experience import files
from tutelage.experience.replay import Replay
from tutelage.experience.trajectory import Transition
from tutelage.experiment import checkpoint
from tutelage.experiment.checkpoint import CheckpointError, Checkpoints

FILES = ("manifest.json", "state.json", "state.safetensors")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoint, "SLOTS_PER_CHUNK", 8)


def filled(steps: int, capacity: int = 40) -> Replay:
    replay = Replay(capacity, members=2, copies=1, observation_shape=(3,), action_width=1)
    for t in range(steps):
        now, then = torch.full((2, 1, 3), float(t)), torch.full((2, 1, 3), t + 1.0)
        no, yes = torch.zeros(2, 1, dtype=torch.bool), torch.ones(2, 1, dtype=torch.bool)
        end = yes if t % 7 == 6 else no
        replay.add(Transition(now, now[..., :1], torch.full((2, 1), -float(t)), then, then + 100.0 * end[..., None], no, end, yes))
    return replay


def state(step: int) -> dict[str, Any]:
    return {"step": step, "weights": torch.full((50,), step + 0.5), "words": ["left", "right"] * 5}


def saved(run: Path, *steps: int, kept: int = 2) -> Checkpoints:
    checkpoints = Checkpoints(run, kept)
    for step in steps:
        checkpoints.save(step, state(step), filled(step))
    return checkpoints


def assert_holds(run: Path, step: int) -> None:
    loaded = Checkpoints(run).load_newest()
    assert loaded.step == loaded.state["step"] == step
    assert torch.equal(loaded.state["weights"], state(step)["weights"]) and loaded.state["words"] == state(step)["words"]
    replay, expected = filled(0), filled(step)
    replay.load(expected.state(), loaded.chunks, loaded.slots_per_chunk)
    for name in ("rows", "reward", "game_reward", "final_row"):
        assert torch.equal(getattr(replay, name), getattr(expected, name)), name


def flip(path: Path, position: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def forge(checkpoint_directory: Path, **contents: bytes) -> None:
    """Write other contents, with hashes that vouch for them."""
    path = checkpoint_directory / "manifest.json"
    manifest = json.loads(path.read_text())
    for name, content in contents.items():
        file = name.replace("_", ".")
        (checkpoint_directory / file).write_bytes(content)
        manifest["files"][file] = hashlib.sha256(content).hexdigest()
    forge_manifest(checkpoint_directory, **manifest)


def forge_manifest(checkpoint_directory: Path, **changes: object) -> None:
    path = checkpoint_directory / "manifest.json"
    manifest = json.loads(path.read_text()) | changes
    del manifest["digest"]
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(manifest | {"digest": digest}))


@pytest.mark.parametrize("steps", [0, 5, 8, 30, 39, 40, 41, 95])
def test_what_is_saved_comes_back(tmp_path: Path, steps: int):
    saved(tmp_path, steps)
    assert_holds(tmp_path, steps)


def test_a_chunk_that_can_no_longer_change_is_written_once(tmp_path: Path):
    checkpoints = saved(tmp_path, 20)
    before = {path.name: path.stat().st_ino for path in (tmp_path / "replay").iterdir()}
    checkpoints.save(30, state(30), filled(30))
    after = {path.name: path.stat().st_ino for path in (tmp_path / "replay").iterdir()}
    same = [name for name, inode in before.items() if after.get(name) == inode]
    assert len(same) == len(before) == 6  # both checkpoints stand, and none of the first one's chunks was written again
    rows = {pair[0] for pair in json.loads((tmp_path / "checkpoints/step-000000030/manifest.json").read_text())["replay"]}
    assert len(rows & before.keys() | {name for name in rows if f"{name}.safetensors" in before}) == 2  # slots 0-7 and 8-15


def test_only_the_newest_stay_and_only_their_chunks(tmp_path: Path):
    saved(tmp_path, 10, 20, 30, 95, kept=2)
    assert [path.name for path in Checkpoints(tmp_path).all()] == ["step-000000095", "step-000000030"]
    named = set()
    for path in Checkpoints(tmp_path).all():
        named |= {name for pair in json.loads((path / "manifest.json").read_text())["replay"] for name in pair}
    assert {path.stem for path in (tmp_path / "replay").iterdir()} == named


def test_newest_is_a_matter_of_numbers(tmp_path: Path):
    for name in ("step-1000000000", "step-999999999", "step-999999999.2", "step-999999999.10", "step-x", ".partial-7", "notes"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert [p.name[5:] for p in Checkpoints(tmp_path).all()] == ["1000000000", "999999999.10", "999999999.2", "999999999"]


def test_saving_a_step_again_keeps_one_of_it(tmp_path: Path):
    checkpoints = saved(tmp_path, 10, 20, kept=2)
    checkpoints.save(20, state(20) | {"words": ["again"]}, filled(20))
    assert Checkpoints(tmp_path).load_newest().state["words"] == ["again"]
    assert [path.name for path in Checkpoints(tmp_path).all()] == ["step-000000020.1", "step-000000020"]
    checkpoints.save(30, state(30), filled(30))
    assert_holds(tmp_path, 30)


def test_leftovers_of_killed_writers_are_cleared_away(tmp_path: Path):
    saved(tmp_path, 10)
    (tmp_path / "checkpoints/.partial-000000020-1").mkdir()
    (tmp_path / "checkpoints/.partial-000000020-1/state.json").write_text("{")
    (tmp_path / "replay/.partial-1").write_text("half")
    (tmp_path / f"replay/{'0' * 64}.safetensors").write_text("of a checkpoint that was never finished")
    saved(tmp_path, 20)
    assert not [path for path in tmp_path.rglob("*") if ".partial" in path.name or path.name.startswith("000")]


# Damage ---------------------------------------------------------------------------------------------------------------


def outcome(run: Path) -> str:
    """What loading gives: a checkpoint that is entirely as written, or a CheckpointError; anything else fails the test."""
    try:
        step = Checkpoints(run).load_newest().step
    except CheckpointError as error:
        assert "\n" not in str(error)
        return "error"
    assert_holds(run, step)
    return str(step)


@pytest.mark.parametrize("name", [*FILES, "rows", "rewards"])
def test_no_flipped_byte_and_no_truncation_goes_unnoticed(tmp_path: Path, name: str):
    saved(tmp_path, 20, 30)
    newest, chance = tmp_path / "checkpoints/step-000000030", random.Random(name)
    rows, rewards = json.loads((newest / "manifest.json").read_text())["replay"][-1]
    chunk = {"rows": rows, "rewards": rewards}.get(name)
    path = newest / name if chunk is None else tmp_path / f"replay/{chunk}.safetensors"
    whole = path.read_bytes()
    found = []
    for position in sorted(chance.sample(range(len(whole)), min(len(whole), 120))):
        flip(path, position, chance.randrange(8))
        found.append(outcome(tmp_path))
        path.write_bytes(whole)
    if name != "manifest.json":  # of which a flip may hit an indentation that means the same
        assert set(found) == {"20"}
    for length in [0, 1, len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(20))]:
        path.write_bytes(whole[:length])
        assert outcome(tmp_path) == "20"
    path.unlink()
    assert outcome(tmp_path) == "20"
    path.write_bytes(whole)
    assert outcome(tmp_path) == "30"


def test_every_bit_of_the_manifest_counts(tmp_path: Path):
    saved(tmp_path, 12)
    path = tmp_path / "checkpoints/step-000000012/manifest.json"
    whole = path.read_bytes()
    meaning = json.loads(whole)
    for position in range(0, len(whole), 3):
        flip(path, position, position % 8)
        try:
            changed = json.loads(path.read_bytes()) != meaning
        except ValueError:
            changed = True
        assert outcome(tmp_path) == ("error" if changed else "12"), path.read_bytes()[position - 20 : position + 20]
        path.write_bytes(whole)


def test_the_newest_valid_one_is_used_and_why_is_said(tmp_path: Path):
    saved(tmp_path, 10, 20, 30, kept=3)
    flip(tmp_path / "checkpoints/step-000000030/state.safetensors", 200, 1)
    (tmp_path / "checkpoints/step-000000020/state.json").unlink()
    loaded = Checkpoints(tmp_path).load_newest()
    assert loaded.step == 10
    assert loaded.passed_over == [
        "checkpoint step-000000030 is damaged: state.safetensors is not what was written",
        "checkpoint step-000000020 is incomplete: state.json is missing",
    ]
    step, values, passed_over = Checkpoints(tmp_path).load_state()
    assert (step, values["step"], passed_over) == (10, 10, loaded.passed_over)


def test_without_a_valid_one_every_reason_is_given(tmp_path: Path):
    with pytest.raises(CheckpointError, match="^no valid checkpoint in .*checkpoints: there is none$"):
        Checkpoints(tmp_path).load_newest()
    saved(tmp_path, 10)
    flip(next((tmp_path / "replay").iterdir()), 100, 0)
    with pytest.raises(CheckpointError, match="checkpoint step-000000010 is damaged: replay chunk [0-9a-f]{12} is not what was written$"):
        Checkpoints(tmp_path).load_newest()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"color": "red"}, "checkpoint step-000000010 has an unknown field 'color'; this version knows format, step, files, replay"),
        ({"format": 2}, "checkpoint step-000000010 has format 2; this version reads format 1"),
        ({"step": "10"}, "damaged: its manifest speaks of step '10' and chunks of 8 slots"),
        ({"step": 11}, "damaged: its manifest speaks of step 11"),
        ({"slots_per_chunk": 0}, "chunks of 0 slots"),
        ({"replay": [["../../etc/passwd", "x"]]}, "are no names of replay chunks"),
        ({"replay": [["0" * 64]]}, "are no names of replay chunks"),
        ({"replay": 7}, "damaged: TypeError"),
        ({"files": {}}, "damaged: KeyError"),
        ({"files": []}, "damaged: TypeError"),
    ],
)
def test_a_manifest_that_no_version_wrote_is_refused_in_one_sentence(tmp_path: Path, change: dict[str, object], sentence: str):
    saved(tmp_path, 10)
    forge_manifest(tmp_path / "checkpoints/step-000000010", **change)
    with pytest.raises(CheckpointError, match=sentence):
        Checkpoints(tmp_path).load_newest()


@pytest.mark.parametrize(
    "contents",
    [
        {"state_json": b"[]"},
        {"state_json": b"\xff\xfe"},
        {"state_json": b'{"x": {"$tensor": "/nowhere"}}'},
        {"state_json": b'{"x": {"$tensor": ["a"]}}'},
        {"state_json": b"[" * 100_000},
        {"state_json": b"1" * 5_000},
        {"state_safetensors": b""},
        {"state_safetensors": b"\xff" * 64},
        {"state_safetensors": b"\x08\x00\x00\x00\x00\x00\x00\x00[[[[[[[["},
        {"state_safetensors": save({"/weights": torch.ones(3)})[:-4]},
        {"state_safetensors": b"\x80\x04cos\nsystem\n"},
    ],
)
def test_bytes_that_a_forged_hash_vouches_for_give_an_error_and_no_more(tmp_path: Path, contents: dict[str, bytes]):
    saved(tmp_path, 10)
    forge(tmp_path / "checkpoints/step-000000010", **contents)
    with pytest.raises(CheckpointError, match="step-000000010 is damaged"):
        Checkpoints(tmp_path).load_newest()


def test_random_bytes_under_a_forged_hash_give_a_value_or_an_error(tmp_path: Path):
    saved(tmp_path, 10)
    directory, chance = tmp_path / "checkpoints/step-000000010", random.Random(1)
    whole = {name: (directory / name).read_bytes() for name in FILES[1:]}
    values = 0
    for round_ in range(300):
        name = FILES[1 + round_ % 2]
        content = bytearray(whole[name])
        for _ in range(chance.randrange(1, 4)):
            content[chance.randrange(min(len(content), 400))] = chance.randrange(256)
        forge(directory, **{name.replace(".", "_"): bytes(content)})
        try:
            Checkpoints(tmp_path).load_newest()
            values += 1
        except CheckpointError:
            pass
        forge(directory, **{name.replace(".", "_"): whole[name]})
    assert 0 < values < 300


def test_a_damaged_chunk_is_written_again_when_the_run_comes_by_once_more(tmp_path: Path):
    saved(tmp_path, 20, 30)
    chunk = json.loads((tmp_path / "checkpoints/step-000000030/manifest.json").read_text())["replay"][-1][0]
    flip(tmp_path / f"replay/{chunk}.safetensors", 300, 3)
    assert Checkpoints(tmp_path).load_newest().step == 20
    saved(tmp_path, 30)
    assert_holds(tmp_path, 30)


@pytest.mark.parametrize("kept", [1, 2])
def test_damaged_later_checkpoints_do_not_push_out_a_valid_one(tmp_path: Path, kept: int):
    saved(tmp_path, 10, 20, 30, kept=3)
    for step in (20, 30):
        (tmp_path / f"checkpoints/step-0000000{step}/state.json").write_text("{}")
    checkpoints = Checkpoints(tmp_path, kept)
    assert checkpoints.load_newest().step == 10
    checkpoints.save(15, state(15), filled(15))
    assert [path.name for path in checkpoints.all()] == ["step-000000015", "step-000000010"][:kept]
    assert_holds(tmp_path, 15)


def test_a_full_disk_at_any_write_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write, run = files.write_synced, tmp_path / "run"
    saved(tmp_path / "old", 20)
    failures = 0
    for room in range(100):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(tmp_path / "old", run)
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        checkpoints, written = Checkpoints(run), 0

        def full(path: Path, content: bytes, room: int = room) -> None:
            nonlocal written
            written += 1
            if written > room:
                path.write_bytes(content[: len(content) // 2])
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            write(path, content)

        for module in (files, checkpoint):
            monkeypatch.setattr(module, "write_synced", full)
        try:
            checkpoints.save(30, state(30), filled(30))
            break
        except OSError as error:
            assert error.errno == errno.ENOSPC
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
        for module in (files, checkpoint):
            monkeypatch.setattr(module, "write_synced", write)
        checkpoints.save(30, state(30), filled(30))  # the same writer, once there is room
        assert_holds(run, 30)
        failures += 1
    assert failures == 11  # four chunks of rows and of rewards, the three files
