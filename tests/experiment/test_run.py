"""A run: where it is continued, it goes on with the same bits, and what goes wrong with one seed stays there."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tutelage.experience.trees import pack
from tutelage.experiment.checkpoint import CheckpointError
from tutelage.experiment.config import RunConfig
from tutelage.experiment.log import read_events
from tutelage.experiment.run import Experiment, RunError, read_config
from tutelage.games.spec import GameError
from tutelage.learn.deep import sac
from tutelage.learn.preference import pebble
from tutelage.rewards import learned

SAC = sac.Config(hidden=(8, 8), batch_size=8, random_steps=10)
PEBBLE = pebble.Config(
    labels=8, session_labels=4, session_every=20, pretraining_steps=10, entropy_every=10, poll_every=5, segment_length=5, candidates=2,
    updates_after_reset=2, sac=SAC, reward_model=learned.Config(hidden=(8,), members=2, batch_size=4, epochs=5),
)  # fmt: skip
CONFIG = RunConfig(
    SAC, "py:push:Push", 60, seeds=2, evaluate_every=30, evaluation_episodes=1, checkpoint_every=20, log_every=10, clips=0,
    anchor_every=10,
)  # fmt: skip
WALL_CLOCK = {"time", "seconds"}

GAME = '''
"""A point that is pushed about; what happens to `POISON` is for the tests to say."""
import torch
from tutelage.games.spec import Box, Game, Step
import numpy as np

POISON = {"copy": None, "after": 0, "reward": None, "observation": None, "reset": None, "copies": None}

class Push(Game):
    observation_space = Box((2,), np.full(2, -np.inf, np.float32), np.full(2, np.inf, np.float32))
    action_space = Box((1,), np.full(1, -1.0, np.float32), np.full(1, 1.0, np.float32))

    def __init__(self, copies):
        self.copies, self.place, self.time = copies, torch.zeros(copies, 2), torch.zeros(copies, dtype=torch.int64)
        self.played = 0

    def _poisoned(self, what, values):
        if POISON[what] is not None and self.copies == POISON["copies"] and self.played >= POISON["after"]:
            values = values.clone()
            values[POISON["copy"]] = POISON[what]
        return values

    def reset(self, seed=None, where=None):
        where = torch.ones(self.copies, dtype=torch.bool) if where is None else where
        self.place[where], self.time[where] = 0.5, 0
        return self._poisoned("reset", self.place.clone())

    def step(self, actions):
        self.played += 1
        self.time += 1
        self.place = 0.9 * self.place + 0.1 * torch.cat([actions, actions.abs()], -1).nan_to_num()
        end = self.time >= 10
        reward = self._poisoned("reward", -self.place.square().sum(-1))
        return Step(self._poisoned("observation", self.place.clone()), reward, end & False, end, end | True)

    def snapshot(self, copy):
        return {"place": self.place[copy].clone(), "time": int(self.time[copy])}

    def restore(self, copy, snapshot):
        self.place[copy], self.time[copy] = snapshot["place"], snapshot["time"]
        return self.place[copy]
'''


@pytest.fixture(autouse=True)
def poison(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Makes the game py:push:Push; the dict says what it does to one copy of a run with three."""
    folder = tmp_path_factory.mktemp("games")
    (folder / "push.py").write_text(GAME)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "push", raising=False)
    import push  # type: ignore[import-not-found]

    push.POISON.update(copy=1, after=25, copies=3)
    return push.POISON


def bits(experiment: Experiment) -> tuple[dict[str, bytes], str]:
    """All that has been learned and stored."""
    replay = experiment.experience
    tree = {"learner": experiment.learner.state(), "rollout": experiment.rollout.state(), "replay": replay.state()}
    tensors, text = pack(tree | {name: getattr(replay, name) for name in ("rows", "reward", "game_reward", "final_row")})
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}, text


def events(run: Path) -> list[dict[str, Any]]:
    kept = [event for event in read_events(run / "events.jsonl") if event["event"] != "resumed"]
    return [{name: value for name, value in event.items() if name not in WALL_CLOCK} for event in kept]


def live(experiment: Experiment, until: int | None = None) -> None:
    while not experiment.finished and experiment.steps != until:
        experiment.step()


