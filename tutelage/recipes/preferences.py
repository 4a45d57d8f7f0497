"""Learning from comparisons, method beside method: `python -m tutelage.recipes.preferences --task dm:walker-walk --method pebble-100`.

Four tables, each with the learner on the true reward beside it, in the order in which they are run:
- `christiano`: Christiano et al. 2017's figure 2 on three of its tasks, with 700 labels and 500,000 steps; PPO with CleanRL's settings
  learns. `ablations`: its figure 5, on Reacher.
- `walker`: walker-walk with 100 labels and 150,000 steps, the line of PEBBLE; nets of 256-256. `teachers`: B-Pref's six with PEBBLE, and
  RIME with the one who errs.
- `--long`: the papers' sizes and budgets with five seeds: B-Pref's tasks and the nine of Meta-Reward-Net. Days of a CPU.

The reward models of `walker` and `teachers` read standardized inputs: with 100 labels that was worth more than any method (see
pebble_control).
Without `--task` and `--method` everything is run; a run that was interrupted goes on where it stopped when the same command is given
again, and one whose rows are there is not run again.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import tyro
from rich.console import Console

from tutelage.experiment.config import RunConfig
from tutelage.games.christiano import CLIP_STEPS
from tutelage.learn.deep import ppo, sac
from tutelage.learn.preference import christiano, family, pebble
from tutelage.learn.preference.meta_reward_net import Config as MetaConfig
from tutelage.learn.preference.rime import Config as RimeConfig
from tutelage.learn.preference.student import Config as StudentConfig
from tutelage.learn.preference.surf import Config as SurfConfig
from tutelage.recipes.deep_control import CLEANRL_PPO
from tutelage.recipes.rows import RESULTS, add_rows, lines
from tutelage.rewards import learned


class Entry(NamedTuple):
    """One line of a table."""

    algorithm: Any
    steps: int
    """Of the game, per seed, all copies together."""
    copies: int
    seeds: int
    teacher: str = "oracle"


TAUGHT_STEPS, COPIES = 500_000, 4
WINDOW_PPO = replace(CLEANRL_PPO, window=512)  # by four copies as many steps as CleanRL's 2048 by one


def _christiano(task: str, **changes: Any) -> christiano.Config:
    config = christiano.Config(
        labels=700, initial_steps=5_000 // COPIES, segment_length=CLIP_STEPS[task], poll_every=500, tape_steps=50_000 // COPIES,
        learner="ppo", ppo=WINDOW_PPO, reward_model=replace(learned.CHRISTIANO, epochs=20),
    )  # fmt: skip
    return replace(config, **changes)


def _ablations(task: str) -> dict[str, christiano.Config]:
    model = _christiano(task).reward_model
    return {
        "random-queries": _christiano(task, sampler="uniform"),
        "no-ensemble": _christiano(task, sampler="uniform", reward_model=replace(model, members=1)),
        "no-online-queries": _christiano(task, online=False),
        "no-regularization": _christiano(task, reward_model=replace(model, penalty=0.0, penalty_band=())),
        "no-segments": _christiano(task, segment_length=1),
        "target": _christiano(task, reward_model=replace(model, regress_returns=True)),
    }


WALKER_SAC = sac.Config(learning_rate=5e-4, temperature_learning_rate=1e-4, initial_temperature=0.1, target_every=2)
MODEL = learned.Config(standardize_inputs=True)


def _walker(kind: type[Any] = pebble.Config, model: learned.Config = MODEL, **changes: Any) -> Any:
    """Ten sessions from step 10,000 on, of which the last is at 64,000: in B-Pref they lie in the first two fifths too."""
    return kind(labels=100, session_labels=10, session_every=6_000, sac=WALKER_SAC, reward_model=model, **changes)


COMBINED = _walker(
    model=replace(MODEL, label_smoothing=0.05), recent_episodes=10, student=StudentConfig(recent_share=0.5),
    surf=SurfConfig(crop_shortest=35, crop_longest=45), meta=MetaConfig(every=5_000),
)  # fmt: skip
"""What costs little and does not contradict: questions and half of every batch from the newest episodes, crops, smoothed labels, and
the critic's opinion now and then."""

