"""Playing whole episodes with a policy that no longer learns."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tutelage.games.nested import flatten_action, flatten_observation
from tutelage.games.spec import Game, GameError, Nested, Players, Step
from tutelage.rewards.source import RewardSource


@runtime_checkable
class Policy(Protocol):
    """Whatever can act. Its device and its memory are its own business."""

    def act(self, observation: Nested, deterministic: bool = True) -> Nested:
        """observation: [B, ...] -> actions: [B, ...]"""
        ...


@runtime_checkable
class Heedful(Protocol):
    """A policy that minds which actions are legal and where episodes begin, as those of this library do."""

    def act(self, observation: Nested, deterministic: bool = True, legal: Tensor | None = None) -> Nested:
        """observation: [B, ...], legal: [B, K] -> actions: [B, ...]"""
        ...

    def restart(self, where: Tensor | None = None) -> None:
        """New episodes begin in the marked copies (None: in all)."""
        ...


class Playing:
    """A game and the policy that plays it: observations, legal actions and beginnings reach the policy."""

    def __init__(self, policy: Policy, game: Game, seed: int, members: int = 1) -> None:
        """Every member plays the same starts."""
        self.policy, self.game = policy, game
        self.observation = game.reset(seed=seeds_of(seed, game.copies // members) * members)
        self._ended: Tensor | None = None
        self._restart(None)

    def _restart(self, where: Tensor | None) -> None:
        if isinstance(self.policy, Heedful):
            self.policy.restart(where)

    def act(self) -> Nested:
        """The policy's noise-free actions in `observation`; copies whose episode has ended begin another first."""
        if self._ended is not None:
            self.observation = self.game.reset(where=self._ended)
            self._restart(self._ended)
        legal = self.game.legal() if isinstance(self.policy, Heedful) else None
        return self.policy.act(self.observation, deterministic=True, **({} if legal is None else {"legal": legal}))

    def step(self, action: Nested) -> Step:
        """Play one joint action."""
        step = self.game.step(action)
        self.observation = step.observation
        self._ended = step.boundary if step.boundary.any() else None
        return step


@dataclass(frozen=True, slots=True)
class EpisodeReturns:
    """What the episodes paid, in the order in which they were asked for."""

    returns: Float[Tensor, "episodes"]
    """Undiscounted sums of the reward, float64; in a game of many, what `Players.score` makes of them."""
    lengths: Int64[Tensor, "episodes"]
    """Real steps taken."""
    each: Float[Tensor, "episodes N"] | None = None
    """Of every agent, in a game of many."""
    successes: Bool[Tensor, "episodes"] | None = None
    """Whether the task was done after any step of the episode, where the game says so (`Game.success`)."""

    @property
    def success_rate(self) -> float | None:
        """Share of the episodes in which the task was done; None where the game does not say."""
        return None if self.successes is None else self.successes.double().mean().item()

    @property
    def mean(self) -> float:
        """Of the returns: the score of a policy."""
        return self.returns.mean().item()


def evaluate(policy: Policy, game: Game, episodes: int, seed: int, max_steps: int = 100_000) -> EpisodeReturns:
    """Play `episodes` noise-free episodes. See `evaluate_members`, of which this is the case of one member."""
    return evaluate_members(policy, game, members=1, episodes=episodes, seed=seed, max_steps=max_steps)[0]


