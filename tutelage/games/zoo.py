"""PettingZoo environments as a Game: `zoo:mpe2.simple_spread_v3`, `zoo:pettingzoo.classic.tictactoe_v3`, `zoo:my_module.MyEnv`.

The agents are the environment's possible_agents, in that order. Who is dead, or has not come yet, sees zeros, is paid nothing and has
`mask` false; its last observation is in the Step in which it leaves.

A game of simultaneous moves (a ParallelEnv, or an AECEnv that says it `is_parallelizable`) takes one Step per joint action. Any
other AECEnv takes one Step per turn, the POSG that is equivalent to it (Terry et al. 2021, arXiv 2009.13051): all agents submit an
action, only that of the agent on turn is used, and all are paid what this turn paid them. `mask` stays true for those who wait,
since they are paid too: the loser of tic-tac-toe is paid by the winner's move. `legal` leaves them their first choice alone, so that a
policy has nothing to decide and nothing to learn from an action that was not used.
"""

import importlib
import importlib.util
import json
import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from tutelage.games.spec import (
    CannotSnapshot,
    DictSpace,
    Discrete,
    Game,
    GameError,
    Group,
    MultiDiscrete,
    Nested,
    Players,
    Snapshot,
    Space,
    Step,
    TupleSpace,
)

# Any: PettingZoo's classes are generic in unknown types, and it has no stubs.
try:
    conversions: Any = importlib.import_module("pettingzoo.utils.conversions")
    environments: Any = importlib.import_module("pettingzoo.utils.env")
except ImportError as error:
    raise GameError("PettingZoo is not installed, and this game needs it; run: pip install 'tutelage[zoo]'") from error

from tutelage.games import nested
from tutelage.games.gymnasium import (
    _check_seeds,  # pyright: ignore[reportPrivateUsage]
    _Edge,  # pyright: ignore[reportPrivateUsage]
    _fit,  # pyright: ignore[reportPrivateUsage]
    _prepare_pygame,  # pyright: ignore[reportPrivateUsage]
    _starts,  # pyright: ignore[reportPrivateUsage]
    spaces,
)
from tutelage.games.options import parse
from tutelage.games.program import look_here
from tutelage.games.snapshots import Restorable, get_generator, pack, set_generator, unpack


class _Turns:
    """An AECEnv that is played by joint actions: one step is a turn, or a cycle of turns where the environment `is_parallelizable`."""

    def __init__(self, env: Any, name: str) -> None:
        self.env, self._name = env, name
        self.simultaneous = bool(env.metadata.get("is_parallelizable", False))

    @property
    def turn(self) -> Any:
        """Who is to act; None where all are."""
        return None if self.simultaneous else self.env.agent_selection

    @property
    def agents(self) -> list[Any]:
        return self.env.agents

    def reset(self, seed: int | None) -> tuple[dict[Any, Any], dict[Any, Any]]:
        """As ParallelEnv.reset."""
        self.env.reset(seed=seed)
        return {agent: self.env.observe(agent) for agent in self.env.agents}, dict(self.env.infos)

    def step(self, actions: Mapping[Any, Any]) -> tuple[dict[Any, Any], ...]:
        """As ParallelEnv.step. Raises GameError where a cycle is none, and where the turn is that of an agent who is not there."""
        env = self.env
        waiting = [agent for agent in env.agents if self.simultaneous or agent == env.agent_selection]
        if not waiting:
            raise GameError(f"{self._name} gave the turn to {env.agent_selection}, and its agents are {_named(env.agents)}")
        rewards: dict[Any, float] = {}
        while waiting:
            agent = env.agent_selection
            if agent not in waiting or self._is_dead(agent):
                raise GameError(
                    f"{self._name} says that it is_parallelizable and is not cyclic: the turn came to {agent} when only "
                    f"{_named(waiting)} had not acted"
                    if agent not in waiting
                    else f"{self._name} gave the turn to {agent}, which had died before it could act"
                )
            waiting.remove(agent)
            env.step(actions[agent])
            for paid, reward in env.rewards.items():
                rewards[paid] = rewards.get(paid, 0.0) + reward
        observations = {agent: env.observe(agent) for agent in env.agents}
        told = (dict(env.terminations), dict(env.truncations), dict(env.infos))
        for _ in list(env.agents):
            if env.agents and self._is_dead(env.agent_selection):
                env.step(None)  # how an AECEnv is told to take the dead away
        return observations, rewards, *told

    def _is_dead(self, agent: Any) -> bool:
        return bool(self.env.terminations.get(agent) or self.env.truncations.get(agent))


