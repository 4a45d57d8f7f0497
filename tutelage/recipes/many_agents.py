"""Tables 6.3 to 6.6 of the thesis "Cooperative Multi-Agent Reinforcement Learning": `python -m tutelage.recipes.many_agents`.

Twenty-five learners and schemes on Simple Target and Simple Confuse, each with continuous and with discrete actions (thesis: dspace
20.500.11956/127431, its tables as NPFL139 lecture 14 prints them; its text and code are not public). One "Step" of its tables is
1,000 steps of the environment here. The short protocol is 500,000 steps and two stacked seeds, printed at half of it, three quarters
and the end, a few minutes a row; `--full` is 2,000,000 steps and five seeds. Without `--task` and `--method` everything is run; a run
that was interrupted goes on where it stopped when the same command is given again, and one whose rows are there is not run again.

In Simple Confuse the cooperators are the team, and the adversary is a learner of its own. A learned pair's return says little of the
cooperators where their adversary failed to learn, so that they also meet a panel of adversaries that do not learn: one that waits at the
midpoint of the landmarks, one that follows the closest cooperator, and, by `--panel` when all rows of a table are there, the median
of those that were learned (`median_adversary`).
"""

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import tyro
from rich.console import Console

from tutelage.evaluate.cross_play import CrossPlay
from tutelage.evaluate.episodes import Policy, evaluate_members
from tutelage.evaluate.policy import StackedPolicy
from tutelage.experiment.config import ConfigError, RunConfig, nearest
from tutelage.experiment.fingerprint import commit, hardware
from tutelage.experiment.log import EVENTS, read_events
from tutelage.experiment.policy import load_policy
from tutelage.experiment.run import EVALUATION_SEED, Experiment, play
from tutelage.games.particle.game import ParticleGame
from tutelage.games.particle.scripted import ScriptedTeam, Wish, navigators, splitters, to_closest, to_midpoint
from tutelage.games.particle.world import World
from tutelage.learn.many_agents import matd3
from tutelage.recipes.rows import RESULTS, SCORE_EPISODES, Row, add_rows, append, read, seed_rows

TASKS = {
    f"{world}/{actions}": f"particle:{world}?actions={actions}"
    for world in ("simple_target", "simple_confuse")
    for actions in ("continuous", "discrete")
}
"""In the order of the tables 6.3 to 6.6."""
THESIS: dict[str, dict[str, list[tuple[float, float]]]] = json.loads((Path(__file__).parent / "thesis_tables.json").read_text())
"""By task and method the thesis' mean and "+-" at its steps 1000, 1500 and 2000; what the "+-" is, the lecture does not say."""
POINTS = (0.5, 0.75, 1.0)
"""Of the budget, where the tables print."""

COPIES = 10
PROTOCOL = matd3.Config(
    hidden=(64, 64), discount=0.95, batch_size=256, learning_rate=1e-3, random_steps=2_500, update_every=1, exploration_noise=0.3,
    max_grad_norm=10.0,
)  # fmt: skip
"""Chosen on seed 22. One update of 256 transitions for every 10 steps of the environment: at equal time it learned faster than one of 1,024
for every 100. With exploration of 0.1 every learner stayed where all agents stand between the landmarks."""
LEARNERS: dict[str, matd3.Config] = {
    "ddpg": matd3.MADDPG(),
    "td3": matd3.Config(),
    "td4": matd3.MATD4(),
}
ADVERSARIES: dict[str, Wish] = {"midpoint": to_midpoint, "follower": to_closest}
"""What the cooperators of Simple Confuse meet besides the adversary that learned with them."""
MEDIAN = "median adversary"
"""The last of the panel, in the names of tasks."""
REFERENCE = "scripted"
"""The method of the rows in which nobody learns: the ceiling that returns are held against."""


def method_of(config: matd3.Config) -> str:
    """As the thesis names a row: [soft-]name[-fork]/scheme, where a name begins with MA under ct-de."""
    name = "ddpg" if not config.twin_critics else "td4" if config.minimum_actor else "td3"
    whole = f"{'ma' if config.scheme == 'ct-de' else ''}{name}"
    return f"{'soft-' if config.soft else ''}{whole}{'-fork' if config.fork else ''}/{config.scheme}"


def _methods() -> dict[str, matd3.Config]:
    rows: list[matd3.Config] = []
    for name, learner in LEARNERS.items():
        for ahead in (False, True) if name != "ddpg" else (False,):
            rows += [replace(learner, fork=ahead, soft=soft) for soft in (False, True)]
            rows += [replace(learner, fork=ahead, scheme=scheme) for scheme in ("concurrent", "shared", "centralized")]
    return {method_of(row): row for row in rows}


