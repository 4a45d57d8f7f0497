"""The public task of many agents, simple_spread (N = 3, 25 steps, discrete): `python -m tutelage.recipes.simple_spread`.

Learned in our batched world and judged in mpe2 itself, through the PettingZoo adapter: MAPPO for 10,000,000 steps, MATD3 for 1,500,000. A
score is the mean return of an agent; uniformly random actions give -26.4 and the hand-written policy about -8. A run that was
interrupted goes on where it stopped when the same command is given again, and one whose rows are there is not run again.
"""

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from tutelage.evaluate.episodes import evaluate_members
from tutelage.evaluate.policy import StackedPolicy
from tutelage.experiment.config import RunConfig
from tutelage.experiment.run import EVALUATION_SEED, Experiment
from tutelage.games.make import make
from tutelage.learn.many_agents import mappo, matd3
from tutelage.recipes.rows import RESULTS, SCORE_EPISODES, Row, add_rows, seed_rows

LEARNED_IN = "particle:simple_spread?actions=discrete"
JUDGED_IN = "zoo:mpe2.simple_spread_v3?max_cycles=25"
TASK = "mpe2:simple_spread_v3"


@dataclass(frozen=True)
class Recipe:
    """One learner on simple_spread."""

    method: Literal["mappo", "matd3"] = "mappo"
    """Which."""
    seed: int = 0
    """The first."""
    seeds: int = 2
    """Stacked in one run."""
    scale: float = 1.0
    """Shrinks steps, to try the recipe; rows then go where `results` says only if it is given."""
    out: Path = Path("runs/simple_spread")
    """Where the runs lie."""
    results: Path | None = None
    """The file that rows are added to. None: benchmarks/results/simple_spread.jsonl, at scale 1 only."""
    threads: int = 1
    """Of torch."""


def configuration(recipe: Recipe) -> RunConfig:
    """What the recipe runs."""
    total, copies, algorithm = 10_000_000, 64, mappo.Config()
    if recipe.method == "matd3":
        total, copies = 1_500_000, 10
        algorithm = matd3.Config(hidden=(128, 128), batch_size=256, random_steps=2_500, update_every=2, max_grad_norm=10.0)
    if recipe.scale != 1.0:
        algorithm = replace(algorithm, hidden=(8, 8), **({"random_steps": 5} if recipe.method == "matd3" else {}))
    steps = max(round(total * recipe.scale) // copies, 1)
    return RunConfig(
        algorithm=algorithm, game=LEARNED_IN, steps=steps, seed=recipe.seed, seeds=recipe.seeds, copies=copies, threads=recipe.threads,
        evaluate_every=max(steps // 10, 1), evaluation_episodes=SCORE_EPISODES if recipe.scale == 1.0 else 2,
        checkpoint_every=max(steps // 10, 1), log_every=max(steps // 200, 1), clips=3 if recipe.scale == 1.0 else 0,
    )  # fmt: skip


def in_mpe2(experiment: Experiment, task: str, method: str, episodes: int) -> list[Row]:
    """The rows of a finished run: its final policies over so many noise-free episodes of mpe2's own world."""
    seeds = experiment.config.seeds
    with closing(make(JUDGED_IN, seeds * min(episodes, 10))) as game:
        policy = StackedPolicy(experiment.learner, seeds, game.observation_space, game.action_space)
        results = evaluate_members(policy, game, seeds, episodes, EVALUATION_SEED)
    return seed_rows(experiment, task, method, [result.mean for result in results])


def main(recipe: Recipe, console: Console | None = None) -> None:
    """Run or resume, judge the final policies in mpe2 and add their rows."""
    results = recipe.results or (RESULTS / "simple_spread.jsonl" if recipe.scale == 1.0 else None)
    out, episodes = recipe.out / f"{recipe.method}-{recipe.seed}", SCORE_EPISODES if recipe.scale == 1.0 else 2
    add_rows(configuration(recipe), out, TASK, recipe.method, results, episodes, console or Console(), in_mpe2)


if __name__ == "__main__":
    main(tyro.cli(Recipe, description=__doc__))