class ZooGame(Game):
    """A list of PettingZoo environments, stepped one after the other and stacked."""

    def __init__(self, factory: Callable[[], Any], copies: int, name: str, teams: Sequence[Sequence[str]] | None = None) -> None:
        """factory makes one ParallelEnv or AECEnv; name is what errors call this game.

        teams: names of agents who learn together, the judged team first. None: in a game of turns each agent is a team; where all
        move at once, names tell kinds by PettingZoo's convention: adversary_0 and adversary_1 are one team, agent_0 is another.
        """
        if copies < 1:
            raise GameError(f"{name} was asked for in {copies} copies; at least one is needed")
        self.copies, self.name = copies, name
        self._worlds: list[Any] = [factory() for _ in range(copies)]
        """As they were made."""
        self._envs = [_playable(world, name) for world in self._worlds]
        """As they are played."""
        first: Any = self._envs[0]
        self._ids = _agents_of(self._worlds[0], name)
        self._index = {agent: i for i, agent in enumerate(self._ids)}
        given = [_spaces_of(self._worlds[0], agent, name) for agent in self._ids]
        self._shows_mask = [_shows_mask(observation) for observation, _ in given]
        self._native = [_visible_space(observation) for observation, _ in given]
        self._edges = [
            _Edge(seen, action, copies, f"{agent} of {name}")
            for agent, seen, (_, action) in zip(self._ids, self._native, given, strict=True)
        ]  # fmt: skip
        turns = isinstance(first, _Turns) and not first.simultaneous
        self._groups = _group_agents([(edge.observation_space, edge.action_space) for edge in self._edges])
        self.players = Players(tuple(map(str, self._ids)), self._groups, self._choose_teams(teams, turns))
        self.observation_space, self.action_space = self.players.observation_space, self.players.action_space
        self._blanks = [_blank(seen, edge.observation_space) for seen, edge in zip(self._native, self._edges, strict=True)]
        self._observations: list[list[Any]] = [[blank] * copies for blank in self._blanks]
        """[N][B], what each agent sees, zeros for those who are not there."""
        self._seeded, self._playing = [False] * copies, [False] * copies
        self._alive = np.zeros((copies, len(self._ids)), np.bool_)
        self._died = np.zeros((copies, len(self._ids)), np.bool_)
        self._choices = [slice(0, 0)] * len(self._ids)
        """Per agent: its part of a row of legal choices."""
        in_order = [i for group in self._groups for i in group.agents]
        ends = np.cumsum([0, *(nested.legal_width(self._edges[i].action_space) for i in in_order)]).tolist()
        for i, start, end in zip(in_order, ends[:-1], ends[1:], strict=True):
            self._choices[i] = slice(start, end)
        self._waiting = [_first_choices(edge.action_space) for edge in self._edges]
        self._legal = np.ones((copies, ends[-1]), np.bool_)
        self._restricts = ends[-1] > 0 and (turns or any(self._shows_mask))
        """Whether there are choices that are not legal; told by the spaces, or else by the infos of a reset."""

    def _choose_teams(self, teams: Sequence[Sequence[str]] | None, turns: bool) -> tuple[tuple[int, ...], ...]:
        names = list(map(str, self._ids))
        if teams is None:
            kinds = names if turns else [name.rstrip("0123456789").rstrip("_") for name in names]
            return tuple(tuple(i for i, kind in enumerate(kinds) if kind == team) for team in dict.fromkeys(kinds))
        unknown = [agent for team in teams for agent in team if agent not in names]
        if unknown:
            raise GameError(f"{self.name} was given a team with {unknown[0]}; its agents are {_named(names)}")
        return tuple(tuple(names.index(agent) for agent in team) for team in teams)

    def reset(self, seed: Sequence[int] | None = None, where: Bool[Tensor, "B"] | None = None) -> Nested:
        """As Game.reset. Raises GameError when a copy would start unseeded, and for an environment that contradicts itself."""
        _check_seeds(seed, self.copies, self.name)
        chosen: list[int] = list(range(self.copies)) if where is None else np.flatnonzero(where.cpu()).tolist()
        for b in chosen:
            if seed is None and not self._seeded[b]:
                raise GameError(f"copy {b} of {self.name} was reset without a seed; the first reset needs one per copy")
            observations, infos = self._envs[b].reset(seed=None if seed is None else int(seed[b]))
            self._died[b] = False
            self._alive[b] = self._present(b)
            if not self._alive[b].any():
                raise GameError(f"copy {b} of {self.name} began an episode without agents")
            self._restricts |= any("action_mask" in infos.get(agent, ()) for agent in self._ids)
            self._look(b, self._alive[b], observations, infos)
            self._seeded[b] = self._playing[b] = True
        if not all(self._seeded):
            raise GameError(f"copy {self._seeded.index(False)} of {self.name} has never been reset; the first reset must be of all copies")
        return self._stack()

    def step(self, actions: Nested) -> Step:
        """As Game.step. Raises GameError for a wrong action, a copy that awaits its reset, an environment that contradicts itself."""
        if not all(self._playing):
            raise GameError(f"copy {self._playing.index(False)} of {self.name} was stepped outside an episode; reset it first")
        rows = self._rows(actions)
        mask = self._alive.copy()
        terminated = ~mask
        reward = np.zeros(mask.shape, np.float32)
        for b in range(self.copies):
            self._advance(b, rows, reward[b], terminated[b])
            self._playing[b] = bool(self._alive[b].any())
        if not np.isfinite(reward).all():
            b, i = np.argwhere(~np.isfinite(reward))[0].tolist()
            raise GameError(f"copy {b} of {self.name} paid {self._ids[i]} a reward of {reward[b, i]}; a finite number is needed")
        flags = (torch.as_tensor(flag) for flag in (terminated, ~np.array(self._playing), mask))
        return Step(self._stack(), torch.as_tensor(reward), *flags)

    def _rows(self, actions: Nested) -> list[Any]:
        """[N][B]: the action of each agent in each copy, as its environment takes it."""
        if not isinstance(actions, tuple) or len(actions) != len(self._groups):
            given = f"{len(actions)} groups" if isinstance(actions, tuple) else f"type {type(actions).__name__}"
            raise GameError(
                f"{self.name} was given actions of {given}; a tuple is needed, of one entry for each of {len(self._groups)} groups"
            )
        rows: list[Any] = [None] * len(self._ids)
        for group, chosen in zip(self._groups, actions, strict=True):
            leaves = nested.leaves(chosen)
            needed = (self.copies, len(group.agents))
            if any(leaf.shape[:2] != needed for leaf in leaves):
                who, shapes = _named([self._ids[i] for i in group.agents]), [tuple(leaf.shape) for leaf in leaves]
                raise GameError(f"{self.name} was given actions of shapes {shapes} for {who}; all shapes must begin with {needed}")
            for place, i in enumerate(group.agents):
                own = nested.unstack(chosen, dim=1)[place] if _is_nested(group.action_space) else leaves[0][:, place]
                rows[i] = self._edges[i].rows(own)
        return rows

    def _advance(self, b: int, rows: list[Any], reward: np.ndarray, terminated: np.ndarray) -> None:
        """One joint action in one copy; writes into its rows `[N]` of rewards and terminations."""
        acted = self._alive[b].copy()
        actors: list[int] = np.flatnonzero(acted).tolist()
        told = self._envs[b].step({self._ids[i]: rows[i][b] for i in actors})
        observations, rewards, terminations, truncations, infos = told
        left = np.zeros_like(acted)
        for i in actors:
            agent = self._ids[i]
            for what, values in (("reward", rewards), ("termination", terminations), ("truncation", truncations)):
                if agent not in values:
                    raise GameError(f"copy {b} of {self.name} told no {what} of {agent}, which had acted")
            reward[i], terminated[i] = rewards[agent], terminations[agent]
            left[i] = terminations[agent] or truncations[agent]
        named = self._present(b)
        flagged = np.array([bool(terminations.get(agent) or truncations.get(agent)) for agent in self._ids])
        present = named & ~flagged
        self._refuse(b, present & self._died[b], "came back to life; who has left stays away until the next reset")
        self._refuse(b, acted & ~left & ~named, "left without having been terminated or truncated")
        self._alive[b], self._died[b] = present, self._died[b] | left
        self._look(b, acted | present, observations, infos)

    def _present(self, b: int) -> np.ndarray:
        """[N], whom one environment names among its agents."""
        present = np.zeros(len(self._ids), np.bool_)
        for agent in self._envs[b].agents:
            if agent not in self._index:
                raise GameError(f"copy {b} of {self.name} has the agent {agent}, and its possible_agents are {_named(self._ids)}")
            present[self._index[agent]] = True
        return present

    def _refuse(self, b: int, agents: np.ndarray, what: str) -> None:
        if agents.any():
            raise GameError(f"{self._ids[int(agents.argmax())]}, in copy {b} of {self.name}, {what}")

    def _look(self, b: int, seeing: np.ndarray, observations: Mapping[Any, Any], infos: Mapping[Any, Any]) -> None:
        """Keep what the agents of one copy now see and may do. seeing: [N], the others see zeros."""
        turn = self._envs[b].turn if isinstance(self._envs[b], _Turns) else None
        self._legal[b] = True
        for i, agent in enumerate(self._ids):
            if not seeing[i]:
                self._observations[i][b] = self._blanks[i]
                continue
            if agent not in observations:
                raise GameError(f"copy {b} of {self.name} gave no observation to {agent}")
            observation, mask = observations[agent], infos.get(agent, {}).get("action_mask")
            try:
                if self._shows_mask[i]:
                    observation, mask = _visible(observation), observation["action_mask"]
                self._edges[i].check(observation)
            except (IndexError, KeyError, TypeError) as error:
                raise GameError(f"{agent} of {self.name} was given an observation that is not built like its space ({error})") from error
            self._observations[i][b] = observation
            if self._alive[b, i]:
                self._note_legal(b, i, mask, waits=turn is not None and agent != turn)

    def _note_legal(self, b: int, i: int, mask: Any, waits: bool) -> None:
        choices, who = self._choices[i], f"{self._ids[i]}, in copy {b} of {self.name},"
        if waits:
            self._legal[b, choices] = self._waiting[i]
        elif mask is not None:
            if not self._restricts:
                raise GameError(f"{who} was given an action mask in mid-game; the first one must come with the first reset")
            parts = cast("tuple[Any, ...]", mask if isinstance(mask, tuple) else (mask,))
            row: np.ndarray = np.concatenate([np.ravel(part) for part in parts])
            if len(row) != choices.stop - choices.start:
                raise GameError(f"{who} was given a mask of {len(row)} actions and has {choices.stop - choices.start}")
            if not row.any():
                raise GameError(f"{who} is to act and has no legal action")
            self._legal[b, choices] = row

    def _stack(self) -> Nested:
        own = [edge.stack(observations) for edge, observations in zip(self._edges, self._observations, strict=True)]
        return tuple(nested.stack([own[i] for i in group.agents], dim=1) for group in self._groups)

    def legal(self) -> Bool[Tensor, "B K"] | None:
        """As Game.legal: what the masks of the environments say, and one choice for who waits for its turn."""
        return torch.tensor(self._legal) if self._restricts else None

    def snapshot(self, copy: int) -> Snapshot:
        """As Game.snapshot, of mpe2's worlds and of environments that are `Restorable`. Raises CannotSnapshot with the reason."""
        if not self._seeded[copy]:
            raise GameError(f"copy {copy} of {self.name} has no state yet; reset it first")
        seen = [edge.stack([observations[copy]]) for edge, observations in zip(self._edges, self._observations, strict=True)]
        core = self._worlds[copy].unwrapped
        return {
            "game": self.name,
            "environment": core.snapshot() if isinstance(core, Restorable) else _snapshot_particles(core, self.name),
            "observations": [[leaf[0] for leaf in nested.leaves(tree)] for tree in seen],
            "alive": torch.tensor(self._alive[copy]),
            "died": torch.tensor(self._died[copy]),
            "legal": torch.tensor(self._legal[copy]) if self._restricts else None,
        }

    def restore(self, copy: int, snapshot: Snapshot) -> Nested:
        """As Game.restore, also into a game that has never been reset. Raises CannotSnapshot with the reason."""
        if snapshot["game"] != self.name:
            raise CannotSnapshot(f"a snapshot of {snapshot['game']} was given to {self.name}")
        core = self._worlds[copy].unwrapped
        self._envs[copy].reset(seed=0)  # its wrappers must know that an episode is under way
        if isinstance(core, Restorable):
            core.restore(snapshot["environment"])
        else:
            _restore_particles(core, snapshot["environment"])
        for i, leaves in enumerate(snapshot["observations"]):
            starts = _starts(self._native[i])
            native = [leaf.numpy().copy() if start is None else leaf.numpy() + start for leaf, start in zip(leaves, starts, strict=True)]
            self._observations[i][copy] = nested.from_leaves(self._edges[i].observation_space, native)
        self._alive[copy], self._died[copy] = snapshot["alive"].numpy(), snapshot["died"].numpy()
        self._seeded[copy], self._playing[copy] = True, bool(self._alive[copy].any())
        if snapshot["legal"] is not None:
            self._restricts, self._legal[copy] = True, snapshot["legal"].numpy()
        return nested.unstack(self._stack())[copy]

    def render(self, copy: int, width: int = 256, height: int = 256) -> UInt8[np.ndarray, "height width 3"]:
        """As Game.render, scaled to fit, where the environment draws itself as an rgb_array."""
        if not self._seeded[copy]:
            raise GameError(f"copy {copy} of {self.name} has nothing to draw yet; reset it first")
        mode = getattr(self._worlds[copy], "render_mode", None)
        if mode != "rgb_array":
            raise GameError(f"{self.name} has no picture: its render_mode is {mode!r}, and drawing needs 'rgb_array'")
        return _fit(np.asarray(self._worlds[copy].render()), width, height)

    def close(self) -> None:
        for world in self._worlds:
            world.close()


