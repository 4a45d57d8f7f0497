"""STAR's conservative pull: the policy stays near what a critic recommends that has only ever bootstrapped from what was done.

Bai et al. 2025 (NeurIPS, "STAR", section 4.2; arXiv 2405.18688 is its first form). A learned reward errs most where nobody has been, and
a critic that maximizes believes it. A second critic regresses on r + gamma Q^(s', a') with the action a' that was really taken next, so
it never asks about others; the actor pays eta KL(pi || softmax(Q^ / omega)). STAR's other half, smoothed labels, is a field of the
reward model.

Where we depart from the paper
- Its softmax runs over sampled actions; with continuous ones KL is, up to a constant, E log pi - Q^ / omega, which needs no samples.
- Its batches are SAC's own (authors: of 32, and AdamW).
Left out: the offline form.
Landscape: model-free, off-policy, online; continuous actions; scale: deep
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from tutelage.equations.bellman import q_target
from tutelage.equations.statistics import masked_mean
from tutelage.experience.trajectory import Batch
from tutelage.learn.deep.sac import Config
from tutelage.nets.mlp import MLP
from tutelage.nets.training import Group, TrainState, Update


class Conservative:
    """The second critic of R seeds; actions in [-1, 1]. Nets, rate and target are as those of the SAC that it restrains."""

    def __init__(
        self, pull: float, softness: float, widths: tuple[int, int], sac: Config, generators: Sequence[Generator], device: torch.device
    ) -> None:
        """pull: eta. softness: omega. widths: of observation and action."""
        self.eta, self.softness, self.sac = pull, softness, sac
        self.critic = MLP((sum(widths), *sac.hidden, 1), (len(generators),))
        critic = Group.of(self.critic, generators, sac.learning_rate, device)
        self.train = TrainState({"conservative": critic}, ["conservative"], generators)
        self._step = Update(self._loss, [critic], [self.train.targets["conservative"]])

    def value(self, weights: Any, observation: Float[Tensor, "R N D"], action: Float[Tensor, "R N A"]) -> Float[Tensor, "R N"]:
        """Q^ of each pair."""
        return self.critic(weights, torch.cat([observation, action], -1)).squeeze(-1)

    def pull(self, observation: Float[Tensor, "R N D"], action: Float[Tensor, "R N A"], logp: Float[Tensor, "R N"]) -> Float[Tensor, "R N"]:
        """eta (log pi(a|s) - Q^(s, a) / omega), a ~ pi reparameterized: what the actor pays."""
        return self.eta * (logp - self.value(self.train.weights("conservative"), observation, action) / self.softness)

    def update(self, batch: Batch, next_action: Float[Tensor, "R N A"], known: Bool[Tensor, "R N"]) -> None:
        """One step of the critic on transitions whose next action is known or whose future is nothing."""
        self._step(self.sac.target_rate, batch, next_action, (known | batch.terminated) * batch.mask)

    def reset(self, chosen: Bool[Tensor, "R"]) -> None:
        """A fresh critic, target and moments for the chosen seeds."""
        group = self.train.groups["conservative"]
        self.critic.initialize(group.parameters, self.train.generators, chosen)
        group.optimizer.reset(chosen)
        self.train.targets["conservative"].copy(chosen)

    def _loss(self, groups: Any, target: Any, batch: Batch, next_action: Tensor, mask: Tensor) -> Any:
        with torch.no_grad():
            y = q_target(batch.reward, self.value(target, batch.next_observation, next_action), batch.terminated, self.sac.discount)
        error = self.value(groups[0], batch.observation, batch.action) - y
        return 0.5 * masked_mean(error.square(), mask), {}
