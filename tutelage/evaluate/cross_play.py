"""Cross-play: the teams of a game played by policies that may never have met."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from tutelage.evaluate.episodes import Heedful, Policy
from tutelage.games.spec import GameError, MultiDiscrete, Nested, Players


class CrossPlay:
    """One policy per team. Each is asked for everybody's actions, as it was when it learned, and those of its team are played."""

    def __init__(self, players: Players, policies: Mapping[tuple[int, ...], Policy]) -> None:
        """policies: by the agents that each plays. Raises GameError where an agent is played by nobody, or by two."""
        given = sorted(agent for team in policies for agent in team)
        if given != list(range(len(players.names))):
            raise GameError(f"policies were given for agents {given}; each of 0 to {len(players.names) - 1} needs exactly one")
        self.players, self.policies = players, dict(policies)

    def act(self, observation: Nested, deterministic: bool = True, legal: Tensor | None = None) -> Nested:
        """observation: a tuple over groups `[B, n, ...]` -> actions of all agents, alike."""
        joint: list[Any] = [None] * len(self.players.groups)
        for team, policy in self.policies.items():
            heeds = {} if legal is None or not isinstance(policy, Heedful) else {"legal": legal}
            actions = policy.act(observation, deterministic, **heeds)
            for g, group in enumerate(self.players.groups):
                own = [i for i, agent in enumerate(group.agents) if agent in team]
                if not own:
                    continue
                if joint[g] is None:
                    joint[g] = torch.zeros_like(actions[g])  # type: ignore[index]  # a tuple over groups
                if isinstance(group.action_space, MultiDiscrete):  # whose entries lie one after the other (`spec.stacked`)
                    width = len(group.action_space.sizes)
                    own = [i * width + k for i in own for k in range(width)]
                joint[g][:, own] = actions[g][:, own]  # type: ignore[index]
        return tuple(joint)

    def restart(self, where: Bool[Tensor, "copies"] | None = None) -> None:
        """New episodes begin in the marked copies (None: all)."""
        for policy in self.policies.values():
            if isinstance(policy, Heedful):
                policy.restart(where)
