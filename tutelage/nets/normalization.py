"""Running normalization of observations and rewards, each seed by its own numbers."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tutelage.equations.returns import discounted_return
from tutelage.equations.statistics import RunningMoments


class ObservationNormalizer:
    """(x - mean) / sqrt(variance + 1e-8), clipped to [-clip, clip]; mean and variance are those of all observations that `update` saw.

    Engstrom et al. 2020 (arXiv 2005.12729), section 3; Andrychowicz et al. 2021 (arXiv 2006.05990), section 3.3. The numbers change in
    `update` only, so that a policy that plays and a loss that learns from what it did see one and the same observation.
    """

    def __init__(self, members: int, shape: tuple[int, ...], clip: float = 10.0, device: torch.device | str = "cpu") -> None:
        """shape: of one observation. Before the first update observations are clipped and otherwise left alone."""
        self.clip = clip
        self._adopt(RunningMoments.zeros(members, *shape, device=device))

    def __call__(self, observation: Float[Tensor, "R *n D"]) -> Float[Tensor, "R *n D"]:
        """Normalized observations; any axes may stand between the seeds and the observation's own."""
        lead = (self._mean.shape[0], *(1,) * (observation.dim() - self._mean.dim()), *self._mean.shape[1:])
        return ((observation - self._mean.view(lead)) * self._scale.view(lead)).clamp_(-self.clip, self.clip)

    def update(self, observation: Float[Tensor, "R N *shape"], mask: Bool[Tensor, "R N"] | None = None) -> None:
        """Take observations into account; those where the mask is False are not real."""
        if mask is not None:
            mask = mask.view(*mask.shape, *(1,) * (observation.dim() - 2))
        self._adopt(self.moments.update(observation, 1, mask))

    def state(self) -> dict[str, Tensor]:
        """The moments."""
        return {"count": self.moments.count, "mean": self.moments.mean, "m2": self.moments.m2}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self._adopt(RunningMoments(state["count"].clone(), state["mean"].clone(), state["m2"].clone()))

    def _adopt(self, moments: RunningMoments) -> None:
        self.moments = moments
        self._mean = moments.mean.float()
        variance = torch.where(moments.count > 0.0, moments.m2 / moments.count.clamp(min=1.0), 1.0)
        self._scale = (variance + 1e-8).rsqrt().float()


class RewardScaler:
    """r / sqrt(variance of the discounted return + 1e-8), clipped to [-clip, clip]; the mean is not taken off, which would change the task.

    The return is the one that runs along: G_t = gamma G_{t-1} + r_t, from 0 at the start of each episode. Engstrom et al. 2020 (arXiv
    2005.12729), section 3, item 2 and appendix; as in Gymnasium and SB3, but a window at a time.
    """

    def __init__(self, members: int, copies: int, discount: float, clip: float = 10.0, device: torch.device | str = "cpu") -> None:
        self.discount, self.clip = discount, clip
        self.moments = RunningMoments.zeros(members, device=device)
        self.running = torch.zeros(members, copies, device=device)
        """G after the last step that was seen, zero where an episode ended there."""

    def update(self, reward: Float[Tensor, "T R B"], boundary: Bool[Tensor, "T R B"], mask: Bool[Tensor, "T R B"] | None = None) -> None:
        """Take the steps of a window into account, in order; those where the mask is False are not real."""
        # A return that looks back is a reward to go in reversed time: it ends where an episode starts, and at the first step goes on
        # with what ran along so far.
        starts = torch.cat([torch.zeros_like(boundary[:1]), boundary[:-1]])
        before = torch.cat([torch.zeros_like(reward[:-1]), self.running[None]])
        returns = discounted_return(reward.flip(0), starts.flip(0), self.discount, before).flip(0)
        self.running = torch.where(boundary[-1], 0.0, returns[-1])
        self.moments = self.moments.update(returns, (0, 2), mask)

    def __call__(self, reward: Float[Tensor, "T R B"]) -> Float[Tensor, "T R B"]:
        """Scaled rewards; before the first update they are clipped and otherwise left alone."""
        variance = torch.where(self.moments.count > 0.0, self.moments.m2 / self.moments.count.clamp(min=1.0), 1.0)
        return (reward * (variance + 1e-8).rsqrt().float()[:, None]).clamp_(-self.clip, self.clip)

    def state(self) -> dict[str, Tensor]:
        """The moments and the returns that run along."""
        return {"count": self.moments.count, "mean": self.moments.mean, "m2": self.moments.m2, "running": self.running}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.moments = RunningMoments(state["count"].clone(), state["mean"].clone(), state["m2"].clone())
        self.running = state["running"].clone()
