"""MAPPO and IPPO: proximal policy optimization among many agents, under any scheme.

MAPPO (Yu et al. 2022, arXiv 2103.01955): every agent learns by PPO (`learn.deep.ppo`); while it learns its value sees the whole team, and
to play its policy needs what the agent itself sees (scheme ct-de). IPPO (de Witt et al. 2020, arXiv 2011.09533): the value sees no more
than the policy (schemes shared and concurrent). Centralized: one PPO makes the choices of all, from what all see.

There is no second PPO here. A scheme cuts joint experience into `Unit`s, stacks of equal learners: agents that share nets count as more
copies of the game, others as more seeds. An agent's episode ends with it, so that no advantage reaches beyond; its steps thereafter are
masked until the next episode.

Where we depart from the papers
- A value sees its own agent first and then the others, in the order of the game (MAPPO: a state of the world, or all side by side).
- Rewards are scaled by the running deviation of the discounted return, where MAPPO normalizes the targets of values.
- The error of a value is squared, not Huber's, and not clipped; one optimizer and one gradient norm serve policy and value.
- With memory a minibatch holds whole recordings, not chunks of 10 steps.
Left out: images; values that several teams share.
Landscape: model-free, on-policy, online; continuous and discrete actions; scale: deep
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Generator, Tensor
from torch.nn.functional import pad

from tutelage.experience.trajectory import Transition
from tutelage.games.nested import action_width
from tutelage.games.spec import Box, Discrete, GameError, MultiDiscrete, Players, Space
from tutelage.learn.deep import ppo
from tutelage.learn.deep.ppo import PPO
from tutelage.learn.learner import Progress
from tutelage.learn.many_agents.actions import Actions, Choices
from tutelage.learn.many_agents.nets import of_seeds
from tutelage.learn.many_agents.schemes import Scheme, View
from tutelage.nets.recurrent import Carry


@dataclass(frozen=True)
class Config(ppo.Config):
    """Settings of MAPPO: PPO's, with defaults for particle worlds, and who shares what."""

    scheme: Scheme = "ct-de"
    """Who shares parameters and what values see: ct-de (MAPPO), shared or concurrent (IPPO), or centralized."""
    parameter_sharing: bool = True
    """Under scheme=ct-de: one policy and one value serve all agents (paper: yes, where agents are alike)."""
    agent_id: bool = False
    """Where nets are shared: a one-hot vector tells them which agent asks (paper's code: no, for particle worlds)."""
    one_team: bool = False
    """The teams of the game are taken as one, so that values see opponents too."""
    window: int = 25
    """Steps per copy of the game between two updates (paper's code: 25, one episode; JaxMARL: 128)."""
    epochs: int = 4
    """Passes over the window (JaxMARL: 4; paper's code: 10)."""
    batch_size: int = 1200
    """Steps of agents in a minibatch (JaxMARL: a quarter of a window, here of 25 steps x 64 copies x 3 agents; paper's code: all)."""
    activation: Literal["tanh", "relu"] = "relu"
    """Between the layers (JaxMARL: tanh, which values far from 0 saturate: with it simple_spread is hardly learned here)."""
    learning_rate: float = 7e-4
    """Adam's (paper's code: 7e-4; JaxMARL: 2.5e-4, annealed)."""
    max_grad_norm: float = 10.0
    """Largest norm of the gradient of all weights of a learner (paper's code: 10, for each net; JaxMARL: 0.5)."""
    temperature: float = 0.01
    """Weight of the entropy (paper's code, JaxMARL: 0.01)."""
    normalize_reward: bool = True
    """By the running deviation of the discounted return (paper's code: values' targets are normalized instead)."""


@dataclass(frozen=True)
class IPPO(Config):
    """Settings of IPPO."""

    scheme: Scheme = "shared"


