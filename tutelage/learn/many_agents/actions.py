"""Actions as critics see them, and an actor's way to them.

Critics see reals scaled to [-1, 1] and choices as one-hot vectors. An actor gives raw outputs: reals are their tanh, or a draw from the
tanh-Gaussian that they describe; choices are drawn by Gumbel noise, and a gradient reaches the outputs through an estimator
(`equations.gumbel`). Noise comes from outside: standard normal for reals, standard exponential for choices.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log, prod

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from tutelage.equations.bellman import allow, expected_soft_value
from tutelage.equations.gumbel import gapped, gumbel_max, gumbel_rao, straight_through
from tutelage.games.nested import action_bounds
from tutelage.games.spec import Box, Discrete, GameError, MultiDiscrete, Space
from tutelage.nets.noise import exponential, normal
from tutelage.nets.tanh_gaussian import tanh_gaussian, tanh_gaussian_mode

Estimator = Callable[[Tensor, Tensor, float], Tensor]
ESTIMATORS: dict[str, tuple[Estimator, bool]] = {
    "straight-through": (straight_through, False),
    "gumbel-rao": (gumbel_rao, True),
    "gapped": (gapped, False),
}
"""By name: the function, and whether it averages over several samples."""


@dataclass(frozen=True, eq=False)
class Reals:
    """A vector of bounded reals. gaussian: the actor gives means and logarithms of standard deviations, not the actions' inverse tanh."""

    low: Float[Tensor, "A"]
    high: Float[Tensor, "A"]
    gaussian: bool = False

    @property
    def width(self) -> int:
        """Entries of an encoded action; as many as the game takes."""
        return len(self.low)

    entries = width
    """That the game takes."""

    @property
    def outputs(self) -> int:
        """That an actor gives."""
        return 2 * self.width if self.gaussian else self.width

    def encode(self, action: Float[Tensor, "*n A"]) -> Float[Tensor, "*n A"]:
        """From the game's units to [-1, 1]."""
        low, high = self.low.to(action.device), self.high.to(action.device)
        return 2.0 * (action - low) / (high - low) - 1.0

    def decode(self, encoded: Float[Tensor, "*n A"]) -> Float[Tensor, "*n A"]:
        """The inverse of `encode`."""
        low, high = self.low.to(encoded.device), self.high.to(encoded.device)
        return low + 0.5 * (encoded + 1.0) * (high - low)

    def noise(self, generators: Sequence[Generator], shape: Sequence[int], samples: int = 1) -> Float[Tensor, "R *n A"]:
        """What `perturbed` needs."""
        return normal(generators, (*shape, self.width))

    def perturbed(self, output: Tensor, noise: Tensor, std: float, clip: float) -> Float[Tensor, "*n A"]:
        """clip(tanh(o) + clip(std eps, -c, c), -1, 1): exploration, and TD3's smoothed target action. Of a Gaussian: a draw."""
        if self.gaussian:
            return tanh_gaussian(output, noise)[0]
        return (output.tanh() + (std * noise).clamp(-clip, clip)).clamp(-1.0, 1.0)

    def climbing(self, output: Tensor, noise: Tensor, estimator: Estimator, temperature: float) -> Float[Tensor, "*n A"]:
        """mu(o) or a draw, which the gradient passes; the other arguments are for choices."""
        return tanh_gaussian(output, noise)[0] if self.gaussian else output.tanh()

    def drawn(self, output: Tensor, noise: Tensor, estimator: Estimator, temperature: float) -> tuple[Tensor, Tensor]:
        """A draw from the Gaussian and its log-density, which the gradient passes: `[*n, A]` and `[*n]`."""
        return tanh_gaussian(output, noise)

    def usual_entropy(self, legal: Tensor | None, share: float) -> float:
        """What SAC aims at for reals, minus their number (Haarnoja et al. 2018, appendix D); the arguments are for choices."""
        return -float(self.width)

    def greedy(self, output: Tensor) -> Float[Tensor, "*n A"]:
        """mu(o)."""
        return tanh_gaussian_mode(output) if self.gaussian else output.tanh()

    def uniform(self, noise: Tensor, legal: Tensor | None) -> Float[Tensor, "*n A"]:
        """Uniform on the box, by the normal distribution's own distribution function."""
        return 2.0 * torch.special.ndtr(noise) - 1.0

    def masked(self, output: Tensor, legal: Tensor | None) -> Tensor:
        """The outputs: every real is legal."""
        return output