def _named(agents: Sequence[Any]) -> str:
    return ", ".join(map(str, agents))


def _playable(world: Any, name: str) -> Any:
    """Something with reset and step of joint actions. Raises GameError for what is no environment of PettingZoo."""
    if type(world) is conversions.aec_to_parallel_wrapper:
        return _Turns(world.aec_env, name)  # says what is wrong where the library's own loop would fail an assertion
    if isinstance(world, environments.AECEnv):
        return _Turns(world, name)
    if not isinstance(world, environments.ParallelEnv):
        raise GameError(f"{name} makes a {type(world).__name__}, which is neither a ParallelEnv nor an AECEnv of PettingZoo")
    return world


def _agents_of(world: Any, name: str) -> list[Any]:
    agents: list[Any] = list(getattr(world, "possible_agents", ()))
    if not agents:
        raise GameError(f"{name} has no possible_agents; who plays, and in which order, must be known before the game begins")
    return agents


def _spaces_of(world: Any, agent: Any, name: str) -> tuple[Any, Any]:
    try:
        return world.observation_space(agent), world.action_space(agent)
    except (AttributeError, KeyError) as error:
        raise GameError(f"{name} has no observation_space or no action_space for {agent}, one of its possible_agents") from error


def _shows_mask(space: Any) -> bool:
    return isinstance(space, spaces.Dict) and "action_mask" in space.spaces


