"""Particle worlds by address: `particle:simple_target?agents=3&actions=continuous&max_steps=100`."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from difflib import get_close_matches
from typing import Any, NamedTuple

import torch

from tutelage.games.against import Against
from tutelage.games.options import build, parse
from tutelage.games.particle import adversary, course, spread, tag, target
from tutelage.games.particle.game import ParticleGame
from tutelage.games.particle.scripted import against_script
from tutelage.games.particle.tag import Tag
from tutelage.games.particle.world import World
from tutelage.games.spec import GameError


class Recipe(NamedTuple):
    """How a world is made."""

    config: Callable[..., Any]
    """A frozen dataclass; its fields are the options."""
    world: Callable[..., World]
    """Takes the name, the config and the dtype."""
    differs: Mapping[str, Any] = {}
    """Options that are not as the dataclass has them."""


WORLDS = {
    "simple_spread": Recipe(spread.Config, spread.Spread),
    "simple_adversary": Recipe(adversary.Config, adversary.Adversary),
    "simple_tag": Recipe(tag.Config, tag.Tag),
    "simple_target": Recipe(target.Config, target.Target),
    "simple_collect": Recipe(target.Config, target.Target, {"dwell": 10}),
    "simple_confuse": Recipe(adversary.Config, adversary.Adversary, {"max_steps": 100}),
    "multi_collect": Recipe(course.Config, course.Course),
    "single_collect": Recipe(course.Config, course.Course, {"agents": 1}),
}
"""By name."""


def make_particle(address: str, copies: int, options: Mapping[str, Any]) -> ParticleGame | Against:
    """The game at `address` in `copies`. Raises GameError for worlds and options that there are not, naming the nearest."""
    world = make_world(address, options)
    game = ParticleGame(world, copies)
    return against_script(game, world, world.config.frozen) if isinstance(world, Tag) and world.config.frozen != "nobody" else game


def make_world(address: str, options: Mapping[str, Any] | None = None, dtype: torch.dtype = torch.float32) -> World:
    """The pure functions alone. options: besides those of the address. Raises GameError as `make_particle`."""
    name, _, query = address.partition("?")
    known = {f"particle:{key}": recipe for key, recipe in WORLDS.items()}
    if name not in known:
        raise GameError(f"there is no game {name}; did you mean {get_close_matches(name, list(known), n=1, cutoff=0.0)[0]}?")
    recipe = known[name]
    config = build(recipe.config, name, {**recipe.differs, **parse(query, address), **(options or {})}, address)
    for key, value in asdict(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise GameError(f"{address}: {key}={value} was given; a finite number was expected")
    return recipe.world(name, config, dtype)
