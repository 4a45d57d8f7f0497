"""The papers' own tables at the papers' sizes, for `python -m tutelage.recipes.preferences --long`: days of a CPU for each.

- Christiano et al. 2017 (arXiv 1706.03741): figure 2, eight MuJoCo tasks with 350, 700 and 1,400 labels beside TRPO on the true reward;
  figure 3, seven Atari games with 3,300, 5,500 and 10,000 beside A2C; figures 5 and 6, the ablations of both. The text gives 50 million
  frames for Atari and no number for MuJoCo: five million steps are ours. Three seeds on Atari, five on MuJoCo, as in the paper.
- B-Pref (Lee et al. 2021): six teachers, PEBBLE and PrefPPO, with the labels of its scripts. Five seeds for its ten.
- Meta-Reward-Net (Liu et al. 2022): nine tasks, PEBBLE, SURF, Meta-Reward-Net and SAC, five seeds; STAR (Bai et al. 2025) on them.
"""

from dataclasses import replace
from typing import Any, NamedTuple

from tutelage.feedback.raters import TEACHERS
from tutelage.games.atari import CHRISTIANO as ATARI
from tutelage.games.christiano import CLIP_STEPS
from tutelage.learn.deep import a2c, sac
from tutelage.learn.preference import christiano, family, pebble
from tutelage.learn.preference.meta_reward_net import Config as MetaConfig
from tutelage.learn.preference.surf import Config as SurfConfig
from tutelage.rewards import learned


class Entry(NamedTuple):
    """One line of a table."""

    algorithm: Any
    steps: int
    """Of the game, per seed, all copies together."""
    copies: int
    seeds: int
    teacher: str = "oracle"
    game: str = ""
    """Address of the Atari game, without the length of an episode; empty: the task's name is the game's."""


Table = dict[tuple[str, str], Entry]


def ablated(whole: christiano.Config) -> dict[str, christiano.Config]:
    """The six ablations of Christiano et al. 2017, section 3.3: what each takes away."""
    model = whole.reward_model
    return {
        "random-queries": replace(whole, sampler="uniform"),
        "no-ensemble": replace(whole, sampler="uniform", reward_model=replace(model, members=1)),
        "no-online-queries": replace(whole, online=False),
        "no-regularization": replace(whole, reward_model=replace(model, penalty=0.0, penalty_band=())),
        "no-segments": replace(whole, segment_length=1),
        "target": replace(whole, reward_model=replace(model, regress_returns=True)),
    }


# --- Christiano et al. 2017 ------------------------------------------------------------------------------------------------

MUJOCO_STEPS, MUJOCO_COPIES = 5_000_000, 8
ATARI_STEPS, ATARI_COPIES = 12_500_000, 16  # 50 million frames, four to a step
EPISODE_FRAMES = 18_000
"""Of an Atari game, which has no end here: an episode that is judged is five minutes of play, the reference's too."""
ATARI_A2C = a2c.Config(hidden=(512,), activation="relu", shared=True, temperature=0.01, anneal=True)