METHODS = _methods()
"""The twenty-five rows: what sets each apart, at the defaults of everything else."""


@dataclass(frozen=True)
class Recipe:
    """All rows of the four tables, or some."""

    task: str | None = None
    """Which table, such as simple_target/continuous. None: all."""
    method: str | None = None
    """Which row, such as soft-matd4-fork/ct-de, or scripted. None: all."""
    panel: bool = False
    """Let the cooperators of every row meet the median learned adversary, instead of training."""
    full: bool = False
    """Two million steps and five seeds."""
    seed: int = 0
    """The first."""
    scale: float = 1.0
    """Shrinks steps, nets and batches, to try the recipe; rows then go where `results` says only if it is given."""
    out: Path = Path("runs/many_agents")
    """Where the runs lie."""
    results: Path | None = None
    """The file that rows are added to. None: benchmarks/results/many_agents.jsonl, at scale 1 only."""
    device: str = "cpu"
    """Where the nets live."""
    compile: bool = False
    """Compile the updates: faster, and equal to rounding."""
    threads: int = 1
    """Of torch."""


def configuration(recipe: Recipe, task: str, method: str) -> RunConfig:
    """One row as a run."""
    given, total, tried = METHODS[method], 2_000_000 if recipe.full else 500_000, recipe.scale != 1.0
    steps = max(round(total * recipe.scale) // COPIES, 8)
    apart = {
        name: getattr(given, name) for name in ("scheme", "soft", "fork", "minimum_actor", "twin_critics", "policy_delay", "target_noise")
    }
    algorithm = replace(PROTOCOL, compile=recipe.compile, **apart)
    if tried:
        algorithm = replace(algorithm, hidden=(8, 8), batch_size=16, random_steps=2)
    return RunConfig(
        algorithm=algorithm, game=TASKS[task], steps=steps, seed=recipe.seed, seeds=5 if recipe.full else 2, copies=COPIES,
        device=recipe.device, threads=recipe.threads, evaluate_every=max(steps // 20, 1) if not tried else steps // 4,
        evaluation_episodes=SCORE_EPISODES if not tried else 2, checkpoint_every=max(steps // 4, 1), log_every=max(steps // 200, 1),
        clips=3 if not tried else 0,
    )  # fmt: skip


def team_return(task: str, mean: float) -> float:
    """What the tables print of the mean return of the team's agents: in Simple Confuse the sum over the two cooperators."""
    return 2.0 * mean if task.startswith("simple_confuse") else mean


def rows_of(experiment: Experiment, task: str, method: str, episodes: int) -> list[Row]:
    """The rows of a finished run: what it reached at each of POINTS, and for the cooperators of Simple Confuse whom else they met."""
    config, rows = experiment.config, list[Row]()
    events = [e for e in read_events(experiment.out / EVENTS) if e["event"] == "evaluation" and e.get("policy") == "learned"]
    for step in [max(round(point * config.steps / config.evaluate_every), 1) * config.evaluate_every for point in POINTS]:
        reached = {e["seed"]: e for e in events if e["step"] == step}
        means = [team_return(task, reached[seed]["mean"]) for seed in experiment.seeds]
        seconds = round(reached[experiment.seeds[0]]["seconds"], 1)
        rows += [replace(row, steps=step * COPIES, seconds=seconds) for row in seed_rows(experiment, task, method, means)]
    if not task.startswith("simple_confuse"):
        return rows
    for name, wish in ADVERSARIES.items():
        rows += against(experiment, task, method, name, lambda world, wish=wish: ScriptedTeam(world, [wish, *splitters(2)]), episodes)
    return rows


def against(experiment: Experiment, task: str, method: str, name: str, adversary: Callable[[World], Policy], episodes: int) -> list[Row]:
    """The rows of a finished run's cooperators, who meet an adversary of this name."""
    seeds = experiment.config.seeds
    with closing(play(experiment.config, seeds * 10)) as game:
        assert isinstance(game, ParticleGame) and game.players is not None
        policy = StackedPolicy(experiment.learner, seeds, game.observation_space, game.action_space)
        them = {game.players.teams[0]: policy, game.players.teams[1]: adversary(game.world)}
        met = evaluate_members(CrossPlay(game.players, them), game, seeds, episodes, EVALUATION_SEED)
    return seed_rows(experiment, f"{task}/{name}", method, [team_return(task, result.mean) for result in met])


def median_adversary(rows: Sequence[Row], task: str, steps: int) -> tuple[str, int]:
    """Method and seed of the learned adversary that stands for all of a table.

    Methods are ordered by the mean over seeds of the learned pair's own return after so many steps, the lower the stronger the adversary;
    of the method in the middle, the seed in the middle (of an even number the lower one). Raises ConfigError, naming them, where methods
    have no such row: a median of some would change with every row that is added.
    """
    own = [row for row in rows if (row.task, row.steps) == (task, steps)]
    reached = {method: [(r.score, r.seed) for r in own if r.method == method and r.score is not None] for method in METHODS}
    missing = [method for method, scores in reached.items() if not scores]
    if missing:
        raise ConfigError(
            f"--panel was given for {task}; its median adversary needs all {len(METHODS)} rows at {steps:,} steps, of which "
            f"{len(missing)} are missing: {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}"
        )
    ordered = sorted(reached, key=lambda method: mean(score for score, _ in reached[method]))
    middle = ordered[(len(ordered) - 1) // 2]
    _, seed = sorted(reached[middle])[(len(reached[middle]) - 1) // 2]
    return middle, seed


def meet_median(recipe: Recipe, task: str, results: Path, episodes: int) -> None:
    """Add the rows of all cooperators against the median adversary, but for those that are there.

    Raises ConfigError where rows are missing or a run is not where `out` says.
    """
    steps = configuration(recipe, task, next(iter(METHODS))).steps * COPIES
    chosen, seed = median_adversary(read(results), task, steps)
    runs = {method: run_of(recipe, task, method) for method in METHODS}
    for method, out in runs.items():
        if not (out / EVENTS).exists():
            raise ConfigError(f"--panel was given for {task}; the run of {method} was expected in {out}, where there is none")
    there = {row.method for row in read(results) if (row.task, row.steps) == (f"{task}/{MEDIAN}", steps)}
    for method, out in runs.items():
        if method not in there:
            with Experiment(configuration(recipe, task, method), out) as experiment:
                experiment.restore()
                append(results, against(experiment, task, method, MEDIAN, lambda _: load_policy(runs[chosen], seed), episodes))


def run_of(recipe: Recipe, task: str, method: str) -> Path:
    """Where the run of a row lies."""
    return recipe.out / f"{task}-{method}{'-full' if recipe.full else ''}-{recipe.seed}".replace("/", "-")


def reference(recipe: Recipe, task: str) -> list[Row]:
    """What hand-written policies reach: navigators that share the landmarks; cooperators that split up, against each adversary."""
    episodes = SCORE_EPISODES if recipe.scale == 1.0 else 2
    rows: list[Row] = []
    with closing(play(configuration(recipe, task, "matd3/ct-de"), 10)) as game:
        assert isinstance(game, ParticleGame)
        for name, wish in ADVERSARIES.items() if task.startswith("simple_confuse") else [("", None)]:
            wishes = navigators(3) if wish is None else [wish, *splitters(2)]
            [result] = evaluate_members(ScriptedTeam(game.world, wishes), game, 1, episodes, EVALUATION_SEED)
            where = f"{task}/{name}" if name else task
            rows.append(Row(where, REFERENCE, 0, 0, round(team_return(task, result.mean), 2), 0.0, hardware(), commit()))
    return rows


def main(recipe: Recipe, console: Console | None = None) -> None:
    """Run or resume what was asked for and add its rows. Raises ConfigError for a row that the tables do not have."""
    known = [*METHODS, REFERENCE]
    for what, given, names in (("task", recipe.task, TASKS), ("method", recipe.method, known)):
        if given is not None and given not in names:
            raise ConfigError(f"{what}={given} was given; the nearest that the tables have is {nearest(given, names)}")
    results = recipe.results or (RESULTS / "many_agents.jsonl" if recipe.scale == 1.0 else None)
    episodes = SCORE_EPISODES if recipe.scale == 1.0 else 2
    if recipe.panel:
        tasks = [task for task in TASKS if task.startswith("simple_confuse") and recipe.task in (None, task)]
        if results is None or recipe.method or not tasks:
            raise ConfigError("--panel is for whole tables of Simple Confuse, and needs the file of their rows: --results")
        for task in tasks:
            meet_median(recipe, task, results, episodes)
        return
    for task in [recipe.task] if recipe.task else TASKS:
        for method in [recipe.method] if recipe.method else known:
            if method != REFERENCE:
                out = run_of(recipe, task, method)
                add_rows(configuration(recipe, task, method), out, task, method, results, episodes, console or Console(), rows_of)
            elif results is not None and not any(row.method == REFERENCE and row.task.startswith(task) for row in read(results)):
                append(results, reference(recipe, task))


if __name__ == "__main__":
    main(tyro.cli(Recipe, description=__doc__))