@dataclass(frozen=True, eq=False)
class Choices:
    """One or several choices, each one-hot; `sizes` counts their options. joint: the actor gives one logit for every combination."""

    sizes: tuple[int, ...]
    joint: bool = False

    @property
    def width(self) -> int:
        """Of the one-hot vectors, one after the other."""
        return sum(self.sizes)

    @property
    def entries(self) -> int:
        """Integers that the game takes."""
        return len(self.sizes)

    @property
    def outputs(self) -> int:
        """Logits that an actor gives."""
        return prod(self.sizes) if self.joint else self.width

    @property
    def _blocks(self) -> tuple[int, ...]:
        return (self.outputs,) if self.joint else self.sizes

    @property
    def _table(self) -> Float[Tensor, "combinations width"]:
        """The one-hot vectors of every combination, the last choice running fastest."""
        combinations = torch.cartesian_prod(*(torch.arange(size) for size in self.sizes)).view(-1, len(self.sizes))
        return self.encode(combinations.float())

    def encode(self, action: Float[Tensor, "*n entries"]) -> Float[Tensor, "*n width"]:
        """Integers as one-hot vectors."""
        if len(set(self.sizes)) == 1:
            return one_hot(action.long(), self.sizes[0]).flatten(-2).float()
        return torch.cat([one_hot(action[..., i].long(), size) for i, size in enumerate(self.sizes)], -1).float()

    def decode(self, encoded: Float[Tensor, "*n width"]) -> Float[Tensor, "*n entries"]:
        """The inverse of `encode`."""
        return torch.stack([block.argmax(-1) for block in encoded.split(self.sizes, -1)], -1).float()

    def noise(self, generators: Sequence[Generator], shape: Sequence[int], samples: int = 1) -> Float[Tensor, "R *n S outputs"]:
        """What a draw needs."""
        return exponential(generators, (*shape, samples, self.outputs))

    def perturbed(self, output: Tensor, noise: Tensor, std: float, clip: float) -> Float[Tensor, "*n width"]:
        """A draw from the softmax of the logits; there is nothing to scale."""
        return self._each(output, noise[..., :1, :], lambda logits, e: gumbel_max(logits, e[0]))

    def climbing(self, output: Tensor, noise: Tensor, estimator: Estimator, temperature: float) -> Float[Tensor, "*n width"]:
        """The same, which the gradient passes by an estimator."""
        return self._each(output, noise, lambda logits, e: estimator(logits, e, temperature))

    def drawn(self, output: Tensor, noise: Tensor, estimator: Estimator, temperature: float) -> tuple[Tensor, Tensor]:
        """What `climbing` draws `[*n, width]`, and E log pi `[*n]`: no draw, but its mean over all of them."""
        entropies = [expected_soft_value(torch.zeros_like(block), block, 1.0) for block, _ in self._split(output)]
        return self.climbing(output, noise, estimator, temperature), -torch.stack(entropies).sum(0)

    def usual_entropy(self, legal: Bool[Tensor, "*n width"] | None, share: float) -> float | Float[Tensor, "*n"]:
        """A share of the largest, that of equally likely legal options (Christodoulou 2019, arXiv 1910.07207)."""
        if legal is None:
            return share * sum(log(size) for size in self.sizes)
        return share * torch.stack([block.sum(-1).clamp(min=1).log() for block in legal.split(self.sizes, -1)]).sum(0)

    def greedy(self, output: Tensor) -> Float[Tensor, "*n width"]:
        """The likeliest of each choice."""
        hot = torch.cat([one_hot(block.argmax(-1), size).float() for block, size in self._split(output)], -1)
        return self._marginal(hot)

    def uniform(self, noise: Tensor, legal: Tensor | None) -> Float[Tensor, "*n width"]:
        """Every legal option equally likely."""
        return self.perturbed(self.masked(torch.zeros_like(noise[..., 0, :]), legal), noise, 0.0, 0.0)

    def masked(self, output: Float[Tensor, "*n outputs"], legal: Bool[Tensor, "*n width"] | None) -> Float[Tensor, "*n outputs"]:
        """Logits with those of what is not legal so low that it is never drawn."""
        if legal is None:
            return output
        if self.joint:  # a combination is legal when each of its choices is
            legal = (~legal).float() @ self._table.T.to(legal.device) == 0.0
        return torch.cat([allow(block, own) for (block, _), (own, _) in zip(self._split(output), self._split(legal), strict=True)], -1)

    def check(self, legal: Bool[Tensor, "*n width"]) -> None:
        """Raises GameError where nothing is legal."""
        for block in legal.split(self.sizes, -1):
            if not block.any(-1).all():
                raise GameError("no action is legal for some agent; a policy needs at least one that the game allows")

    def _split(self, x: Tensor) -> list[tuple[Tensor, int]]:
        return list(zip(x.split(self._blocks, -1), self._blocks, strict=True))

    def _each(self, output: Tensor, noise: Tensor, draw: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Draw every choice; noise `[*n, S, outputs]`."""
        noise = noise.movedim(-2, 0)
        blocks = zip(output.split(self._blocks, -1), noise.split(self._blocks, -1), strict=True)
        return self._marginal(torch.cat([draw(logits, e) for logits, e in blocks], -1))

    def _marginal(self, hot: Tensor) -> Tensor:
        return hot @ self._table.to(hot.device) if self.joint else hot


Actions = Reals | Choices


def actions_of(space: Space, who: str, gaussian: bool = False) -> Actions:
    """How actions of this space are encoded. Raises GameError, naming who acts, for anything but choices or a vector of bounded reals."""
    if isinstance(space, Discrete):
        return Choices((space.n,))
    if isinstance(space, MultiDiscrete):
        return Choices(space.sizes)
    if isinstance(space, Box):
        return Reals(*action_bounds(space, who), gaussian)
    raise GameError(f"{who} chooses from {space}; choices or a vector of bounded reals were expected")


def joined(parts: Sequence[Actions], joint: bool) -> Actions:
    """The actions of several agents, one after the other, as those of one. joint: one logit for every combination of choices.

    Raises GameError where some choose and others give reals.
    """
    if all(isinstance(part, Choices) for part in parts):
        return Choices(tuple(size for part in parts for size in part.sizes), joint)  # type: ignore[union-attr]
    if all(isinstance(part, Reals) for part in parts):
        low, high = (torch.cat([getattr(part, bound) for part in parts]) for bound in ("low", "high"))
        return Reals(low, high, any(part.gaussian for part in parts))  # type: ignore[union-attr]
    raise GameError("one centralized actor was asked for agents of whom some choose and others give reals; it can do one of both")
