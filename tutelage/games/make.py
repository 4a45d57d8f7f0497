"""Games by address: `gym:HalfCheetah-v5`, `dm:walker-walk`, `metaworld:hammer-v3`, `christiano:hopper?horizon=500`, `atari:Pong`,
`grid:lecture?slip=0`, `mdp:random`, `matrix:stag_hunt`, `particle:simple_spread?agents=4`, `py:module:Class?size=3`,
`text:valence`, `zoo:mpe2.simple_spread_v3`."""

import ctypes
import importlib
import importlib.util
import os
import sys
from difflib import get_close_matches
from typing import Any

from tutelage.games.spec import Game, GameError

SCHEMES = ("gym", "dm", "metaworld", "christiano", "atari", "grid", "mdp", "matrix", "particle", "py", "text", "zoo")


def make(address: str, copies: int, **options: Any) -> Game:
    """The game at `address` in `copies`; `options` go to the world's constructor.

    Raises GameError naming the nearest known game where there is none at this address, or the extra to install.
    """
    if copies < 1:
        raise GameError(f"{address} was asked for in {copies} copies; at least one is needed")
    scheme, separator, rest = address.partition(":")
    if not separator or scheme not in SCHEMES:
        known = f"{':, '.join(SCHEMES[:-1])}: and {SCHEMES[-1]}:"
        raise GameError(f"{address!r} is not the address of a game: it starts with none of {known}{_nearest(address, known_games())}")
    _choose_picture_backend()
    if scheme in ("grid", "mdp"):
        from tutelage.games.worlds import make_finite

        return make_finite(address, copies, options)
    if scheme == "matrix":
        from tutelage.games.matrix import make_matrix

        return make_matrix(address, copies, options)
    if scheme == "particle":
        from tutelage.games.particle.address import make_particle

        return make_particle(address, copies, options)
    if scheme == "text":
        from tutelage.games.text import make_text

        return make_text(address, copies, options)
    makers = {
        "gym": _make_gym,
        "dm": _make_dm,
        "metaworld": _make_metaworld,
        "christiano": _make_christiano,
        "atari": _make_atari,
        "py": _make_py,
        "zoo": _make_zoo,
    }
    return makers[scheme](rest, copies, options)


def known_games() -> list[str]:
    """What can be made here: built-in worlds, the newest of each Gymnasium id, control tasks, Atari's titles, zoos."""
    from tutelage.games.matrix import MATRICES
    from tutelage.games.particle.address import WORLDS
    from tutelage.games.text_worlds import WORLDS as TEXTS

    games = ["grid:lecture", "grid:random", "mdp:random", *MATRICES, *(f"particle:{name}" for name in WORLDS), *TEXTS]
    if importlib.util.find_spec("gymnasium") is not None:
        from tutelage.games.gymnasium import gymnasium, known_ids

        newest: dict[tuple[str | None, str], str] = {}
        for identifier in known_ids():
            spec: Any = gymnasium.spec(identifier)
            if _can_load(spec):
                newest[spec.namespace, spec.name] = max(newest.get((spec.namespace, spec.name), identifier), identifier, key=_version)
        games += [f"gym:{identifier}" for identifier in sorted(newest.values())]
    if importlib.util.find_spec("dm_control") is not None:
        _choose_picture_backend()
        from tutelage.games.dm import known_tasks

        games += [f"dm:{task}" for task in known_tasks()]
    if importlib.util.find_spec("metaworld") is not None:
        _choose_picture_backend()
        from tutelage.games.metaworld import known_tasks as known_metaworld_tasks

        games += [f"metaworld:{task}" for task in known_metaworld_tasks()]
    if all(importlib.util.find_spec(package) is not None for package in ("gymnasium", "mujoco")):
        _choose_picture_backend()
        from tutelage.games.christiano import TASKS

        games += [f"christiano:{task}" for task in TASKS]
    if all(importlib.util.find_spec(package) is not None for package in ("ale_py", "cv2")):
        from tutelage.games.atari import known_titles

        games += [f"atari:{title}" for title in known_titles()]
    if all(importlib.util.find_spec(package) is not None for package in ("gymnasium", "pettingzoo")):
        from tutelage.games.zoo import known_paths

        games += [f"zoo:{path}" for path in known_paths()]
    return games


