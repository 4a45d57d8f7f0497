"""Heads: what the output of a body means, a distribution over actions, for every kind of action space.

A head has no weights of its own but what `shapes` names, which live among the learner's Parameters. Its `parameters` are one tensor
`[R, *n, W]`; actions are one float vector `[R, *n, A]` (integers as numbers, in the order of the space's leaves); legality is `[R, *n, K]`,
one flag for each discrete choice. Seed r draws from generators[r] only, so that stacking changes no draw.

Illegal choices have probability exactly 0 and add nothing to entropy, divergence or gradient. `sample` and `mode` raise GameError where
nothing is legal; the others take such a row, which only padding can have, without NaN.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor
from torch.nn.functional import log_softmax, softplus

from tutelage.equations.bellman import allow
from tutelage.equations.divergences import kl_bernoulli, kl_categorical, kl_gaussian
from tutelage.games.nested import LeafSpace, leaf_spaces
from tutelage.games.spec import Discrete, GameError, MultiBinary, MultiDiscrete, Space
from tutelage.nets.noise import exponential, normal, uniform
from tutelage.nets.tanh_gaussian import tanh_gaussian, tanh_gaussian_mode

Legal = Bool[Tensor, "R *n K"] | None


class Head(ABC):
    """A distribution over the actions of one space."""

    @property
    @abstractmethod
    def action_width(self) -> int:
        """A, the entries of an action."""

    @property
    def legal_width(self) -> int:
        """K, the discrete choices; where it is 0, `legal` is ignored."""
        return 0

    @property
    @abstractmethod
    def outputs(self) -> int:
        """The width that the body must give."""

    @property
    def width(self) -> int:
        """W, of the distribution's parameters."""
        return self.outputs

    def shapes(self, members: int) -> dict[str, tuple[int, ...]]:
        """Name -> shape `[members, ...]` of the weights that do not depend on the state; all start at 0."""
        return {}

    def parameters(self, output: Float[Tensor, "R *n outputs"], weights: Mapping[str, Tensor]) -> Float[Tensor, "R *n W"]:
        """The distribution's parameters: the body's output joined with the weights that do not depend on the state."""
        return output

    @abstractmethod
    def sample(self, parameters: Float[Tensor, "R *n W"], generators: Sequence[Generator], legal: Legal = None) -> Float[Tensor, "R *n A"]:
        """One action each; generators: one per seed."""

    @abstractmethod
    def mode(self, parameters: Float[Tensor, "R *n W"], legal: Legal = None) -> Float[Tensor, "R *n A"]:
        """The action of a deterministic player: the likeliest (for a squashed Gaussian, the image of the mean)."""

    @abstractmethod
    def log_prob(self, parameters: Float[Tensor, "R *n W"], action: Float[Tensor, "R *n A"], legal: Legal = None) -> Float[Tensor, "R *n"]:
        """Log-probability, for real entries log-density, of the actions."""

    @abstractmethod
    def entropy(self, parameters: Float[Tensor, "R *n W"], legal: Legal = None) -> Float[Tensor, "R *n"]:
        """In nats; for real entries that of the density."""

    @abstractmethod
    def kl(self, p: Float[Tensor, "R *n W"], q: Float[Tensor, "R *n W"], legal: Legal = None) -> Float[Tensor, "R *n"]:
        """KL(p || q), exact."""


