"""Random numbers of many copies in one operation: each copy has a stream that is a pure function of its seed and of how often it drew.

SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators", figs. 14 and 15); int64 wraps around.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

GOLDEN = -7046029254386353131
"""2^64 over the golden ratio: the increment of a stream."""


def stream_keys(seeds: Sequence[int]) -> Int64[Tensor, "B"]:
    """Where the stream of each seed begins; mixed once, so that neighboring seeds are no neighboring places of one stream."""
    return mix(torch.tensor([int(seed) for seed in seeds]))


def uniforms(keys: Int64[Tensor, "*n"], drawn: Int64[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
    """Number `drawn` (0, 1, ...) of the stream of each key, in [0, 1)."""
    return shift(mix(keys + drawn * GOLDEN), 11).double() * 2.0**-53


def thresholds(probability: Float64[Tensor, "*n K"]) -> Float64[Tensor, "*n K"]:
    """Cumulative probabilities along the last axis, the last one beyond every draw."""
    edge = probability.cumsum(-1)
    edge[..., -1] = 1.0
    # A possible last entry may be followed by impossible ones: none of these may take what rounding left over.
    beyond = probability.flip(-1).cumsum(-1).flip(-1) == probability
    return torch.where(beyond, 1.0, edge)


def pick(limits: Float64[Tensor, "B K"], draw: Float64[Tensor, "B"]) -> Int64[Tensor, "B"]:
    """The entry of each row of thresholds that the draw falls into."""
    return torch.searchsorted(limits, draw[:, None], right=True)[:, 0]


def mix(z: Int64[Tensor, "*n"]) -> Int64[Tensor, "*n"]:
    """A bijection of 64 bits in which every bit of the argument reaches every bit of the result."""
    z = (z ^ shift(z, 30)) * -4658895280553007687
    z = (z ^ shift(z, 27)) * -7723592293110705685
    return z ^ shift(z, 31)


def shift(z: Int64[Tensor, "*n"], bits: int) -> Int64[Tensor, "*n"]:
    """To the right, zeros from the left: torch's own shift of negative numbers brings ones."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
