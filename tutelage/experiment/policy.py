"""Trained policies, taken out of a run directory."""

import contextlib
from pathlib import Path
from typing import Any

import torch

from tutelage.evaluate.episodes import EpisodeReturns, evaluate_members
from tutelage.evaluate.policy import MemberPolicy, StackedPolicy
from tutelage.experiment.checkpoint import Checkpoints
from tutelage.experiment.config import RunConfig
from tutelage.experiment.run import RunError, read_config, reward_source
from tutelage.games.make import make
from tutelage.games.nested import flat_width
from tutelage.games.spec import space_from_json
from tutelage.learn.deep import sac
from tutelage.rewards.source import GameReward

EVALUATION_SEED = 30_000_000


class TrainedPolicy(MemberPolicy):
    """One seed of a finished or interrupted run: `act(observation) -> action`."""

    step: int = 0
    """Environment steps it had learned from."""


def load_policy(run: Path | str, seed: int | None = None) -> TrainedPolicy:
    """The newest policy of a run, on the CPU; no simulator is needed.

    seed: which of the stacked seeds (None: the first). Raises RunError when `run` is none or has no such seed,
    CheckpointError when it has no valid checkpoint.
    """
    config = read_config(Path(run))
    seeds = range(config.seed, config.seed + config.seeds)
    chosen = config.seed if seed is None else seed
    if chosen not in seeds:
        raise RunError(f"seed {chosen} was asked for; {run} trained seeds {seeds.start} to {seeds.stop - 1}")
    step, learner, observation_space = _load(Path(run), config)
    policy = TrainedPolicy(learner, config.seeds, chosen - config.seed, observation_space)
    policy.step = step
    return policy


def evaluate_run(run: Path, episodes: int) -> tuple[int, dict[int, EpisodeReturns]]:
    """The step of the newest checkpoint, and noise-free episodes of every seed, by what the run was judged by."""
    config = read_config(run)
    step, learner, observation_space = _load(run, config)
    source = reward_source(config.true_reward)
    policy = StackedPolicy(learner, config.seeds, observation_space)
    with contextlib.closing(make(config.game, config.seeds * min(episodes, 10))) as game:
        results = evaluate_members(
            policy, game, config.seeds, episodes, EVALUATION_SEED, reward=None if isinstance(source, GameReward) else source
        )
    return step, {config.seed + i: result for i, result in enumerate(results)}


def _load(run: Path, config: RunConfig) -> tuple[int, sac.SAC, Any]:
    step, state, _ = Checkpoints(run).load_state()
    spaces = {name: space_from_json(space) for name, space in state["spaces"].items()}
    algorithm = config.algorithm if isinstance(config.algorithm, sac.Config) else config.algorithm.sac
    generators = [torch.Generator() for _ in range(config.seeds)]
    learner = sac.SAC(algorithm, flat_width(spaces["observation"]), spaces["action"], generators)
    learner.load(state["learner"] if isinstance(config.algorithm, sac.Config) else state["learner"]["sac"])
    return step, learner, spaces["observation"]
