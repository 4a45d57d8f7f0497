"""What every algorithm of the table promises: the same bits after an interruption and from the same seed, and refusals in a sentence."""

import dataclasses
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tutelage.experience.trees import pack
from tutelage.experiment.checkpoint import Checkpoints
from tutelage.experiment.config import ALGORITHMS, RunConfig
from tutelage.experiment.log import read_events
from tutelage.experiment.run import Experiment, read_config
from tutelage.games.spec import GameError
from tutelage.learn.deep import a2c, ddpg, discrete_sac, dqn, policy_gradient, ppo, sac, td3, trpo
from tutelage.learn.many_agents import mappo, masac, matd3
from tutelage.learn.preference import christiano, family, pebble
from tutelage.learn.preference.meta_reward_net import Config as MetaConfig
from tutelage.learn.preference.rime import Config as RimeConfig
from tutelage.learn.preference.surf import Config as SurfConfig
from tutelage.learn.tabular import monte_carlo, q_learning, sarsa, td_lambda
from tutelage.rewards import learned

SMALL_SAC = sac.Config(hidden=(8,), batch_size=8, random_steps=10)
OFF_POLICY: dict[str, Any] = dict(hidden=(8,), batch_size=8, random_steps=10)
# Everything that holds a state of its own is on: normalization, memory, priorities, delays, schedules.
ON_POLICY: dict[str, Any] = dict(hidden=(8,), window=16, normalize_observation=True, normalize_reward=True)
MANY: dict[str, Any] = dict(update_every=3, fork=True, fork_threshold=10.0, **OFF_POLICY)
SMALL_MODEL: dict[str, Any] = dict(hidden=(8,), members=2, batch_size=4, epochs=5)
TAUGHT: dict[str, Any] = dict(
    labels=8,
    session_labels=4,
    session_every=20,
    pretraining_steps=10,
    entropy_every=10,
    poll_every=5,
    segment_length=5,
    candidates=2,
    updates_after_reset=2,
    sac=SMALL_SAC,
    reward_model=learned.Config(**SMALL_MODEL),
)
CASES: dict[str, tuple[str, Any]] = {
    "monte-carlo": ("grid:lecture?max_steps=12", monte_carlo.Config()),
    "td-lambda": ("grid:lecture?max_steps=12", td_lambda.Config()),
    "sarsa": ("grid:lecture?max_steps=12", sarsa.Config()),
    "q-learning": ("grid:lecture?max_steps=12", q_learning.Config()),
    "policy-gradient": ("gym:CartPole-v1", policy_gradient.Config(critic_steps=3, **ON_POLICY)),
    "a2c": ("gym:CartPole-v1", a2c.Config(memory="gru", anneal=True, **ON_POLICY)),
    "trpo": ("gym:Pendulum-v1", trpo.Config(value_epochs=2, batch_size=8, **ON_POLICY)),
    "ppo": ("gym:CartPole-v1", ppo.Config(memory="lstm", epochs=2, batch_size=8, anneal=True, **ON_POLICY)),
    "dqn": ("gym:CartPole-v1", dqn.Config(target_every=7, double=True, dueling=True, n_step=3, prioritized=True, **OFF_POLICY)),
    "ddpg": ("gym:Pendulum-v1", ddpg.Config(**OFF_POLICY)),
    "td3": ("gym:Pendulum-v1", td3.Config(**OFF_POLICY)),
    "sac": ("gym:Pendulum-v1", SMALL_SAC),
    "discrete-sac": ("gym:CartPole-v1", discrete_sac.Config(**OFF_POLICY)),
    "maddpg": ("particle:simple_adversary?agents=2&max_steps=9", matd3.MADDPG(scheme="shared", agent_id=True, **MANY)),
    "matd3": ("particle:simple_tag?max_steps=9", matd3.Config(soft=True, **MANY)),
    "matd4": ("particle:simple_target?agents=2&max_steps=9&actions=continuous", matd3.MATD4(scheme="concurrent", **MANY)),
    "masac": ("particle:simple_tag?max_steps=9", masac.Config(soft=True, **MANY)),
    "mappo": ("particle:simple_tag?max_steps=9", mappo.Config(parameter_sharing=False, hidden=(8,), window=16, epochs=2, batch_size=8)),
    "ippo": ("particle:simple_spread?agents=2&max_steps=9", mappo.IPPO(hidden=(8,), window=16, epochs=2, batch_size=8)),
    "christiano": (
        "gym:CartPole-v1",
        christiano.Config(
            labels=8, initial_steps=20, segment_length=5, tape_steps=60, poll_every=5, candidates=2, learner="a2c", fit_labels=2,
            a2c=a2c.Config(hidden=(8,), window=8, memory="gru", normalize_observation=True),
            reward_model=replace(learned.CHRISTIANO, **SMALL_MODEL),
        ),
    ),
    "prefppo": (
        "gym:Pendulum-v1",
        family.PrefPPO(
            labels=8, initial_steps=20, session_labels=2, segment_length=5, poll_every=5, candidates=2,
            ppo=ppo.Config(hidden=(8,), window=16, epochs=2, batch_size=8), reward_model=learned.Config(**SMALL_MODEL),
        ),
    ),
    "pebble": ("gym:Pendulum-v1", pebble.Config(**TAUGHT)),
    "surf": ("gym:Pendulum-v1", family.Surf(**TAUGHT, surf=SurfConfig(unlabeled_ratio=3, threshold=0.5, crop_shortest=4, crop_longest=6))),
    "meta-reward-net": ("gym:Pendulum-v1", family.MetaRewardNet(**TAUGHT, meta=MetaConfig(every=3))),
    "qpa": ("gym:Pendulum-v1", family.QPA(**TAUGHT, surf=SurfConfig(crop_shortest=3, crop_longest=4))),
    "rune": ("gym:Pendulum-v1", family.Rune(**TAUGHT)),
    "rime": ("gym:Pendulum-v1", family.Rime(**TAUGHT, rime=RimeConfig(fits=3, warm_start_steps=2))),
    "star": ("gym:Pendulum-v1", family.Star(**TAUGHT)),
}  # fmt: skip
ALONE = [name for name in CASES if not ALGORITHMS[name].taught]
WALL_CLOCK = {"time", "seconds"}