def _make_gym(identifier: str, copies: int, options: dict[str, Any]) -> Game:
    from tutelage.games.gymnasium import known_ids, make_gymnasium

    module_name, separator, registered = identifier.rpartition(":")
    if separator:
        # gym:module:Id-v0, as Gymnasium writes ids that a module registers when it is imported.
        try:
            importlib.import_module(module_name)
        except ImportError as error:
            raise GameError(f"gym:{identifier}: the module {module_name} cannot be imported ({error})") from error
    if registered not in known_ids():
        raise GameError(f"there is no game gym:{identifier}{_nearest(f'gym:{registered}', [f'gym:{known}' for known in known_ids()])}")
    return make_gymnasium(registered, copies, **options)


def _make_dm(identifier: str, copies: int, options: dict[str, Any]) -> Game:
    from tutelage.games.dm import known_tasks, make_control

    if identifier not in known_tasks():
        raise GameError(f"there is no game dm:{identifier}{_nearest(f'dm:{identifier}', [f'dm:{task}' for task in known_tasks()])}")
    return make_control(identifier, copies, **options)


def _make_metaworld(path: str, copies: int, options: dict[str, Any]) -> Game:
    from tutelage.games.metaworld import known_tasks, make_metaworld

    task = path.partition("?")[0]
    known = [f"metaworld:{entry}" for entry in known_tasks()]
    if f"metaworld:{task}" not in known:
        raise GameError(f"there is no game metaworld:{task}{_nearest(f'metaworld:{task}', known)}")
    return make_metaworld(path, copies, options)


def _make_christiano(path: str, copies: int, options: dict[str, Any]) -> Game:
    from tutelage.games.christiano import TASKS, make_christiano

    name = path.partition("?")[0]
    known = [f"christiano:{task}" for task in TASKS]
    if f"christiano:{name}" not in known:
        raise GameError(f"there is no game christiano:{name}{_nearest(f'christiano:{name}', known)}")
    return make_christiano(path, copies, options)


def _make_atari(path: str, copies: int, options: dict[str, Any]) -> Game:
    from tutelage.games.atari import known_titles, make_atari

    title, _, query = path.partition("?")
    if title not in known_titles():
        raise GameError(f"there is no game atari:{title}{_nearest(f'atari:{title}', [f'atari:{known}' for known in known_titles()])}")
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    return make_atari(title, copies, {name: value for name, _, value in pairs} | options)


def _make_py(path: str, copies: int, options: dict[str, Any]) -> Game:
    from tutelage.games.program import make_program

    return make_program(path, copies, **options)


def _make_zoo(path: str, copies: int, options: dict[str, Any]) -> Game:
    from tutelage.games.zoo import make_zoo

    return make_zoo(path, copies, **options)


def _nearest(address: str, known: list[str]) -> str:
    nearest = get_close_matches(address, known, n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]}?" if nearest else "; `tutelage list` shows all"


def _version(identifier: str) -> int:
    _, separator, version = identifier.rpartition("-v")
    return int(version) if separator and version.isdigit() else -1


def _can_load(spec: Any) -> bool:
    entry = spec.entry_point if isinstance(spec.entry_point, str) else ""
    needs = {
        "gymnasium.envs.mujoco": "mujoco",
        "gymnasium.envs.box2d": "Box2D",
        "gymnasium.envs.phys2d": "jax",
        "gymnasium.envs.tabular": "jax",
    }
    if spec.name.startswith("GymV") or spec.namespace == "Meta-World":
        return False  # a bridge to old Gym that needs an environment to bridge to; batches of tasks, which metaworld: has one by one
    return all(importlib.util.find_spec(package) is not None for prefix, package in needs.items() if entry.startswith(prefix))


def _choose_picture_backend() -> None:
    """Pictures without a screen, chosen where MuJoCo looks for it: in the environment, before its import.

    EGL works without a GPU too. Where its library is missing the import would fail, so it is tried first; a person's own
    choice stands.
    """
    if not sys.platform.startswith("linux") or "mujoco" in sys.modules or "MUJOCO_GL" in os.environ:
        return
    for library, backend in (("libEGL.so.1", "egl"), ("libOSMesa.so.8", "osmesa"), ("libOSMesa.so", "osmesa")):
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        os.environ["MUJOCO_GL"] = backend
        return
