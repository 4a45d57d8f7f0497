"""Learning from comparisons, method beside method: `python -m tutelage.recipes.preferences --task dm:walker-walk --method pebble-100`.

Four tables, each with the learner on the true reward beside it, in the order in which they are run:
- `christiano`: Christiano et al. 2017's figure 2 on three of its tasks, with 700 labels and 500,000 steps; PPO with CleanRL's settings
  learns. `ablations`: its figure 5, on Reacher.
- `walker`: walker-walk with 100 labels and 150,000 steps, the line of PEBBLE; nets of 256-256. `teachers`: B-Pref's six with PEBBLE, and
  RIME with the one who errs.
- `--long`: the papers' own tables at their sizes (preferences_long.py). Days of a CPU for each.

The reward models of `walker` and `teachers` read standardized inputs: with 100 labels that was worth more than any method (see
pebble_control).
Without `--task` and `--method` everything is run; a run that was interrupted goes on where it stopped when the same command is given
again, and one whose rows are there is not run again.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from tutelage.experiment.config import ConfigError, RunConfig
from tutelage.games.christiano import CLIP_STEPS
from tutelage.learn.deep import a2c, ppo, sac, trpo
from tutelage.learn.preference import christiano, family, pebble
from tutelage.learn.preference.meta_reward_net import Config as MetaConfig
from tutelage.learn.preference.rime import Config as RimeConfig
from tutelage.learn.preference.student import Config as StudentConfig
from tutelage.learn.preference.surf import Config as SurfConfig
from tutelage.recipes.deep_control import CLEANRL_PPO
from tutelage.recipes.preferences_long import EPISODE_FRAMES, LONG, Entry, Table, ablated
from tutelage.recipes.rows import RESULTS, add_rows, directory_of, lines
from tutelage.rewards import learned

TAUGHT_STEPS, COPIES = 500_000, 4
WINDOW_PPO = replace(CLEANRL_PPO, window=512)  # by four copies as many steps as CleanRL's 2048 by one


def _christiano(task: str) -> christiano.Config:
    return christiano.Config(
        labels=700, initial_steps=5_000 // COPIES, segment_length=CLIP_STEPS[task], poll_every=500, tape_steps=50_000 // COPIES,
        learner="ppo", ppo=WINDOW_PPO, reward_model=replace(learned.CHRISTIANO, epochs=20),
    )  # fmt: skip


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

TABLE: Table = {
    **{
        (f"christiano:{task}", method): Entry(algorithm, TAUGHT_STEPS, COPIES, 3)
        for task in ("hopper", "half-cheetah", "reacher")
        for method, algorithm in (("ppo", WINDOW_PPO), ("christiano-700", _christiano(task)))
    },
    **{
        ("christiano:reacher", f"christiano-700-{name}"): Entry(c, TAUGHT_STEPS, COPIES, 2)
        for name, c in ablated(_christiano("reacher")).items()
    },
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
    compile: bool = False
    """Compile the updates of SAC and PPO: faster, and equal to rounding."""
    threads: int = 1
    """Of torch."""


def _compiled(algorithm: Any) -> Any:
    """The same with compiled updates, its own or those of the learner that it teaches. Raises ConfigError where there are none."""
    if isinstance(algorithm, sac.Config | ppo.Config):
        return replace(algorithm, compile=True)
    name = algorithm.learner if isinstance(algorithm, christiano.Config) else "sac"
    if not isinstance(algorithm, christiano.Config | pebble.Config) or name not in ("ppo", "sac"):
        raise ConfigError(f"--compile was given, and {type(algorithm).__module__} has no update that can be compiled; leave it away")
    return replace(algorithm, **{name: _compiled(getattr(algorithm, name))})


def shrunk(algorithm: Any, scale: float) -> Any:
    """The same method in miniature."""
    if isinstance(algorithm, ppo.Config):
        return replace(algorithm, hidden=(16, 16), window=16, batch_size=16, epochs=2)
    if isinstance(algorithm, trpo.Config | a2c.Config):
        return replace(algorithm, hidden=(16,), window=16)
    if isinstance(algorithm, sac.Config):
        return replace(algorithm, hidden=(16, 16), batch_size=16, random_steps=max(round(algorithm.random_steps * scale), 20))
    model = replace(algorithm.reward_model, hidden=(16, 16), epochs=2, max_steps=4)
    labels = max(round(algorithm.labels * scale), 8)
    if isinstance(algorithm, christiano.Config):
        return replace(
            algorithm, labels=labels, initial_steps=30, segment_length=min(algorithm.segment_length, 5), poll_every=20,
            session_labels=min(algorithm.session_labels, 4), recent_episodes=min(algorithm.recent_episodes, 20), reward_model=model,
            **{name: shrunk(getattr(algorithm, name), scale) for name in ("trpo", "ppo", "a2c")},
        )  # fmt: skip
    crops = replace(algorithm.surf, crop_shortest=min(algorithm.surf.crop_shortest, 5), crop_longest=min(algorithm.surf.crop_longest, 6))
    return replace(
        algorithm, labels=labels, session_labels=4, session_every=20, pretraining_steps=30, segment_length=5, updates_after_reset=2,
        sac=shrunk(algorithm.sac, scale), reward_model=model, surf=replace(crops, unlabeled_ratio=min(crops.unlabeled_ratio, 2)),
        meta=replace(algorithm.meta, every=min(algorithm.meta.every, 10)),
        rime=replace(algorithm.rime, warm_start_steps=min(algorithm.rime.warm_start_steps, 3)),
    )  # fmt: skip


def configuration(recipe: Recipe, task: str, method: str) -> RunConfig:
    """One line as a run."""
    entry, whole = (LONG if recipe.long else TABLE)[task, method], recipe.scale == 1.0
    copies = entry.copies if whole else min(entry.copies, 4)
    steps = max(round(entry.steps * recipe.scale) // copies, 100)
    game = f"{entry.game}&max_frames={EPISODE_FRAMES if whole else 400}" if entry.game else task.partition("/")[0]
    algorithm = entry.algorithm if whole else shrunk(entry.algorithm, recipe.scale)
    return RunConfig(
        algorithm=_compiled(algorithm) if recipe.compile else algorithm, game=game,
        steps=steps, seed=recipe.seed, seeds=entry.seeds, copies=copies, threads=recipe.threads, teacher=entry.teacher,
        evaluate_every=max(steps // 6, 1) if whole else steps, evaluation_episodes=5 if whole else 1, checkpoint_every=max(steps // 15, 1),
        log_every=max(steps // 300, 1), clips=3 if whole else 0,
    )  # fmt: skip


def main(recipe: Recipe, console: Console | None = None) -> None:
    """Run or resume what was asked for, judge the final policies and add their rows. Raises ConfigError for a line that is not there."""
    for task, method in lines(LONG if recipe.long else TABLE, recipe.task, recipe.method):
        config = configuration(recipe, task, method)
        results = recipe.results or (RESULTS / "preferences.jsonl" if recipe.scale == 1.0 else None)
        out = recipe.out / f"{directory_of(task)}-{method}-{'long-' if recipe.long else ''}{config.seed}"
        label = f"{task}/full" if recipe.long else task
        add_rows(config, out, label, method, results, 100 if recipe.scale == 1.0 else 2, console or Console())


if __name__ == "__main__":
    main(tyro.cli(Recipe, description=__doc__))
