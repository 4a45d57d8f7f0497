"""The deep chapter on classic control, Box2D and MuJoCo: `python -m tutelage.recipes.deep_control --task CartPole-v1 --method ppo`.

Settings are the public ones that the scores in docs/ were reached with: RL-Zoo's (zoo) for classic control, Box2D and TRPO, CleanRL's
for PPO on MuJoCo, Stable-Baselines3's defaults with RL-Zoo's 10,000 first random steps for SAC and TD3 on MuJoCo. Without `--task` and
`--method` everything is run, in the order of the table, some seven core-hours; a run that was interrupted goes on where it stopped
when the same command is given again, and one whose rows are there is not run again. `--long` is the table of a million steps.
"""

import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import tyro
from rich.console import Console

from tutelage.experiment.config import ALGORITHMS, RunConfig
from tutelage.learn.deep import a2c, ddpg, dqn, ppo, sac, td3, trpo
from tutelage.recipes.rows import RESULTS, add_rows, lines


class Entry(NamedTuple):
    """One line of the table."""

    algorithm: Any
    steps: int
    """Of the game, per seed, all copies together."""
    copies: int
    seeds: int


CLEANRL_PPO = ppo.Config(
    anneal=True, value_clip_range=0.2, value_coefficient=0.5, normalize_observation=True, normalize_reward=True
)  # fmt: skip
ZOO_DQN = dqn.Config(
    hidden=(256, 256), learning_rate=2.3e-3, batch_size=64, replay_capacity=100_000, random_steps=1_000, update_every=256,
    updates_at_once=128, target_every=128, exploration_fraction=0.16, exploration_end=0.04,
)  # fmt: skip
ZOO_TRPO = trpo.Config(
    window=1024, target_kl=0.04, solver_steps=25, value_epochs=20, normalize_observation=True, normalize_reward=True
)  # fmt: skip
ZOO_OFF_POLICY = 10_000
MUJOCO = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")

TABLE: dict[tuple[str, str], Entry] = {
    ("CartPole-v1", "ppo"): Entry(
        ppo.Config(window=32, batch_size=256, epochs=20, learning_rate=1e-3, anneal=True, discount=0.98, gae_lambda=0.8), 100_000, 8, 5
    ),
    ("CartPole-v1", "dqn"): Entry(ZOO_DQN, 50_000, 1, 5),
    ("CartPole-v1", "double-dqn"): Entry(replace(ZOO_DQN, double=True), 50_000, 1, 5),
    ("CartPole-v1", "trpo"): Entry(
        trpo.Config(window=512, damping=1e-3, gae_lambda=0.98, value_epochs=20, batch_size=512), 100_000, 2, 5
    ),
    ("CartPole-v1", "a2c"): Entry(a2c.Config(), 500_000, 8, 5),
    ("Pendulum-v1", "sac"): Entry(sac.Config(learning_rate=1e-3, temperature_learning_rate=1e-3, random_steps=100), 20_000, 1, 5),
    ("Pendulum-v1", "td3"): Entry(td3.Config(discount=0.98, random_steps=1_000), 20_000, 1, 5),
    ("Pendulum-v1", "ddpg"): Entry(ddpg.Config(discount=0.98, random_steps=1_000), 20_000, 1, 5),
    ("Pendulum-v1", "ppo"): Entry(ppo.Config(window=1024, learning_rate=1e-3, discount=0.9, anneal=True), 100_000, 4, 5),
    ("LunarLander-v3", "ppo"): Entry(
        ppo.Config(window=1024, epochs=4, discount=0.999, gae_lambda=0.98, temperature=0.01), 1_000_000, 16, 5
    ),
    **{(game, "ppo"): Entry(CLEANRL_PPO, 1_000_000, 1, 3) for game in MUJOCO},
    **{(game, "trpo"): Entry(ZOO_TRPO, 1_000_000, 2, 3) for game in MUJOCO},
    **{(game, "sac"): Entry(sac.Config(random_steps=ZOO_OFF_POLICY), 100_000, 1, 2) for game in MUJOCO[:2]},
    **{(game, "td3"): Entry(td3.Config(random_steps=ZOO_OFF_POLICY), 100_000, 1, 2) for game in MUJOCO[:2]},
}  # fmt: skip
"""Of the zoo's DQN four in ten seeds hold 500 at the last step, with double Q-learning eight (seeds 22 to 31, where it was chosen).
DQN's target follows once per session of updates (zoo: every 10 steps, which is between any two sessions and never within one)."""

LONG: dict[tuple[str, str], Entry] = {
    (game, name): Entry(TABLE["HalfCheetah-v5", name].algorithm, 1_000_000, 1, 5) for game in MUJOCO for name in ("sac", "td3")
}
"""A million steps, five seeds: days of a CPU."""


@dataclass(frozen=True)
class Recipe:
    """The table of the deep chapter, or one line of it."""

    task: str | None = None
    """Which world, such as CartPole-v1. None: all."""
    method: str | None = None
    """Which algorithm. None: all."""
    long: bool = False
    """The off-policy table of a million steps."""
    seed: int = 0
    """The first."""
    scale: float = 1.0
    """Shrinks steps, windows and nets, to try the recipe; rows then go where `results` says only if it is given."""
    out: Path = Path("runs/deep_control")
    """Where the runs lie."""
    results: Path | None = None
    """The file that rows are added to. None: benchmarks/results/deep_control.jsonl, at scale 1 only."""
    threads: int = 1
    """Of torch."""


def configuration(recipe: Recipe, task: str, method: str) -> RunConfig:
    """One line of the table as a run."""
    entry = (LONG if recipe.long else TABLE)[task, method]
    algorithm, steps = entry.algorithm, max(round(entry.steps * recipe.scale) // entry.copies, 1)
    if recipe.scale != 1.0:
        small = {"hidden": (16, 16), "window": 16, "batch_size": 16, "random_steps": 20, "value_epochs": 2, "target_every": 1}
        algorithm = replace(algorithm, **{f.name: small[f.name] for f in dataclasses.fields(algorithm) if f.name in small})
    return RunConfig(
        algorithm=algorithm, game=f"gym:{task}", steps=steps, seed=recipe.seed, seeds=entry.seeds, copies=entry.copies,
        threads=recipe.threads, evaluate_every=max(steps // 5, 1) if recipe.scale == 1.0 else steps,
        evaluation_episodes=5 if recipe.scale == 1.0 else 1, checkpoint_every=max(steps // 10, 1), log_every=max(steps // 200, 1),
        clips=3 if recipe.scale == 1.0 else 0,
    )  # fmt: skip


def main(recipe: Recipe, console: Console | None = None) -> None:
    """Run or resume what was asked for, judge the final policies and add their rows. Raises ConfigError for a line that is not there."""
    table = LONG if recipe.long else TABLE
    chosen = lines(table, recipe.task, recipe.method)
    assert all(type(entry.algorithm) in {known.config for known in ALGORITHMS.values()} for entry in table.values())
    for task, method in chosen:
        config = configuration(recipe, task, method)
        results = recipe.results or (RESULTS / "deep_control.jsonl" if recipe.scale == 1.0 else None)
        out = recipe.out / f"{task}-{method}-{'long-' if recipe.long else ''}{config.seed}"
        add_rows(config, out, f"gym:{task}", method, results, 100 if recipe.scale == 1.0 else 2, console or Console())


if __name__ == "__main__":
    main(tyro.cli(Recipe, description=__doc__))
