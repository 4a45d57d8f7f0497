"""Finite worlds by address: `grid:lecture?slip=0`, `grid:random?width=20&seed=3`, `mdp:random?states=8`, and Gymnasium's tables."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from torch import Generator

from tutelage.games.finite import FiniteMDP, random_mdp
from tutelage.games.finite_game import FiniteGame
from tutelage.games.grids import GridWorld, lecture_grid, random_grid
from tutelage.games.options import build, parse, value_of
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
    return build(WORLDS[name], name, parse(query, address), address, ["max_steps"])


def make_finite(address: str, copies: int, options: Mapping[str, Any]) -> FiniteGame:
    """A world of WORLDS as a game. Besides the world's own options there is max_steps, a time limit."""
    name, _, query = address.partition("?")
    if name not in WORLDS:
        nearest = get_close_matches(name, list(WORLDS), n=1, cutoff=0.0)[0]
        raise GameError(f"there is no game {name}; did you mean {nearest}?")
    given = {**parse(query, address), **options}
    max_steps = given.pop("max_steps", None)
    if max_steps is not None:
        max_steps = value_of(int, max_steps, "max_steps", address)
    world = build(WORLDS[name], name, given, address, ["max_steps"])
    return FiniteGame(world.mdp if isinstance(world, GridWorld) else world, copies, max_steps, address)
