"""Monte Carlo control: play an episode, then tell every action in it what came of it.

Sutton & Barto 2018, section 5.4: Q(s, a) is the mean of the returns that followed a in s; the policy is epsilon-greedy on Q. No value
is built on another: what TD trades in bias, Monte Carlo pays in variance, and it must wait for the end.
With exploration_start = exploration_end = 1 it evaluates the uniformly random policy.

Where we depart from the book
- A time limit is not a terminal state: behind it Q of the true successor stands in for the rewards that were cut off.
- Old returns came from older policies: rate_power below 1 forgets them (1: the mean of all, as in the book).
- R seeds and B copies learn at once.
Left out: exploring starts, off-policy importance sampling.
Landscape: model-free, on-policy, online; discrete actions; scale: tabular
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Generator, Tensor

from tutelage.equations.returns import discounted_return
from tutelage.equations.schedules import linear
from tutelage.experience.latest import Latest
from tutelage.games.spec import GameError, Space
from tutelage.learn.learner import Progress
from tutelage.learn.tabular.table import Table, draw, epsilon_greedy, generators_state, load_generators, sizes, states_of


@dataclass(frozen=True)
class Config:
    """Settings of Monte Carlo control."""

    first_visit: bool = True
    """Count only the first time that an action is taken in a state in an episode (the book: unbiased); else every time."""
    discount: float = 0.9
    """Of the next reward (the lecture's grid: 0.9)."""
    learning_rate: float = 1.0
    """Of an entry's first return; with rate_power 0, of all."""
    rate_power: float = 0.77
    """The n-th return moves an entry by learning_rate / n^rate_power (book: 1)."""
    exploration_start: float = 1.0
    """epsilon, the probability of a random action, at the first step."""
    exploration_end: float = 0.1
    """epsilon from `exploration_fraction` of the run on (Sutton & Barto 2018, section 5.4: 0.1)."""
    exploration_fraction: float = 0.5
    """The share of the run over which epsilon falls."""
    longest_episode: int = 100_000
    """Steps after which an episode is given up with an error: what never ends teaches nothing here."""


def first_visits(entry: Int64[Tensor, "T"]) -> Bool[Tensor, "T"]:
    """Where an entry occurs for the first time."""
    order = entry.sort(stable=True)
    first = torch.ones_like(entry, dtype=torch.bool)
    first[1:] = order.values[1:] != order.values[:-1]
    return torch.zeros_like(first).scatter_(0, order.indices, first)


class MonteCarlo:
    """R stacked tables, the episodes under way, and the generators that they explore with."""

    def __init__(
        self,
        config: Config,
        observation_space: Space,
        action_space: Space,
        generators: Sequence[Generator],
        device: torch.device | str = "cpu",
    ) -> None:
        """generators: one per seed; tables stay on the CPU. Raises GameError unless states and actions are integers."""
        states, actions = sizes("Monte Carlo control", observation_space, action_space)
        self.config, self.generators = config, list(generators)
        self.table = Table(len(self.generators), states, actions, config.learning_rate, config.rate_power)
        self._entries = torch.zeros(0, 0, 0, dtype=torch.int64)
        """[R, B, T], which entries the episodes under way have used; T grows as it must."""
        self._rewards = torch.zeros(0, 0, 0, dtype=torch.float64)
        self._lengths = torch.zeros(0, 0, dtype=torch.int64)
        """[R, B]."""

    def experience(self, steps: int, copies: int) -> Latest:
        """The newest step; the episodes under way are the learner's own."""
        return Latest()

    def _policy(self, state: Int64[Tensor, "R B"], legal: Bool[Tensor, "R B A"] | None, progress: Progress) -> Float64[Tensor, "R B A"]:
        config = self.config
        epsilon = linear(config.exploration_start, config.exploration_end, progress.share, config.exploration_fraction)
        return epsilon_greedy(self.table.rows(state), epsilon, legal)

    def behave(
        self, observation: Shaped[Tensor, "R B S"], starts: Bool[Tensor, "R B"], legal: Bool[Tensor, "R B A"] | None, progress: Progress
    ) -> Float[Tensor, "R B 1"]:
        """epsilon-greedy. Raises GameError where no action is legal."""
        if self._lengths.shape != starts.shape:
            shape = tuple(starts.shape)
            self._lengths = torch.zeros(shape, dtype=torch.int64)
            self._entries, self._rewards = torch.zeros(*shape, 64, dtype=torch.int64), torch.zeros(*shape, 64, dtype=torch.float64)
        # An episode that was broken off (a run resumed in a world that cannot be put back) is forgotten.
        self._lengths = torch.where(starts, 0, self._lengths)
        return draw(self._policy(states_of(observation), legal, progress), self.generators)[..., None].float()

    def act(
        self,
        observation: Shaped[Tensor, "R B S"],
        deterministic: bool = False,
        legal: Bool[Tensor, "R B A"] | None = None,
        carry: None = None,
    ) -> Float[Tensor, "R B 1"]:
        """The greedy action, the first of equals."""
        return self.table.greedy(observation, legal)

    def carry(self, copies: int) -> None:
        """The policy has no memory."""

    def update(self, experience: Latest, progress: Progress) -> dict[str, Tensor]:
        """Remember the newest step, and learn from episodes that ended with it; metrics `[R]` when one did (0 for a seed without).

        Raises GameError for an episode longer than `longest_episode`.
        """
        step = experience.transition
        state = states_of(step.observation)
        if int(self._lengths.max()) == self._entries.shape[-1]:
            self._entries, self._rewards = (torch.cat([x, torch.zeros_like(x)], -1) for x in (self._entries, self._rewards))
        seed = torch.arange(len(state))[:, None].expand_as(state)
        place = self._lengths[..., None]
        self._entries.scatter_(-1, place, self.table.entry(seed, state, step.action[..., 0].long())[..., None])
        self._rewards.scatter_(-1, place, experience.reward.double()[..., None])
        self._lengths = self._lengths + step.mask
        if int(self._lengths.max()) > self.config.longest_episode:
            raise GameError(f"an episode has not ended after {self.config.longest_episode} steps; Monte Carlo needs episodes that end")
        if not bool(step.boundary.any()):
            return {}
        legal = None if step.next_legal is None else step.next_legal | step.terminated[..., None]
        after = states_of(step.successor)
        beyond = (self._policy(after, legal, progress) * self.table.rows(after)).sum(-1)
        beyond = torch.where(step.terminated, 0.0, beyond)
        taught = [self._episode(r, b, beyond[r, b]) for r, b in step.boundary.nonzero().tolist()]
        entries, returns = (torch.cat(parts) for parts in zip(*taught, strict=True))
        error = returns - self.table.values.view(-1)[entries]
        self.table.learn(entries, error)
        self._lengths = torch.where(step.boundary, 0, self._lengths)
        owner = entries // self.table.values[0].numel()
        sums = torch.zeros(2, len(state), dtype=torch.float64).index_add_(1, owner, torch.stack([error.abs(), torch.ones_like(error)]))
        return {"error": (sums[0] / sums[1].clamp(min=1.0)).float()}

    def _episode(self, seed: int, copy: int, beyond: Float64[Tensor, ""]) -> tuple[Int64[Tensor, "n"], Float64[Tensor, "n"]]:
        """The entries of an episode that has ended, and the returns that followed them."""
        length = int(self._lengths[seed, copy])
        entries, rewards = self._entries[seed, copy, :length], self._rewards[seed, copy, :length]
        returns = discounted_return(rewards, torch.zeros(length, dtype=torch.bool), self.config.discount, beyond.expand(length))
        counted = first_visits(entries) if self.config.first_visit else torch.ones(length, dtype=torch.bool)
        return entries[counted], returns[counted]

    def frozen(self) -> dict[str, Bool[Tensor, "R"]]:
        """None: a table does not diverge from finite rewards."""
        return self.table.frozen()

    def state(self) -> dict[str, Any]:
        """Table, episodes under way and generators."""
        episodes = {"entries": self._entries, "rewards": self._rewards, "lengths": self._lengths}
        return {"table": self.table.state(), "episodes": episodes, "generators": generators_state(self.generators)}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.table.load(state["table"])
        episodes = state["episodes"]
        self._entries, self._rewards, self._lengths = (episodes[name].clone() for name in ("entries", "rewards", "lengths"))
        load_generators(self.generators, state["generators"])
