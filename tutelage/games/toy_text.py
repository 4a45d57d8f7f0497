"""Gymnasium's toy-text games as arrays: the tables that FrozenLake, Taxi and CliffWalking carry, and Blackjack by counting."""

from collections import defaultdict
from functools import cache
from typing import Any

import numpy as np
import torch

from tutelage.games.finite import FiniteMDP, Layout, Outcome, mdp_from_outcomes
from tutelage.games.spec import GameError

try:
    import gymnasium
except ImportError as error:
    raise GameError("Gymnasium is not installed, and its toy-text games need it; run: pip install 'tutelage[control]'") from error

MOVES = {"FrozenLakeEnv": ((0, -1), (1, 0), (0, 1), (-1, 0)), "CliffWalkingEnv": ((-1, 0), (0, 1), (1, 0), (0, -1))}
"""(rows down, columns to the right) of each action, for the games that are played on a map."""


def toy_text_mdp(identifier: str, **options: Any) -> FiniteMDP:
    """The game gym:identifier as arrays; options go to its constructor. States are numbered as its observations are.

    Raises GameError for a game without a table.
    """
    try:
        env: Any = gymnasium.make(identifier, **options).unwrapped
    except (gymnasium.error.Error, TypeError) as error:
        raise GameError(f"gym:{identifier} cannot be made with the options {options}: {error}") from error
    kind = type(env).__name__
    if kind == "BlackjackEnv":
        return blackjack_mdp(natural=bool(env.natural), sab=bool(env.sab))
    table, start = getattr(env, "P", None), getattr(env, "initial_state_distrib", None)
    if table is None or start is None:
        raise GameError(f"gym:{identifier} carries no table of its transitions; FrozenLake, Taxi, CliffWalking and Blackjack have arrays")
    states, actions = len(table), len(table[0])

    def outcomes(state: int, action: int) -> list[Outcome]:
        return [(float(p), int(after), float(reward), bool(terminated)) for p, after, reward, terminated in table[state][action] if p > 0]

    layout = None
    if kind in MOVES:
        rows, columns = env.desc.shape if kind == "FrozenLakeEnv" else env.shape
        layout = Layout(int(rows), int(columns), torch.arange(states), MOVES[kind])
    probability = torch.as_tensor(np.asarray(start, np.float64))
    return mdp_from_outcomes(states, actions, outcomes, probability, layout, f"gym:{identifier}")


CARDS = {card: (4 if card == 10 else 1) / 13 for card in range(1, 11)}
"""The probability of each card in an infinite deck: ten, jack, queen and king count 10."""

Hand = tuple[int, bool]
"""The best total, and whether an ace counts 11 in it."""


def blackjack_mdp(natural: bool = False, sab: bool = True) -> FiniteMDP:
    """Blackjack as Gymnasium plays it (Sutton & Barto 2018, example 5.1); actions are stick and hit.

    States: each hand from 4 to 21 beside each card that the dealer shows, once more for a natural (21 with two cards, which a player's
    observation does not tell apart from 21 with more), and last a bust. sab: a natural beats a dealer without one. natural (where not
    sab): a winning natural pays 1.5.
    """
    hands = [(total, False, False) for total in range(4, 22)] + [(total, True, False) for total in range(12, 22)] + [(21, True, True)]
    states = [(hand, shown) for hand in hands for shown in CARDS]
    number = {state: i for i, state in enumerate(states)}
    bust = len(states)

    def outcomes(state: int, action: int) -> list[Outcome]:
        if state == bust:
            return [(1.0, bust, 0.0, True)]
        (total, usable, is_natural), shown = states[state]
        if action == 1:
            hit: dict[int, float] = defaultdict(float)
            for card, p in CARDS.items():
                after, soft = _add((total, usable), card)
                hit[bust if after > 21 else number[(after, soft, False), shown]] += p
            return [(p, after, -1.0 if after == bust else 0.0, after == bust) for after, p in hit.items()]
        paid: dict[float, float] = defaultdict(float)
        for hidden, p in CARDS.items():
            dealer_natural = {hidden, shown} == {1, 10}
            for final, q in _dealer(_add(_add((0, False), shown), hidden)).items():
                reward = float(np.sign(total - final)) if final <= 21 else 1.0
                if sab and is_natural and not dealer_natural:
                    reward = 1.0
                elif not sab and natural and is_natural and reward == 1.0:
                    reward = 1.5
                paid[reward] += p * q
        return [(p, state, reward, True) for reward, p in paid.items()]

    start = torch.zeros(bust + 1, dtype=torch.float64)
    for first, p in CARDS.items():
        for second, q in CARDS.items():
            hand = _add(_add((0, False), first), second)
            for shown, r in CARDS.items():
                start[number[(*hand, hand[0] == 21), shown]] += p * q * r
    return mdp_from_outcomes(bust + 1, 2, outcomes, start, name="gym:Blackjack-v1")


def _add(hand: Hand, card: int) -> Hand:
    """The hand with one more card; an ace counts 11 where it can."""
    total, usable = hand
    total, usable = total + card, usable
    if card == 1 and total + 10 <= 21:
        return total + 10, True
    return (total - 10, False) if usable and total > 21 else (total, usable)


@cache
def _dealer(hand: Hand) -> dict[int, float]:
    """The distribution of the dealer's final total, who draws below 17."""
    if hand[0] >= 17:
        return {hand[0]: 1.0}
    final: dict[int, float] = defaultdict(float)
    for card, p in CARDS.items():
        for total, q in _dealer(_add(hand, card)).items():
            final[total] += p * q
    return dict(final)