def whole_life(config: RunConfig, run: Path) -> tuple[tuple[dict[str, bytes], str], list[dict[str, Any]]]:
    with Experiment(config, run) as experiment:
        experiment.begin()
        live(experiment)
        experiment.finish()
        return bits(experiment), events(run)


@pytest.mark.parametrize(
    ("config", "died"),
    [
        (CONFIG, 7),
        (CONFIG, 40),
        (dataclasses.replace(CONFIG, copies=2, algorithm=dataclasses.replace(SAC, replay_capacity=23)), 57),
        (dataclasses.replace(CONFIG, algorithm=PEBBLE), 33),
        (dataclasses.replace(CONFIG, algorithm=PEBBLE, teacher="mistake"), 39),
        (dataclasses.replace(CONFIG, game="gym:Pendulum-v1", evaluate_every=100), 25),
    ],
    ids=["before-a-save", "after-a-save", "ring", "pebble", "mistakes", "pendulum"],
)
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, config: RunConfig, died: int):
    expected = whole_life(config, tmp_path / "a" / "run")
    run = tmp_path / "b" / "run"
    with Experiment(config, run) as experiment:
        experiment.begin()
        live(experiment, until=died)
    with Experiment(read_config(run), run) as experiment:
        sentences = experiment.restore()
        step = died // 20 * 20
        assert sentences == [f"restored learner, {len(experiment.experience)} steps of experience, generators and game at step {step}"]
        assert experiment.steps == step
        live(experiment)
        experiment.finish()
        assert (bits(experiment), events(run)) == expected


def test_a_run_that_died_before_its_first_checkpoint_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    expected = whole_life(CONFIG, tmp_path / "a" / "run")
    run = tmp_path / "b" / "run"
    with Experiment(CONFIG, run) as experiment, pytest.raises(KeyboardInterrupt):
        monkeypatch.setattr(experiment, "save", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        experiment.begin()
    with Experiment(read_config(run), run) as experiment:
        assert experiment.restore() == ["the run was interrupted before its first checkpoint, at step 0, and has begun again"]
        live(experiment)
        experiment.finish()
        assert (bits(experiment), events(run)) == expected


def test_a_run_whose_checkpoints_are_gone_is_not_begun_again(tmp_path: Path):
    run = tmp_path / "run"
    with Experiment(CONFIG, run) as experiment:
        experiment.begin()
        live(experiment, until=25)
    for path in (run / "checkpoints").rglob("*.json"):
        path.unlink()
    with Experiment(CONFIG, run) as experiment, pytest.raises(CheckpointError, match="no valid checkpoint .* manifest.json is missing; "):
        experiment.restore()
    for path in (run / "checkpoints").iterdir():
        path.rename(tmp_path / path.name)
    with Experiment(CONFIG, run) as experiment, pytest.raises(CheckpointError, match="no valid checkpoint .*: there is none"):
        experiment.restore()


def test_a_finished_run_ends_once(tmp_path: Path):
    run = tmp_path / "run"
    expected = whole_life(CONFIG, run)
    with Experiment(read_config(run), run) as experiment:
        experiment.restore()
        assert experiment.finished
        experiment.finish()
        assert (bits(experiment), events(run)) == expected


def test_a_damaged_checkpoint_is_passed_over_and_the_run_says_so(tmp_path: Path):
    expected = whole_life(CONFIG, tmp_path / "a" / "run")
    run = tmp_path / "b" / "run"
    with Experiment(CONFIG, run) as experiment:
        experiment.begin()
        live(experiment, until=45)
    path = run / "checkpoints/step-000000040/state.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with Experiment(CONFIG, run) as experiment:
        damaged, restored = experiment.restore()
        assert damaged == "checkpoint step-000000040 is damaged: state.safetensors is not what was written"
        assert restored.endswith("at step 20")
        live(experiment)
        experiment.finish()
        assert (bits(experiment), events(run)) == expected
    [resumed] = [event for event in read_events(run / "events.jsonl") if event["event"] == "resumed"]
    assert resumed["restored"] == [damaged, restored]


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ([], "the checkpoint has an unknown field 'mood'; this version knows accuracy, "),
        (["learner"], "learner has an unknown field 'mood'; this version knows generators, groups, targets, updates"),
        (["learner", "groups", "actor", "optimizer"], "learner.groups.actor.optimizer has an unknown field 'mood'"),
        (["experience"], "experience has an unknown field 'mood'"),
    ],
)
def test_a_checkpoint_with_an_unknown_field_is_refused(tmp_path: Path, place: list[str], sentence: str):
    with Experiment(CONFIG, tmp_path / "run") as experiment:
        experiment.begin()
        state = experiment.checkpoints.load_state()[1]
        where = state
        for name in place:
            where = where[name]
        where["mood"] = "good"
        experiment.checkpoints.save(1, state, experiment.experience)
    with Experiment(CONFIG, tmp_path / "run") as experiment, pytest.raises(CheckpointError, match=sentence):
        experiment.restore()


