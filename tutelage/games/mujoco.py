"""MuJoCo below Gymnasium and DeepMind Control: the complete state of a simulation, and fast pictures.

MuJoCo calls a part of its memory the integration state: from it the next step follows bit by bit. That is not enough
for a world. Environments also *read* derived quantities between steps (Ant takes its position before a step from
`xpos`, contact forces from `cfrc_ext`), and after a step these still belong to the last substep's start. So a snapshot
holds the integration state and every derived quantity an environment may read.
"""

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from tutelage.games.spec import CannotSnapshot, GameError, Snapshot

try:
    # Any: the bindings are compiled and carry no types.
    mujoco: Any = importlib.import_module("mujoco")
except ImportError as error:
    raise GameError("MuJoCo is not installed, and this game needs it; run: pip install 'tutelage[control]'") from error

_INTEGRATION = mujoco.mjtState.mjSTATE_INTEGRATION
_STATE = (
    "qpos",
    "qvel",
    "act",
    "qacc_warmstart",
    "ctrl",
    "qfrc_applied",
    "xfrc_applied",
    "mocap_pos",
    "mocap_quat",
    "userdata",
    "plugin_state",
)
_FACTORS = ("qM", "qLD", "qLDiagInv", "qH", "qHDiagInv", "qLU", "qDeriv", "crb", "actuator_moment", "ten_J", "flexedge_J")
_BOUNDS = ("bvh_aabb_dyn", "flexelem_aabb")
_NOT_DERIVED = frozenset((*_STATE, *_FACTORS, *_BOUNDS))
"""The integration state itself, and what mj_forward recomputes from it and only a step reads."""
_BAD_NUMBERS = slice(int(mujoco.mjtWarning.mjWARN_BADQPOS), int(mujoco.mjtWarning.mjWARN_BADQACC) + 1)
"""The warnings about positions, velocities and accelerations."""
_CONSTANT_MODEL_PREFIXES = ("mesh", "tex", "skin", "flex", "bvh", "name", "text", "tuple", "key", "path")
"""Meshes, textures, names and the like: megabytes that no task changes."""


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.size > 0


def _derived_fields(data: Any) -> list[str]:
    fields: list[str] = []
    for name in dir(data):
        # efc_*: one row per contact, so of changing size; mj_forward recomputes them.
        if name.startswith(("_", "efc_")) or name in _NOT_DERIVED:
            continue
        value: Any = getattr(data, name)
        if _is_array(value) and value.dtype == np.float64:
            fields.append(name)
    return fields


def get_simulation(model: Any, data: Any) -> Snapshot:
    """Everything of `data` that a next step, reward or observation can depend on."""
    state = np.empty(mujoco.mj_stateSize(model, _INTEGRATION))
    mujoco.mj_getState(model, data, state, _INTEGRATION)
    derived = np.concatenate([getattr(data, name).ravel() for name in _derived_fields(data)])
    return {"mujoco": mujoco.__version__, "integration": torch.as_tensor(state), "derived": torch.as_tensor(derived)}


def set_simulation(model: Any, data: Any, snapshot: Snapshot) -> None:
    """The inverse of `get_simulation`. Raises CannotSnapshot for another MuJoCo version or another model."""
    if snapshot["mujoco"] != mujoco.__version__:
        raise CannotSnapshot(f"a snapshot taken under MuJoCo {snapshot['mujoco']} cannot be continued by MuJoCo {mujoco.__version__}")
    state = np.asarray(snapshot["integration"], dtype=np.float64)
    derived = np.asarray(snapshot["derived"], dtype=np.float64)
    fields = [getattr(data, name) for name in _derived_fields(data)]
    expected = (mujoco.mj_stateSize(model, _INTEGRATION), sum(field.size for field in fields))
    if (state.size, derived.size) != expected:
        given = f"{state.size} + {derived.size}"
        raise CannotSnapshot(f"a snapshot of {given} numbers is of another world; this one has {expected[0]} + {expected[1]}")
    mujoco.mj_setState(model, data, state, _INTEGRATION)
    # DeepMind Control starts a step in the middle (mj_step2), so contacts and factors must be there; the solver's
    # warm start, which mj_forward moves, is put back.
    mujoco.mj_forward(model, data)
    mujoco.mj_setState(model, data, state, _INTEGRATION)
    start = 0
    for field in fields:
        field[...] = derived[start : start + field.size].reshape(field.shape)
        start += field.size


def model_arrays(model: Any) -> dict[str, np.ndarray]:
    """Copies of all arrays of the model that a task could change: the model as compiled."""
    arrays: dict[str, np.ndarray] = {}
    for name in dir(model):
        if name.startswith(("_", *_CONSTANT_MODEL_PREFIXES)):
            continue
        value: Any = getattr(model, name)
        if _is_array(value):
            arrays[name] = value.copy()
    return arrays


def get_model_changes(model: Any, compiled: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The arrays of the model that a task has changed since it was compiled (a target's place, a terrain)."""
    changed = {name: getattr(model, name) for name in compiled}
    return {name: torch.tensor(value) for name, value in changed.items() if not np.array_equal(value, compiled[name])}


def set_model_changes(model: Any, compiled: Mapping[str, np.ndarray], changes: Mapping[str, Any]) -> None:
    """The inverse of `get_model_changes`."""
    for name, value in compiled.items():
        getattr(model, name)[...] = np.asarray(changes[name]).reshape(value.shape) if name in changes else value


def check_divergence(data: Any, name: str) -> None:
    """Raises GameError where a step met numbers that are not finite; MuJoCo itself goes on from the model's first state then."""
    if any(data.warning.number.tolist()[_BAD_NUMBERS]):  # three times as fast as numpy's any
        raise GameError(f"{name}: the simulation diverged")


def prefer_fast_pictures(model: Any) -> None:
    """Drawing settings that are 10 times as fast in software and change no physics; before the first picture.

    The shadow map is small and not off: size 0 gives black pictures (measured, MuJoCo 3.3.0 with EGL).
    """
    model.vis.quality.offsamples = 0
    model.vis.quality.shadowsize = 512


class Painter:
    """Draws one model; each size keeps its own context until `close`."""

    def __init__(self, model: Any, camera: Any) -> None:
        """camera: the number or name of a camera of the model, or an `mjvCamera`."""
        prefer_fast_pictures(model)
        self._model, self._camera = model, camera
        self._renderers: dict[tuple[int, int], Any] = {}

    def paint(self, data: Any, width: int, height: int) -> UInt8[np.ndarray, "height width 3"]:
        """The scene as it is in `data`."""
        if (width, height) not in self._renderers:
            frame = self._model.vis.global_
            frame.offwidth, frame.offheight = max(frame.offwidth, width), max(frame.offheight, height)
            self._renderers[width, height] = mujoco.Renderer(self._model, height, width)
        renderer = self._renderers[width, height]
        renderer.update_scene(data, self._camera)
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        return renderer.render()

    def close(self) -> None:
        """Release the contexts."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()


def free_camera(model: Any, settings: Mapping[str, Any]) -> Any:
    """A camera that looks at the whole model, changed by Gymnasium's camera `settings` (type, trackbodyid, lookat, ...)."""
    camera = mujoco.MjvCamera()
    mujoco.mjv_defaultFreeCamera(model, camera)
    for name, value in settings.items():
        if isinstance(value, np.ndarray):
            getattr(camera, name)[:] = value
        else:
            setattr(camera, name, value)
    return camera