@dataclass(frozen=True)
class Categorical(Head):
    """One of n choices; the parameters are logits."""

    n: int

    @property
    def action_width(self) -> int:
        return 1

    @property
    def outputs(self) -> int:
        return self.n

    @property
    def legal_width(self) -> int:
        return self.n

    def sample(self, parameters: Float[Tensor, "R *n W"], generators: Sequence[Generator], legal: Legal = None) -> Float[Tensor, "R *n A"]:
        """The argmax of logits with Gumbel noise, -log of an exponential (Gumbel 1954; Maddison et al. 2014): one draw and one pass."""
        noise = exponential(generators, parameters.shape[1:]).log_().to(parameters.device)
        return (_checked(parameters, legal) - noise).argmax(-1, keepdim=True).float()

    def mode(self, parameters: Float[Tensor, "R *n W"], legal: Legal = None) -> Float[Tensor, "R *n A"]:
        return _checked(parameters, legal).argmax(-1, keepdim=True).float()

    def log_prob(self, parameters: Float[Tensor, "R *n W"], action: Float[Tensor, "R *n A"], legal: Legal = None) -> Float[Tensor, "R *n"]:
        return log_softmax(allow(parameters, legal), -1).gather(-1, action.long()).squeeze(-1)

    def entropy(self, parameters: Float[Tensor, "R *n W"], legal: Legal = None) -> Float[Tensor, "R *n"]:
        logp = log_softmax(allow(parameters, legal), -1)
        return -(logp.exp() * logp).sum(-1)

    def kl(self, p: Float[Tensor, "R *n W"], q: Float[Tensor, "R *n W"], legal: Legal = None) -> Float[Tensor, "R *n"]:
        return kl_categorical(allow(p, legal), allow(q, legal))


@dataclass(frozen=True)
class MultiCategorical(Head):
    """Several independent choices, entry i one of sizes[i]; the parameters are their logits, one after the other.

    All entries are one categorical with an axis of entries, as wide as the widest; what a narrower entry lacks counts as illegal.
    """

    sizes: tuple[int, ...]

    @property
    def action_width(self) -> int:
        return len(self.sizes)

    @property
    def outputs(self) -> int:
        return sum(self.sizes)

    @property
    def legal_width(self) -> int:
        return sum(self.sizes)

    def sample(self, parameters: Float[Tensor, "R *n W"], generators: Sequence[Generator], legal: Legal = None) -> Float[Tensor, "R *n A"]:
        logits, legal = self._entries(parameters, legal)
        return self._categorical.sample(logits, generators, legal).squeeze(-1)

    def mode(self, parameters: Float[Tensor, "R *n W"], legal: Legal = None) -> Float[Tensor, "R *n A"]:
        return self._categorical.mode(*self._entries(parameters, legal)).squeeze(-1)

    def log_prob(self, parameters: Float[Tensor, "R *n W"], action: Float[Tensor, "R *n A"], legal: Legal = None) -> Float[Tensor, "R *n"]:
        logits, legal = self._entries(parameters, legal)
        return self._categorical.log_prob(logits, action.unsqueeze(-1), legal).sum(-1)

    def entropy(self, parameters: Float[Tensor, "R *n W"], legal: Legal = None) -> Float[Tensor, "R *n"]:
        return self._categorical.entropy(*self._entries(parameters, legal)).sum(-1)

    def kl(self, p: Float[Tensor, "R *n W"], q: Float[Tensor, "R *n W"], legal: Legal = None) -> Float[Tensor, "R *n"]:
        (p, every), (q, _) = self._entries(p, legal), self._entries(q, legal)
        return self._categorical.kl(p, q, every).sum(-1)

    @cached_property
    def _categorical(self) -> Categorical:
        return Categorical(max(self.sizes))

    @cached_property
    def _layout(self) -> tuple[Int64[Tensor, "A widest"], Bool[Tensor, "A widest"]]:
        """Where choice j of entry i stands among the logits (0 where there is none), and whether there is one."""
        choice, size = torch.arange(max(self.sizes)), torch.tensor(self.sizes)[:, None]
        return torch.where(choice < size, size.cumsum(0) - size + choice, 0), choice < size

    def _entries(self, logits: Tensor, legal: Tensor | None) -> tuple[Tensor, Tensor]:
        where, exists = (part.to(logits.device) for part in self._layout)
        logits = logits[..., where]
        return logits, exists.expand_as(logits) if legal is None else legal[..., where] & exists