def test_a_checkpoint_of_other_nets_is_refused(tmp_path: Path):
    run = tmp_path / "run"
    with Experiment(CONFIG, run) as experiment:
        experiment.begin()
    values = json.loads((run / "config.json").read_text())
    values["algorithm"]["hidden"] = [16, 8]
    (run / "config.json").write_text(json.dumps(values))
    with (
        Experiment(read_config(run), run) as experiment,
        pytest.raises(CheckpointError, match="at step 0 does not fit this run: ") as error,
    ):
        experiment.restore()
    assert "\n" not in str(error.value)


def test_a_torn_log_is_mended(tmp_path: Path):
    expected = whole_life(CONFIG, tmp_path / "a" / "run")
    run = tmp_path / "b" / "run"
    with Experiment(CONFIG, run) as experiment:
        experiment.begin()
        live(experiment, until=33)
    with (run / "events.jsonl").open("a") as log:
        log.write('{"event": "update", "ti')
    with Experiment(CONFIG, run) as experiment:
        experiment.restore()
        live(experiment)
        experiment.finish()
        assert (bits(experiment), events(run)) == expected


def test_leftovers_of_a_killed_process_are_cleared_away(tmp_path: Path):
    run = tmp_path / "run"
    with Experiment(CONFIG, run) as experiment:
        experiment.begin()
    leftovers = [run / "clips/.before-000000000.mp4.77.mp4", run / "segments/abc.partial-77"]
    for path in leftovers:
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    with Experiment(CONFIG, run) as experiment:
        experiment.restore()
    assert not any(path.exists() for path in leftovers)


def test_a_world_that_cannot_be_put_back_starts_afresh_and_says_which_copies(tmp_path: Path):
    config = dataclasses.replace(CONFIG, game="gym:LunarLanderContinuous-v3", copies=1, steps=30)
    with Experiment(config, tmp_path / "run") as experiment:
        experiment.begin()
        live(experiment, until=25)
        before = experiment.experience.take(torch.tensor([[19], [19]]))
    with Experiment(config, tmp_path / "run") as experiment:
        _, sentence = experiment.restore()
        assert sentence.startswith("copies 0, 1 of the game started a fresh episode: ") and "Box2D" in sentence
        # The step before does not lead into the fresh episode, and no clip runs across.
        after = experiment.experience.take(torch.tensor([[19], [19]]))
        experiment.step()
        for batch in (after, experiment.experience.take(torch.tensor([[19], [19]]))):
            assert torch.equal(batch.next_observation, before.next_observation)
        starts = experiment.experience.segment_starts(2, 10)
        assert all(19 not in own.tolist() for own in starts) and all(18 in own.tolist() for own in starts)
        live(experiment)


# One directory, one process ------------------------------------------------------------------------------------------


def test_a_run_that_cannot_start_leaves_nothing_behind(tmp_path: Path):
    for rater in ("oracle", "store"):
        config = dataclasses.replace(CONFIG, game="gym:CartPole-v1", algorithm=PEBBLE, rater=rater)
        with pytest.raises(GameError, match="SAC needs a vector of bounded continuous actions"):
            Experiment(config, tmp_path / "deep" / "run")
        assert not (tmp_path / "deep" / "run").exists()
    with Experiment(CONFIG, tmp_path / "deep" / "run") as experiment:  # nor does it hold the place
        experiment.begin()


