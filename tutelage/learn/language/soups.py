"""Rewarded soups: one policy per objective, and every compromise between them from the average of their weights.

Rame et al. 2023 (arXiv 2306.04488), section 2.2. Policies that were trained from the same start, each on a reward of its own, lie so near
to one another that a weighted mean of their weights is a policy too, and one about as good as training on the weighted mean of the rewards.
So K runs give a whole front, and what somebody prefers is chosen after training. MODPO (`dpo.py`, loss "modpo") trains one policy for
each compromise instead.

Left out: averages along training (that is `ema` of ppo_lm), weights that differ between layers.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from tutelage.learn.language.descent import TrainingError
from tutelage.nets.language import LanguageModel


@torch.no_grad()
def soup(models: Sequence[LanguageModel], weights: Sequence[float]) -> LanguageModel:
    """A frozen model whose weights are sum_k w_k theta_k. weights: sum to 1; the interpolation may go beyond the ends.

    Raises TrainingError for models of different shapes, and for weights that do not add up to 1.
    """
    if not models or len(models) != len(weights):
        raise TrainingError(f"{len(weights)} weights were given for {len(models)} models; one each is needed")
    if abs(sum(weights) - 1.0) > 1e-6:
        raise TrainingError(
            f"the weights {', '.join(f'{w:g}' for w in weights)} add up to {sum(weights):g}; a soup is a mean, so that 1 is needed"
        )
    mixed, parts = models[0].copy(), [dict(model.named_parameters()) for model in models]
    for name, own in mixed.named_parameters():
        if any(name not in part or part[name].shape != own.shape for part in parts):
            raise TrainingError(f"the models differ in {name}; a soup needs models that were trained from one start")
        own.copy_(mean_weight([part[name] for part in parts], weights))
    return mixed


def mean_weight(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """sum_k w_k theta_k of one weight, in double precision."""
    return sum((w * value.double() for w, value in zip(weights, values, strict=True)), torch.zeros((), dtype=torch.float64)).to(
        values[0].dtype
    )


def front(models: Sequence[LanguageModel], points: int) -> Iterator[tuple[tuple[float, float], LanguageModel]]:
    """Soups of two models from the first to the second, with their weights. Raises TrainingError unless there are two and two points."""
    if len(models) != 2 or points < 2:
        raise TrainingError(f"{len(models)} models and {points} points were given; a front lies between two, its ends included")
    for i in range(points):
        share = i / (points - 1)
        yield (1.0 - share, share), soup(models, (1.0 - share, share))
