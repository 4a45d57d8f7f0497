"""Trained policies, taken out of a run directory."""

import contextlib
from pathlib import Path

import torch

from tutelage.evaluate.episodes import EpisodeReturns, evaluate_members
from tutelage.evaluate.policy import MemberPolicy, StackedPolicy
from tutelage.experiment.checkpoint import Checkpoints
from tutelage.experiment.config import ALGORITHMS, RunConfig
from tutelage.experiment.run import RunError, judging, play, read_config, reward_source
from tutelage.games.spec import Space, players_from_json, space_from_json
from tutelage.learn.learner import Learner

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
    step, learner, spaces = _load(Path(run), config)
    policy = TrainedPolicy(learner, config.seeds, chosen - config.seed, *spaces)
    policy.step = step
    return policy


def evaluate_run(run: Path, episodes: int) -> tuple[int, dict[int, EpisodeReturns]]:
    """The step of the newest checkpoint, and noise-free episodes of every seed, by what the run was judged by."""
    config = read_config(run)
    step, learner, spaces = _load(run, config)
    source = judging(reward_source(config.true_reward))
    policy = StackedPolicy(learner, config.seeds, *spaces)
    with contextlib.closing(play(config, config.seeds * min(episodes, 10))) as game:
        results = evaluate_members(policy, game, config.seeds, episodes, EVALUATION_SEED, reward=source)
    return step, {config.seed + i: result for i, result in enumerate(results)}


def _load(run: Path, config: RunConfig) -> tuple[int, Learner, tuple[Space, Space]]:
    step, state, _ = Checkpoints(run).load_state()
    spaces = space_from_json(state["spaces"]["observation"]), space_from_json(state["spaces"]["action"])
    name, algorithm, saved = config.name, config.algorithm, state["learner"]
    if ALGORITHMS[name].taught:  # to act it needs the learner that it holds and nothing else
        where, name, algorithm = algorithm.played_by
        saved = saved[where]
    build = ALGORITHMS[name].learner
    generators = [torch.Generator() for _ in range(config.seeds)]
    if ALGORITHMS[name].many:
        learner = build(algorithm, players_from_json(state["players"]), generators)
    else:
        learner = build(algorithm, *spaces, generators)
    learner.load(saved)
    return step, learner, spaces
