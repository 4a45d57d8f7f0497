"""Schemes: who shares parameters, and what each critic sees.

The four of the lecture (NPFL139, lecture 14, figures 3.1 to 3.4 of the thesis that it cites), applied to each team of a game:

- concurrent: every agent has an actor mu^i(w^i) and a critic Q^i(w^i, a^i) of its own; nothing is shared.
- shared: one actor and one critic serve all agents, whose experience is theirs; with `agent_id` they are told who asks.
- centralized: the team is one agent, with all observations, all actions and the team's mean reward.
- ct-de: an actor mu^i(w^i) for each agent, and a critic for each that sees all observations and actions of the team.

A scheme is how the joint experience of a game is cut into `units`: stacks of n equal learners. Concurrent and ct-de have one unit for
each group of equal spaces in the team; shared folds its agents into the batch and centralized into the vectors, so that each has one
unit of one learner. Per unit a tensor is `[R n, N, ...]`: learners are member axes, seed-major. What a critic learns from is
cut alike, except under ct-de, whose critics are one stack over the whole team.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from tutelage.games.nested import flat_width, legal_width
from tutelage.games.spec import GameError, Players, Space
from tutelage.learn.many_agents.actions import Actions, actions_of, joined

Scheme = Literal["ct-de", "concurrent", "shared", "centralized"]


@dataclass(frozen=True)
class Part:
    """Agents of one team with equal spaces, and where their numbers lie in the joint vectors."""

    agents: tuple[int, ...]
    seen: tuple[int, ...]
    """Columns of the joint observation, agent by agent."""
    acted: tuple[int, ...]
    """Columns of the joint action."""
    legal: tuple[int, ...]
    """Columns of the joint mask of legal choices."""
    width: int
    """Of one agent's observation."""
    actions: Actions
    """Of one agent."""

    def cut(self, joint: Shaped[Tensor, "R N J"], columns: tuple[int, ...]) -> Shaped[Tensor, "R n N w"]:
        """Their columns of a joint tensor, agent by agent."""
        low, high = columns[0], columns[-1] + 1
        chosen = joint[..., low:high] if high - low == len(columns) else joint[..., list(columns)]
        return chosen.unflatten(-1, (len(self.agents), -1)).movedim(-2, 1)


@dataclass(frozen=True)
class Unit:
    """n learners with equal inputs and outputs."""

    learners: int
    width: int
    """Of what an actor sees."""
    actions: Actions


