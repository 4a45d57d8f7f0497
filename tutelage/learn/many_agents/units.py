"""Agents as learners of PPO: how the joint experience of a team is cut into stacks of equal learners, and kept in their windows."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Generator, Tensor
from torch.nn.functional import pad

from tutelage.experience.trajectory import Transition
from tutelage.games.spec import Box, Discrete, MultiDiscrete, Space
from tutelage.learn.deep import ppo
from tutelage.learn.deep.ppo import PPO
from tutelage.learn.many_agents.actions import Actions, Choices
from tutelage.learn.many_agents.schemes import Scheme, View


class Unit:
    """A stack of equal PPO learners, and where the numbers of its seats lie in joint vectors. A seat is an agent's, or a whole team's."""

    def __init__(
        self, config: ppo.Config, scheme: Scheme, view: View, number: int, generators: Sequence[Generator], device: torch.device | str
    ) -> None:
        """number: which of the view's units. scheme: the team's; where nets are shared under ct-de, the view's is another.

        Raises what PPO raises, and GameError for one body of a policy and a value that sees more.
        """
        parts = view.parts if view.scheme in ("shared", "centralized") else [view.parts[number]]
        self.seats = 1 if view.scheme == "centralized" else sum(len(part.agents) for part in parts)
        self.seeds, self.members = len(generators), len(generators) * (1 if view.scheme == "shared" else self.seats)
        self.agents, self.seen, self.acted, self.legal = (
            torch.tensor([entry for part in parts for entry in getattr(part, name)], dtype=torch.int64).view(self.seats, -1)
            for name in ("agents", "seen", "acted", "legal")
        )
        team = [column for part in view.parts for column in part.seen] if scheme == "ct-de" else []
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


def _space_of(actions: Actions) -> Space:
    if isinstance(actions, Choices):
        return Discrete(actions.sizes[0]) if len(actions.sizes) == 1 else MultiDiscrete(actions.sizes)
    return Box((actions.width,), actions.low.numpy(), actions.high.numpy())


def _cut(joint: Shaped[Tensor, "R B J"], columns: Int64[Tensor, "n w"]) -> Shaped[Tensor, "R B n w"]:
    return joint.index_select(-1, columns.flatten()).unflatten(-1, columns.shape)