@dataclass(frozen=True)
class Bernoulli(Head):
    """Independent coins; the parameters are the logits of 1."""

    entries: int

    @property
    def action_width(self) -> int:
        return self.entries

    @property
    def outputs(self) -> int:
        return self.entries

    def sample(self, parameters: Float[Tensor, "R *n W"], generators: Sequence[Generator], legal: Legal = None) -> Float[Tensor, "R *n A"]:
        return (uniform(generators, parameters.shape[1:]).to(parameters.device) < torch.sigmoid(parameters)).float()

    def mode(self, parameters: Float[Tensor, "R *n W"], legal: Legal = None) -> Float[Tensor, "R *n A"]:
        return (parameters > 0.0).float()

    def log_prob(self, parameters: Float[Tensor, "R *n W"], action: Float[Tensor, "R *n A"], legal: Legal = None) -> Float[Tensor, "R *n"]:
        return (action * parameters - softplus(parameters)).sum(-1)

    def entropy(self, parameters: Float[Tensor, "R *n W"], legal: Legal = None) -> Float[Tensor, "R *n"]:
        return (softplus(parameters) - parameters * torch.sigmoid(parameters)).sum(-1)

    def kl(self, p: Float[Tensor, "R *n W"], q: Float[Tensor, "R *n W"], legal: Legal = None) -> Float[Tensor, "R *n"]:
        return kl_bernoulli(p, q)


@dataclass(frozen=True)
class Gaussian(Head):
    """A normal distribution in the game's units whose width does not depend on the state (Schulman et al. 2017, section 6.1).

    The parameters are the means and log standard deviations. Actions are not clipped: the density is that of the action as drawn, and
    whoever plays it puts it into the bounds of the game.
    """

    entries: int

    @property
    def action_width(self) -> int:
        return self.entries

    @property
    def outputs(self) -> int:
        return self.entries

    @property
    def width(self) -> int:
        return 2 * self.entries

    def shapes(self, members: int) -> dict[str, tuple[int, ...]]:
        return {"log_std": (members, self.entries)}

    def parameters(self, output: Float[Tensor, "R *n outputs"], weights: Mapping[str, Tensor]) -> Float[Tensor, "R *n W"]:
        log_std = weights["log_std"]
        shape = (log_std.shape[0], *(1,) * (output.dim() - 2), log_std.shape[1])
        return torch.cat([output, log_std.view(shape).expand_as(output)], -1)

    def sample(self, parameters: Float[Tensor, "R *n W"], generators: Sequence[Generator], legal: Legal = None) -> Float[Tensor, "R *n A"]:
        mean, log_std = parameters.chunk(2, -1)
        return torch.addcmul(mean, log_std.exp(), normal(generators, mean.shape[1:]).to(mean.device))

    def mode(self, parameters: Float[Tensor, "R *n W"], legal: Legal = None) -> Float[Tensor, "R *n A"]:
        return parameters.chunk(2, -1)[0]

    def log_prob(self, parameters: Float[Tensor, "R *n W"], action: Float[Tensor, "R *n A"], legal: Legal = None) -> Float[Tensor, "R *n"]:
        mean, log_std = parameters.chunk(2, -1)
        noise = (action - mean) * (-log_std).exp()
        return -(0.5 * noise.square() + log_std).sum(-1) - 0.5 * math.log(2.0 * math.pi) * self.entries

    def entropy(self, parameters: Float[Tensor, "R *n W"], legal: Legal = None) -> Float[Tensor, "R *n"]:
        return parameters.chunk(2, -1)[1].sum(-1) + 0.5 * math.log(2.0 * math.pi * math.e) * self.entries

    def kl(self, p: Float[Tensor, "R *n W"], q: Float[Tensor, "R *n W"], legal: Legal = None) -> Float[Tensor, "R *n"]:
        return kl_gaussian(*p.chunk(2, -1), *q.chunk(2, -1))