class View:
    """A team under a scheme."""

    def __init__(
        self,
        players: Players,
        team: Sequence[int],
        scheme: Scheme,
        agent_id: bool = False,
        joint_head: bool = False,
        gaussian: bool = False,
    ) -> None:
        """agent_id: under shared, a one-hot vector says who asks. joint_head: under centralized, one logit for each joint choice.

        gaussian: actors give distributions of reals, not reals.

        Raises GameError for a scheme that the team cannot have, saying which agents differ.
        """
        self.scheme, self.team = scheme, tuple(team)
        self.parts, spaces = _parts(players, self.team, gaussian)
        self.order = [agent for part in self.parts for agent in part.agents]
        """The team's agents in the order of the units."""
        n = len(self.order)
        if scheme == "shared" and any(space != spaces[0] for space in spaces):
            sets = " and ".join(", ".join(players.names[agent] for agent in part.agents) for part in self.parts)
            raise GameError(f"scheme=shared was given; one net cannot serve agents with different spaces, and {sets} differ")
        if agent_id and scheme != "shared":
            raise GameError(f"agent_id was given with scheme={scheme}; only shared nets need to be told who asks")
        if joint_head and scheme != "centralized":
            raise GameError(f"joint_head was given with scheme={scheme}; only a centralized actor chooses for all")
        self.told = n if agent_id else 0
        """Entries at the end of what a unit sees that say who asks."""
        if scheme == "shared":
            self.units = [Unit(1, self.parts[0].width + self.told, self.parts[0].actions)]
        elif scheme == "centralized":
            everything = joined([part.actions for part in self.parts for _ in part.agents], joint_head)
            self.units = [Unit(1, sum(part.width * len(part.agents) for part in self.parts), everything)]
        else:
            self.units = [Unit(len(part.agents), part.width, part.actions) for part in self.parts]
        self.joint = scheme == "ct-de"
        """Whether critics see the whole team."""
        self.critics = [(sum(u.learners for u in self.units), *self._totals())] if self.joint else [
            (u.learners, u.width, u.actions.width) for u in self.units
        ]  # fmt: skip
        """Of each stack of critics: how many, and the widths of the observations and the actions that they see."""

        eye, starts = (
            torch.eye(self.critics[0][0], dtype=torch.bool),
            torch.tensor([0, *(u.learners for u in self.units)]).cumsum(0).tolist(),
        )
        self.owners = [(eye[None, :, None, s : s + u.learners, None], u) for s, u in zip(starts, self.units, strict=False)]
        """For each unit, which critic (first axis) belongs to which of its learners: `[1, m, 1, n, 1]`; only under ct-de."""

    def _totals(self) -> tuple[int, int]:
        return sum(u.learners * u.width for u in self.units), sum(u.learners * u.actions.width for u in self.units)

    def _cut(self, pieces: Sequence[Tensor]) -> list[Tensor]:
        """From `[R, n, N, w]` per part to `[R n, N', w']` per unit."""
        if self.scheme == "centralized":
            return [torch.cat([piece.movedim(1, 2).flatten(-2) for piece in pieces], -1)]
        if self.scheme == "shared":
            return [torch.cat(list(pieces), 1).flatten(1, 2)]
        return [piece.flatten(0, 1) for piece in pieces]

    def rows(self, samples: int) -> list[int]:
        """How many rows each unit sees of so many joint samples: shared nets see every agent's."""
        return [samples * (len(self.order) if self.scheme == "shared" else 1)] * len(self.units)

    def observations(self, joint: Float[Tensor, "R N J"]) -> list[Float[Tensor, "_Rn _N _D"]]:
        """What the actors of each unit see, from joint observations."""
        units = self._cut([part.cut(joint, part.seen) for part in self.parts])
        if self.told:
            R, N = joint.shape[:2]
            who = torch.eye(self.told, device=joint.device)[None, :, None].expand(R, -1, N, -1).flatten(1, 2)
            units = [torch.cat([units[0], who], -1)]
        return units

    def actions(self, joint: Float[Tensor, "R N A"]) -> list[Float[Tensor, "_Rn _N _a"]]:
        """Encoded actions of each unit, from joint actions in the game's units."""
        return self._cut([part.actions.encode(part.cut(joint, part.acted)) for part in self.parts])

    def legal(self, joint: Bool[Tensor, "R N K"] | None) -> list[Tensor | None]:
        """Legal choices of each unit; None: all."""
        if joint is None:
            return [None] * len(self.units)
        pieces = [part.cut(joint, part.legal) if part.legal else None for part in self.parts]
        if self.scheme not in ("shared", "centralized"):
            return [None if piece is None else piece.flatten(0, 1) for piece in pieces]
        there = [piece for piece in pieces if piece is not None]
        return list(self._cut(there)) if there else [None]

    def play(self, encoded: Sequence[Float[Tensor, "_Rn _N _a"]], members: int, joint: Float[Tensor, "R N A"]) -> None:
        """Write the team's actions, in the game's units, into the joint actions."""
        if self.scheme == "centralized":
            decoded, start = self.units[0].actions.decode(encoded[0]), 0
            for part in self.parts:
                joint[..., list(part.acted)] = decoded[..., start : start + len(part.acted)]
                start += len(part.acted)
            return
        each = [x.unflatten(0, (members, -1)) for x in encoded]
        if self.scheme == "shared":
            each = list(each[0].unflatten(2, (len(self.order), -1))[:, 0].split([len(part.agents) for part in self.parts], 1))
        for part, action in zip(self.parts, each, strict=True):
            joint[..., list(part.acted)] = part.actions.decode(action).movedim(1, 2).flatten(-2)

    def each(self, of_agents: Shaped[Tensor, "R N n"], together: Callable[[Tensor], Tensor]) -> list[Shaped[Tensor, "_Rn _N"]]:
        """Rewards, ends or masks of agents in the game's order, for each stack of critics; together: those of a centralized team as one."""
        own = of_agents[..., self.order].movedim(-1, 1)
        if self.scheme == "centralized":
            return [together(own)]
        if self.scheme == "shared":
            return [own.flatten(1, 2)]
        if self.joint:
            return [own.flatten(0, 1)]
        return [piece.flatten(0, 1) for piece in own.split([u.learners for u in self.units], 1)]

    def of_units(self, of_critics: Sequence[Float[Tensor, "_Rm *_N"]], members: int) -> list[Float[Tensor, "_Rn *_N"]]:
        """What `each` gives, for each unit instead of each stack of critics."""
        if not self.joint:
            return list(of_critics)
        pieces = of_critics[0].unflatten(0, (members, -1)).split([u.learners for u in self.units], 1)
        return [piece.flatten(0, 1) for piece in pieces]

    def of_critics(self, of_units: Sequence[Float[Tensor, "_Rn _N"]], members: int) -> list[Float[Tensor, "_Rm _N"]]:
        """The inverse of `of_units`."""
        if not self.joint:
            return list(of_units)
        return [torch.cat([x.unflatten(0, (members, -1)) for x in of_units], 1).flatten(0, 1)]

    def together(self, per_unit: Sequence[Float[Tensor, "_Rn _N _w"]], members: int) -> Float[Tensor, "R N W"]:
        """All of a team side by side."""
        return torch.cat([x.unflatten(0, (members, -1)).movedim(1, 2).flatten(-2) for x in per_unit], -1)

    def seen_by_critics(self, per_unit: Sequence[Float[Tensor, "_Rn _N _w"]], members: int) -> list[Float[Tensor, "_Rm _N _W"]]:
        """What each stack of critics is shown: its own unit's, or under ct-de everything, the same for all."""
        if not self.joint:
            return list(per_unit)
        everything = self.together(per_unit, members)
        return [everything[:, None].expand(-1, self.critics[0][0], -1, -1).flatten(0, 1)]

    def pairs(
        self, observations: Sequence[Float[Tensor, "_Rn _N _D"]], actions: Sequence[Float[Tensor, "_Rn _N _a"]], members: int
    ) -> list[Float[Tensor, "_Rm _N _W"]]:
        """What each stack of critics judges, observations and actions side by side; under ct-de the same for all, joined only once."""
        if not self.joint:
            return [torch.cat(pair, -1) for pair in zip(observations, actions, strict=True)]
        both = torch.cat([self.together(observations, members), self.together(actions, members)], -1)
        return [both[:, None].expand(-1, self.critics[0][0], -1, -1).flatten(0, 1)]

    def own_turn(
        self, own: Sequence[Float[Tensor, "_Rn _N _a"]], others: Sequence[Float[Tensor, "_Rn _N _a"]], members: int
    ) -> list[Float[Tensor, "_Rm _N _A"]]:
        """The actions that each stack of critics is shown in an actor's step: its agent's `own`, and those of the `others`.

        Without joint critics nobody else's are shown.
        """
        if not self.joint:
            return list(own)
        blocks: list[Tensor] = []
        for (mine, unit), fresh, other in zip(self.owners, own, others, strict=True):
            a, b = (x.unflatten(0, (members, unit.learners)).movedim(1, 2)[:, None] for x in (fresh, other))  # [R, 1, N, n, a]
            blocks.append(torch.where(mine.to(a.device), a, b).flatten(-2))
        return [torch.cat(blocks, -1).flatten(0, 1)]


def _parts(players: Players, team: tuple[int, ...], gaussian: bool) -> tuple[list[Part], list[tuple[Space, Space]]]:
    """The team cut by groups, and the spaces of each part."""
    parts: list[Part] = []
    spaces: list[tuple[Space, Space]] = []
    seen = acted = legal = 0
    for group in players.groups:
        names = ", ".join(players.names[agent] for agent in group.agents)
        width, actions = flat_width(group.observation_space), actions_of(group.action_space, names, gaussian)
        choices = legal_width(group.action_space)
        own = [(i, agent) for i, agent in enumerate(group.agents) if agent in team]

        def columns(start: int, each: int, own: list[tuple[int, int]] = own) -> tuple[int, ...]:
            return tuple(start + i * each + k for i, _ in own for k in range(each))

        if own:
            agents = tuple(agent for _, agent in own)
            parts.append(Part(agents, columns(seen, width), columns(acted, actions.entries), columns(legal, choices), width, actions))
            spaces.append((group.observation_space, group.action_space))
        seen, acted, legal = (
            start + each * len(group.agents) for start, each in ((seen, width), (acted, actions.entries), (legal, choices))
        )
    return parts, spaces
