"""PEBBLE beside SAC on DeepMind Control and MuJoCo: `python -m tutelage.recipes.pebble_control`.

The short protocol fits an afternoon of two cores: 150,000 steps, nets of 256-256, two stacked seeds. The full one is the
papers' (B-Pref: 500,000 steps, nets of 1024-1024, batches of 1,024, five seeds). A run that was interrupted goes on where it
stopped when the same command is given again.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console

from tutelage.experiment.config import RunConfig
from tutelage.learn.deep import sac
from tutelage.learn.preference import pebble
from tutelage.recipes.rows import RESULTS, add_rows

LABELS = {"dm:walker-walk": 500, "gym:HalfCheetah-v5": 700}
"""B-Pref's smaller budget for walker-walk; Christiano's for the cheetah."""
LEARNER: dict[str, dict[str, Any]] = {
    "dm:walker-walk": dict(learning_rate=5e-4, temperature_learning_rate=1e-4, target_every=2),
    "gym:HalfCheetah-v5": dict(learning_rate=3e-4, temperature_learning_rate=3e-4, target_every=1),
}
"""B-Pref's for walker-walk, SB3's defaults for the cheetah. With B-Pref's temperature and targets the cheetah learned little, on the true
reward too; those rows are kept as `slow-temperature`."""
SESSIONS = 10


@dataclass(frozen=True)
class Recipe:
    """PEBBLE and, beside it, SAC on the true reward, with the same learner."""

    task: Literal["dm:walker-walk", "gym:HalfCheetah-v5"] = "dm:walker-walk"
    """Which world."""
    method: Literal["pebble", "pebble-standardized", "sac"] = "pebble-standardized"
    """Learn from a scripted teacher's comparisons, the reward model's inputs as they are (B-Pref) or standardized, or from the true
    reward."""
    seeds: int = 2
    """Stacked in one run."""
    seed: int = 0
    """The first."""
    full: bool = False
    """The papers' budget and nets, five seeds."""
    scale: float = 1.0
    """Shrinks steps, labels and nets, to try the recipe; rows then go where `results` says only if it is given."""
    out: Path = Path("runs/pebble_control")
    """Where the runs lie."""
    results: Path | None = None
    """The file that rows are added to. None: benchmarks/results/pebble_control.jsonl, at scale 1 only."""
    threads: int = 1
    """Of torch."""


def configuration(recipe: Recipe) -> RunConfig:
    """What the recipe runs."""
    steps = round((500_000 if recipe.full else 150_000) * recipe.scale)
    wide = (1024, 1024) if recipe.full else (256, 256)
    hidden = wide if recipe.scale == 1.0 else (32, 32)
    learner = sac.Config(
        hidden=hidden, batch_size=1024 if recipe.full else 256, initial_temperature=0.1,
        random_steps=round(1_000 * recipe.scale), **LEARNER[recipe.task],
    )  # fmt: skip
    labels = max(round(LABELS[recipe.task] * recipe.scale), SESSIONS)
    # The first session after 10,000 steps as in B-Pref; the others spread the labels over the first two thirds of the run.
    students = pebble.Config(
        labels=labels, session_labels=-(-labels // SESSIONS), session_every=max((steps * 2 // 3) // SESSIONS, 1),
        pretraining_steps=round(9_000 * recipe.scale), segment_length=50 if recipe.scale == 1.0 else 10, sac=learner,
    )  # fmt: skip
    if recipe.method == "pebble-standardized":
        # Fitted to 100 comparisons of the walker, a model of standardized inputs correlates with the reward of a step at 0.67, one of
        # raw inputs at 0.17: velocities are ten times as wide as the rest and take over.
        students = replace(students, reward_model=replace(students.reward_model, standardize_inputs=True))
    if recipe.scale != 1.0:
        students = replace(students, reward_model=replace(students.reward_model, hidden=(32, 32), epochs=5))
    return RunConfig(
        algorithm=learner if recipe.method == "sac" else students, game=recipe.task, steps=steps, seed=recipe.seed,
        seeds=5 if recipe.full else recipe.seeds, threads=recipe.threads,
        evaluate_every=max(steps // 6, 1) if recipe.scale == 1.0 else steps, evaluation_episodes=5 if recipe.scale == 1.0 else 1,
        checkpoint_every=max(steps // 15, 1), log_every=max(steps // 300, 1), clips=3 if recipe.scale == 1.0 else 0,
    )  # fmt: skip


def main(recipe: Recipe, console: Console | None = None) -> None:
    """Run or resume, then judge the final policies and add their rows."""
    config = configuration(recipe)
    out = recipe.out / f"{recipe.task.replace(':', '-')}-{recipe.method}-{'full-' if recipe.full else ''}{config.seed}"
    results = recipe.results or (RESULTS / "pebble_control.jsonl" if recipe.scale == 1.0 else None)
    with_budget = recipe.method
    if isinstance(config.algorithm, pebble.Config):
        with_budget = recipe.method.replace("pebble", f"pebble-{config.algorithm.labels}")
    task = recipe.task if not recipe.full else f"{recipe.task}/full"
    add_rows(config, out, task, with_budget, results, 100 if recipe.scale == 1.0 else 2, console or Console())


if __name__ == "__main__":
    main(tyro.cli(Recipe, description=__doc__))
