"""simple_tag (3 predators, 1 prey, 25 steps, discrete) against frozen opponents: `python -m tutelage.recipes.simple_tag`.

A check on agents with different spaces: predators learn to catch a scripted prey, or the prey to escape from scripted predators, in our
batched world; they are judged in mpe2 itself, through the PettingZoo adapter, against the same scripts (`games.particle.scripted.chase`).
A score is the mean return of an agent of the side that learned; `--method scripted` gives that of the script in its place. A run that
was interrupted goes on where it stopped when the same command is given again, and one whose rows are there is not run again.
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
from tutelage.experiment.fingerprint import commit, hardware
from tutelage.experiment.run import EVALUATION_SEED, Experiment
from tutelage.games.make import make
from tutelage.games.particle.address import make_world
from tutelage.games.particle.scripted import ScriptedTeam, against_script, chase_of
from tutelage.games.particle.tag import Tag
from tutelage.learn.many_agents import mappo, matd3
from tutelage.recipes.rows import RESULTS, SCORE_EPISODES, Row, add_rows, append, read, seed_rows

JUDGED_IN = "zoo:mpe2.simple_tag_v3?max_cycles=25"
FROZEN = {"predators": "prey", "prey": "predators"}
"""Who does not learn where a side does."""


@dataclass(frozen=True)
class Recipe:
    """One learner of one side."""

    side: Literal["predators", "prey"] = "predators"
    """Who learns."""
    method: Literal["matd3", "mappo", "scripted"] = "matd3"
    """How."""
    seed: int = 0
    """The first."""
    seeds: int = 2
    """Stacked in one run."""
    scale: float = 1.0
    """Shrinks steps, to try the recipe; rows then go where `results` says only if it is given."""
    out: Path = Path("runs/simple_tag")
    """Where the runs lie."""
    results: Path | None = None
    """The file that rows are added to. None: benchmarks/results/simple_tag.jsonl, at scale 1 only."""
    threads: int = 1
    """Of torch."""


def configuration(recipe: Recipe) -> RunConfig:
    """What the recipe runs."""
    total, copies, algorithm = 5_000_000, 64, mappo.Config()
    if recipe.method == "matd3":
        total, copies = 500_000, 10
        algorithm = matd3.Config(batch_size=256, random_steps=2_500, update_every=2, max_grad_norm=10.0)
    if recipe.scale != 1.0:
        algorithm = replace(algorithm, hidden=(8, 8), **({"random_steps": 5} if recipe.method == "matd3" else {}))
    steps = max(round(total * recipe.scale) // copies, 1)
    return RunConfig(
        algorithm=algorithm, game=f"particle:simple_tag?frozen={FROZEN[recipe.side]}", steps=steps, seed=recipe.seed, seeds=recipe.seeds,
        copies=copies, threads=recipe.threads, evaluate_every=max(steps // 10, 1),
        evaluation_episodes=SCORE_EPISODES if recipe.scale == 1.0 else 2, checkpoint_every=max(steps // 10, 1),
        log_every=max(steps // 200, 1), clips=3 if recipe.scale == 1.0 else 0,
    )  # fmt: skip


def in_mpe2(experiment: Experiment, task: str, method: str, episodes: int) -> list[Row]:
    """The rows of a finished run: its final policies over so many noise-free episodes of mpe2's own world, against the script."""
    seeds, world = experiment.config.seeds, make_world(experiment.config.game)
    assert isinstance(world, Tag)
    with closing(against_script(make(JUDGED_IN, seeds * min(episodes, 10)), world, world.config.frozen)) as game:
        policy = StackedPolicy(experiment.learner, seeds, game.observation_space, game.action_space)
        results = evaluate_members(policy, game, seeds, episodes, EVALUATION_SEED)
    return seed_rows(experiment, task, method, [result.mean for result in results])


def scripted_row(task: str, side: str, episodes: int) -> Row:
    """What the side's own script reaches in the learner's place."""
    world = make_world("particle:simple_tag")
    assert isinstance(world, Tag)
    with closing(make(JUDGED_IN, min(episodes, 10))) as game:
        assert game.players is not None
        [result] = evaluate_members(ScriptedTeam(world, chase_of(world)), game, 1, episodes, EVALUATION_SEED)
        own = list(game.players.teams[0 if side == "predators" else 1])
    assert result.each is not None
    return Row(task, "scripted", 0, 0, round(float(result.each[:, own].mean()), 2), 0.0, hardware(), commit())


def main(recipe: Recipe, console: Console | None = None) -> None:
    """Run or resume, judge the final policies in mpe2 and add their rows."""
    results = recipe.results or (RESULTS / "simple_tag.jsonl" if recipe.scale == 1.0 else None)
    task, episodes = f"mpe2:simple_tag_v3/{recipe.side}", SCORE_EPISODES if recipe.scale == 1.0 else 2
    out = recipe.out / f"{recipe.side}-{recipe.method}-{recipe.seed}"
    if recipe.method == "scripted":
        if results is not None and not any((row.task, row.method) == (task, "scripted") for row in read(results)):
            append(results, [scripted_row(task, recipe.side, episodes)])
        return
    add_rows(configuration(recipe), out, task, recipe.method, results, episodes, console or Console(), in_mpe2)


if __name__ == "__main__":
    main(tyro.cli(Recipe, description=__doc__))
