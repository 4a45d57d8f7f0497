"""Equilibria of games in normal form: N agents choose one action each, at once.

payoffs [N, A_1, ..., A_N]: what each agent is paid for each joint action. A profile is one distribution over the own actions per agent.
"""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

Profile = Sequence[Float[Tensor, "_"]]
"""pi^1, ..., pi^N; entry i is [A_i]."""


@dataclass(frozen=True)
class Equilibrium:
    """A profile from which no agent gains by departing alone, and what it pays."""

    profile: tuple[Float[Tensor, "_"], ...]
    payoffs: Float[Tensor, "N"]


def action_payoffs(payoffs: Float[Tensor, "N *A"], profile: Profile, agent: int) -> Float[Tensor, "A_i"]:
    """u^i(a, pi^-i) = sum over a^-i of u^i(a, a^-i) prod_{j != i} pi^j(a^j): what each own action pays against the others' strategies.

    Shoham & Leyton-Brown 2009, Multiagent Systems, section 3.2. Raises ValueError for a profile of another game.
    """
    N = _checked(payoffs, profile)
    letters = string.ascii_letters[:N]
    others = [j for j in range(N) if j != agent]
    return torch.einsum(
        ",".join([letters, *(letters[j] for j in others)]) + "->" + letters[agent], payoffs[agent], *(profile[j] for j in others)
    )


def expected_payoffs(payoffs: Float[Tensor, "N *A"], profile: Profile) -> Float[Tensor, "N"]:
    """u^i(pi) = sum over joint actions of u^i(a) prod_j pi^j(a^j). Shoham & Leyton-Brown 2009, definition 3.2.7."""
    return torch.stack([action_payoffs(payoffs, profile, i) @ strategy for i, strategy in enumerate(profile)])


def best_response(
    payoffs: Float[Tensor, "N *A"], profile: Profile, agent: int, tolerance: float = 1e-9
) -> tuple[Float[Tensor, ""], Bool[Tensor, "A_i"]]:
    """The most that the agent can get against the others' strategies, and all actions that get it (up to the tolerance).

    hat pi^i(pi^-i) = argmax over pi^i of J^i(pi^i, pi^-i): any mixture of these actions, and nothing else.
    """
    values = action_payoffs(payoffs, profile, agent)
    best = values.max()
    return best, values >= best - tolerance


def nash_conv(payoffs: Float[Tensor, "N *A"], profile: Profile) -> Float[Tensor, ""]:
    """NashConv(pi) = sum_i max_a u^i(a, pi^-i) - u^i(pi): zero in Nash equilibria, positive elsewhere.

    Lanctot et al. 2017 (arXiv 1711.00832), section 2.
    """
    gains = [action_payoffs(payoffs, profile, i).max() for i in range(len(profile))]
    return (torch.stack(gains) - expected_payoffs(payoffs, profile)).sum()


def exploitability(payoffs: Float[Tensor, "N *A"], profile: Profile) -> Float[Tensor, ""]:
    """NashConv(pi) / N: what an agent gains on average by departing alone to its best response.

    In a zero-sum game of two it is the mean over both seats of what a worst opponent gains over the value of the game.
    """
    return nash_conv(payoffs, profile) / len(profile)


def pure_equilibria(payoffs: Float[Tensor, "N *A"]) -> Int64[Tensor, "K N"]:
    """All joint actions from which no agent gains by departing alone, also for more than two agents; none may exist."""
    best = torch.ones(payoffs.shape[1:], dtype=torch.bool)
    for i, own in enumerate(payoffs):
        best &= own >= own.amax(i, keepdim=True)
    return best.nonzero()