def test_a_directory_with_something_in_it_is_left_alone(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(GameError):
        Experiment(dataclasses.replace(CONFIG, game="gym:CartPole-v1"), tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_place_that_can_hold_no_run_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="file cannot hold a run: File exists"):
        Experiment(CONFIG, tmp_path / "file")


# What goes wrong with one seed ---------------------------------------------------------------------------------------


def of_seed(experiment: Experiment, seed: int) -> dict[str, Tensor]:
    """Weights, moments and rewards of one seed."""
    learner: Any = experiment.learner
    found: dict[str, Tensor] = {}
    for name, group in learner.train.groups.items():
        parameters, optimizer = group.parameters, group.optimizer
        for what, flat in (("w", parameters.flat), ("m", optimizer.first_moment), ("v", optimizer.second_moment)):
            found |= {f"{name}/{what}/{leaf}": view[seed].clone() for leaf, view in parameters.split(flat).items()}
    found |= {f"target/{leaf}": view[seed].clone() for leaf, view in learner.train.targets["critic"].weights.items()}
    return found | {"reward": experiment.experience.reward[seed].clone()}


@pytest.mark.parametrize("reward", [1e38, -3e38])
def test_a_seed_that_explodes_is_frozen_and_recorded_and_the_others_never_notice(tmp_path: Path, poison: dict[str, Any], reward: float):
    config = dataclasses.replace(CONFIG, seeds=3, steps=50)
    lives = {}
    for name, poisoned in (("well", None), ("ill", reward)):
        poison["reward"] = poisoned
        run = tmp_path / name / "run"
        with Experiment(config, run) as experiment:
            experiment.begin()
            live(experiment)
            experiment.finish()
            lives[name] = {seed: of_seed(experiment, seed) for seed in range(3)}
            assert experiment.learner.frozen()["critic"].tolist() == [False, poisoned is not None, False]
    for seed in (0, 2):
        for what, tensor in lives["well"][seed].items():
            assert torch.equal(tensor, lives["ill"][seed][what]), (seed, what)
    assert all(tensor.isfinite().all() for tensor in lives["ill"][1].values())
    assert any(not torch.equal(tensor, lives["ill"][1][what]) for what, tensor in lives["well"][1].items())
    well, ill = events(tmp_path / "well/run"), events(tmp_path / "ill/run")
    frozen = [event for event in ill if event["event"] == "frozen_member"]
    assert [(event["seed"], event["what"], event["step"]) for event in frozen][:1] == [(1, "critic", 30)]
    assert len({event["what"] for event in frozen}) == len(frozen) and {event["seed"] for event in frozen} == {1}
    assert [e for e in well if e.get("seed") in (0, 2)] == [e for e in ill if e.get("seed") in (0, 2)]
    # Resumed from a checkpoint after the freeze, the run does not record it twice.
    with Experiment(config, tmp_path / "ill/run") as experiment:
        experiment.restore()
        live(experiment)
    assert events(tmp_path / "ill/run") == ill


def test_a_freeze_is_recorded_once_also_across_a_resume(tmp_path: Path):
    run = tmp_path / "run"
    with Experiment(dataclasses.replace(CONFIG, algorithm=PEBBLE), run) as experiment:
        experiment.begin()
        live(experiment, until=25)
        assert isinstance(experiment.learner, pebble.Pebble)
        experiment.learner.ensemble.optimizer.frozen[1] = True
        live(experiment, until=45)
    with Experiment(read_config(run), run) as experiment:
        experiment.restore()
        live(experiment)
    [frozen] = [event for event in events(run) if event["event"] == "frozen_member"]
    assert (frozen["seed"], frozen["what"], frozen["step"]) == (1, "reward", 30)


@pytest.mark.parametrize(("what", "named"), [("reward", "reward"), ("observation", "observation"), ("reset", "first observation")])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_and_nothing_of_it_stored(
    tmp_path: Path, poison: dict[str, Any], what: str, named: str, value: float
):
    poison[what] = value
    config = dataclasses.replace(CONFIG, seeds=3)
    with Experiment(config, tmp_path / "run") as experiment:
        experiment.begin()
        with pytest.raises(GameError, match=f"the game gave a.? {named} that is not finite in copy 1 after step 2[49]; nothing was stored"):
            live(experiment)
        assert experiment.experience.steps == experiment.steps
        assert experiment.experience.rows.isfinite().all() and experiment.experience.game_reward.isfinite().all()
    poison[what] = None
    with Experiment(config, tmp_path / "run") as experiment:  # once the game is mended, the run goes on
        assert "at step 20" in experiment.restore()[0]
        live(experiment)