def _visible_space(space: Any) -> Any:
    """An observation space without the action mask that PettingZoo's board games put beside the observation."""
    if not _shows_mask(space):
        return space
    seen = _visible(space.spaces)
    return spaces.Dict(seen) if isinstance(seen, dict) else seen


def _visible(observation: Mapping[str, Any]) -> Any:
    seen = {name: value for name, value in observation.items() if name != "action_mask"}
    return seen["observation"] if list(seen) == ["observation"] else seen


def _group_agents(own_spaces: Sequence[tuple[Space, Space]]) -> tuple[Group, ...]:
    """Agents with equal spaces together, in the order of their first; with a nested space each alone."""
    groups: dict[Any, list[int]] = {}
    for i, pair in enumerate(own_spaces):
        groups.setdefault((i, pair) if any(map(_is_nested, pair)) else pair, []).append(i)
    return tuple(Group(tuple(agents), *own_spaces[agents[0]]) for agents in groups.values())


def _is_nested(space: Space) -> bool:
    return isinstance(space, TupleSpace | DictSpace)


def _blank(native: Any, space: Space) -> Any:
    """The observation, in the environment's own counting, that is zeros in ours."""
    leaves = [np.zeros(nested.leaf_shape(leaf)) for leaf in nested.leaf_spaces(space)]
    shifted = [leaf if start is None else leaf + start for leaf, start in zip(leaves, _starts(native), strict=True)]
    return nested.from_leaves(space, shifted)