def nash_equilibria(payoffs: Float[Tensor, "N *A"], tolerance: float = 1e-9) -> list[Equilibrium]:
    """All Nash equilibria of a non-degenerate game of two, by support enumeration; pure ones first.

    In an equilibrium each action of a support pays the same, v, and none pays more. So for each pair of supports (I, J) of equal size the
    strategy y on J that makes I indifferent solves  sum_{b in J} u^1(a, b) y_b = v for all a in I,  sum_b y_b = 1,  and likewise x on I
    with u^2; the pair is an equilibrium if all these weights are positive and no other action pays more.
    Nisan et al. 2007, Algorithmic Game Theory, algorithm 3.4. The number of pairs grows as binom(A_1 + A_2, A_1).

    A game is degenerate if against some strategy with a support of size k more than k actions are best responses. It may have infinitely
    many equilibria; found are then those with supports of equal size whose equations have one solution. All pure ones are among them,
    and what is returned is an equilibrium always. `tolerance` is relative to the range of each agent's payoffs.
    Raises ValueError for a game of more or fewer than two agents.
    """
    if payoffs.shape[0] != 2 or payoffs.dim() != 3:
        raise ValueError(f"payoffs of shape {tuple(payoffs.shape)} were given; all equilibria are found for two agents: [2, A_1, A_2]")
    # Equilibria do not change with the scale of an agent's payoffs, but tolerances would.
    low, high = payoffs.double().amin((1, 2), keepdim=True), payoffs.double().amax((1, 2), keepdim=True)
    first, second = ((payoffs.double() - low) / torch.where(high > low, high - low, 1.0)).unbind()
    found: list[Equilibrium] = []
    for size in range(1, min(first.shape) + 1):
        pairs = list(product(combinations(range(first.shape[0]), size), combinations(range(first.shape[1]), size)))
        own, other = (torch.tensor(side) for side in zip(*pairs, strict=True))
        y, first_solved = _indifference(first, own, other)
        x, second_solved = _indifference(second.T, other, own)
        positive = (x.gather(1, own) > tolerance).all(1) & (y.gather(1, other) > tolerance).all(1)
        first_value, second_value = y @ first.T, x @ second  # [P, A_1] and [P, A_2]: what each action pays
        first_gain = first_value.amax(1) - first_value.gather(1, own).amin(1)
        second_gain = second_value.amax(1) - second_value.gather(1, other).amin(1)
        stable = (first_gain <= tolerance) & (second_gain <= tolerance)
        for p in (first_solved & second_solved & positive & stable).nonzero().flatten():
            profile = (x[p].to(payoffs.dtype), y[p].to(payoffs.dtype))
            found.append(Equilibrium(profile, expected_payoffs(payoffs, profile)))
    return found


def _indifference(
    payoffs: Float[Tensor, "A B"], rows: Int64[Tensor, "P k"], columns: Int64[Tensor, "P k"]
) -> tuple[Float[Tensor, "P B"], Bool[Tensor, "P"]]:
    """The weights on `columns` that make all `rows` pay the same, and whether there is exactly one such solution."""
    P, k = rows.shape
    system = torch.zeros(P, k + 1, k + 1, dtype=payoffs.dtype)
    system[:, :k, :k] = payoffs[rows[:, :, None], columns[:, None, :]]
    system[:, :k, k] = -1.0
    system[:, k, :k] = 1.0
    right = torch.zeros(P, k + 1, dtype=payoffs.dtype)
    right[:, k] = 1.0
    linalg = cast(Any, torch.linalg)  # torch gives these no types
    solved: Tensor = linalg.matrix_rank(system, rtol=1e-12) == k + 1
    system[~solved] = torch.eye(k + 1, dtype=payoffs.dtype)
    weights: Tensor = linalg.solve(system, right)[:, :k]
    return torch.zeros(P, payoffs.shape[1], dtype=payoffs.dtype).scatter_(1, columns, weights), solved


def _checked(payoffs: Tensor, profile: Profile) -> int:
    sizes = tuple(len(strategy) for strategy in profile)
    if payoffs.shape[0] != len(profile) or tuple(payoffs.shape[1:]) != sizes:
        raise ValueError(
            f"payoffs of shape {tuple(payoffs.shape)} were given strategies over {sizes} actions; [N, A_1, ..., A_N] was expected"
        )
    return len(profile)
