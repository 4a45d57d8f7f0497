"""RIME: before each fit, leave out the labels that the model finds incredible, and turn round those that it finds impossible.

Cheng et al. 2024 (arXiv 2402.17257), sections 4.1 and 4.2. A label whose loss under the present model is larger than any clean label's
can be is not trusted; one that is beyond doubt wrong is flipped, for this fit. So that the first judgements of labels are not random,
the model is warm before it sees any: it is fitted to the state-entropy reward of the exploration.

Where we depart from the paper
- Labels are sifted once per fit, by the model that the fit begins with; the authors' code does so before each pass.
- The first fit trusts every label: a warm model knows what is new, not what is liked.
Left out: their warm-up of the learning rate.
Landscape: model-free, off-policy, online; continuous actions; scale: deep
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tutelage.equations.preferences import bradley_terry_loss
from tutelage.equations.statistics import standardized
from tutelage.experience.replay import Replay
from tutelage.rewards.comparisons import Comparisons
from tutelage.rewards.learned import RewardEnsemble

IMPOSSIBLE = -math.log(0.001)  # the paper's upper threshold


@dataclass(frozen=True)
class Config:
    """What RIME adds."""

    fits: int = 0
    """k: fits over which the allowance for uncertainty falls from 3 to 1 (authors: 60 passes, 600 on Meta-World). 0: no sifting."""
    warm_start_steps: int = 0
    """Gradient steps that fit the model to the exploration's reward before the first question is asked. 0: none."""


def trust(loss: Float[Tensor, "N"], largest: float, allowance: float) -> tuple[Bool[Tensor, "N"], Bool[Tensor, "N"]]:
    """Which labels to learn from as they are, and which to learn from turned round; the rest are left out.

    trusted: l < -ln x + x / 2 + min(beta Var(l), 3),   flipped: l > -ln 0.001 and not trusted.

    Cheng et al. 2024, eqs. 7 to 9. l: cross-entropy of each label under the mean prediction; x: the largest among the labels last
    trusted; beta: `allowance`.
    """
    bound = -math.log(max(largest, 1e-12)) + 0.5 * largest + min(allowance * float(loss.var(unbiased=False)), 3.0)
    trusted = loss < bound
    return trusted, (loss > IMPOSSIBLE) & ~trusted


class Rime:
    """What the last fit of each seed believed, for the next."""

    def __init__(self, config: Config, ensemble: RewardEnsemble) -> None:
        self.config, self.ensemble = config, ensemble
        self.largest = [math.inf] * len(ensemble.generators)
        """x of each seed: the largest loss among the labels last trusted."""

    def sift(self, comparisons: Comparisons, probability: Float[Tensor, "R N"]) -> Comparisons:
        """What to fit to now. probability: the model's P(left), its members' mean."""
        label, weight = comparisons.label.clone(), comparisons.weight.clone()
        for seed, own in enumerate(weight > 0):
            if not own.any():
                continue
            p = probability[seed, own].double().clamp(1e-12, 1.0 - 1e-12)
            loss = bradley_terry_loss(torch.logit(p), label[seed, own].double()).float()
            trusted = torch.ones_like(loss, dtype=torch.bool)
            fits = int(self.ensemble.fits[seed])
            if fits > 0:
                trusted, flipped = trust(loss, self.largest[seed], 3.0 - 2.0 * min(fits / self.config.fits, 1.0))
                label[seed, own] = torch.where(flipped, 1.0 - label[seed, own], label[seed, own])
                weight[seed, own] = torch.where(trusted | flipped, weight[seed, own], 0.0)
            if trusted.any():
                self.largest[seed] = float(loss[trusted].max())
        return replace(comparisons, label=label, weight=weight)

    def warm_start(self, replay: Replay, reward: Float[Tensor, "R N"]) -> None:
        """Regress every member on the exploration's reward, brought to mean 0 and deviation 1, of all of memory (in storage order)."""
        ensemble, observation, action = self.ensemble, replay.observations(), replay.actions()
        ensemble.measure_inputs(observation, action)
        target = standardized(reward).clamp(-1.0, 1.0) if ensemble.config.bounded else standardized(reward)
        leaves = ensemble.parameters.leaves
        for _ in range(self.config.warm_start_steps):
            drawn = [torch.randint(target.shape[1], (ensemble.config.batch_size,), generator=g) for g in ensemble.generators]
            index = torch.stack(drawn).to(target.device)
            seen, done = (x.gather(1, index[..., None].expand(-1, -1, x.shape[-1])) for x in (observation, action))
            error = ensemble.member_rewards(seen, done, leaves) - target.gather(1, index)[:, None]
            gradient = torch.autograd.grad(0.5 * error.square().mean(-1).sum(), list(leaves.values()))
            ensemble.optimizer.step(ensemble.parameters.gather(gradient))