def _first_choices(space: Space) -> np.ndarray:
    """[K_i], the mask that leaves an agent the first choice of each of its discrete leaves."""
    sizes: list[int] = []
    for leaf in nested.leaf_spaces(space):
        sizes += [leaf.n] if isinstance(leaf, Discrete) else leaf.sizes if isinstance(leaf, MultiDiscrete) else []
    return np.concatenate([np.zeros(0, np.bool_), *(np.arange(size) == 0 for size in sizes)])


def _snapshot_particles(core: Any, name: str) -> Snapshot:
    """All that changes in a world of mpe2: what its entities and its scenario remember. Raises CannotSnapshot for any other environment."""
    if not type(core).__module__.startswith("mpe2."):
        raise CannotSnapshot(
            f"{name} cannot be put back into an earlier state: PettingZoo has no protocol for it, and what {type(core).__name__} remembers "
            "is unknown; give it the methods snapshot() and restore(snapshot)"
        )
    places = {id(entity): i for i, entity in enumerate(core.world.entities)}
    return {
        "steps": core.steps,
        "camera": pack(core.original_cam_range),
        "generator": get_generator(core.np_random, name),
        "scenario": _attributes(core.scenario, places, name),
        "entities": [_attributes(entity, places, name) for entity in core.world.entities],
    }


