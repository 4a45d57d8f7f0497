"""What a Gymnasium environment keeps between steps, taken out and put back bit by bit.

Known are the five classic-control worlds and the MuJoCo worlds that come with Gymnasium, below wrappers whose state is
known. Any other environment may offer `snapshot() -> Snapshot` and `restore(snapshot)` itself (`Restorable`); the rest
is refused, because a world that is only nearly put back shows people a clip of something that never happened.
"""

from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch

from tutelage.games.spec import CannotSnapshot, Snapshot


@runtime_checkable
class Restorable(Protocol):
    """An environment that can put itself back, its own generator included."""

    def snapshot(self) -> Snapshot:
        """All that the world keeps."""
        ...

    def restore(self, snapshot: Snapshot) -> None:
        """Put the world back."""
        ...


_WRAPPERS: dict[str, tuple[str, ...]] = {
    "TimeLimit": ("_elapsed_steps",),
    "OrderEnforcing": ("_has_reset",),
    "PassiveEnvChecker": (),
    "ClipAction": (),
    "RescaleAction": (),
    "FlattenObservation": (),
    "RescaleObservation": (),
    "DtypeObservation": (),
    "ReshapeObservation": (),
    "ChristianoEnv": (),
}
"""Wrappers, of Gymnasium and of this library, by the attributes that change while they play."""

_CLASSIC_CONTROL: dict[str, tuple[str, ...]] = {
    "CartPoleEnv": ("state", "steps_beyond_terminated"),
    "PendulumEnv": ("state", "last_u"),
    "AcrobotEnv": ("state",),
    "MountainCarEnv": ("state",),
    "Continuous_MountainCarEnv": ("state",),
}
"""Worlds by the attributes that change while they play."""

_MUJOCO: dict[str, tuple[str, ...]] = {"ReacherEnv": ("goal",), "PusherEnv": ("goal_pos", "cylinder_pos")}
"""MuJoCo worlds that remember more than their simulation; the others remember nothing else."""


def is_mujoco(core: Any) -> bool:
    """Whether an unwrapped environment is a MuJoCo world of Gymnasium (without importing MuJoCo to find out)."""
    return any(kind.__name__ == "MujocoEnv" and kind.__module__.startswith("gymnasium.envs.mujoco") for kind in type(core).__mro__)


def snapshot_environment(env: Any, name: str) -> Snapshot:
    """All that is needed to continue `env` (a `gymnasium.Env`) bit by bit. Raises CannotSnapshot with the reason."""
    core = env.unwrapped
    wrappers = [{"kind": type(wrapper).__name__, **_get(wrapper, attributes)} for wrapper, attributes in _known_wrappers(env, name)]
    if isinstance(core, Restorable):
        return {"wrappers": wrappers, "own": core.snapshot()}
    snapshot: dict[str, Any] = {
        "wrappers": wrappers,
        "attributes": _get(core, _known_attributes(core, name)),
        "generator": get_generator(core.np_random, name),
    }
    if is_mujoco(core):
        from tutelage.games.mujoco import get_simulation

        snapshot["simulation"] = get_simulation(core.model, core.data)
    return snapshot


def restore_environment(env: Any, snapshot: Snapshot, name: str) -> None:
    """The inverse of `snapshot_environment`, also into an environment that has never been reset."""
    core = env.unwrapped
    wrappers = [wrapper for wrapper, _ in _known_wrappers(env, name)]
    kinds, expected = [type(wrapper).__name__ for wrapper in wrappers], [values["kind"] for values in snapshot["wrappers"]]
    if kinds != expected:
        raise CannotSnapshot(f"{name} has the wrappers {kinds}, and the world this snapshot was taken of had {expected}")
    for wrapper, values in zip(wrappers, snapshot["wrappers"], strict=True):
        _set(wrapper, {attribute: value for attribute, value in values.items() if attribute != "kind"})
    if isinstance(core, Restorable):
        core.restore(snapshot["own"])
        return
    _known_attributes(core, name)
    _set(core, snapshot["attributes"])
    set_generator(core.np_random, snapshot["generator"])
    if is_mujoco(core):
        from tutelage.games.mujoco import set_simulation

        set_simulation(core.model, core.data, snapshot["simulation"])


