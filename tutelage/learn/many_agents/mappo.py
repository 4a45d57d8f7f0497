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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from tutelage.games.nested import action_width
from tutelage.games.spec import GameError, Players
from tutelage.learn.deep import ppo
from tutelage.learn.learner import Progress
from tutelage.learn.many_agents.nets import of_seeds
from tutelage.learn.many_agents.schemes import Scheme, View
from tutelage.learn.many_agents.units import Unit, Windows
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


class MAPPO:
    """R stacked learners of every team of a game."""

    def __init__(self, config: Config, players: Players, generators: Sequence[Generator], device: torch.device | str = "cpu") -> None:
        """generators: one per seed. Raises what `View` and `Unit` raise."""
        self.config, self.action_width, self.seeds = config, action_width(players.action_space), len(generators)
        teams = (tuple(range(len(players.names))),) if config.one_team else players.teams
        views = [_view(config, players, team) for team in teams]
        self.teams = [[Unit(config, config.scheme, view, i, generators, device) for i in range(len(view.units))] for view in views]
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
