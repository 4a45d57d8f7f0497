"""SAC of Stable-Baselines3 at the settings of `tutelage.recipes.pebble_control`, as rows beside ours.

python benchmarks/peers/sb3_control.py --task dm:walker-walk --seed 0     (in an environment with both libraries)

Same worlds through the same adapters, same nets, batches, rates and steps; SB3 keeps its own replay, its own update order and its
own handling of everything else. A seed whose row is there already is not trained again.
"""

import argparse
import importlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tutelage.evaluate.episodes import evaluate
from tutelage.experiment.fingerprint import commit, hardware
from tutelage.games.make import make
from tutelage.games.spec import Nested
from tutelage.learn.deep.sac import Config as Ours
from tutelage.recipes.pebble_control import Recipe, configuration
from tutelage.recipes.rows import RESULTS, Row, append, read

LIBRARY = "stable-baselines3 2.9.2"
SAC: Any = importlib.import_module("stable_baselines3").SAC  # not an import statement: linting has to pass where the peer is absent


def environment(task: str):  # a gymnasium.Env, which is only there with the simulators
    """One Gymnasium environment of the task, as our adapter makes it."""
    import gymnasium

    scheme, _, name = task.partition(":")
    if scheme == "gym":
        return gymnasium.make(name)
    from tutelage.games.dm import ControlEnv

    return ControlEnv(*name.split("-", 1))


class Frozen:
    """SB3's policy as one of ours, to be judged by the same evaluation."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def act(self, observation: Nested, deterministic: bool = True) -> torch.Tensor:
        actions, _ = self.model.predict(np.asarray(observation), deterministic=deterministic)
        return torch.as_tensor(actions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="dm:walker-walk", choices=["dm:walker-walk", "gym:HalfCheetah-v5"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--results", type=Path, default=RESULTS / "pebble_control.jsonl")
    given = parser.parse_args()
    torch.set_num_threads(1)
    config = configuration(Recipe(task=given.task, method="sac", scale=given.scale))
    ours = config.algorithm
    assert isinstance(ours, Ours)
    done = {(row.task, row.method, row.seed, row.steps, row.library) for row in read(given.results)}
    if (given.task, "sac", given.seed, config.steps, LIBRARY) in done:
        return
    world = environment(given.task)
    world.reset(seed=given.seed)
    model = SAC(
        "MlpPolicy", world, learning_rate=ours.learning_rate, batch_size=ours.batch_size, learning_starts=ours.random_steps,
        tau=ours.target_rate, target_update_interval=ours.target_every, ent_coef=f"auto_{ours.initial_temperature}", gamma=ours.discount,
        policy_kwargs={"net_arch": list(ours.hidden)}, buffer_size=config.steps, seed=given.seed, device="cpu",
    )  # fmt: skip
    began = time.perf_counter()
    model.learn(config.steps)
    seconds = time.perf_counter() - began
    result = evaluate(Frozen(model), make(given.task, 10), episodes=100 if given.scale == 1.0 else 2, seed=20_000_000)
    row = Row(given.task, "sac", given.seed, config.steps, round(result.mean, 2), round(seconds, 1), hardware(), commit(), library=LIBRARY)
    append(given.results, [row])


if __name__ == "__main__":
    main()
