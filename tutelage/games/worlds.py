"""Finite worlds by address: `grid:lecture?slip=0`, `grid:random?width=20&seed=3`, `mdp:random?states=8`, and Gymnasium's tables."""

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from torch import Generator

from tutelage.games.finite import FiniteMDP, random_mdp
from tutelage.games.finite_game import FiniteGame
from tutelage.games.grids import GridWorld, lecture_grid, random_grid
from tutelage.games.spec import GameError

World = GridWorld | FiniteMDP
"""A world as arrays, or as a map that stands for them."""


def _random(states: int = 8, actions: int = 3, branching: int = 3, ending: float = 0.1, seed: int = 0) -> FiniteMDP:
    return random_mdp(states, actions, branching, Generator().manual_seed(seed), ending)


WORLDS: dict[str, Callable[..., World]] = {
    "grid:lecture": lecture_grid,
    "grid:random": random_grid,
    "mdp:random": _random,
}
"""What can be made from a formula, with its options as parameters."""


def make_world(address: str) -> World:
    """The arrays of a finite world: one of WORLDS with options, or gym:ID of a toy-text game.

    Raises GameError for an address without array form, and for options that are unknown or of a wrong kind.
    """
    scheme, _, identifier = address.partition(":")
    if scheme == "gym":
        from tutelage.games.toy_text import toy_text_mdp

        return toy_text_mdp(identifier)
    name, _, query = address.partition("?")
    if name not in WORLDS:
        nearest = get_close_matches(name, list(WORLDS), n=1, cutoff=0.0)[0]
        raise GameError(f"{address} has no arrays: known are {', '.join(WORLDS)} and toy-text games of gym:; did you mean {nearest}?")
    return _build(name, _parse(query, address), address)


def make_finite(address: str, copies: int, options: Mapping[str, Any]) -> FiniteGame:
    """A world of WORLDS as a game. Besides the world's own options there is max_steps, a time limit."""
    name, _, query = address.partition("?")
    if name not in WORLDS:
        nearest = get_close_matches(name, list(WORLDS), n=1, cutoff=0.0)[0]
        raise GameError(f"there is no game {name}; did you mean {nearest}?")
    given = {**_parse(query, address), **options}
    max_steps = given.pop("max_steps", None)
    if max_steps is not None:
        max_steps = _value(int, max_steps, "max_steps", address)
    world = _build(name, given, address)
    return FiniteGame(world.mdp if isinstance(world, GridWorld) else world, copies, max_steps, address)


def _parse(query: str, address: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in query.split("&") if part]
    for key, separator, value in pairs:
        if not (key and separator and value):
            raise GameError(f"{address}: {key!r} is no option; name=value, joined by &, was expected after the question mark")
    return {key: value for key, _, value in pairs}


def _build(name: str, options: Mapping[str, Any], address: str) -> World:
    parameters = inspect.signature(WORLDS[name], eval_str=True).parameters
    for key in options:
        if key not in parameters:
            known = [*parameters, "max_steps"]
            raise GameError(f"{address}: {name} has no option {key}; did you mean {get_close_matches(key, known, n=1, cutoff=0.0)[0]}?")
    return WORLDS[name](**{key: _value(parameters[key].annotation, value, key, address) for key, value in options.items()})


def _value(kind: type, value: Any, key: str, address: str) -> Any:
    try:
        return kind(value)
    except (TypeError, ValueError):
        expected = "a whole number" if kind is int else "a number"
        raise GameError(f"{address}: {key}={value} was given; {expected} was expected") from None