@torch.no_grad()
def evaluate_members(
    policy: Policy,
    game: Game,
    members: int,
    episodes: int,
    seed: int,
    max_steps: int = 100_000,
    reward: RewardSource | None = None,
) -> list[EpisodeReturns]:
    """Play `episodes` noise-free episodes with each of R stacked policies; the game's R*B copies are ordered member-major.

    Which copy plays which episode is fixed beforehand: episode i of a member belongs to its copy i mod B. Taking the first
    `episodes` to end instead would favor short ones. Every member meets the same B seeds, so members can be compared in pairs.
    reward: what to count instead of the game's own. max_steps: an episode that is longer is an error, because a mean over the
    others would not be the policy's mean.
    Raises GameError for a NaN from the game or the policy, for an episode that does not end, and for copies that do not divide.
    """
    if episodes < 1 or members < 1 or game.copies % members:
        raise GameError(f"{episodes} episodes of {members} members were asked of {game.copies} copies; members must divide the copies")
    copies = game.copies // members
    own = torch.arange(episodes) % copies  # [episodes], the copy within a member that plays each
    quota = torch.bincount(own, minlength=copies).repeat(members)
    many = game.players is not None
    total = torch.zeros(game.copies, *((len(game.players.names),) if game.players else ()), dtype=torch.float64)
    length = torch.zeros(game.copies, dtype=torch.int64)
    succeeded: Tensor | None = None  # [copies], since the episode's start, where the game says so
    played: list[list[tuple[Tensor, int, bool | None]]] = [[] for _ in range(game.copies)]

    playing = Playing(policy, game, seed, members)
    _check_finite(playing.observation, "observation at reset")
    left = quota.clone()
    while left.any():
        action = playing.act()
        observation = playing.observation
        _check_finite(action, "action of the policy", left > 0)
        step = playing.step(action)
        _check_finite(step.observation, "observation", left > 0)
        _check_finite(step.reward, "reward", left > 0)
        paid = step.reward
        if reward is not None:
            vectors = flatten_observation(game.observation_space, observation), flatten_action(game.action_space, action)
            paid = reward.reward(*vectors, step.reward)
        total += torch.where(step.mask, paid.double(), 0.0)
        length += step.mask.any(-1) if many else step.mask
        if (now := game.success()) is not None:
            succeeded = now if succeeded is None else succeeded | now
        for b in step.boundary.nonzero().flatten().tolist():
            if left[b] > 0:
                played[b].append((total[b].clone(), int(length[b]), None if succeeded is None else bool(succeeded[b])))
                left[b] -= 1
            total[b], length[b] = 0.0, 0
            if succeeded is not None:
                succeeded[b] = False
        if (length * (left > 0)).max() >= max_steps:
            raise GameError(f"{type(game).__name__}: an episode has not ended after {max_steps} steps; evaluation needs episodes that end")
    return [_in_order(played[r * copies : (r + 1) * copies], own, game.players) for r in range(members)]


def seeds_of(seed: int, copies: int) -> list[int]:
    """One seed per copy, all different streams; the first ones do not depend on how many there are."""
    return [int(child.generate_state(1)[0]) for child in np.random.SeedSequence(seed).spawn(copies)]


def _in_order(played: list[list[tuple[Tensor, int, bool | None]]], own: Tensor, players: Players | None) -> EpisodeReturns:
    totals, lengths, successes = zip(*(played[b].pop(0) for b in own.tolist()), strict=True)
    totals, lengths = torch.stack(totals), torch.tensor(lengths)
    known = None if None in successes else torch.tensor(successes)
    return EpisodeReturns(totals if players is None else players.score(totals), lengths, None if players is None else totals, known)


def _check_finite(value: Nested, what: str, where: Tensor | None = None) -> None:
    """value: a tree of [B, ...]; where: [B], the copies that count (None: all)."""
    if isinstance(value, dict):
        for name, entry in value.items():
            _check_finite(entry, f"{what}, entry {name!r}", where)
    elif isinstance(value, tuple):
        for i, entry in enumerate(value):
            _check_finite(entry, f"{what}, entry {i}", where)
    elif value.is_floating_point() and not torch.isfinite(value).all():
        bad = ~torch.isfinite(value).flatten(1).all(1) if value.dim() > 1 else ~torch.isfinite(value)
        bad = bad.cpu() if where is None else bad.cpu() & where
        if bad.any():
            raise GameError(f"evaluation met a number that is not finite: {what}, copy {int(bad.nonzero()[0])}")
