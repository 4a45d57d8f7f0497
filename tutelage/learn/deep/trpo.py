"""Trust region policy optimization: the natural gradient, as far as an exact KL divergence allows.

Schulman et al. 2015 (arXiv 1502.05477), eq. 14 and appendix C. Maximize the surrogate E[rho A], rho = pi(a|s) / pi_old(a|s), subject to
E[KL(pi_old || pi)] <= delta: with g the surrogate's gradient and F the Fisher matrix, the second derivative of the KL divergence, solve
F x = g by conjugate gradients from products with F alone; scale x to the bound, sqrt(2 delta / x F x); then go back along it until the
surrogate has risen and the divergence keeps the bound. The value is a regression on the lambda-return.

Where we depart from the paper
- Advantages by GAE (Schulman et al. 2016, arXiv 1506.02438), standardized over the window; single paths, no vine.
- Products with F are taken on all steps, where the paper takes a tenth; F is factored as in its appendix C.1, J^T M J, and exact.
- The R seeds solve and search at once, each with its own numbers; one that finds no step keeps its policy.
- A time limit is not a terminal state: the true successor's value is bootstrapped.
Left out: the vine procedure, a body that policy and value share (the value's steps would move the policy out of its region).
Landscape: model-free, on-policy, online; continuous and discrete actions; scale: deep
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from tutelage.equations.returns import gae
from tutelage.equations.statistics import mean_of, standardized
from tutelage.equations.surrogates import importance_surrogate
from tutelage.experience.steps import Steps
from tutelage.games.spec import Space
from tutelage.learn.deep.on_policy import OnPolicy, Recorded
from tutelage.learn.learner import Progress
from tutelage.nets.adam import StackedAdam

Rows = Float[Tensor, "R P"]
"""All weights of each seed, or something of their shape, as one vector."""


@dataclass(frozen=True)
class Config:
    """Settings of TRPO."""

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of policy and value (sb3-contrib: 64, 64; paper: 30)."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Between the layers (paper: tanh)."""
    memory: Literal["none", "gru", "lstm"] = "none"
    """Cell behind the last hidden layer, as wide as it (paper: none)."""
    window: int = 2048
    """Steps per copy of the game between two updates (sb3-contrib: 2048)."""
    target_kl: float = 0.01
    """delta, the largest mean divergence of a step (paper: 0.01)."""
    solver_steps: int = 15
    """Conjugate gradient steps at most (sb3-contrib: 15; paper: 10)."""
    damping: float = 0.1
    """Added to F's diagonal (paper's code, sb3-contrib: 0.1)."""
    shrink: float = 0.8
    """What a step that is not accepted is multiplied by (sb3-contrib: 0.8)."""
    tries: int = 10
    """Steps tried before the policy stays as it is (sb3-contrib: 10)."""
    learning_rate: float = 1e-3
    """Of the value's regression, by Adam (sb3-contrib: 1e-3)."""
    value_epochs: int = 10
    """Passes of the value over the window (sb3-contrib: 10)."""
    batch_size: int = 128
    """Steps in a minibatch of the value's (sb3-contrib: 128). With memory: as many whole recordings as it holds, at least one."""
    discount: float = 0.99
    """Of the next state's value (paper: 0.99)."""
    gae_lambda: float = 0.95
    """How far an advantage looks ahead (sb3-contrib: 0.95; GAE's paper: 0.97)."""
    standardize_advantage: bool = True
    """Over the window: mean 0, standard deviation 1 (sb3-contrib: yes)."""
    normalize_observation: bool = False
    """By running mean and deviation (sb3-contrib: by a wrapper; RL-Zoo for MuJoCo: yes)."""
    normalize_reward: bool = False
    """By the running deviation of the discounted return (as above)."""


def trpo_loss(
    logp: Float[Tensor, "R *n"], old_logp: Float[Tensor, "R *n"], advantage: Float[Tensor, "R *n"], mask: Float[Tensor, "R *n"] | None
) -> Float[Tensor, "R"]:
    """-E[rho A], the mean over the steps of each seed (eq. 14); mask: 1 for a real step, else 0 (None: all are)."""
    return -mean_of(importance_surrogate(logp, old_logp, advantage), mask)


def value_loss(value: Float[Tensor, "R *n"], target: Float[Tensor, "R *n"], mask: Float[Tensor, "R *n"] | None) -> Float[Tensor, "R"]:
    """E[(V - G)^2] of each seed."""
    return mean_of((value - target).square(), mask)


def conjugate_gradient(product: Callable[[Rows], Rows], b: Rows, steps: int, tolerance: float = 1e-10) -> Rows:
    """x with A x = b for each row, A symmetric and positive definite, known by its products only.

    Hestenes & Stiefel 1952, from x = 0. A row whose squared residual is below the tolerance stays; all steps are exact for `steps`
    up to the number of different eigenvalues.
    """
    x, residual, direction = torch.zeros_like(b), b.clone(), b.clone()
    square = (residual * residual).sum(-1, keepdim=True)
    for _ in range(steps):
        moving = square > tolerance
        if not moving.any():
            break
        image = product(direction)
        length = torch.where(moving, square / (direction * image).sum(-1, keepdim=True), 0.0)
        x, residual = x + length * direction, residual - length * image
        after = (residual * residual).sum(-1, keepdim=True)
        direction = residual + torch.where(moving, after / square, 0.0) * direction
        square = after
    return x