def config_of(name: str, **changes: Any) -> RunConfig:
    game, algorithm = CASES[name]
    config = RunConfig(
        algorithm, game, 70, seed=3, seeds=2, copies=2, evaluate_every=35, evaluation_episodes=1, checkpoint_every=20, log_every=10,
        clips=0, anchor_every=10,
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


def left(run: Path) -> dict[str, Any]:
    """All that a run leaves behind, but for wall-clock time."""
    newest = Checkpoints(run).all()[0]
    manifest, state = (json.loads((newest / name).read_text()) for name in ("manifest.json", "state.json"))
    del state["seconds"]
    events = [{k: v for k, v in event.items() if k not in WALL_CLOCK} for event in read_events(run / "events.jsonl")]
    return {
        "step": manifest["step"], "tensors": manifest["files"]["state.safetensors"], "replay": manifest["replay"], "state": state,
        "events": [event for event in events if event["event"] != "resumed"],
    }  # fmt: skip


def live(config: RunConfig, run: Path, until: int | None = None) -> None:
    """From the start to the end, or until it is abandoned."""
    with Experiment(config, run) as experiment:
        experiment.begin()
        while not experiment.finished and experiment.steps != until:
            experiment.step()
        if until is None:
            experiment.finish()


def test_every_algorithm_is_tried():
    assert set(CASES) == set(ALGORITHMS)


@pytest.mark.parametrize("name", CASES)
def test_an_interrupted_run_ends_with_the_bits_of_one_that_was_not(tmp_path: Path, name: str):
    config = config_of(name)
    live(config, tmp_path / "a" / "run")
    run = tmp_path / "b" / "run"
    live(config, run, until=53)  # past a save, inside a window, an episode and a schedule
    with Experiment(read_config(run), run) as experiment:
        experiment.restore()
        assert experiment.steps == 40
        while not experiment.finished:
            experiment.step()
        experiment.finish()
    assert left(run) == left(tmp_path / "a" / "run")


def digest(experiment: Experiment) -> str:
    tensors, text = pack({"learner": experiment.learner.state(), "rollout": experiment.rollout.state()})
    return hashlib.sha256(text.encode() + b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors))).hexdigest()


@pytest.mark.parametrize("name", ALONE)
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tmp_path: Path, name: str):
    found: list[str] = []
    for i, seed in enumerate((3, 3, 4)):
        with Experiment(config_of(name, seed=seed, steps=40), tmp_path / str(i)) as experiment:
            while not experiment.finished:
                experiment.step()
            found.append(digest(experiment))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("name", ALONE)
def test_a_stacked_seed_learns_what_it_would_alone(tmp_path: Path, name: str):
    acted: list[Tensor] = []
    for i, (seed, seeds) in enumerate(((3, 2), (4, 1))):
        with Experiment(config_of(name, seed=seed, seeds=seeds, steps=48), tmp_path / str(i)) as experiment:
            for _ in range(48):
                experiment.step()
            observation = experiment.rollout.observation[-1:].expand(seeds, *[-1] * (experiment.rollout.observation.dim() - 1))
            learner = experiment.learner
            acted.append(torch.cat([learner.act(observation, True, None, learner.carry(2))[-1], experiment.rollout.observation[-1]], -1))
    torch.testing.assert_close(acted[0], acted[1], atol=1e-5, rtol=1e-4)


# Bad input ---------------------------------------------------------------------------------------------------------