TABLE: dict[tuple[str, str], Entry] = {
    **{
        (f"christiano:{task}", method): Entry(algorithm, TAUGHT_STEPS, COPIES, 3)
        for task in ("hopper", "half-cheetah", "reacher")
        for method, algorithm in (("ppo", WINDOW_PPO), ("christiano-700", _christiano(task)))
    },
    **{("christiano:reacher", f"christiano-700-{name}"): Entry(c, TAUGHT_STEPS, COPIES, 2) for name, c in _ablations("reacher").items()},
    ("dm:walker-walk", "sac"): Entry(WALKER_SAC, 150_000, 1, 3),
    ("dm:walker-walk", "pebble-100"): Entry(_walker(), 150_000, 1, 3),
    ("dm:walker-walk", "surf-100"): Entry(
        _walker(family.Surf, replace(MODEL, epochs=1000, max_steps=100, target_accuracy=1.0)), 150_000, 1, 3
    ),
    ("dm:walker-walk", "meta-reward-net-100"): Entry(_walker(family.MetaRewardNet), 150_000, 1, 3),
    ("dm:walker-walk", "combined-100"): Entry(COMBINED, 150_000, 1, 3),
    **{
        (f"dm:walker-walk/{teacher}", "pebble-100"): Entry(_walker(), 150_000, 1, 1, teacher)
        for teacher in ("mistake", "stoc", "skip", "equal", "myopic")
    },
    ("dm:walker-walk/mistake", "rime-100"): Entry(
        _walker(family.Rime, rime=RimeConfig(fits=10, warm_start_steps=1_000)), 150_000, 1, 1, "mistake"
    ),
}
"""The oracle is the sixth teacher."""


def _papers(method: str, task: str, labels: int, session_labels: int, every: int) -> Entry:
    """An algorithm with the papers' sizes. every: Meta-Reward-Net's N."""
    meta_world, slow = task.startswith("metaworld:"), "quadruped" in task
    learner = sac.Config(
        hidden=(256, 256, 256) if meta_world else (1024, 1024), batch_size=512 if meta_world else 1024,
        learning_rate=3e-4 if meta_world else 1e-4 if slow else 5e-4, temperature_learning_rate=1e-4, initial_temperature=0.1,
        target_every=2,
    )  # fmt: skip
    every_session = 5_000 if meta_world else 30_000 if slow else 20_000
    common: dict[str, Any] = dict(labels=labels, session_labels=session_labels, session_every=every_session, sac=learner)
    fits, steps = learned.Config(epochs=10 if meta_world else 50), 1_000_000 if meta_world or slow else 500_000
    if method == "sac":
        return Entry(learner, steps, 1, 5)
    if method == "surf":
        crops = SurfConfig(unlabeled_ratio=10 if meta_world else 100, crop_shortest=45, crop_longest=55)
        more = learned.Config(epochs=20 if meta_world else 1000, target_accuracy=1.0)
        return Entry(family.Surf(**common, reward_model=more, surf=crops), steps, 1, 5)
    if method == "meta-reward-net":
        return Entry(family.MetaRewardNet(**common, reward_model=fits, meta=MetaConfig(every=every)), steps, 1, 5)
    return Entry(pebble.Config(**common, reward_model=fits), steps, 1, 5)


NINE: dict[str, tuple[int, int, int]] = {
    "dm:walker-walk": (100, 10, 1_000),
    "dm:cheetah-run": (100, 10, 5_000),
    "dm:quadruped-walk": (700, 70, 3_000),
    "metaworld:hammer-v3": (10_000, 50, 5_000),
    "metaworld:door-open-v3": (1_000, 10, 5_000),
    "metaworld:button-press-v3": (100, 10, 5_000),
    "metaworld:sweep-into-v3": (4_000, 50, 10_000),
    "metaworld:drawer-open-v3": (1_000, 10, 5_000),
    "metaworld:window-open-v3": (100, 10, 5_000),
}
"""Labels, labels per session and N of Meta-Reward-Net's nine tasks (door-open as in its paper, not in its README)."""
LONG: dict[tuple[str, str], Entry] = {
    (task, method if method == "sac" else f"{method}-{labels}"): _papers(method, task, labels, session, every)
    for task, (labels, session, every) in NINE.items()
    for method in ("sac", "pebble", "surf", "meta-reward-net")
}


