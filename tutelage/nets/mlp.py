"""The multi-layer perceptron with member axes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from tutelage.nets.initialization import fill_uniform
from tutelage.nets.parameters import Parameters

# In place: the backward pass of each needs its result only, and the product before it needs neither.
ACTIVATIONS = {"relu": torch.relu_, "leaky_relu": partial(F.leaky_relu, inplace=True), "tanh": torch.tanh_}


@dataclass(frozen=True)
class MLP:
    """Linear layers with an activation between them, `members` nets at once; weights are kept outside, in Parameters."""

    sizes: tuple[int, ...]
    """Widths: input, hidden layers, output."""
    members: tuple[int, ...]
    """Member axes; the first counts seeds."""
    activation: str = "relu"
    """One of ACTIVATIONS; leaky_relu has slope 0.01."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every weight: `weight_i [*members, in, out]`, `bias_i [*members, 1, out]`."""
        shapes: dict[str, tuple[int, ...]] = {}
        for i, (width_in, width_out) in enumerate(zip(self.sizes[:-1], self.sizes[1:], strict=True)):
            shapes[f"weight_{i}"] = (*self.members, width_in, width_out)
            shapes[f"bias_{i}"] = (*self.members, 1, width_out)
        return shapes

    def initialize(self, parameters: Parameters, generators: Sequence[Generator], chosen: Bool[Tensor, "R"] | None = None) -> None:
        """Fill with U(-1/sqrt(in), 1/sqrt(in)), as PyTorch's Linear and its users' baselines have it.

        chosen: the seeds to fill (None: all); the generators of the others are left alone.
        """
        for i, width_in in enumerate(self.sizes[:-1]):
            for kind in ("weight", "bias"):
                fill_uniform(parameters.weights[f"{kind}_{i}"], width_in, generators, chosen)

    def __call__(self, weights: Mapping[str, Tensor], x: Float[Tensor, "*members N width_in"]) -> Float[Tensor, "*members N width_out"]:
        """One batched product per layer. An input may be expanded over member axes; only the first layer copies it."""
        last, activation = len(self.sizes) - 2, ACTIVATIONS[self.activation]
        nested = len(self.members) > 1  # several member axes become one for the product; views of small nets cost as much as their products
        members = prod(self.members)
        h = x.reshape(members, *x.shape[-2:]) if nested else x
        for i in range(last + 1):
            weight, bias = weights[f"weight_{i}"], weights[f"bias_{i}"]
            if nested:
                weight, bias = weight.view(members, *weight.shape[-2:]), bias.view(members, 1, -1)
            if weight.shape[-1] == 1:  # BLAS is slow where it should add along rows: a tenth of a critic's update
                h = (h * weight.mT).sum(-1, keepdim=True) + bias
            else:
                h = torch.baddbmm(bias, h, weight)
            if i < last:
                h = activation(h)
        return h.view(*self.members, *h.shape[-2:]) if nested else h
