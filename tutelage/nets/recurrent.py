"""Memories: GRU and LSTM cells with member axes, unrolled over a recording with its resets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from tutelage.nets.initialization import fill_orthogonal, fill_uniform
from tutelage.nets.parameters import Parameters

Memory = Literal["none", "gru", "lstm"]


@dataclass
class Carry:
    """What a policy remembers while it plays."""

    state: Float[Tensor, "*members B H"]
    """Zero at the start of an episode."""

    def restart(self, where: Bool[Tensor, "*members B"]) -> None:
        """Forget everything in the copies that begin an episode."""
        self.state = self.state.masked_fill(where.unsqueeze(-1).to(self.state.device), 0.0)


@dataclass(frozen=True)
class Recurrent:
    """One cell, `members` at once; weights are kept outside, in Parameters.

    "gru": r, z = sigma(W x + U h + b),  n = tanh(W_n x + b_n + r (U_n h + c)),  h' = (1 - z) n + z h  (Cho et al. 2014, arXiv 1406.1078,
    with the reset after the product, as cuDNN and PyTorch have it; H = width).
    "lstm": i, f, o, g,  c' = sigma(f) c + sigma(i) tanh(g),  h' = sigma(o) tanh(c')  (Gers et al. 2000; H = 2 width: h, then c).
    """

    kind: Literal["gru", "lstm"]
    width_in: int
    width: int
    members: tuple[int, ...]
    """Member axes; the first counts seeds."""

    @property
    def carry_width(self) -> int:
        """H, the width of the carry."""
        return self.width if self.kind == "gru" else 2 * self.width

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every weight; the gates lie side by side, in the order of the formulas."""
        gates = (3 if self.kind == "gru" else 4) * self.width
        shapes = {
            "input_weight": (*self.members, self.width_in, gates),
            "recurrent_weight": (*self.members, self.width, gates),
            "gate_bias": (*self.members, 1, gates),
        }
        return shapes | ({"reset_bias": (*self.members, 1, self.width)} if self.kind == "gru" else {})

    def initialize(
        self, parameters: Parameters, generators: Sequence[Generator], chosen: Bool[Tensor, "R"] | None = None, orthogonal: bool = False
    ) -> None:
        """Fill the chosen seeds (None: all) as PyTorch's cells, U(-1/sqrt(width), 1/sqrt(width)); or each gate orthogonal and no bias."""
        for name in self.shapes():
            weight = parameters.weights[name]
            if not orthogonal:
                fill_uniform(weight, self.width, generators, chosen)
            elif name in ("input_weight", "recurrent_weight"):
                for gate in weight.split(self.width, -1):
                    fill_orthogonal(gate, 2, 1.0, generators, chosen)

    def unroll(
        self,
        weights: Mapping[str, Tensor],
        x: Float[Tensor, "*members T B D"],
        carry: Float[Tensor, "*members B H"],
        starts: Bool[Tensor, "*members T B"],
    ) -> tuple[Float[Tensor, "*members T B width"], Float[Tensor, "*members T B H"]]:
        """Features and carry after each step; where `starts`, the carry is zero before the step.

        The product with the inputs is one for all steps; only the product with the carry waits for the step before.
        """
        members, lead = prod(self.members), len(self.members)
        steps, copies = x.shape[lead : lead + 2]
        flat = {name: weights[name].reshape(members, *weights[name].shape[lead:]) for name in self.shapes()}
        inputs = torch.baddbmm(flat["gate_bias"], x.reshape(members, steps * copies, -1), flat["input_weight"])
        inputs = inputs.view(members, steps, copies, -1)
        state = carry.reshape(members, copies, -1)
        advance = self._gru(flat, inputs) if self.kind == "gru" else self._lstm(flat, inputs)
        carries: list[Tensor] = []
        for t, fresh in enumerate(starts.reshape(members, steps, copies, 1).unbind(1)):
            state = advance(t, torch.where(fresh, 0.0, state))
            carries.append(state)
        after = torch.stack(carries, 1).view(*self.members, steps, copies, -1)
        return after[..., : self.width], after

    def _gru(self, weights: Mapping[str, Tensor], inputs: Tensor) -> Callable[[int, Tensor], Tensor]:
        # Split outside of the loop: in it, the backward pass would fill a tensor as large as the whole for every slice.
        sizes = [2 * self.width, self.width]
        gates, candidates = (part.unbind(1) for part in inputs.split(sizes, -1))
        gate_weight, candidate_weight = weights["recurrent_weight"].split(sizes, -1)

        def advance(t: int, h: Tensor) -> Tensor:
            reset, keep = torch.sigmoid(torch.baddbmm(gates[t], h, gate_weight)).chunk(2, -1)
            recalled = torch.baddbmm(weights["reset_bias"], h, candidate_weight)
            return torch.lerp(torch.tanh(torch.addcmul(candidates[t], reset, recalled)), h, keep)

        return advance

    def _lstm(self, weights: Mapping[str, Tensor], inputs: Tensor) -> Callable[[int, Tensor], Tensor]:
        width, gates = self.width, inputs.unbind(1)

        def advance(t: int, state: Tensor) -> Tensor:
            h, c = state.chunk(2, -1)
            opened, candidate = torch.baddbmm(gates[t], h, weights["recurrent_weight"]).split([3 * width, width], -1)
            store, keep, show = torch.sigmoid(opened).chunk(3, -1)
            c = torch.addcmul(keep * c, store, torch.tanh(candidate))
            return torch.cat([show * torch.tanh(c), c], -1)

        return advance