def _mujoco(task: str, labels: int) -> christiano.Config:
    """TRPO is `christiano.Config`'s, with the paper's discount and lambda; the paper's bonus for entropy has no place in it."""
    return christiano.Config(labels=labels, segment_length=CLIP_STEPS[task], tape_steps=50_000 // MUJOCO_COPIES)


def _atari(labels: int) -> christiano.Config:
    """tape_steps: 48,000 observations are 1.4 GB."""
    return christiano.Config(
        labels=labels, initial_share=500 / labels, initial_steps=500, schedule_steps=5e6 / 4, segment_length=25, labels_kept=3_000,
        tape_steps=3_000, learner="a2c", a2c=ATARI_A2C, reward_model=learned.CHRISTIANO_ATARI,
    )  # fmt: skip


def _christiano() -> Table:
    table: Table = {}
    for task in CLIP_STEPS:
        world = f"christiano:{task}"
        table[world, "trpo"] = Entry(christiano.Config().trpo, MUJOCO_STEPS, MUJOCO_COPIES, 5)
        lines = {f"christiano-{labels}": _mujoco(task, labels) for labels in (350, 700, 1400)}
        lines |= {f"christiano-700-{name}": config for name, config in ablated(_mujoco(task, 700)).items()}
        table |= {(world, name): Entry(config, MUJOCO_STEPS, MUJOCO_COPIES, 5) for name, config in lines.items()}
    for rom, game in ATARI.items():
        world = f"atari:{rom}"
        table[world, "a2c"] = Entry(ATARI_A2C, ATARI_STEPS, ATARI_COPIES, 3, game=game)
        lines = {f"christiano-{labels}": _atari(labels) for labels in (3300, 5500, 10000)}
        lines |= {f"christiano-5500-{name}": config for name, config in ablated(_atari(5500)).items() if name != "no-segments"}
        table |= {(world, name): Entry(config, ATARI_STEPS, ATARI_COPIES, 3, game=game) for name, config in lines.items()}
    return table


# --- PEBBLE's line ---------------------------------------------------------------------------------------------------------


def _learner(task: str) -> sac.Config:
    meta_world, slow = task.startswith("metaworld:"), "quadruped" in task
    return sac.Config(
        hidden=(256, 256, 256) if meta_world else (1024, 1024), batch_size=512 if meta_world else 1024,
        learning_rate=3e-4 if meta_world else 1e-4 if slow else 5e-4, temperature_learning_rate=1e-4, initial_temperature=0.1,
        target_every=2,
    )  # fmt: skip


def _steps(task: str) -> int:
    return 1_000_000 if task.startswith("metaworld:") or "quadruped" in task else 500_000


def _pebble(kind: type[Any], task: str, labels: int, session_labels: int, **changes: Any) -> Entry:
    meta_world, slow = task.startswith("metaworld:"), "quadruped" in task
    every = 5_000 if meta_world else 30_000 if slow else 20_000
    given = {"session_every": every, "reward_model": learned.Config(epochs=10 if meta_world else 50)} | changes
    return Entry(kind(labels=labels, session_labels=session_labels, sac=_learner(task), **given), _steps(task), 1, 5)


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


def _nine() -> Table:
    table: Table = {}
    for task, (labels, session_labels, every) in NINE.items():
        meta_world = task.startswith("metaworld:")
        crops = SurfConfig(unlabeled_ratio=10 if meta_world else 100, crop_shortest=45, crop_longest=55)
        surf = learned.Config(epochs=20 if meta_world else 1000, target_accuracy=1.0)
        table[task, "sac"] = Entry(_learner(task), _steps(task), 1, 5)
        table |= {
            (task, f"pebble-{labels}"): _pebble(pebble.Config, task, labels, session_labels),
            (task, f"surf-{labels}"): _pebble(family.Surf, task, labels, session_labels, reward_model=surf, surf=crops),
            (task, f"meta-reward-net-{labels}"): _pebble(
                family.MetaRewardNet, task, labels, session_labels, meta=MetaConfig(every=every)
            ),
            (task, f"star-{labels}"): _pebble(
                family.Star, task, labels, session_labels, session_every=5_000, reward_model=family.Star().reward_model
            ),
        }  # fmt: skip
    return table


B_PREF: dict[str, tuple[tuple[int, int], ...]] = {
    "dm:walker-walk": ((500, 50), (1000, 100)),
    "dm:quadruped-walk": ((1000, 100), (2000, 200)),
    "metaworld:button-press-v3": ((10_000, 50), (20_000, 100)),
    "metaworld:sweep-into-v3": ((10_000, 50), (20_000, 100)),
}
"""Labels, and of them in a session, of B-Pref's scripts."""


def _pref_ppo(task: str, labels: int, session_labels: int) -> Entry:
    """Copies, steps and windows of B-Pref's scripts; sessions are as many as PEBBLE has."""
    meta_world, slow = task.startswith("metaworld:"), "quadruped" in task
    copies = 16 if slow or meta_world else 32
    learner = family.PrefPPO().ppo
    learner = replace(
        learner, window=250 if meta_world else 500, learning_rate=3e-4 if meta_world else 5e-5, batch_size=128 if slow else 64,
        gae_lambda=0.9 if slow else 0.92,
    )  # fmt: skip
    config = family.PrefPPO(labels=labels, session_labels=session_labels, initial_share=session_labels / labels, ppo=learner)
    return Entry(config, 3_000_000 if meta_world else 4_000_000, copies, 5)


def _b_pref() -> Table:
    table: Table = {}
    for task, budgets in B_PREF.items():
        of_ppo = _pref_ppo(task, 1000, 100)
        table[task, "sac"] = Entry(_learner(task), _steps(task), 1, 5)
        table[task, "ppo"] = Entry(of_ppo.algorithm.ppo, of_ppo.steps, of_ppo.copies, 5)
        for labels, session_labels in budgets:
            for method, entry in (
                (f"pebble-{labels}", _pebble(pebble.Config, task, labels, session_labels)),
                (f"prefppo-{labels}", _pref_ppo(task, labels, session_labels)),
            ):
                for teacher in TEACHERS:
                    if teacher != "coin":
                        world = task if teacher == "oracle" else f"{task}/{teacher}"
                        table[world, method] = entry._replace(teacher=teacher)
    return table


LONG: Table = _nine() | _b_pref() | _christiano()