class Unit:
    """A stack of equal PPO learners, and where the numbers of its seats lie in joint vectors. A seat is an agent's, or a whole team's."""

    def __init__(self, config: Config, view: View, number: int, generators: Sequence[Generator], device: torch.device | str) -> None:
        """number: which of the view's units. Raises what PPO raises, and GameError for one body of a policy and a value that sees more."""
        parts = view.parts if view.scheme in ("shared", "centralized") else [view.parts[number]]
        self.seats = 1 if view.scheme == "centralized" else sum(len(part.agents) for part in parts)
        self.seeds, self.members = len(generators), len(generators) * (1 if view.scheme == "shared" else self.seats)
        self.agents, self.seen, self.acted, self.legal = (
            torch.tensor([entry for part in parts for entry in getattr(part, name)], dtype=torch.int64).view(self.seats, -1)
            for name in ("agents", "seen", "acted", "legal")
        )
        team = [column for part in view.parts for column in part.seen] if config.scheme == "ct-de" else []
        self.rest = torch.tensor([[column for column in team if column not in own] for own in self.seen.tolist()], dtype=torch.int64)
        """Columns of what values see beside it, under ct-de."""
        self.each = self.seats * self.seeds // self.members
        """Rows of every learner for each copy of the game."""
        self.who = torch.eye(self.seats, view.told)
        """Which seat asks, where the nets are told."""
        width, own = self.seen.shape[1] + self.who.shape[1], [g for g in generators for _ in range(self.members // self.seeds)]
        bound = np.full(width + self.rest.shape[1], np.inf, np.float32)
        self.learner = PPO(config, Box(bound.shape, -bound, bound), _space_of(view.units[number].actions), own, device)
        if self.rest.shape[1]:
            self.learner.nets = self.learner.nets.narrowed(width, self.learner.parameters, own)

    def fold(self, of_seats: Shaped[Tensor, "R B n *w"]) -> Shaped[Tensor, "M N *w"]:
        """As the learners take it: the seats are members, or where they share nets copies of the game."""
        return of_seats.movedim(2, 1).reshape(self.members, -1, *of_seats.shape[3:])

    def unfold(self, of_learners: Shaped[Tensor, "M N w"]) -> Shaped[Tensor, "R B nw"]:
        """The inverse, seat by seat in one vector."""
        return of_learners.reshape(self.seeds, self.seats, -1, of_learners.shape[-1]).movedim(1, 2).flatten(-2)

    def observed(self, joint: Float[Tensor, "R B J"], to_play: bool = False) -> Float[Tensor, "M N D"]:
        """What the learners see. to_play: with zeros for what only values see."""
        pieces = [_cut(joint, self.seen), self.who.expand(*joint.shape[:2], -1, -1)]
        if not to_play:
            pieces.append(_cut(joint, self.rest))
        folded = self.fold(torch.cat(pieces, -1))
        return pad(folded, (0, self.rest.shape[1])) if to_play else folded

    def allowed(self, legal: Bool[Tensor, "R B K"] | None) -> Bool[Tensor, "M N k"] | None:
        """Legal choices; None: all."""
        return None if legal is None or not self.legal.shape[1] else self.fold(_cut(legal, self.legal))

    def experienced(self, joint: Transition, reward: Float[Tensor, "R B N"]) -> Transition:
        """A step as the learners saw it: a team is paid the mean, ends when all have, and is there while one is."""
        following, terminated = self.observed(joint.next_observation), joint.terminated[..., self.agents].all(-1)
        return Transition(
            observation=self.observed(joint.observation),
            action=self.fold(_cut(joint.action, self.acted)),
            reward=self.fold(reward[..., self.agents].mean(-1)),
            successor=following if joint.successor is joint.next_observation else self.observed(joint.successor),
            next_observation=following,
            terminated=self.fold(terminated),
            boundary=self.fold(terminated | joint.boundary[..., None]),
            mask=self.fold(joint.mask[..., self.agents].any(-1)),
            legal=self.allowed(joint.legal),
        )


class Windows:
    """The newest steps of every copy of a game, a window for each unit."""

    def __init__(self, units: Sequence[Unit], steps: int, copies: int) -> None:
        """For a run of so many steps with so many copies of the game per seed."""
        self.units, self.copies = units, copies
        self.windows = [unit.learner.experience(steps, copies * unit.each) for unit in units]

    @property
    def steps(self) -> int:
        """Ever added, per copy of the game."""
        return self.windows[0].steps

    def __len__(self) -> int:
        """Steps held per copy of the game."""
        return len(self.windows[0])

    def add(self, transition: Transition, reward: Float[Tensor, "R B N"] | None = None) -> None:
        """Store one joint step of every copy; reward: what learners see (None: the game's)."""
        for unit, window in zip(self.units, self.windows, strict=True):
            window.add(unit.experienced(transition, transition.reward if reward is None else reward))

    def interrupt(self, copies: Sequence[int]) -> None:
        """The next step of these copies (seed x B + copy) begins a new episode, though the last one did not end it."""
        places = [divmod(copy, self.copies) for copy in copies]
        for unit, window in zip(self.units, self.windows, strict=True):
            window.interrupt([(seed * unit.seats + seat) * self.copies + own for seed, own in places for seat in range(unit.seats)])

    def state(self) -> dict[str, Any]:
        """Everything, as a window has it."""
        return {"windows": [window.state() for window in self.windows]}

    def chunks(self, slots_per_chunk: int) -> Iterator[tuple[int, bool, dict[str, Tensor], dict[str, Tensor]]]:
        """None: `state` has it all."""
        yield from ()

    def load(self, state: Mapping[str, Any], chunks: Sequence[tuple[dict[str, Tensor], dict[str, Tensor]]], slots_per_chunk: int) -> None:
        """Take over what `state` gave."""
        for window, saved in zip(self.windows, state["windows"], strict=True):
            window.load(saved, chunks, slots_per_chunk)


class MAPPO:
    """R stacked learners of every team of a game."""

    def __init__(self, config: Config, players: Players, generators: Sequence[Generator], device: torch.device | str = "cpu") -> None:
        """generators: one per seed. Raises what `View` and `Unit` raise."""
        self.config, self.action_width, self.seeds = config, action_width(players.action_space), len(generators)
        teams = (tuple(range(len(players.names))),) if config.one_team else players.teams
        views = [_view(config, players, team) for team in teams]
        self.teams = [[Unit(config, view, i, generators, device) for i in range(len(view.units))] for view in views]
        self.units = [unit for team in self.teams for unit in team]
        self._tags = [f"/team_{i}" if len(teams) > 1 else "" for i in range(len(teams))]

    def experience(self, steps: int, copies: int) -> Windows:
        """Empty windows, and empty memories."""
        return Windows(self.units, steps, copies)

    def behave(
        self, observation: Float[Tensor, "R B J"], starts: Bool[Tensor, "R B"], legal: Bool[Tensor, "R B K"] | None, progress: Progress
    ) -> Float[Tensor, "R B A"]:
        """Joint actions drawn from the policies."""
        joint = torch.empty(*observation.shape[:2], self.action_width)
        for unit in self.units:
            begun = unit.fold(starts[..., None].expand(-1, -1, unit.seats))
            action = unit.learner.behave(unit.observed(observation, to_play=True), begun, unit.allowed(legal), progress)
            joint[..., unit.acted.flatten()] = unit.unfold(action)
        return joint

    def act(
        self, observation: Float[Tensor, "R B J"], deterministic: bool = False, legal: Bool[Tensor, "R B K"] | None = None,
        carry: Carry | None = None,
    ) -> Float[Tensor, "R B A"]:  # fmt: skip
        """Joint actions of the policies as they stand, in the game's units. With memory: reads and writes `carry`."""
        joint, memories, seats = torch.empty(*observation.shape[:2], self.action_width), list[Tensor](), [u.seats for u in self.units]
        states = [None] * len(seats) if carry is None else carry.state.unflatten(-1, (sum(seats), -1)).split(seats, 2)
        for unit, state in zip(self.units, states, strict=True):
            own = None if state is None else Carry(unit.fold(state))
            action = unit.learner.act(unit.observed(observation, to_play=True), deterministic, unit.allowed(legal), own)
            joint[..., unit.acted.flatten()] = unit.unfold(action)
            memories += [] if own is None else [unit.unfold(own.state)]
        if carry is not None:
            carry.state = torch.cat(memories, -1)
        return joint

    def carry(self, copies: int) -> Carry | None:
        """Fresh memory for playing so many copies per seed, that of all seats side by side; None without memory."""
        own = [(unit, unit.learner.carry(copies * unit.each)) for unit in self.units]
        states = [unit.unfold(memory.state) for unit, memory in own if memory is not None]
        return Carry(torch.cat(states, -1)) if states else None

    def update(self, experience: Windows, progress: Progress) -> dict[str, Tensor]:
        """Learn from full windows and empty them; nothing before they are full. Metrics `[R]`, means over the learners of a team."""
        windows, metrics = iter(experience.windows), dict[str, Tensor]()
        for number, team in enumerate(self.teams):
            told = [unit.learner.update(next(windows), progress) for unit in team]
            metrics |= {name + self._tags[number]: of_seeds([own[name] for own in told], self.seeds) for name in told[0]}
        return metrics

    def frozen(self) -> dict[str, Bool[Tensor, "R"]]:
        """Which seeds have a net of some agent that stopped at its last finite weights."""
        stopped = [[x.view(self.seeds, -1) for unit in team for x in unit.learner.frozen().values()] for team in self.teams]
        return {f"policy and value{self._tags[i]}": torch.cat(each, 1).any(1) for i, each in enumerate(stopped)}

    def state(self) -> dict[str, Any]:
        """Of every unit."""
        return {"units": [unit.learner.state() for unit in self.units]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        for unit, saved in zip(self.units, state["units"], strict=True):
            unit.learner.load(saved)


def _view(config: Config, players: Players, team: Sequence[int]) -> View:
    sharing = config.scheme == "ct-de" and config.parameter_sharing
    try:
        return View(players, team, "shared" if sharing else config.scheme, config.agent_id)
    except GameError as reason:
        raise GameError(f"scheme=ct-de shares its nets unless parameter_sharing is off: {reason}" if sharing else str(reason)) from None


def _space_of(actions: Actions) -> Space:
    if isinstance(actions, Choices):
        return Discrete(actions.sizes[0]) if len(actions.sizes) == 1 else MultiDiscrete(actions.sizes)
    return Box((actions.width,), actions.low.numpy(), actions.high.numpy())


def _cut(joint: Shaped[Tensor, "R B J"], columns: Int64[Tensor, "n w"]) -> Shaped[Tensor, "R B n w"]:
    return joint.index_select(-1, columns.flatten()).unflatten(-1, columns.shape)