def _attributes(owner: Any, places: Mapping[int, int], name: str) -> dict[str, Any]:
    """All attributes of a part of a world as a tree; entities that refer to one another do so by their places."""
    kept: dict[str, Any] = {}
    for key, value in cast("dict[str, Any]", vars(owner)).items():
        listed = isinstance(value, list)
        entries = cast("list[Any]", value if listed else [value])
        if id(value) in places:
            kept[key] = {"entity": places[id(value)]}
        elif type(value).__module__.startswith("mpe2."):
            kept[key] = {"part": _attributes(value, places, name)}
        elif all(entry is None or isinstance(entry, bool | int | float | str | np.ndarray | np.generic) for entry in entries):
            kept[key] = {"list": [pack(entry) for entry in entries]} if listed else pack(value)
        else:
            raise CannotSnapshot(f"{name} cannot be put back into an earlier state: its {key} is a {type(value).__name__}")
    return kept


def _restore_particles(core: Any, snapshot: Snapshot) -> None:
    """The inverse of `_snapshot_particles`, into a world that has just been reset."""
    core.steps, core.original_cam_range = snapshot["steps"], unpack(snapshot["camera"])
    set_generator(core.np_random, snapshot["generator"])
    entities: list[Any] = core.world.entities
    for owner, kept in zip([core.scenario, *entities], [snapshot["scenario"], *snapshot["entities"]], strict=True):
        _set_attributes(owner, kept, entities)


