"""A Game as a PettingZoo environment: `parallel_env("particle:simple_spread")`, `aec_env(game)`.

Agents are the game's, by name and in its order; who has died leaves `agents`. What a Step calls a boundary without a termination
is a truncation. Where not every choice is legal, infos[agent]["action_mask"] says what is, in the form that `sample(mask)` takes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from tutelage.games import nested
from tutelage.games.alone import Alone
from tutelage.games.gymnasium import spaces
from tutelage.games.make import make
from tutelage.games.spec import Box, DictSpace, Discrete, Game, GameError, Group, MultiDiscrete, Nested, Players, Space, TupleSpace
from tutelage.games.zoo import conversions, environments


def parallel_env(game: str | Game, **options: Any) -> "GameEnv":
    """The game, or the one at this address, as a ParallelEnv. A game of one agent calls it "agent".

    options go to the world's constructor. Raises GameError where there is no such game, or where the game has several copies.
    """
    if isinstance(game, str):
        return GameEnv(make(game, copies=1, **options), game)
    if options:
        raise GameError(f"{type(game).__name__} was given with the options {options}; options belong to an address")
    return GameEnv(game, type(game).__name__)


def aec_env(game: str | Game, **options: Any) -> Any:
    """As `parallel_env`, as an AECEnv: the agents act one after the other, and the world moves when all have."""
    return conversions.parallel_to_aec(parallel_env(game, **options))


def native_space(space: Space) -> Any:
    """Gymnasium's space for ours; the inverse of `gymnasium.convert_space`."""
    if isinstance(space, TupleSpace):
        return spaces.Tuple([native_space(child) for child in space.spaces])
    if isinstance(space, DictSpace):
        return spaces.Dict({name: native_space(child) for name, child in space.spaces})
    if isinstance(space, Box):
        dtype = np.dtype(space.dtype)
        return spaces.Box(space.low.astype(dtype), space.high.astype(dtype), space.shape, dtype.type)
    if isinstance(space, Discrete):
        return spaces.Discrete(space.n)
    return spaces.MultiDiscrete(space.sizes) if isinstance(space, MultiDiscrete) else spaces.MultiBinary(space.shape)


