"""SAC and TD3 of Stable-Baselines3 at the settings of two recipes, as rows beside ours; in an environment with both libraries:

python benchmarks/peers/sb3_control.py --recipe pebble_control --task dm:walker-walk --seed 0
python benchmarks/peers/sb3_control.py --recipe deep_control --task gym:Hopper-v5 --method td3 --seed 0

Same worlds through the same adapters, same nets, batches, rates and steps; SB3 keeps its own replay, its own update order and its
own handling of everything else. With one gradient step at a time SB3's targets follow at every step, whatever interval they are given,
and its temperature learns at the rate of the nets. A seed whose row is there already is not trained again.
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
from tutelage.learn.deep.sac import Config as SACConfig
from tutelage.recipes import deep_control, pebble_control
from tutelage.recipes.rows import RESULTS, Row, append, read

LIBRARY = "stable-baselines3 2.9.2"
sb3: Any = importlib.import_module("stable_baselines3")  # not an import statement: linting has to pass where the peer is absent


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


def peer(ours: Any, world: Any, steps: int, seed: int) -> Any:
    """SB3's learner with the settings of ours."""
    common: dict[str, Any] = dict(
        learning_rate=ours.learning_rate, batch_size=ours.batch_size, learning_starts=ours.random_steps, tau=ours.target_rate,
        gamma=ours.discount, policy_kwargs={"net_arch": list(ours.hidden)}, buffer_size=steps, seed=seed, device="cpu",
    )  # fmt: skip
    if isinstance(ours, SACConfig):
        return sb3.SAC("MlpPolicy", world, target_update_interval=ours.target_every, ent_coef=f"auto_{ours.initial_temperature}", **common)
    width = world.action_space.shape[0]
    noise = importlib.import_module("stable_baselines3.common.noise").NormalActionNoise(
        np.zeros(width), np.full(width, ours.exploration_noise)
    )
    return sb3.TD3(
        "MlpPolicy", world, action_noise=noise, policy_delay=ours.policy_delay, target_policy_noise=ours.target_noise,
        target_noise_clip=ours.target_noise_clip, **common,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="pebble_control", choices=["pebble_control", "deep_control"])
    parser.add_argument("--task", default="dm:walker-walk", choices=["dm:walker-walk", "gym:HalfCheetah-v5", "gym:Hopper-v5"])
    parser.add_argument("--method", default="sac", choices=["sac", "td3"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--results", type=Path, default=None, help="JSON lines to append to (default: those of the recipe)")
    given = parser.parse_args()
    results = given.results or RESULTS / f"{given.recipe}.jsonl"
    torch.set_num_threads(1)
    if given.recipe == "pebble_control":
        config = pebble_control.configuration(pebble_control.Recipe(task=given.task, method=given.method, scale=given.scale))
    else:
        config = deep_control.configuration(deep_control.Recipe(scale=given.scale), given.task.partition(":")[2], given.method)
    done = {(row.task, row.method, row.seed, row.steps, row.library) for row in read(results)}
    if (given.task, given.method, given.seed, config.steps, LIBRARY) in done:
        return
    world = environment(given.task)
    world.reset(seed=given.seed)
    model = peer(config.algorithm, world, config.steps, given.seed)
    began = time.perf_counter()
    model.learn(config.steps)
    seconds = round(time.perf_counter() - began, 1)
    result = evaluate(Frozen(model), make(given.task, 10), episodes=100 if given.scale == 1.0 else 2, seed=20_000_000)
    score = round(result.mean, 2)
    append(results, [Row(given.task, given.method, given.seed, config.steps, score, seconds, hardware(), commit(), library=LIBRARY)])


if __name__ == "__main__":
    main()
