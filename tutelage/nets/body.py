"""Bodies: from an observation, and perhaps a memory, to the numbers that a head or a critic needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Generator, Tensor

from tutelage.nets.conv import Conv
from tutelage.nets.initialization import fill_orthogonal
from tutelage.nets.mlp import ACTIVATIONS, MLP
from tutelage.nets.parameters import Parameters
from tutelage.nets.recurrent import Carry, Memory, Recurrent


@dataclass(frozen=True)
class Body:
    """Convolution (of images), hidden layers, memory (if any), one linear layer; weights are kept outside, in Parameters.

    The hidden layers and the linear one are the layers of one MLP, so that a vector without memory is exactly an MLP.
    """

    conv: Conv | None
    mlp: MLP
    recurrent: Recurrent | None
    """Between the last hidden layer and the linear one, and as wide as the former."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every weight."""
        parts = [part for part in (self.conv, self.mlp, self.recurrent) if part is not None]
        return {name: shape for part in parts for name, shape in part.shapes().items()}

    def initialize(
        self,
        parameters: Parameters,
        generators: Sequence[Generator],
        chosen: Bool[Tensor, "R"] | None = None,
        output_gain: float | None = None,
        hidden_gain: float = 2.0**0.5,
    ) -> None:
        """Fill the chosen seeds (None: all). Without an output gain as PyTorch's layers; with one, orthogonal and without bias.

        Orthogonal is what the on-policy family starts from: sqrt(2) inside, 0.01 for a policy's last layer, 1 for a critic's (Andrychowicz
        et al. 2021, arXiv 2006.05990, section 3.2; Baselines).
        """
        if self.conv is not None:
            self.conv.initialize(parameters, generators, chosen, None if output_gain is None else hidden_gain)
        if self.recurrent is not None:
            self.recurrent.initialize(parameters, generators, chosen, output_gain is not None)
        if output_gain is None:
            self.mlp.initialize(parameters, generators, chosen)
            return
        last = len(self.mlp.sizes) - 2
        for i in range(last + 1):
            fill_orthogonal(parameters.weights[f"weight_{i}"], 2, output_gain if i == last else hidden_gain, generators, chosen)

    def __call__(self, weights: Mapping[str, Tensor], x: Shaped[Tensor, "..."]) -> Float[Tensor, "*members N outputs"]:
        """x `[*members, N, *observation_shape]`, without memory. Raises ValueError for a body that has one: it needs `unroll`."""
        if self.recurrent is not None:
            raise ValueError("a body with memory reads whole recordings: use unroll, with a carry and the starts of episodes")
        return self.mlp(weights, x if self.conv is None else self.conv(weights, x))

    def unroll(
        self,
        weights: Mapping[str, Tensor],
        x: Shaped[Tensor, "..."],
        carry: Carry | None,
        starts: Bool[Tensor, "*members T B"],
    ) -> tuple[Float[Tensor, "*members T B outputs"], Carry | None]:
        """Outputs at each step of a recording, and the carry after the last; arguments and errors as in `trace`."""
        output, carries = self.trace(weights, x, carry, starts)
        return output, None if carries is None else Carry(carries[..., -1, :, :])

    def trace(
        self,
        weights: Mapping[str, Tensor],
        x: Shaped[Tensor, "..."],
        carry: Carry | None,
        starts: Bool[Tensor, "*members T B"],
    ) -> tuple[Float[Tensor, "*members T B outputs"], Float[Tensor, "*members T B H"] | None]:
        """Outputs and carry after each step of a recording; the carry that was given is left as it was.

        x: `[*members, T, B, *observation_shape]`. starts: the observation is the first of an episode. A body without memory reads
        neither carry nor starts. Raises ValueError where a body with memory gets no carry.
        """
        members = self.mlp.members
        steps, copies = starts.shape[-2:]
        flat = x.reshape(*members, steps * copies, *x.shape[len(members) + 2 :])
        if self.recurrent is None:
            return self(weights, flat).view(*members, steps, copies, -1), None
        if carry is None:
            raise ValueError("a body with memory needs a carry; `carry(copies)` gives an empty one")
        features = flat if self.conv is None else self.conv(weights, flat)
        hidden, last = MLP(self.mlp.sizes[:-1], members, self.mlp.activation), len(self.mlp.sizes) - 2
        features = ACTIVATIONS[self.mlp.activation](hidden(weights, features)).view(*members, steps, copies, -1)
        features, carries = self.recurrent.unroll(weights, features, carry.state, starts)
        output = MLP(self.mlp.sizes[-2:], members)
        readout = {"weight_0": weights[f"weight_{last}"], "bias_0": weights[f"bias_{last}"]}
        return output(readout, features.flatten(-3, -2)).view(*members, steps, copies, -1), carries

    def carry(self, copies: int, device: torch.device | str = "cpu") -> Carry | None:
        """Empty memory, `[*members, copies, H]`; None without memory."""
        if self.recurrent is None:
            return None
        return Carry(torch.zeros(*self.mlp.members, copies, self.recurrent.carry_width, device=device))


def make_body(
    observation_shape: tuple[int, ...],
    hidden: tuple[int, ...],
    outputs: int,
    members: tuple[int, ...],
    memory: Memory = "none",
    activation: str = "tanh",
) -> Body:
    """The body for vectors `(D,)` or for images `(C, H, W)`; hidden: widths of the hidden layers, (512,) for Atari's.

    Raises ValueError for another shape, and for memory without a hidden layer, whose width it would have.
    """
    if len(observation_shape) not in (1, 3):
        raise ValueError(f"an observation of shape {observation_shape} is neither a vector (D,) nor an image (channels, height, width)")
    if memory != "none" and not hidden:
        raise ValueError(f'memory="{memory}" takes the width of the last hidden layer, and hidden is empty')
    conv = None if len(observation_shape) == 1 else Conv(observation_shape, members)
    width = prod(observation_shape) if conv is None else conv.outputs
    recurrent = None if memory == "none" else Recurrent(memory, hidden[-1], hidden[-1], members)
    return Body(conv, MLP((width, *hidden, outputs), members, activation), recurrent)
