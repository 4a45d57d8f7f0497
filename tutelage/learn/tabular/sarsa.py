"""SARSA: learn what the policy that is being played is worth, while it is being played.

Rummery & Niranjan 1994; Sutton & Barto 2018, section 6.4: Q(s, a) moves towards r + gamma Q(s', a'), where a' is the action that will be
played in s'. That makes it on-policy: with exploration it learns the value of exploring, and walks further from the cliff than
Q-learning does.

Where we depart from the book
- A time limit is not a terminal state: an action is drawn for the true successor, bootstrapped from and never played.
- Expected SARSA is one field: the expectation over a' in place of the draw (van Seijen et al. 2009), less variance for A additions.
- R seeds and B copies learn at once; copies that meet in one entry move it by the mean of their errors.
Left out: SARSA(lambda).
Landscape: model-free, on-policy, online; discrete actions; scale: tabular
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Generator, Tensor

from tutelage.equations.bellman import q_target
from tutelage.equations.schedules import linear
from tutelage.experience.latest import Latest
from tutelage.games.spec import Space
from tutelage.learn.learner import Progress
from tutelage.learn.tabular.table import Table, draw, epsilon_greedy, generators_state, load_generators, sizes, states_of


@dataclass(frozen=True)
class Config:
    """Settings of SARSA."""

    expected: bool = False
    """Bootstrap from the expectation over the next action, not from the one that will be played (van Seijen et al. 2009)."""
    discount: float = 0.9
    """Of the next state's value (the lecture's grid: 0.9)."""
    learning_rate: float = 1.0
    """Of an entry's first sample; with rate_power 0, of all."""
    rate_power: float = 0.77
    """The n-th sample moves an entry by learning_rate / n^rate_power (as in Q-learning: Even-Dar & Mansour 2003, JMLR 5)."""
    exploration_start: float = 1.0
    """epsilon, the probability of a random action, at the first step."""
    exploration_end: float = 0.1
    """epsilon from `exploration_fraction` of the run on (Sutton & Barto 2018, chapter 6: 0.1)."""
    exploration_fraction: float = 0.5
    """The share of the run over which epsilon falls."""


def sarsa_error(
    q: Float64[Tensor, "R B"],
    next_q: Float64[Tensor, "R B A"],
    next_policy: Float64[Tensor, "R B A"],
    reward: Float64[Tensor, "R B"],
    terminated: Bool[Tensor, "R B"],
    discount: float,
) -> Float64[Tensor, "R B"]:
    """r + gamma sum_a' pi(a'|s') Q(s', a') - Q(s, a) (Sutton & Barto 2018, eq. 6.9).

    With all of pi on the action that will be played it is SARSA's error (eq. 6.7).
    """
    return q_target(reward, (next_policy * next_q).sum(-1), terminated, discount) - q


class Sarsa:
    """R stacked tables, the actions that are played next, and the generators that they are drawn with."""

    def __init__(
        self,
        config: Config,
        observation_space: Space,
        action_space: Space,
        generators: Sequence[Generator],
        device: torch.device | str = "cpu",
    ) -> None:
        """generators: one per seed; tables stay on the CPU. Raises GameError unless states and actions are integers."""
        states, actions = sizes("SARSA", observation_space, action_space)
        self.config, self.generators = config, list(generators)
        self.table = Table(len(self.generators), states, actions, config.learning_rate, config.rate_power)
        self._planned: Tensor | None = None
        """[R, B], drawn at the last update for the state it led to. None: before the first update."""

    def experience(self, steps: int, copies: int) -> Latest:
        """The newest step is all it learns from."""
        return Latest()

    def _policy(self, state: Int64[Tensor, "R B"], legal: Bool[Tensor, "R B A"] | None, progress: Progress) -> Float64[Tensor, "R B A"]:
        config = self.config
        epsilon = linear(config.exploration_start, config.exploration_end, progress.share, config.exploration_fraction)
        return epsilon_greedy(self.table.rows(state), epsilon, legal)

    def behave(
        self, observation: Shaped[Tensor, "R B S"], starts: Bool[Tensor, "R B"], legal: Bool[Tensor, "R B A"] | None, progress: Progress
    ) -> Float[Tensor, "R B 1"]:
        """What was planned; at the first step of an episode, epsilon-greedy. Raises GameError where no action is legal."""
        fresh = draw(self._policy(states_of(observation), legal, progress), self.generators)
        action = fresh if self._planned is None else torch.where(starts, fresh, self._planned)
        return action[..., None].float()

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
        """Plan the next action, and learn from the newest step of every copy; metrics `[R]`."""
        step, table = experience.transition, self.table
        state, after, action = states_of(step.observation), states_of(step.successor), step.action[..., 0].long()
        # After a termination there may be no legal action; what is drawn there is worth nothing and never played.
        legal = None if step.next_legal is None else step.next_legal | step.terminated[..., None]
        policy = self._policy(after, legal, progress)
        self._planned = draw(policy, self.generators)
        chosen = torch.nn.functional.one_hot(self._planned, policy.shape[-1]).double()
        q = table.rows(state).gather(-1, action[..., None])[..., 0]
        next_policy = policy if self.config.expected else chosen
        error = sarsa_error(q, table.rows(after), next_policy, experience.reward.double(), step.terminated, self.config.discount)
        seed = torch.arange(len(state))[:, None].expand_as(state)
        table.learn(table.entry(seed, state, action)[step.mask], error[step.mask])
        return {"error": error.abs().mean(-1).float(), "q": q.mean(-1).float()}

    def frozen(self) -> dict[str, Bool[Tensor, "R"]]:
        """None: a table does not diverge from finite rewards."""
        return self.table.frozen()

    def state(self) -> dict[str, Any]:
        """Table, plan and generators."""
        return {"table": self.table.state(), "planned": self._planned, "generators": generators_state(self.generators)}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.table.load(state["table"])
        self._planned = None if state["planned"] is None else state["planned"].clone()
        load_generators(self.generators, state["generators"])