@dataclass(frozen=True)
class Recipe:
    """One line of the tables, or all of them."""

    task: str | None = None
    """Which world, such as christiano:hopper, or dm:walker-walk/mistake with the teacher's name. None: all."""
    method: str | None = None
    """Which method, with its number of labels. None: all."""
    long: bool = False
    """The papers' sizes and budgets."""
    seed: int = 0
    """The first."""
    scale: float = 1.0
    """Shrinks steps, labels and nets, to try the recipe; rows then go where `results` says only if it is given."""
    out: Path = Path("runs/preferences")
    """Where the runs lie."""
    results: Path | None = None
    """The file that rows are added to. None: benchmarks/results/preferences.jsonl, at scale 1 only."""
    threads: int = 1
    """Of torch."""


def _shrunk(algorithm: Any, scale: float) -> Any:
    """The same method in miniature."""
    if isinstance(algorithm, ppo.Config):
        return replace(algorithm, hidden=(16, 16), window=16, batch_size=16, epochs=2)
    if isinstance(algorithm, sac.Config):
        return replace(algorithm, hidden=(16, 16), batch_size=16, random_steps=max(round(algorithm.random_steps * scale), 20))
    model = replace(algorithm.reward_model, hidden=(16, 16), epochs=2, max_steps=4)
    labels = max(round(algorithm.labels * scale), 8)
    if isinstance(algorithm, christiano.Config):
        return replace(
            algorithm, labels=labels, initial_steps=30, segment_length=min(algorithm.segment_length, 5), poll_every=20,
            ppo=_shrunk(algorithm.ppo, scale), reward_model=model,
        )  # fmt: skip
    crops = replace(algorithm.surf, crop_shortest=min(algorithm.surf.crop_shortest, 5), crop_longest=min(algorithm.surf.crop_longest, 6))
    return replace(
        algorithm, labels=labels, session_labels=4, session_every=20, pretraining_steps=30, segment_length=5, updates_after_reset=2,
        sac=_shrunk(algorithm.sac, scale), reward_model=model, surf=replace(crops, unlabeled_ratio=min(crops.unlabeled_ratio, 2)),
        meta=replace(algorithm.meta, every=min(algorithm.meta.every, 10)),
        rime=replace(algorithm.rime, warm_start_steps=min(algorithm.rime.warm_start_steps, 3)),
    )  # fmt: skip


def configuration(recipe: Recipe, task: str, method: str) -> RunConfig:
    """One line as a run."""
    entry, whole = (LONG if recipe.long else TABLE)[task, method], recipe.scale == 1.0
    steps = max(round(entry.steps * recipe.scale) // entry.copies, 100)
    return RunConfig(
        algorithm=entry.algorithm if whole else _shrunk(entry.algorithm, recipe.scale), game=task.partition("/")[0],
        steps=steps, seed=recipe.seed, seeds=entry.seeds, copies=entry.copies, threads=recipe.threads, teacher=entry.teacher,
        evaluate_every=max(steps // 6, 1) if whole else steps, evaluation_episodes=5 if whole else 1, checkpoint_every=max(steps // 15, 1),
        log_every=max(steps // 300, 1), clips=3 if whole else 0,
    )  # fmt: skip


def main(recipe: Recipe, console: Console | None = None) -> None:
    """Run or resume what was asked for, judge the final policies and add their rows. Raises ConfigError for a line that is not there."""
    for task, method in lines(LONG if recipe.long else TABLE, recipe.task, recipe.method):
        config = configuration(recipe, task, method)
        results = recipe.results or (RESULTS / "preferences.jsonl" if recipe.scale == 1.0 else None)
        name = task.replace(":", "-").replace("/", "-")
        out = recipe.out / f"{name}-{method}-{'long-' if recipe.long else ''}{config.seed}"
        label = f"{task}/full" if recipe.long else task
        add_rows(config, out, label, method, results, 100 if recipe.scale == 1.0 else 2, console or Console())


if __name__ == "__main__":
    main(tyro.cli(Recipe, description=__doc__))
