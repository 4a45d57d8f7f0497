"""Q-learning: Q-value iteration with one sampled transition in place of the sum over all.

Watkins 1989; Watkins & Dayan 1992 (Machine Learning 8): Q(s, a) moves towards r + gamma max_a' Q(s', a'), whatever action is taken next.
That makes it off-policy: any behavior that keeps trying everything finds Q*.

Where we depart from the paper
- A time limit is not a terminal state: the true successor's value is bootstrapped.
- Actions that a state does not have are never taken and never maximized over.
- R seeds and B copies learn at once; copies that meet in one entry move it by the mean of their errors.
Left out: double Q-learning (`deep/dqn.py` has it), traces.
Landscape: model-free, off-policy, online; discrete actions; scale: tabular
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Shaped
from torch import Generator, Tensor

from tutelage.equations.bellman import greedy_value, q_target
from tutelage.equations.schedules import linear
from tutelage.experience.latest import Latest
from tutelage.games.spec import Space
from tutelage.learn.learner import Progress
from tutelage.learn.tabular.table import Table, draw, epsilon_greedy, generators_state, load_generators, sizes, states_of


@dataclass(frozen=True)
class Config:
    """Settings of Q-learning."""

    discount: float = 0.9
    """Of the next state's value (the lecture's grid: 0.9)."""
    learning_rate: float = 1.0
    """Of an entry's first sample; with rate_power 0, of all."""
    rate_power: float = 0.77
    """The n-th sample moves an entry by learning_rate / n^rate_power (Even-Dar & Mansour 2003, JMLR 5: about 0.77 is best)."""
    exploration_start: float = 1.0
    """epsilon, the probability of a random action, at the first step."""
    exploration_end: float = 0.1
    """epsilon from `exploration_fraction` of the run on (Sutton & Barto 2018, chapter 6: 0.1)."""
    exploration_fraction: float = 0.5
    """The share of the run over which epsilon falls."""


def q_learning_error(
    q: Float64[Tensor, "R B"],
    next_q: Float64[Tensor, "R B A"],
    reward: Float64[Tensor, "R B"],
    terminated: Bool[Tensor, "R B"],
    next_legal: Bool[Tensor, "R B A"] | None,
    discount: float,
) -> Float64[Tensor, "R B"]:
    """r + gamma max_a' Q(s', a') - Q(s, a), the maximum over legal actions (Sutton & Barto 2018, eq. 6.8)."""
    return q_target(reward, greedy_value(next_q, next_legal), terminated, discount) - q


class QLearning:
    """R stacked tables and the generators that they explore with."""

    def __init__(
        self,
        config: Config,
        observation_space: Space,
        action_space: Space,
        generators: Sequence[Generator],
        device: torch.device | str = "cpu",
    ) -> None:
        """generators: one per seed; tables stay on the CPU. Raises GameError unless states and actions are integers."""
        states, actions = sizes("Q-learning", observation_space, action_space)
        self.config, self.generators = config, list(generators)
        self.table = Table(len(self.generators), states, actions, config.learning_rate, config.rate_power)

    def experience(self, steps: int, copies: int) -> Latest:
        """The newest step is all it learns from."""
        return Latest()

    def behave(
        self, observation: Shaped[Tensor, "R B S"], starts: Bool[Tensor, "R B"], legal: Bool[Tensor, "R B A"] | None, progress: Progress
    ) -> Float[Tensor, "R B 1"]:
        """epsilon-greedy. Raises GameError where no action is legal."""
        config = self.config
        epsilon = linear(config.exploration_start, config.exploration_end, progress.share, config.exploration_fraction)
        policy = epsilon_greedy(self.table.rows(states_of(observation)), epsilon, legal)
        return draw(policy, self.generators)[..., None].float()

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
        """Learn from the newest step of every copy; metrics `[R]`."""
        step, table = experience.transition, self.table
        state, action = states_of(step.observation), step.action[..., 0].long()
        q = table.rows(state).gather(-1, action[..., None])[..., 0]
        error = q_learning_error(
            q, table.rows(states_of(step.successor)), experience.reward.double(), step.terminated, step.next_legal, self.config.discount
        )
        seed = torch.arange(len(state))[:, None].expand_as(state)
        table.learn(table.entry(seed, state, action)[step.mask], error[step.mask])
        return {"error": error.abs().mean(-1).float(), "q": q.mean(-1).float()}

    def frozen(self) -> dict[str, Bool[Tensor, "R"]]:
        """None: a table does not diverge from finite rewards."""
        return self.table.frozen()

    def state(self) -> dict[str, Any]:
        """Table and generators."""
        return {"table": self.table.state(), "generators": generators_state(self.generators)}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.table.load(state["table"])
        load_generators(self.generators, state["generators"])