class GameEnv(environments.ParallelEnv):
    """One copy of a Game."""

    render_mode = "rgb_array"

    def __init__(self, game: Game, name: str) -> None:
        """name: what `str` and errors call the environment. Raises GameError for a game in several copies."""
        if game.copies != 1:
            raise GameError(f"{name} has {game.copies} copies, and a PettingZoo environment is one")
        self.game = game if game.players is not None else Alone(game)
        assert self.game.players is not None
        self._players: Players = self.game.players
        self.metadata: dict[str, Any] = {"name": name, "render_modes": ["rgb_array"], "is_parallelizable": True, "render_fps": 10}
        self.possible_agents = list(self._players.names)
        self.agents: list[str] = []
        members = [(self.possible_agents[i], group) for group in self._players.groups for i in group.agents]
        # Kept, and not made at each call: who samples from a space has seeded it.
        self.observation_spaces = {agent: native_space(group.observation_space) for agent, group in members}
        self.action_spaces = {agent: native_space(group.action_space) for agent, group in members}
        self._seeded = False

    def observation_space(self, agent: str) -> Any:
        """Of one agent, always the same object."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Any:
        """Of one agent, always the same object."""
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode. Without a seed it goes on with the last one's stream, at first with one from the operating system."""
        if seed is None and not self._seeded:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        observation = self.game.reset(None if seed is None else [seed])
        self._seeded, self.agents = True, list(self.possible_agents)
        return self._own(observation), self._infos()

    def step(self, actions: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
        """Observations, rewards, terminations, truncations and infos of those who were alive. Raises GameError for a wrong action.

        A Step does not say that one agent alone was truncated; it is told one step later, when its mask is false.
        """
        if not self.agents:
            raise GameError(f"{self} was stepped outside an episode; reset it first")
        step = self.game.step(tuple(self._choose(group, actions) for group in self._players.groups))
        over = bool(step.boundary[0])
        acted = [(i, agent) for i, agent in enumerate(self.possible_agents) if agent in self.agents]
        observations, infos = self._own(step.observation), self._infos()
        rewards = {agent: float(step.reward[0, i]) for i, agent in acted}
        terminated = {agent: bool(step.terminated[0, i] & step.mask[0, i]) for i, agent in acted}
        truncated = {agent: not terminated[agent] and (over or not bool(step.mask[0, i])) for i, agent in acted}
        self.agents = [agent for _, agent in acted if not (terminated[agent] or truncated[agent])]
        return observations, rewards, terminated, truncated, infos

    def render(self) -> UInt8[np.ndarray, "height width 3"]:
        """A picture. Raises GameError where the game has none."""
        return self.game.render(0)

    def close(self) -> None:
        """Release what the game holds."""
        self.game.close()

    def _choose(self, group: Group, actions: Mapping[str, Any]) -> Nested:
        """[1, n, ...]: what the agents of a group do; the dead do what comes nearest to nothing."""
        leaf_spaces = nested.leaf_spaces(group.action_space)
        rows: list[list[Any]] = []
        for agent in (self.possible_agents[i] for i in group.agents):
            if agent not in self.agents:
                rows.append([_nothing(leaf) for leaf in leaf_spaces])
            elif agent in actions:
                rows.append(self._leaves(group.action_space, agent, actions[agent]))
            else:
                raise GameError(f"{self} was given actions of {', '.join(actions) or 'nobody'}; {agent} is alive and needs one")
        columns = zip(leaf_spaces, zip(*rows, strict=True), strict=True)
        tensors = [torch.tensor(np.stack(values)[None], dtype=nested.leaf_dtype(leaf)) for leaf, values in columns]
        space = group.action_space
        return nested.from_leaves(space, tensors) if isinstance(space, TupleSpace | DictSpace) else tensors[0]

    def _leaves(self, space: Space, agent: str, action: Any) -> list[np.ndarray]:
        try:
            values = [np.asarray(value) for value in nested.leaf_values(space, action)]
        except (KeyError, TypeError, ValueError) as error:
            raise GameError(f"{self} was given an action of {agent} that is not built like {space}") from error
        for value, leaf in zip(values, nested.leaf_spaces(space), strict=True):
            if value.shape != nested.leaf_shape(leaf) or value.dtype.kind not in ("iufb" if isinstance(leaf, Box) else "iub"):
                raise GameError(f"{self} was given an action of {agent} of shape {value.shape} and type {value.dtype}; it has {leaf}")
        return values

    def _own(self, observation: Nested) -> dict[str, Any]:
        """What each living agent sees, as numpy arrays."""
        assert isinstance(observation, tuple)
        seen: dict[str, Any] = {}
        for group, of_group in zip(self._players.groups, observation, strict=True):
            space = group.observation_space
            for place, agent in enumerate(self.possible_agents[i] for i in group.agents):
                arrays = [leaf[0, place].numpy(force=True).copy()[()] for leaf in nested.leaves(of_group)]
                seen[agent] = nested.from_leaves(space, arrays) if isinstance(space, TupleSpace | DictSpace) else arrays[0]
        return {agent: seen[agent] for agent in self.agents}

    def _infos(self) -> dict[str, dict[str, Any]]:
        legal = self.game.legal()
        infos: dict[str, dict[str, Any]] = {agent: {} for agent in self.agents}
        if legal is None:
            return infos
        start = 0
        for group in self._players.groups:
            width = nested.legal_width(group.action_space)
            for agent in (self.possible_agents[i] for i in group.agents):
                if agent in infos and isinstance(group.action_space, Discrete | MultiDiscrete):
                    infos[agent]["action_mask"] = _mask(group.action_space, legal[0, start : start + width])
                start += width
        return infos


def _nothing(leaf: nested.LeafSpace) -> np.ndarray:
    return np.clip(0, leaf.low, leaf.high) if isinstance(leaf, Box) else np.zeros(nested.leaf_shape(leaf), np.int64)


def _mask(space: Discrete | MultiDiscrete, row: Tensor) -> Any:
    array = row.numpy(force=True).astype(np.int8)
    return array if isinstance(space, Discrete) else tuple(np.split(array, np.cumsum(space.sizes)[:-1]))