WORLD = '''
"""Two doors; `TROUBLE` says what is wrong with them."""
import numpy as np
import torch
from tutelage.games.spec import Box, Discrete, Game, Step

TROUBLE = {"mask": False, "reward": False, "endless": False}

class Doors(Game):
    observation_space = Box((2,), np.full(2, -1.0, np.float32), np.full(2, 1.0, np.float32))

    def __init__(self, copies, continuous=False):
        self.copies, self.time = copies, torch.zeros(copies, dtype=torch.int64)
        self.action_space = Box((1,), np.full(1, -1.0, np.float32), np.full(1, 1.0, np.float32)) if continuous else Discrete(2)

    def reset(self, seed=None, where=None):
        self.time[torch.ones(self.copies, dtype=torch.bool) if where is None else where] = 0
        return torch.ones(self.copies, 2)

    def legal(self):
        legal = torch.ones(self.copies, 2, dtype=torch.bool)
        legal[:, 1] = False
        if TROUBLE["mask"] and self.copies == 2 and self.time[1] >= 3:
            legal[1] = False
        return None if isinstance(self.action_space, Box) else legal

    def step(self, actions):
        if not isinstance(self.action_space, Box):
            assert (actions == 0).all(), "an illegal action was taken"
        self.time += 1
        end = (self.time >= 6) & (not TROUBLE["endless"])
        reward = torch.ones(self.copies)
        if TROUBLE["reward"] and self.copies == 2 and self.time[1] >= 3:
            reward[1] = float("nan")
        return Step(torch.ones(self.copies, 2), reward, end, end, end | True)


class Rooms(Doors):
    observation_space = Discrete(2)

    def reset(self, seed=None, where=None):
        return super().reset(seed, where)[:, 0].long()

    def step(self, actions):
        step = super().step(actions)
        return Step(step.observation[:, 0].long(), step.reward, step.terminated, step.boundary, step.mask)


class Wide(Doors):
    def __init__(self, copies):
        super().__init__(copies, continuous=True)
'''


@pytest.fixture
def trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    (tmp_path / "doors.py").write_text(WORLD)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "doors", raising=False)
    import doors  # type: ignore[import-not-found]

    return doors.TROUBLE


def behind_doors(name: str, tmp_path: Path, **changes: Any) -> Experiment:
    world = {"gym:CartPole-v1": "Doors", "gym:Pendulum-v1": "Wide"}.get(CASES[name][0], "Rooms")
    return Experiment(config_of(name, game=f"py:doors:{world}", seeds=1, **changes), tmp_path / "run")


@pytest.mark.parametrize("name", [name for name in ALONE if CASES[name][0] != "gym:Pendulum-v1"])
def test_only_legal_actions_are_taken_and_a_mask_that_forbids_all_is_refused(tmp_path: Path, trouble: dict[str, bool], name: str):
    with behind_doors(name, tmp_path) as experiment:
        experiment.begin()  # the game itself checks what is taken, also by the evaluation
        for _ in range(40):
            experiment.step()
        trouble["mask"] = True
        with pytest.raises(GameError, match="no legal action|no action is legal|forbids every action"):
            for _ in range(8):
                experiment.step()


@pytest.mark.parametrize("name", ALONE)
def test_a_reward_that_is_no_number_stops_the_run_before_it_is_stored(tmp_path: Path, trouble: dict[str, bool], name: str):
    trouble["reward"] = True
    with behind_doors(name, tmp_path) as experiment:
        with pytest.raises(GameError, match="the game gave a reward that is not finite in copy 1 after step 2; nothing was stored"):
            for _ in range(8):
                experiment.step()
        assert experiment.experience.steps == 2


@pytest.mark.parametrize("name", ALONE)
def test_a_game_that_never_ends_can_be_learned_in(tmp_path: Path, trouble: dict[str, bool], name: str):
    trouble["endless"] = True
    with behind_doors(name, tmp_path, evaluate_every=1000, checkpoint_every=1000) as experiment:
        for _ in range(40):
            experiment.step()
        learned_in = [parameters.isfinite().all() for parameters in tensors(experiment.learner.state()) if parameters.is_floating_point()]
        assert learned_in and all(learned_in)


def tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, dict):
        return [leaf for entry in tree.values() for leaf in tensors(entry)]
    if isinstance(tree, list):
        return [leaf for entry in tree for leaf in tensors(entry)]
    return [tree] if isinstance(tree, Tensor) else []


@pytest.mark.parametrize("name", ["dqn", "discrete-sac"])
def test_continuous_actions_are_refused_by_what_chooses_among_a_few(tmp_path: Path, name: str):
    with pytest.raises(GameError, match="needs an action that is one of n choices; this game's actions are Box"):
        Experiment(config_of(name, game="gym:Pendulum-v1"), tmp_path / "run")


@pytest.mark.parametrize("name", ["ddpg", "td3", "sac"])
def test_discrete_actions_are_refused_by_what_needs_a_vector(tmp_path: Path, name: str):
    with pytest.raises(GameError, match="needs a vector of bounded continuous actions; this game's actions are Discrete"):
        Experiment(config_of(name, game="gym:CartPole-v1"), tmp_path / "run")
