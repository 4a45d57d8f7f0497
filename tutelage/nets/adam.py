"""Adam for stacked members: one buffer, a step count, a learning rate and a fate for each member."""

import math

import torch
from torch import Tensor

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

    def step(self, gradient: Tensor, active: Tensor | None = None) -> None:
        """Move the weights in place.

        gradient: flat, in the layout of the parameters. active: `[R]` bool, the members that move (None: all).
        """
        moving = ~self.frozen if active is None else active & ~self.frozen
        # One cheap pass instead of a test of each entry. Squares, because one that overflows would stop the second moment for ever.
        square = float(gradient.dot(gradient))
        if not math.isfinite(square):
            bad = moving & ~self.parameters.finite_members(gradient.square())
            self.frozen |= bad
            moving = moving & ~bad
        if self.parameters.members > 1:
            gradient = self.clipped(gradient)
        elif self.max_grad_norm is not None and math.sqrt(square) > self.max_grad_norm:  # as `clipped`, of which half is done
            gradient = gradient * (self.max_grad_norm / (math.sqrt(square) + 1e-6))
        paces = self._paces(moving)
        if [len(members) for members in paces.values()] == [self.parameters.members]:
            [(count, learning_rate)] = paces
            self._move(self.parameters.flat, self.first_moment, self.second_moment, gradient, count, learning_rate)
        else:
            # All members are moved, of copies, and those that were meant are copied back: only so has a member the same bits whatever
            # becomes of the others, because the last bit of an entry depends on where in a tensor it lies.
            for (count, learning_rate), members in paces.items():
                ours = (self.parameters.flat, self.first_moment, self.second_moment)
                weights, first, second = (x.clone() for x in ours)
                self._move(weights, first, second, gradient, count, learning_rate)
                chosen = torch.tensor(members, device=gradient.device)
                for source, target in zip((weights, first, second), ours, strict=True):
                    self.parameters.copy_members(source, target, chosen)
        self.steps += moving

    def _paces(self, moving: Tensor) -> dict[tuple[float, float], list[int]]:
        """Moving members by step count and learning rate."""
        counts, chosen = self.steps.tolist(), moving.tolist()
        rates = self.learning_rate.tolist() if isinstance(self.learning_rate, Tensor) else [self.learning_rate] * len(counts)
        paces: dict[tuple[float, float], list[int]] = {}
        for member, pace in enumerate(zip(counts, rates, strict=True)):
            if chosen[member]:
                paces.setdefault(pace, []).append(member)
        return paces

    def _move(self, weights: Tensor, first: Tensor, second: Tensor, gradient: Tensor, count: float, learning_rate: float) -> None:
        # The kernel itself: the checks and the grouping of torch.optim take longer than what it does to a small net.
        torch._fused_adamw_(  # pyright: ignore[reportPrivateImportUsage]
            [weights], [gradient], [first], [second], [], [torch.tensor(count + 1.0, device=weights.device)],
            amsgrad=False, lr=learning_rate, beta1=self.betas[0], beta2=self.betas[1], weight_decay=self.weight_decay,
            eps=self.epsilon, maximize=False,
        )  # fmt: skip

    def clipped(self, gradient: Tensor) -> Tensor:
        """The gradient with the norm of each member at most max_grad_norm (None: as it is). Pascanu et al. 2013, algorithm 1."""
        if self.max_grad_norm is None:
            return gradient
        views = self.parameters.split(gradient)
        # Norms of norms: a sum of squares would write every entry once more.
        norms = torch.stack([torch.linalg.vector_norm(view.reshape(self.parameters.members, -1), dim=-1) for view in views.values()])
        factor = (self.max_grad_norm / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp(max=1.0)
        return torch.cat([(view * factor.view((-1,) + (1,) * (view.dim() - 1))).reshape(-1) for view in views.values()])

    def reset(self, members: Tensor | None = None) -> None:
        """Forget moments and counts of the members that `members` `[R]` marks (None: all)."""
        chosen = torch.ones_like(self.frozen) if members is None else members
        zero = torch.zeros_like(self.first_moment)
        self.parameters.copy_members(zero, self.first_moment, chosen)
        self.parameters.copy_members(zero, self.second_moment, chosen)
        self.steps[chosen] = 0.0

    def state(self) -> dict[str, Tensor]:
        """Moments, counts and who is frozen."""
        return {
            "first_moment": self.first_moment,
            "second_moment": self.second_moment,
            "steps": self.steps,
            "frozen": self.frozen,
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave."""
        for name in ("first_moment", "second_moment", "steps", "frozen"):
            getattr(self, name).copy_(state[name])
