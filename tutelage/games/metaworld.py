"""Meta-World's fifty tasks of a Sawyer arm as a Game (Yu et al. 2020, arXiv 1910.10897; the v3 worlds of its package).

Observation: the package's 39 numbers: hand (3), gripper's opening (1), places and quaternions of up to two objects
(14, zeros where there is one), the same 18 of the step before, the goal (3). Action: where the hand goes (3) and the gripper's
force, in [-1, 1]. Reward: the package's second version, between 0 and 10, and 10 where the task is done. An episode has 500
steps of 12.5 ms and never terminates, also when the task is done: the limit is a boundary.

Protocol, that of B-Pref (Lee et al. 2021) and those who compare with it (SURF, Meta-Reward-Net)
- Every episode draws its object's place and its goal anew, where the task has any to draw.
- The goal is hidden: its three numbers are zero. `?goal=visible` shows it, as in Meta-World's own multi-task protocol.
- An episode succeeds when `success` held after any of its steps; the success rate is the share of such episodes.

Where we depart from the package
- The generator of the draws is each copy's own and seeded by `reset`, not numpy's global one.
- An episode draws once, and then begins as the package begins a frozen task. Left to draw by itself, its `reset` draws twice,
  and in five tasks, drawer-open and window-open among them, the first observation shows the object up to 0.15 m from where it
  is: where the first draw had put it.
"""

import importlib
from collections.abc import Mapping
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import UInt8

from tutelage.games import options as address_options
from tutelage.games.gymnasium import GymnasiumGame, gymnasium
from tutelage.games.mujoco import (
    Painter,
    check_divergence,
    get_model_changes,
    get_simulation,
    model_arrays,
    set_model_changes,
    set_simulation,
)
from tutelage.games.snapshots import get_generator, pack, set_generator, unpack
from tutelage.games.spec import GameError, Snapshot

try:
    # Any: Meta-World's types do not hold.
    tasks: Any = importlib.import_module("metaworld.env_dict")
except ImportError as error:
    raise GameError("Meta-World is not installed, and this game needs it; run: pip install 'tutelage[control]'") from error

_CAMERA = "corner3"
"""Sees the whole table, over the arm's shoulder."""


def known_tasks() -> list[str]:
    """Every task of the package, as name-v3."""
    return sorted(tasks.ALL_V3_ENVIRONMENTS)


def make_metaworld(path: str, copies: int, options: Mapping[str, Any]) -> GymnasiumGame:
    """path: "name-v3", of a name in `known_tasks`, or "name-v3?goal=visible&horizon=500".

    Raises GameError for an option or a value that there is not.
    """
    task, _, query = path.partition("?")
    address = f"metaworld:{path}"

    def build(goal: Literal["hidden", "visible"] = "hidden", horizon: int = 500) -> GymnasiumGame:
        if horizon < 1:
            raise GameError(f"{address}: horizon={horizon} was given; an episode needs at least one step")
        return GymnasiumGame(lambda: MetaWorldEnv(task, goal == "visible", horizon), copies, address)

    return address_options.build(build, f"metaworld:{task}", {**address_options.parse(query, address), **options}, address)


class MetaWorldEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One copy of one task, as a Gymnasium environment that can put itself back and draw itself in any size."""

    def __init__(self, task: str, goal_visible: bool, horizon: int) -> None:
        self._name = f"metaworld:{task}"
        self._core: Any = tasks.ALL_V3_ENVIRONMENTS[task]()
        self._compiled = model_arrays(self._core.model)
        # As `set_task` would set them, but for the draw, which `reset` makes with the world's own generator.
        self._core.seeded_rand_vec, self._core._set_task_called = True, True
        self._core._partially_observable = not goal_visible
        # The space was computed with the goal hidden, and it clips what is seen.
        self._core.__dict__.pop("sawyer_observation_space", None)
        self._core.max_path_length = horizon
        self._painter: Painter | None = None
        # The first reset makes attributes and moves bodies of the model; a restore needs the attributes to be there.
        self.reset(seed=0)
        self.observation_space, self.action_space = self._core.sawyer_observation_space, self._core.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """As Gymnasium's `reset`."""
        if seed is not None:
            self._core.np_random = np.random.default_rng(seed)
        self._core._freeze_rand_vec = False
        self._core.reset_model()
        self._core._freeze_rand_vec = True
        return self._core.reset()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """As Gymnasium's `step`; info["success"] is 1 where the task is done. A simulation that diverged ends in a GameError."""
        answer = self._core.step(action)
        check_divergence(self._core.data, self._name)
        return answer

    def snapshot(self) -> Snapshot:
        """The simulation, the bodies of the model that a reset moved, the task's own numbers and its generator."""
        core = self._core
        return {
            "simulation": get_simulation(core.model, core.data),
            "model": get_model_changes(core.model, self._compiled),
            "task": {name: pack(value) for name, value in core.__dict__.items() if _is_kept(value)},
            "generator": get_generator(core.np_random, self._name),
        }

    def restore(self, snapshot: Snapshot) -> None:
        """The inverse of `snapshot`."""
        core = self._core
        set_model_changes(core.model, self._compiled, snapshot["model"])
        set_simulation(core.model, core.data, snapshot["simulation"])
        for name, value in snapshot["task"].items():
            setattr(core, name, unpack(value))
        set_generator(core.np_random, snapshot["generator"])

    def draw(self, width: int, height: int) -> UInt8[np.ndarray, "height width 3"]:
        """The whole table, over the arm's shoulder."""
        if self._painter is None:
            self._painter = Painter(self._core.model, _CAMERA)
        # The package's corner cameras hang upside down.
        return self._painter.paint(self._core.data, width, height)[::-1, ::-1].copy()

    def close(self) -> None:
        """Release the picture's contexts."""
        if self._painter is not None:
            self._painter.close()


def _is_kept(value: Any) -> bool:
    """Whether a snapshot holds this attribute: numbers, words and arrays, but no window into the simulation's memory.

    Every task keeps such windows (`init_left_pad` moves with the pad); they show what the simulation was put back to.
    """
    if not isinstance(value, np.ndarray):
        return value is None or isinstance(value, bool | int | float | str | np.number | np.bool_)
    owner = cast("Any", value)
    while isinstance(owner, np.ndarray):
        owner = cast("Any", owner.base)
    return owner is None