def _set_attributes(owner: Any, kept: Mapping[str, Any], entities: Sequence[Any]) -> None:
    for key, value in kept.items():
        match value:
            case {"entity": place}:
                setattr(owner, key, entities[place])
            case {"list": entries}:
                setattr(owner, key, [unpack(entry) for entry in entries])
            case {"part": attributes}:
                _set_attributes(getattr(owner, key), attributes, entities)
            case _:
                setattr(owner, key, unpack(value))


_NEEDS = {
    "pettingzoo.atari.": "multi_agent_ale_py",
    "pettingzoo.butterfly.pistonball": "pymunk",
    "pettingzoo.classic.chess": "chess",
    "pettingzoo.classic.hanabi": "pyspiel",
    "pettingzoo.classic.leduc": "rlcard",
    "pettingzoo.classic.texas": "rlcard",
    "pettingzoo.sisl.multiwalker": "Box2D",
}
"""Packages without which some environments of PettingZoo cannot be imported."""


def known_paths() -> list[str]:
    """The environments of mpe2 and PettingZoo that can be made here."""
    paths: list[str] = []
    for package in ("mpe2", "pettingzoo.atari", "pettingzoo.butterfly", "pettingzoo.classic", "pettingzoo.sisl"):
        spec = importlib.util.find_spec(package)
        places = [] if spec is None else list(spec.submodule_search_locations or ())
        names = [f"{package}.{module.name}" for module in pkgutil.iter_modules(places)]
        paths += [name for name in names if name.rpartition("_v")[2].isdigit()]
    lacking = [prefix for prefix, package in _NEEDS.items() if importlib.util.find_spec(package) is None]
    return sorted(path for path in paths if not path.startswith(tuple(lacking)))


def make_zoo(path: str, copies: int, teams: Sequence[Sequence[str]] | None = None, **options: Any) -> ZooGame:
    """path: module.name, as in `from module import name`: a module with `parallel_env` or `env`, or a class. ?option=value may follow.

    teams: as ZooGame. options go to the environment's constructor, those in the path as JSON where they are. It is made with
    render_mode="rgb_array" where it can draw. Raises GameError naming the nearest known environment, or what must be installed.
    """
    path, _, query = path.partition("?")
    name = f"zoo:{path}"
    options = {key: _value(value) for key, value in parse(query, name).items()} | options
    teams = options.pop("teams", teams)
    target = _load(path)
    factory: Any = getattr(target, "parallel_env", None) or getattr(target, "env", None) or target
    if not callable(factory):
        raise GameError(f"{name} is neither a module with parallel_env or env nor a class of environments")
    metadata: dict[str, Any] = getattr(getattr(target, "raw_env", factory), "metadata", None) or {}
    if "rgb_array" in metadata.get("render_modes", ()):
        options = {"render_mode": "rgb_array", **options}
    try:
        return ZooGame(lambda: factory(**options), copies, name, teams)
    except (AssertionError, ImportError, TypeError) as error:
        raise GameError(f"{name} cannot be made with the options {options}: {error}") from error


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _load(path: str) -> Any:
    name = f"zoo:{path}"
    parent, _, last = path.rpartition(".")
    nearest = get_close_matches(path, known_paths(), n=1, cutoff=0.5)
    hint = f"; did you mean zoo:{nearest[0]}?" if nearest else "; zoo:module.name is expected, as in `from module import name`"
    if not all(part.isidentifier() for part in path.split(".")):
        raise GameError(f"there is no game {name}{hint}")
    look_here(path)
    _prepare_pygame()
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing in ("mpe2", "pettingzoo"):
            raise GameError(f"{name} needs {missing}, which is not installed; run: pip install 'tutelage[zoo]'") from error
        if not f"{path}.".startswith(f"{missing}."):
            raise GameError(f"{name} needs {missing}, which is not installed") from error
        # Not by getattr: PettingZoo's packages answer it with a stand-in for every version that ever was.
        found = vars(sys.modules[parent]).get(last) if parent in sys.modules else None
        if found is None:
            raise GameError(f"there is no game {name}{hint}") from None
        return found
    except ImportError as error:  # how PettingZoo says that a family of worlds has moved elsewhere
        raise GameError(f"{name} cannot be imported ({error}){hint}") from error
