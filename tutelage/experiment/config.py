"""What a run is: a frozen value that becomes `config.json` and comes back."""

import dataclasses
import types
import typing
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from tutelage.learn.deep import sac
from tutelage.learn.preference import pebble

ALGORITHMS: dict[str, type] = {"sac": sac.Config, "pebble": pebble.Config}
"""The one table of names: what `tutelage train NAME` and `config.json` mean."""


class ConfigError(ValueError):
    """A configuration that makes no sense: what was given, what was expected, where."""


@dataclass(frozen=True)
class RunConfig:
    """One run: an algorithm, a game, and how long."""

    algorithm: sac.Config | pebble.Config
    """The algorithm and its settings."""
    game: str
    """Address of the game, such as gym:Pendulum-v1, dm:walker-walk or py:module:Class."""
    steps: int
    """Environment steps per seed."""
    seed: int = 0
    """The first seed."""
    seeds: int = 1
    """How many seeds to train stacked in this run: seed, seed + 1, ..."""
    copies: int = 1
    """Copies of the game per seed; a step of the run is one step of each."""
    device: str = "cpu"
    """Where the nets live, such as cpu or cuda."""
    threads: int = 1
    """Threads of torch. The promise of equal bits holds for equal numbers."""
    true_reward: str = "game"
    """What is learned from (SAC) or judged by (a scripted teacher): "game", or py:module:function of (observation, action)."""
    rater: typing.Literal["oracle", "store"] = "oracle"
    """Who answers: a scripted teacher, or whoever writes into the store."""
    teacher: str = "oracle"
    """Which scripted teacher: oracle, mistake, stoc, skip, equal, myopic (B-Pref), or coin, who knows nothing."""
    store: str | None = None
    """URL of the label store, such as sqlite:///labels.sqlite or postgresql+psycopg://... None: the run's own feedback.sqlite."""
    log_every: int = 200
    """Steps between two logged updates."""
    evaluate_every: int = 10_000
    """Steps between evaluations."""
    evaluation_episodes: int = 10
    """Noise-free episodes per evaluation and seed."""
    checkpoint_every: int = 10_000
    """Steps between checkpoints."""
    checkpoints_kept: int = 2
    """Newest checkpoints that are kept."""
    anchor_every: int = 200
    """Steps between snapshots of the game from which clips are drawn later."""
    clips: int = 3
    """Episodes to film, spread over the run from before the first step to after the last; 0: none."""

    def __post_init__(self) -> None:
        for name in ("steps", "seeds", "copies", "threads", "log_every", "evaluate_every", "evaluation_episodes", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} was given; a run needs at least 1")

    @property
    def name(self) -> str:
        """The algorithm's name."""
        return next(name for name, kind in ALGORITHMS.items() if isinstance(self.algorithm, kind))


def to_json(config: RunConfig) -> dict[str, Any]:
    """Plain values, with the algorithm's name beside its settings."""
    return dataclasses.asdict(config) | {"name": config.name}


def from_json(values: dict[str, Any]) -> RunConfig:
    """The inverse of `to_json`. Raises ConfigError for an unknown algorithm or field, naming the nearest known one."""
    rest = dict(values)
    name = rest.pop("name", None)
    if name not in ALGORITHMS:
        raise ConfigError(f"unknown algorithm {name!r}; did you mean {nearest(str(name), ALGORITHMS)}?")
    rest["algorithm"] = _build(ALGORITHMS[name], rest.get("algorithm", {}), "algorithm")
    return _build(RunConfig, rest, "the configuration")


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """The known name that looks most like this one."""
    return get_close_matches(name, list(known), n=1, cutoff=0.0)[0]


def _build(kind: type, values: dict[str, Any], where: str) -> Any:
    types_of = typing.get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind)]
    built: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"{where} has an unknown field {name!r}; the nearest known one is {nearest(name, known)!r}")
        built[name] = _value(types_of[name], value, f"{where}.{name}")
    try:
        return kind(**built)
    except TypeError as error:
        raise ConfigError(f"{where} is incomplete: {error}") from None


def _value(kind: Any, value: Any, where: str) -> Any:
    if isinstance(value, dict) and dataclasses.is_dataclass(kind):
        return _build(typing.cast(type, kind), value, where)
    if isinstance(value, list):
        return tuple(value)
    if isinstance(kind, type) and isinstance(value, kind | (int if kind is float else kind)):
        return value
    if isinstance(kind, type):
        raise ConfigError(f"{where} is {value!r}; a {kind.__name__} was expected")
    allowed = [k for k in typing.get_args(kind)] if isinstance(kind, types.UnionType) or typing.get_origin(kind) is not None else []
    if typing.get_origin(kind) is typing.Literal and value not in allowed:
        raise ConfigError(f"{where} is {value!r}; one of {', '.join(map(str, allowed))} was expected")
    return value