@dataclass(frozen=True)
class TanhGaussian(Head):
    """A normal distribution squashed into the bounds of the game; mean and log standard deviation both depend on the state.

    As `nets.tanh_gaussian`, which clamps the width; densities here are in the game's units.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    log_std_low: float = -5.0
    log_std_high: float = 2.0

    @property
    def action_width(self) -> int:
        return len(self.low)

    @property
    def outputs(self) -> int:
        return 2 * len(self.low)

    def sample(self, parameters: Float[Tensor, "R *n W"], generators: Sequence[Generator], legal: Legal = None) -> Float[Tensor, "R *n A"]:
        noise = normal(generators, (*parameters.shape[1:-1], self.action_width)).to(parameters.device)
        return self._stretch(tanh_gaussian(parameters, noise, self.log_std_low, self.log_std_high)[0])

    def mode(self, parameters: Float[Tensor, "R *n W"], legal: Legal = None) -> Float[Tensor, "R *n A"]:
        return self._stretch(tanh_gaussian_mode(parameters))

    def log_prob(self, parameters: Float[Tensor, "R *n W"], action: Float[Tensor, "R *n A"], legal: Legal = None) -> Float[Tensor, "R *n"]:
        """An action on a bound counts as the nearest number inside it: its density would be infinite or zero."""
        middle, reach = (part.to(action.device, action.dtype) for part in self._box)
        edge = 1.0 - torch.finfo(action.dtype).eps
        u = torch.atanh(((action - middle) / reach).clamp(-edge, edge))
        mean, log_std = self._gaussian(parameters)
        noise = (u - mean) * (-log_std).exp()
        return tanh_gaussian(parameters, noise, self.log_std_low, self.log_std_high)[1] - reach.log().sum()

    def entropy(self, parameters: Float[Tensor, "R *n W"], legal: Legal = None) -> Float[Tensor, "R *n"]:
        """E[-log pi], by the trapezoidal rule on 65 points over 6 standard deviations: tanh leaves no closed form.

        The rule converges geometrically for an analytic integrand (Trefethen & Weideman 2014): the error is below 1e-3 at the largest
        standard deviation and below 1e-6 for those up to 2.
        """
        mean, log_std = self._gaussian(parameters)
        noise = torch.linspace(-6.0, 6.0, 65, dtype=mean.dtype, device=mean.device)
        share = torch.softmax(-0.5 * noise.square(), 0)
        u = mean.unsqueeze(-1) + log_std.exp().unsqueeze(-1) * noise
        log_slope = 2.0 * (math.log(2.0) - u - softplus(-2.0 * u))
        each = log_std + (log_slope * share).sum(-1) + self._box[1].to(mean.device).log()
        return each.sum(-1) + 0.5 * math.log(2.0 * math.pi * math.e) * self.action_width

    def kl(self, p: Float[Tensor, "R *n W"], q: Float[Tensor, "R *n W"], legal: Legal = None) -> Float[Tensor, "R *n"]:
        """That of the normal distributions: a bijection changes no divergence."""
        return kl_gaussian(*self._gaussian(p), *self._gaussian(q))

    @cached_property
    def _box(self) -> tuple[Float[Tensor, "A"], Float[Tensor, "A"]]:
        low, high = torch.tensor(self.low), torch.tensor(self.high)
        return (low + high) / 2.0, (high - low) / 2.0

    def _gaussian(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = parameters.chunk(2, -1)
        return mean, log_std.clamp(self.log_std_low, self.log_std_high)

    def _stretch(self, unit: Tensor) -> Tensor:
        middle, reach = (part.to(unit.device) for part in self._box)
        return torch.addcmul(middle, unit, reach)


@dataclass(frozen=True)
class Product(Head):
    """Independent heads for the leaves of a nested space, discrete and continuous at once; their draws, logits and flags in leaf order."""

    heads: tuple[Head, ...]

    @property
    def action_width(self) -> int:
        return sum(head.action_width for head in self.heads)

    @property
    def legal_width(self) -> int:
        return sum(head.legal_width for head in self.heads)

    @property
    def outputs(self) -> int:
        return sum(head.outputs for head in self.heads)

    @property
    def width(self) -> int:
        return sum(head.width for head in self.heads)

    def shapes(self, members: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}_{i}": shape for i, head in enumerate(self.heads) for name, shape in head.shapes(members).items()}

    def parameters(self, output: Float[Tensor, "R *n outputs"], weights: Mapping[str, Tensor]) -> Float[Tensor, "R *n W"]:
        parts = enumerate(output.split([head.outputs for head in self.heads], -1))
        return torch.cat([self.heads[i].parameters(part, self._own(i, weights)) for i, part in parts], -1)

    def sample(self, parameters: Float[Tensor, "R *n W"], generators: Sequence[Generator], legal: Legal = None) -> Float[Tensor, "R *n A"]:
        return torch.cat([head.sample(part, generators, own) for head, part, own in self._parts(parameters, legal)], -1)

    def mode(self, parameters: Float[Tensor, "R *n W"], legal: Legal = None) -> Float[Tensor, "R *n A"]:
        return torch.cat([head.mode(part, own) for head, part, own in self._parts(parameters, legal)], -1)

    def log_prob(self, parameters: Float[Tensor, "R *n W"], action: Float[Tensor, "R *n A"], legal: Legal = None) -> Float[Tensor, "R *n"]:
        actions = action.split([head.action_width for head in self.heads], -1)
        parts = zip(self._parts(parameters, legal), actions, strict=True)
        return _sum(head.log_prob(part, taken, own) for (head, part, own), taken in parts)

    def entropy(self, parameters: Float[Tensor, "R *n W"], legal: Legal = None) -> Float[Tensor, "R *n"]:
        return _sum(head.entropy(part, own) for head, part, own in self._parts(parameters, legal))

    def kl(self, p: Float[Tensor, "R *n W"], q: Float[Tensor, "R *n W"], legal: Legal = None) -> Float[Tensor, "R *n"]:
        pairs = zip(self._parts(p, legal), self._parts(q, legal), strict=True)
        return _sum(head.kl(mine, theirs, own) for (head, mine, own), (_, theirs, _) in pairs)

    def _own(self, i: int, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: weights[f"{name}_{i}"] for name in self.heads[i].shapes(1)}

    def _parts(self, parameters: Tensor, legal: Tensor | None) -> Iterator[tuple[Head, Tensor, Tensor | None]]:
        parts = parameters.split([head.width for head in self.heads], -1)
        widths = [head.legal_width for head in self.heads]
        flags = [None] * len(widths) if legal is None else [own if own.shape[-1] else None for own in legal.split(widths, -1)]
        return zip(self.heads, parts, flags, strict=True)


def make_head(action_space: Space, squashed: bool = False) -> Head:
    """The head for a space of actions; squashed: boxes get a TanhGaussian.

    Raises GameError for an empty space or a box of bytes, and, when squashed, for one that is not bounded.
    """
    heads = tuple(_leaf_head(leaf, squashed) for leaf in leaf_spaces(action_space))
    if not heads:
        raise GameError(f"the action space {action_space} has no entries; a policy needs something to choose")
    return heads[0] if len(heads) == 1 else Product(heads)


def _leaf_head(space: LeafSpace, squashed: bool) -> Head:
    if isinstance(space, Discrete):
        return Categorical(space.n)
    if isinstance(space, MultiDiscrete):
        return MultiCategorical(space.sizes)
    if isinstance(space, MultiBinary):
        return Bernoulli(prod(space.shape))
    if space.dtype == "uint8":
        raise GameError(f"actions of bytes, {space.shape}, have no head; a box of actions must hold floats")
    if not squashed:
        return Gaussian(prod(space.shape))
    low, high = (tuple(float(x) for x in bound.ravel()) for bound in (space.low, space.high))
    if not all(math.isfinite(x) for x in (*low, *high)):
        raise GameError(f"a squashed policy needs bounded actions; these lie between {low} and {high}")
    return TanhGaussian(low, high)


def _checked(logits: Tensor, legal: Tensor | None) -> Tensor:
    """Logits of the legal choices. Raises GameError where a row of `legal` forbids everything."""
    if legal is not None and not legal.any(-1).all():
        row = (~legal.any(-1)).nonzero()[0].tolist()
        raise GameError(f"no action is legal at index {row} of {list(legal.shape[:-1])}; a policy needs at least one that the game allows")
    return allow(logits, legal)


def _sum(parts: Iterator[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum(0)
