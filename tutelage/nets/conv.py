"""The convolution of the Atari papers, with member axes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Generator, Tensor
from torch.nn.functional import conv2d

from tutelage.nets.initialization import fill_orthogonal, fill_uniform
from tutelage.nets.mlp import ACTIVATIONS
from tutelage.nets.parameters import Parameters

ATARI = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
"""Channels, side of the kernel and stride of each layer. Mnih et al. 2015 (Nature 518), methods."""
CHRISTIANO = ((16, 7, 3), (16, 5, 2), (16, 3, 1), (16, 3, 1))
"""Those of the reward model for Atari. Christiano et al. 2017 (arXiv 1706.03741), appendix A.2."""


@dataclass(frozen=True)
class Conv:
    """Convolutions with an activation from bytes to a flat vector of features; `members` nets at once, as groups of one convolution."""

    image: tuple[int, ...]
    """Channels, height, width."""
    members: tuple[int, ...]
    """Member axes; the first counts seeds."""
    layers: tuple[tuple[int, int, int], ...] = ATARI
    """Channels, side of the kernel, stride."""
    activation: str = "relu"
    """One of ACTIVATIONS."""

    @property
    def outputs(self) -> int:
        """Width of the features: channels times places. Raises ValueError for an image that is smaller than what a layer looks at."""
        sides = self.image[1:]
        for _, kernel, stride in self.layers:
            if min(sides) < kernel:
                raise ValueError(f"an image of {self.image} (channels, height, width) is too small for the layers {self.layers}")
            sides = [(side - kernel) // stride + 1 for side in sides]
        return self.layers[-1][0] * prod(sides)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape: `kernel_i [*members, out, in, k, k]`, `kernel_bias_i [*members, out]`."""
        shapes: dict[str, tuple[int, ...]] = {}
        channels_in = self.image[0]
        for i, (channels, kernel, _) in enumerate(self.layers):
            shapes[f"kernel_{i}"] = (*self.members, channels, channels_in, kernel, kernel)
            shapes[f"kernel_bias_{i}"] = (*self.members, channels)
            channels_in = channels
        return shapes

    def initialize(
        self, parameters: Parameters, generators: Sequence[Generator], chosen: Bool[Tensor, "R"] | None = None, gain: float | None = None
    ) -> None:
        """Fill the chosen seeds (None: all) as PyTorch's layers; with a gain, orthogonal kernels and no bias."""
        for i in range(len(self.layers)):
            kernel, bias = parameters.weights[f"kernel_{i}"], parameters.weights[f"kernel_bias_{i}"]
            if gain is None:
                fan_in = prod(kernel.shape[-3:])
                fill_uniform(kernel, fan_in, generators, chosen)
                fill_uniform(bias, fan_in, generators, chosen)
            else:
                fill_orthogonal(kernel, 4, gain, generators, chosen)

    def __call__(self, weights: Mapping[str, Tensor], x: UInt8[Tensor, "*members N C H W"]) -> Float[Tensor, "*members N F"]:
        """Bytes count as x / 255; the factor goes into the first kernel, which is smaller than the images.

        Channels lie innermost in memory: forward and backward take three quarters of the time (one core, 64 images of Atari's size), and
        groups cost no more than as many single convolutions.
        """
        members, lead = prod(self.members), len(self.members)
        batch = x.shape[lead]
        h = x.reshape(members, batch, *self.image).transpose(0, 1).reshape(batch, members * self.image[0], *self.image[1:])
        h = h.to(torch.float32, memory_format=torch.channels_last)
        for i, (_, _, stride) in enumerate(self.layers):
            kernel = weights[f"kernel_{i}"].flatten(0, lead)
            bias = weights[f"kernel_bias_{i}"].flatten()
            h = ACTIVATIONS[self.activation](conv2d(h, kernel / 255.0 if i == 0 else kernel, bias, stride, groups=members))
        return h.reshape(batch, members, -1).transpose(0, 1).reshape(*self.members, batch, -1)
