"""Adam for stacked members: one buffer, a step count, a learning rate and a fate for each member."""

import torch
from torch import Tensor
from torch.optim.adam import adam

from tutelage.nets.parameters import Parameters


class StackedAdam:
    """Adam (Kingma & Ba 2015, algorithm 1; decoupled decay as in Loshchilov & Hutter 2019) over Parameters.

    Members never influence one another: each has its own step count and learning rate, gradients are clipped by the
    norm of each member, and a member whose gradient is not finite is frozen at its last finite weights while the
    others go on (`frozen` tells which).
    """

    def __init__(
        self,
        parameters: Parameters,
        learning_rate: float | Tensor,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        max_grad_norm: float | None = None,
    ) -> None:
        """learning_rate: one number, or `[R]`."""
        self.parameters, self.betas, self.epsilon = parameters, betas, epsilon
        self.weight_decay, self.max_grad_norm = weight_decay, max_grad_norm
        self.learning_rate = learning_rate
        self.first_moment = torch.zeros_like(parameters.flat)
        self.second_moment = torch.zeros_like(parameters.flat)
        device = parameters.flat.device
        self.steps = torch.zeros(parameters.members, device=device)
        self.frozen = torch.zeros(parameters.members, dtype=torch.bool, device=device)
        self._even = True  # every member has taken the same steps at the same rate: one fused call serves them all

    def step(self, gradient: Tensor, active: Tensor | None = None) -> None:
        """Move the weights in place.

        gradient: flat, in the layout of the parameters. active: `[R]` bool, the members that move (None: all).
        """
        moving = ~self.frozen if active is None else active & ~self.frozen
        # The sum of the gradient is finite when the gradient is (short of overflow): one cheap pass instead of a test of each entry.
        if not torch.isfinite(gradient.sum()):
            bad = ~self.parameters.finite_members(gradient)
            self.frozen |= bad
            moving = moving & ~bad
        if self.max_grad_norm is not None:
            gradient = self._clipped(gradient, self.max_grad_norm)
        if self._even and not isinstance(self.learning_rate, Tensor) and bool(moving.all()):
            self._step_all(gradient, self.learning_rate)
        elif bool(moving.any()):
            self._even = False
            self._step_some(gradient, moving)

    def _step_all(self, gradient: Tensor, learning_rate: float) -> None:
        count = self.steps[:1].clone()
        adam(
            [self.parameters.flat], [gradient], [self.first_moment], [self.second_moment], [], [count.view(())],
            fused=True, amsgrad=False, beta1=self.betas[0], beta2=self.betas[1], lr=learning_rate, weight_decay=self.weight_decay,
            eps=self.epsilon, maximize=False, foreach=False, capturable=False, differentiable=False, decoupled_weight_decay=True,
        )  # fmt: skip
        self.steps += 1.0

    def _step_some(self, gradient: Tensor, moving: Tensor) -> None:
        self.steps += moving
        beta1, beta2 = self.betas
        rate = torch.as_tensor(self.learning_rate, device=gradient.device).expand(self.parameters.members)
        split = self.parameters.split
        views = zip(*(split(x).values() for x in (self.parameters.flat, gradient, self.first_moment, self.second_moment)), strict=True)
        for weight, grad, first, second in views:
            shape = (-1,) + (1,) * (weight.dim() - 1)
            count = self.steps[moving].view(shape)
            g = grad[moving]
            m = beta1 * first[moving] + (1.0 - beta1) * g
            v = beta2 * second[moving] + (1.0 - beta2) * g * g
            step = (m / (1.0 - beta1**count)) / ((v / (1.0 - beta2**count)).sqrt() + self.epsilon)
            lr = rate[moving].view(shape)
            weight[moving] = weight[moving] * (1.0 - lr * self.weight_decay) - lr * step
            first[moving], second[moving] = m, v

    def _clipped(self, gradient: Tensor, max_norm: float) -> Tensor:
        views = self.parameters.split(gradient)
        squares = sum(view.reshape(self.parameters.members, -1).square().sum(-1) for view in views.values())
        factor = (max_norm / (torch.as_tensor(squares).sqrt() + 1e-6)).clamp(max=1.0)
        return torch.cat([(view * factor.view((-1,) + (1,) * (view.dim() - 1))).reshape(-1) for view in views.values()])

    def reset(self, members: Tensor | None = None) -> None:
        """Forget moments and counts of the members that `members` `[R]` marks (None: all)."""
        chosen = torch.ones_like(self.frozen) if members is None else members
        zero = torch.zeros_like(self.first_moment)
        self.parameters.copy_members(zero, self.first_moment, chosen)
        self.parameters.copy_members(zero, self.second_moment, chosen)
        self.steps[chosen] = 0.0
        self._even = bool((self.steps == self.steps[0]).all())

    def state(self) -> dict[str, Tensor]:
        """Moments, counts, who is frozen, and which of the two arithmetics is in use (they differ in the last bits)."""
        return {
            "first_moment": self.first_moment,
            "second_moment": self.second_moment,
            "steps": self.steps,
            "frozen": self.frozen,
            "even": torch.tensor(self._even),
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave."""
        for name in ("first_moment", "second_moment", "steps", "frozen"):
            getattr(self, name).copy_(state[name])
        self._even = bool(state["even"])