def _known_wrappers(env: Any, name: str) -> list[tuple[Any, tuple[str, ...]]]:
    known: list[tuple[Any, tuple[str, ...]]] = []
    while env is not env.unwrapped:
        kind = cast("type[Any]", type(env))
        if not kind.__module__.startswith(("gymnasium.wrappers", "tutelage.games")) or kind.__name__ not in _WRAPPERS:
            raise CannotSnapshot(f"{name} cannot be put back into an earlier state: what its wrapper {kind.__name__} remembers is unknown")
        known.append((env, _WRAPPERS[kind.__name__]))
        env = env.env
    return known


def _known_attributes(core: Any, name: str) -> tuple[str, ...]:
    kind = cast("type[Any]", type(core))
    if kind.__module__.startswith("gymnasium.envs.classic_control.") and kind.__name__ in _CLASSIC_CONTROL:
        return _CLASSIC_CONTROL[kind.__name__]
    if kind.__module__.startswith("gymnasium.envs.mujoco."):
        return _MUJOCO.get(kind.__name__, ())
    if kind.__module__.startswith("gymnasium.envs.box2d."):
        reason = "Box2D keeps its contacts and its solver's warm start where nothing can read them"
    else:
        reason = f"what {kind.__name__} remembers is unknown; give it the methods snapshot() and restore(snapshot)"
    raise CannotSnapshot(f"{name} cannot be put back into an earlier state: {reason}")


def _get(owner: Any, attributes: tuple[str, ...]) -> dict[str, Any]:
    return {attribute: pack(getattr(owner, attribute)) for attribute in attributes if hasattr(owner, attribute)}


def _set(owner: Any, values: dict[str, Any]) -> None:
    for attribute, value in values.items():
        setattr(owner, attribute, unpack(value))


def pack(value: Any) -> Any:
    """A value as a tree of JSON and tensors which remembers tuples and the precision of numpy numbers."""
    if isinstance(value, tuple):
        return {"tuple": [pack(entry) for entry in cast("tuple[Any, ...]", value)]}
    if isinstance(value, np.ndarray):
        return {"array": torch.tensor(value)}
    if isinstance(value, np.number | np.bool_):
        return {"scalar": torch.tensor(np.asarray(cast("Any", value)))}
    return value


def unpack(value: Any) -> Any:
    """The inverse of `pack`."""
    if not isinstance(value, dict):
        return value
    [(kind, content)] = cast("dict[str, Any]", value).items()
    if kind == "tuple":
        return tuple(unpack(entry) for entry in content)
    array: np.ndarray = torch.as_tensor(content).numpy().copy()
    return array if kind == "array" else array[()]


def get_generator(generator: Any, name: str) -> dict[str, Any]:
    """The state of a numpy generator as JSON that every reader keeps. Raises CannotSnapshot for another kind than PCG64."""
    state = generator.bit_generator.state
    if state["bit_generator"] != "PCG64":
        raise CannotSnapshot(f"{name} cannot be put back: its generator is {state['bit_generator']}, and only PCG64 is known")
    # 128-bit integers, which JSON readers elsewhere would round: as strings.
    words = {key: str(value) for key, value in state["state"].items()}
    return {**words, "has_uint32": state["has_uint32"], "uinteger": state["uinteger"]}


def set_generator(generator: Any, snapshot: Snapshot) -> None:
    """The inverse of `get_generator`."""
    generator.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {key: int(snapshot[key]) for key in ("state", "inc")},
        "has_uint32": snapshot["has_uint32"],
        "uinteger": snapshot["uinteger"],
    }
