"""What `tutelage.recipes.preferences` found, beside what the papers found.

`tutelage compare benchmarks/results/preferences.jsonl` prints the table. `python -m tutelage.recipes.preference_figures --runs
runs/preferences --out docs/images` draws the learning curves, a picture for each world (Christiano et al. 2017, figures 2, 3, 5 and 6;
Meta-Reward-Net's figure of nine tasks), and measures the error of the critics (its table).

Published numbers (preferences_published.json) are relative to the same learner on the true reward, as ours are: of B-Pref (Lee et al.
2021; Button Press from its notebooks, the others read off its figures to 0.02), where 100 labels were given of STAR (Bai et al. 2025;
the mean of three tasks of DeepMind Control), and of Meta-Reward-Net (Liu et al. 2022) for the errors of critics.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from tutelage.equations.returns import discounted_return
from tutelage.evaluate.episodes import Playing
from tutelage.evaluate.policy import MemberPolicy
from tutelage.experiment.log import EVENTS, read_events
from tutelage.experiment.run import Experiment, play, read_config
from tutelage.games.nested import flatten_action, flatten_observation
from tutelage.learn.deep.sac import SAC, twin_values
from tutelage.recipes.rows import RESULTS, Row, append, directory_of, number, read, seed_rows

PUBLISHED: dict[str, dict[str, float]] = json.loads((Path(__file__).parent / "preferences_published.json").read_text())
REFERENCES = ("sac", "ppo", "trpo", "a2c")
"""Methods that learn from the true reward; a method is held against the one that learns as it does."""
TRAJECTORIES, TRAJECTORY_SEED = 10, 30_000_000
"""Of a table of errors (Meta-Reward-Net: ten)."""


def reference_of(method: str, known: Sequence[str]) -> str | None:
    """Which of the methods of a world learns from the true reward as this one learns from comparisons; itself for a reference."""
    if method in REFERENCES:
        return method
    on_policy = method.startswith(("christiano", "prefppo"))
    return next((name for name in REFERENCES if name in known and (name != "sac") == on_policy), None)


def table(path: Path) -> str:
    """One line per world and method: medians relative to the reference's, what the papers have, and every seed; for a file of rows."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in read(path):
        groups.setdefault((row.task, row.method), []).append(row)
    middle = {line: median(finished) for line, rows in groups.items() if (finished := [row.score for row in rows if row.score is not None])}
    lines = [
        "| task | method | steps | normalized | published | median | every seed | minutes | commit |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (task, method), rows in groups.items():
        short = task.removesuffix("/full")
        world = short.partition("/")[0] + ("/full" if task != short else "")  # the reference has no teacher
        reference = reference_of(method, [name for own, name in groups if own == world])
        below = middle.get((world, reference or ""), 0.0)
        relative = f"{middle[task, method] / below:.2f}" if below > 0.0 and (task, method) in middle and "/q-error" not in task else ""
        published = PUBLISHED.get(short, {}).get(method)
        cells = [
            task, method, f"{rows[0].steps:,}", relative, "" if published is None else f"{published:.2f}",
            number(middle[task, method]) if (task, method) in middle else "-",
            ", ".join("failed" if row.score is None else number(row.score) for row in rows),
            f"{max(row.seconds for row in rows) / 60:.1f}", rows[0].commit,
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


# --- learning curves -------------------------------------------------------------------------------------------------------

Curve = Mapping[int, Sequence[tuple[float, float]]]
"""Seed -> (steps of the game, mean return)."""


def runs_below(folder: Path) -> dict[str, dict[str, Path]]:
    """World, with its teacher's name where that is not the oracle -> method -> run directory, as the recipe names them."""
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.glob(f"*/{EVENTS}")):
        config, name = read_config(path.parent), path.parent.name
        world = config.game.partition("?")[0] + ("" if config.teacher == "oracle" else f"/{config.teacher}")
        method = name[len(world) + 1 :].rpartition("-")[0] if name.lower().startswith(directory_of(world).lower()) else name
        found.setdefault(world, {})[method] = path.parent
    return found


def curve(run: Path) -> Curve:
    """What the evaluations of a run found."""
    copies, by_seed = read_config(run).copies, dict[int, dict[float, float]]()
    for event in read_events(run / EVENTS):
        if event["event"] == "evaluation":
            by_seed.setdefault(event["seed"], {})[float(event["step"] * copies)] = event["mean"]  # the last is of most episodes
    return {seed: list(points.items()) for seed, points in by_seed.items()}


def picture(world: str, lines: Mapping[str, Curve], out: Path) -> Path:
    """One picture: the mean over seeds of each method, thick, over its seeds; references are dashed."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(8, 5), layout="constrained")
    axes = drawn.subplots()
    for place, (method, by_seed) in enumerate(sorted(lines.items())):
        style, color = "--" if method in REFERENCES else "-", f"C{place % 10}"
        for points in by_seed.values():
            axes.plot(*zip(*points, strict=True), style, color=color, linewidth=0.6, alpha=0.5)
        steps = [step for step, _ in min(by_seed.values(), key=len)]
        means = [mean(points[i][1] for points in by_seed.values()) for i in range(len(steps))]
        axes.plot(steps, means, style, color=color, linewidth=2.0, label=method)
    axes.set_xlabel("Steps of the game")
    axes.set_ylabel("True return")
    axes.set_title(world)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"preferences_{world.replace(':', '_').replace('/', '_')}.png"
    drawn.savefig(path, dpi=110)
    return path


# --- errors of critics -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trajectories:
    """What a policy did and what the game paid for it."""

    observation: Float[Tensor, "T N D"]
    action: Float[Tensor, "T N A"]
    """In [-1, 1]."""
    reward: Float[Tensor, "T N"]


def standardized_error(value: Float[Tensor, "R n"], target: Float[Tensor, "n"]) -> Float[Tensor, "R"]:
    """Mean squared difference, both with mean 0 and deviation 1: the scale of a learned reward says nothing. 2 where they are strangers."""
    unit = lambda x: (x - x.mean(-1, keepdim=True)) / x.std(-1, correction=0, keepdim=True).clamp(min=1e-8)
    return (unit(value) - unit(target)).square().mean(-1)


def critic_of(experiment: Experiment) -> SAC | None:
    """The SAC of a run: the learner itself, or what learns within it. None: it has no critic of actions."""
    learner = getattr(experiment.learner, "sac", experiment.learner)
    return learner if isinstance(learner, SAC) else None


@torch.no_grad()
def trajectories(experiment: Experiment, learner: SAC) -> Trajectories:
    """Ten noise-free episodes of a run's first seed, to the end of the shortest. learner: of the run."""
    steps: list[tuple[Tensor, Tensor, Tensor]] = []
    with closing(play(experiment.config, TRAJECTORIES)) as game:
        policy = MemberPolicy(experiment.learner, experiment.config.seeds, 0, game.observation_space, game.action_space)
        playing = Playing(policy, game, TRAJECTORY_SEED)
        while True:
            action = playing.act()
            seen = flatten_observation(game.observation_space, playing.observation)
            done = (flatten_action(game.action_space, action) - learner.action_middle) / learner.action_reach
            step = playing.step(action)
            steps.append((seen, done, step.reward))
            if step.boundary.any():
                return Trajectories(*(torch.stack(part).float() for part in zip(*steps, strict=True)))


@torch.no_grad()
def q_errors(learner: SAC, played: Trajectories) -> list[float]:
    """Of each seed's smaller critic against the discounted true return, on the steps whose return lacks at most a hundredth."""
    discount = learner.config.discount
    none = torch.zeros_like(played.reward)
    target = discounted_return(played.reward, none.bool(), discount, none)
    whole = max(len(target) - math.ceil(math.log(0.01) / math.log(discount)), 1)
    pairs = (x[:whole].flatten(0, 1).expand(len(learner.train.generators), -1, -1) for x in (played.observation, played.action))
    value = twin_values(learner.critic, learner.train.weights("critic"), *pairs).amin(1)
    return standardized_error(value, target[:whole].flatten()).tolist()


def error_rows(runs: Path, world: str) -> list[Row]:
    """A row for each seed of each finished run of a world that has critics, on trajectories of its SAC; none where that is not there."""
    methods, rows = runs_below(runs).get(world, {}), list[Row]()
    if "sac" not in methods:
        return rows
    with _restored(methods["sac"]) as experiment:
        assert isinstance(experiment.learner, SAC)
        played = trajectories(experiment, experiment.learner)
    for method, run in sorted(methods.items()):
        with _restored(run) as experiment:
            learner = critic_of(experiment)
            if learner is not None and experiment.finished:
                rows += seed_rows(experiment, f"{world}/q-error", method, q_errors(learner, played))
    return rows


@contextmanager
def _restored(run: Path) -> Iterator[Experiment]:
    """A run at its newest checkpoint."""
    with Experiment(read_config(run), run) as experiment:
        experiment.restore()
        yield experiment


@dataclass(frozen=True)
class Figures:
    """Draw what lies below a folder of runs, and add rows of the critics' errors."""

    runs: Path = Path("runs/preferences")
    """Of the recipe."""
    out: Path = Path("docs/images")
    """Where pictures go."""
    errors: str | None = None
    """The world whose critics are measured, such as dm:walker-walk. None: none."""
    results: Path = RESULTS / "preferences.jsonl"
    """The file that rows of errors are added to."""


def main(given: Figures) -> None:
    """A picture for each world of which runs are there."""
    for world, methods in runs_below(given.runs).items():
        print(picture(world, {method: curve(run) for method, run in methods.items()}, given.out))
    if given.errors is not None:
        append(given.results, error_rows(given.runs, given.errors))


if __name__ == "__main__":
    main(tyro.cli(Figures, description=__doc__))
