"""Agent-environment cycle games, in which one agent acts at a time: finite ones as arrays, and programs."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Generator, Tensor

from tutelage.games.posg import check_discount, check_distribution, random_distribution
from tutelage.games.spec import GameError, Nested, Players


@dataclass(frozen=True)
class RewardLaw:
    """What one actor's step pays each agent: K possible numbers and their probabilities, drawn for each agent independently.

    X is what leads from s to s' together with the actor: its action where it is an agent, s' itself where it is the environment.
    """

    value: Float64[Tensor, "N S X K"]
    probability: Float64[Tensor, "N S X K"]


@dataclass(frozen=True)
class AECG:
    """(S, N, {A^i}, {Omega^i}, {R^i}, {T^i}, P, {O^i}, nu, s_0, i_0, gamma). Agent 0 is the environment, with a single action.

    Terry et al. 2021 (arXiv 2009.14471), section 4; Straka, NPFL139 lecture 14 (2025).
    """

    transition: Float64[Tensor, "S S"]
    """P(s'|s), when the environment is on turn."""
    moves: tuple[Int64[Tensor, "S _"], ...]
    """T^i(s, a) of agents 1 to N, [S, A_i]: where their actions lead, without chance."""
    reward: tuple[RewardLaw, ...]
    """R^i(r|s, j, a^j, s') for j = 0 to N."""
    likelihood: tuple[Float64[Tensor, "S _"], ...]
    """O^i(w|s') of agents 1 to N, [S, O_i]."""
    next_agent: tuple[Float64[Tensor, "S _ N_and_1"], ...]
    """nu(j'|s, j, a^j) for j = 0 to N, [S, A_j, N + 1]; s is the state before the step. A_0 = 1."""
    first_state: int
    """s_0."""
    first_agent: int
    """i_0."""
    discount: float
    name: str = "an AECG"

    def __post_init__(self) -> None:
        """Raises GameError for arrays that are no game."""
        N, S = len(self.moves), len(self.transition)
        if N < 1 or len(self.likelihood) != N or len(self.reward) != N + 1 or len(self.next_agent) != N + 1:
            given = f"{N}, {len(self.likelihood)}, {len(self.reward)} and {len(self.next_agent)}"
            raise GameError(
                f"{self.name}: {given} tables of moves, observations, rewards and next agents were given; "
                "N, N, N + 1 and N + 1 were expected"
            )
        expected: dict[str, tuple[Tensor, tuple[int, ...]]] = {"transition": (self.transition, (S, S))}
        for i in range(N):
            expected[f"likelihood of agent {i + 1}"] = (self.likelihood[i], (S, self.likelihood[i].shape[-1]))
        for j, (law, following) in enumerate(zip(self.reward, self.next_agent, strict=True)):
            choices = 1 if j == 0 else self.moves[j - 1].shape[-1]
            expected[f"next agent after {j}"] = (following, (S, choices, N + 1))
            shape = (N, S, S if j == 0 else choices, law.value.shape[-1])
            expected[f"reward law of actor {j}"] = (law.probability, shape)
            if tuple(law.value.shape) != shape or not bool(torch.isfinite(law.value).all()):
                raise GameError(
                    f"{self.name}: rewards of shape {tuple(law.value.shape)} for actor {j}; finite ones of {shape} were expected"
                )
        for what, (table, shape) in expected.items():
            if tuple(table.shape) != shape or 0 in shape:
                raise GameError(f"{self.name}: the {what} has shape {tuple(table.shape)}; {shape} was expected")
            check_distribution(table, what, self.name)
        for i, table in enumerate(self.moves):
            if table.dim() != 2 or len(table) != S or bool(((table < 0) | (table >= S)).any()):
                raise GameError(
                    f"{self.name}: the moves of agent {i + 1} need a state from 0 to {S - 1} for each of {S} states and each action"
                )
        if not (0 <= self.first_state < S and 0 <= self.first_agent <= N):
            raise GameError(
                f"{self.name} has {S} states and agents 0 to {N}; it cannot begin in {self.first_state} with {self.first_agent}"
            )
        check_discount(self.discount, self.name)

    @property
    def states(self) -> int:
        """S."""
        return len(self.transition)

    @property
    def agents(self) -> int:
        """N, without the environment."""
        return len(self.moves)

    @property
    def actions(self) -> tuple[int, ...]:
        """(A_1, ..., A_N)."""
        return tuple(table.shape[1] for table in self.moves)


def random_aecg(
    states: int,
    actions: Sequence[int],
    observations: Sequence[int],
    generator: Generator,
    outcomes: int = 2,
    discount: float = 0.9,
) -> AECG:
    """Any state may follow, with anyone on turn; each agent is paid one of `outcomes` standard normal numbers at each step.

    actions, observations: how many each agent has. Raises GameError for numbers that make no game.
    """
    if min(states, outcomes, *actions, *observations) < 1 or len(actions) != len(observations):
        raise GameError(
            f"a random AECG was asked for with states={states}, actions={tuple(actions)}, observations={tuple(observations)} "
            f"and outcomes={outcomes}; at least one of each and as many agents are needed"
        )
    N, S = len(actions), states

    def law(choices: int) -> RewardLaw:
        shape = (N, S, choices, outcomes)
        return RewardLaw(torch.randn(shape, generator=generator, dtype=torch.float64), random_distribution(shape, generator))

    return AECG(
        random_distribution((S, S), generator),
        tuple(torch.randint(S, (S, a), generator=generator) for a in actions),
        (law(S), *(law(a) for a in actions)),
        tuple(random_distribution((S, o), generator) for o in observations),
        tuple(random_distribution((S, a, N + 1), generator) for a in (1, *actions)),
        int(torch.randint(S, (), generator=generator)),
        int(torch.randint(N + 1, (), generator=generator)),
        discount,
        f"a random AECG of {states} states",
    )


@dataclass(frozen=True, slots=True)
class Turn:
    """What one act brings to B copies; the fields are those of Step."""

    reward: Float[Tensor, "B N"]
    terminated: Bool[Tensor, "B N"]
    boundary: Bool[Tensor, "B"]
    mask: Bool[Tensor, "B N"]
    """False for an agent that was dead before; true for the others, whether on turn or not."""


class AECProgram(ABC):
    """An agent-environment cycle game given as a program, in B copies.

    The environment acts by itself, right after the agent that it follows. All copies have the same agent on turn; a game in which that
    depends on what happens is played in one copy. Agents are numbered from 0, as in `players`: only an AECG's agent 0 is the environment.
    """

    players: Players
    copies: int
    name: str

    @abstractmethod
    def reset(self, seed: Sequence[int] | None = None, where: Bool[Tensor, "B"] | None = None) -> None:
        """As Game.reset; what is seen now is a matter of `observe`."""

    @abstractmethod
    def turn(self) -> int:
        """Whose turn it is."""

    @abstractmethod
    def observe(self, agent: int) -> Nested:
        """What this agent sees now, `[B, ...]` in its own space."""

    @abstractmethod
    def act(self, actions: Nested) -> Turn:
        """The agent on turn acts, `[B, ...]` in its own action space."""

    @abstractmethod
    def since(self, agent: int) -> Float[Tensor, "B"]:
        """What this agent has been paid since its own last action: what it learns at its turn, summed over the acts of the others."""

    def legal(self, agent: int) -> Bool[Tensor, "B K"] | None:
        """Which of its discrete actions this agent may take now; None: all, always."""
        return None
