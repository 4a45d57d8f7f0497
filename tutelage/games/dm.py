"""The DeepMind Control Suite as a Game (Tassa et al. 2018, arXiv 1801.00690).

The observation is one float32 vector, the task's entries concatenated in the task's order. One action is one control
step of the task: the action repeat is 1. Only a discount of zero terminates; the time limit is a boundary.
"""

import importlib
import math
import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from tutelage.games.gymnasium import GymnasiumGame
from tutelage.games.mujoco import (
    get_model_changes,
    get_simulation,
    model_arrays,
    mujoco,
    prefer_fast_pictures,
    set_model_changes,
    set_simulation,
)
from tutelage.games.snapshots import pack, unpack
from tutelage.games.spec import GameError, Snapshot

try:
    import gymnasium

    # Any: dm_control carries no types.
    suite: Any = importlib.import_module("dm_control.suite")
    control: Any = importlib.import_module("dm_control.rl.control")
except ImportError as error:
    raise GameError("dm_control is not installed, and this game needs it; run: pip install 'tutelage[control]'") from error

_LARGEST_PICTURE = 1024
"""dm_control allocates one frame for all sizes, before the first picture."""


def known_tasks() -> list[str]:
    """Every task of the suite, as domain-task."""
    return sorted(f"{domain}-{task}" for domain, task in suite.ALL_TASKS)


def make_control(identifier: str, copies: int, **options: Any) -> GymnasiumGame:
    """The suite's task `identifier` (domain-task) in `copies`; `options` go to the task (time_limit, ...)."""
    domain, _, task = identifier.partition("-")
    try:
        return GymnasiumGame(lambda: ControlEnv(domain, task, **options), copies, f"dm:{identifier}")
    except TypeError as error:
        raise GameError(f"dm:{identifier} cannot be made with the options {options}: {error}") from error


class ControlEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One copy of one task, as a Gymnasium environment that can put itself back and draw itself in any size."""

    def __init__(self, domain: str, task: str, **options: Any) -> None:
        # The seed 0 is of the construction only: `lqr` draws the stiffness of its springs there, and every copy and
        # every process must have the same world. Episodes are drawn from the seed given to `reset`.
        self._env: Any = suite.load(domain, task, task_kwargs={"random": 0, **options})
        self._physics, self._task = self._env.physics, self._env.task
        self._name = f"dm:{domain}-{task}"
        self._compiled = model_arrays(self._physics.model.ptr)
        self._shown_terrain = np.empty(0)
        prefer_fast_pictures(self._physics.model.ptr)
        frame = self._physics.model.vis.global_
        frame.offwidth = frame.offheight = _LARGEST_PICTURE
        action = self._env.action_spec()
        low, high = (np.broadcast_to(bound, action.shape).astype(np.float32) for bound in (action.minimum, action.maximum))
        self.action_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        width = sum(math.prod(entry.shape) for entry in self._env.observation_spec().values())
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (width,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """As Gymnasium's `reset`."""
        if seed is not None:
            # The generator of the suite takes words of 32 bits, and one small number as itself.
            self._task.random.seed(seed if seed < 2**32 else [seed >> shift & 0xFFFFFFFF for shift in range(0, seed.bit_length(), 32)])
        return _vector(self._env.reset().observation), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """As Gymnasium's `step`; a simulation that diverged ends in a GameError."""
        try:
            answer = self._env.step(action)
        except control.PhysicsError as error:
            raise GameError(f"{self._name}: the simulation diverged ({error})") from error
        terminated = answer.last() and answer.discount == 0.0
        return _vector(answer.observation), answer.reward, terminated, answer.last() and not terminated, {}

    def snapshot(self) -> Snapshot:
        """The simulation, the parts of the model that the task moves, the task's own numbers, its generator and the clock."""
        _, words, position, has_gauss, gauss = self._task.random.get_state()
        return {
            "simulation": get_simulation(self._physics.model.ptr, self._physics.data.ptr),
            "model": get_model_changes(self._physics.model.ptr, self._compiled),
            "task": {name: pack(value) for name, value in self._task.__dict__.items() if isinstance(value, numbers.Real | np.ndarray)},
            "generator": {"words": torch.as_tensor(words.view(np.int32)), "position": position, "has_gauss": has_gauss, "gauss": gauss},
            # Private to dm_control, and the only place where an episode's clock is kept.
            "steps": self._env._step_count,
            "over": self._env._reset_next_step,
        }

    def restore(self, snapshot: Snapshot) -> None:
        """The inverse of `snapshot`."""
        set_model_changes(self._physics.model.ptr, self._compiled, snapshot["model"])
        set_simulation(self._physics.model.ptr, self._physics.data.ptr, snapshot["simulation"])
        for name, value in snapshot["task"].items():
            setattr(self._task, name, unpack(value))
        generator = snapshot["generator"]
        words = np.asarray(generator["words"], np.int32).view(np.uint32)
        self._task.random.set_state(("MT19937", words, generator["position"], generator["has_gauss"], generator["gauss"]))
        self._env._step_count, self._env._reset_next_step = snapshot["steps"], snapshot["over"]

    def draw(self, width: int, height: int) -> UInt8[np.ndarray, "height width 3"]:
        """From the task's first camera, where it has one. Raises GameError beyond 1024 x 1024 pixels."""
        if max(width, height) > _LARGEST_PICTURE:
            raise GameError(f"{self._name} was asked for a picture of {width} x {height}; {_LARGEST_PICTURE} pixels a side is the most")
        physics = self._physics
        terrain: np.ndarray = physics.model.hfield_data
        if not np.array_equal(terrain, self._shown_terrain):
            # The graphics context keeps its own copy, which neither a reset nor a restore reaches.
            self._shown_terrain = terrain.copy()
            with physics.contexts.gl.make_current() as context:
                context.call(mujoco.mjr_uploadHField, physics.model.ptr, physics.contexts.mujoco.ptr, 0)
        camera = 0 if physics.model.ncam else -1
        return physics.render(height, width, camera, render_flag_overrides={"shadow": False, "reflection": False})

    def close(self) -> None:
        """Release the physics."""
        self._env.close()


def _vector(observation: Mapping[str, Any]) -> np.ndarray:
    return np.concatenate([np.ravel(entry) for entry in observation.values()], dtype=np.float32, casting="same_kind")