class TRPO(OnPolicy):
    """R stacked learners: a step of the policy by its Fisher matrix, and an optimizer for the value."""

    def __init__(
        self, config: Config, observation_space: Space, action_space: Space, generators: Sequence[Generator],
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        """generators: one per seed. Errors as in OnPolicy."""
        super().__init__(config, observation_space, action_space, generators, device)
        self.config = config
        # It holds all weights; those of the policy have no gradient here, hence no moments, and stay.
        self.optimizers["value"] = StackedAdam(self.parameters, config.learning_rate)

    def estimate(self, recorded: Recorded) -> tuple[Float[Tensor, "T R B"], Float[Tensor, "T R B"]]:
        """GAE, and the lambda-return."""
        x, config = recorded, self.config
        advantage = gae(x.reward, x.value, x.next_value, x.terminated, x.boundary, config.discount, config.gae_lambda)
        return advantage, x.value + advantage

    def improve(self, steps: Steps, progress: Progress) -> dict[str, Tensor]:
        """One step of the policy on all steps, then the value's passes; which share of the natural step was taken."""
        config = self.config
        taken = self.improve_policy(steps)
        for _ in range(config.value_epochs):
            for batch in steps.shuffled(self.generators, config.batch_size):
                self.descend("value", value_loss(self.value(self.parameters.leaves, batch), batch.target, batch.mask))
        return {"step_taken": taken}

    def improve_policy(self, steps: Steps) -> Float[Tensor, "R"]:
        """Move the policy of each seed to the best accepted point of its search; returns what share of the natural step that is."""
        config, head, leaves = self.config, self.nets.head, self.parameters.leaves
        advantage = standardized(steps.advantage, steps.mask) if config.standardize_advantage else steps.advantage
        parameters = self.policy(leaves, steps)
        loss = trpo_loss(head.log_prob(parameters, steps.action, steps.legal), steps.logp, advantage, steps.mask)
        gradient, fisher = self._back(loss), self._fisher(parameters, steps)
        direction = conjugate_gradient(fisher, -gradient, config.solver_steps)
        curvature = (direction * fisher(direction)).sum(-1)
        step = direction * (2.0 * config.target_kl / curvature).sqrt()[:, None]
        return self._search(steps, advantage, step, loss.detach())

    @torch.no_grad()
    def _search(self, steps: Steps, advantage: Tensor, step: Rows, loss: Float[Tensor, "R"]) -> Float[Tensor, "R"]:
        config, head, weights = self.config, self.nets.head, self.parameters.weights
        old = self._rows(list(weights.values()))
        share, taken = torch.ones_like(loss), torch.zeros_like(loss)
        for _ in range(config.tries):
            self._move(old, torch.where(taken > 0.0, taken, share), step)
            parameters = self.policy(weights, steps)
            logp = head.log_prob(parameters, steps.action, steps.legal)
            divergence = mean_of(head.kl(steps.parameters, parameters, steps.legal), steps.mask)
            accepted = (trpo_loss(logp, steps.logp, advantage, steps.mask) < loss) & (divergence <= config.target_kl)
            taken = torch.where((taken == 0.0) & accepted, share, taken)
            if (taken > 0.0).all():
                return taken
            share = share * config.shrink
        self._move(old, taken, step)
        return taken

    def _move(self, old: Rows, share: Float[Tensor, "R"], step: Rows) -> None:
        rows = torch.where((share > 0.0)[:, None] & torch.isfinite(step).all(-1, keepdim=True), old + share[:, None] * step, old)
        weights = list(self.parameters.weights.values())
        for weight, piece in zip(weights, rows.split([weight[0].numel() for weight in weights], 1), strict=True):
            weight.copy_(piece.view_as(weight))

    def _fisher(self, parameters: Float[Tensor, "R *n W"], steps: Steps) -> Callable[[Rows], Rows]:
        """v -> (F + damping) v,   F = J^T M J,   J = d parameters / d weights, M the divergence's second derivative in the parameters.

        Exact, since the divergence's first derivative is zero here. J^T u is linear in u, so J v is the derivative of v J^T u in u.
        """
        u, at = torch.zeros_like(parameters, requires_grad=True), parameters.detach().requires_grad_()
        transposed = self._back(parameters, u, create_graph=True)
        divergence = mean_of(self.nets.head.kl(steps.parameters, at, steps.legal), steps.mask)
        (slope,) = torch.autograd.grad(divergence.sum(), at, create_graph=True)

        def product(v: Rows) -> Rows:
            (tangent,) = torch.autograd.grad((transposed * v).sum(), u, retain_graph=True)
            (curved,) = torch.autograd.grad((slope * tangent).sum(), at, retain_graph=True)
            return self._back(parameters, curved) + self.config.damping * v

        return product

    def _back(self, output: Tensor, weight: Tensor | None = None, create_graph: bool = False) -> Rows:
        """The derivative of sum(weight output) in the weights of each seed (no weight: 1). The graph is kept."""
        leaves = list(self.parameters.leaves.values())
        weight = torch.ones_like(output) if weight is None else weight
        return self._rows(
            torch.autograd.grad(output, leaves, weight, retain_graph=True, create_graph=create_graph, materialize_grads=True)
        )  # fmt: skip

    def _rows(self, tensors: Sequence[Tensor]) -> Rows:
        return torch.cat([tensor.reshape(len(self.generators), -1) for tensor in tensors], 1)
