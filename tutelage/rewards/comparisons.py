"""Labeled pairs of clips, as a reward model is given them and as a gradient step sees them."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Comparisons:
    """Labeled pairs of R seeds, padded to the same number; index 0 is the left clip, 1 the right one. L = H + 2 margin steps each."""

    observation: Shaped[Tensor, "R N 2 L *O"]
    """Vectors, or images of bytes."""
    action: Float[Tensor, "R N 2 L A"]
    label: Float[Tensor, "R N"]
    """1 where left is preferred, 0 right, 0.5 a tie."""
    weight: Float[Tensor, "R N"]
    """How much each counts; 0 pads (seeds may have different numbers)."""
    key: Int64[Tensor, "R N"]
    """A number that each judgement keeps for ever: by it a bootstrap knows a label again."""
    true_return: Float[Tensor, "R N 2"]
    """Of the H steps that were shown: for diagnosis; only the ablation that regresses on returns is fitted to it."""
    fresh: Bool[Tensor, "R N"]
    """Answers that no earlier fit has used."""
    margin: int = 0
    """Steps at either end of a clip that the rater did not see; a crop may reach into them."""

    @property
    def shown(self) -> slice:
        """The H steps that were judged."""
        return slice(self.margin, self.observation.shape[3] - self.margin)

    def side(self, index: int) -> tuple[Tensor, Tensor]:
        """Observation and action of the left (0) or right (1) clips, as they were shown: `[R, N, H, ...]`."""
        return self.observation[:, :, index, self.shown], self.action[:, :, index, self.shown]


@dataclass(frozen=True)
class Rows:
    """Pairs as one gradient step sees them; each member has its own. Weights are final: the loss is their sum, not a mean."""

    x: Shaped[Tensor, "R E n 2 L *width"]
    """What the nets read: vectors, or images of bytes."""
    label: Float[Tensor, "R E n"]
    weight: Float[Tensor, "R E n"]
    true_return: Float[Tensor, "R E n 2"]
    mask: Bool[Tensor, "R E n 2 L"] | None = None
    """Steps that count. None: all."""

    def part(self, which: slice) -> "Rows":
        """Some of the n rows."""
        mask = None if self.mask is None else self.mask[:, :, which]
        return Rows(self.x[:, :, which], self.label[:, :, which], self.weight[:, :, which], self.true_return[:, :, which], mask)


Augment = Callable[[Rows], Rows]
"""Changes or adds rows; those that it was given stay in front. It sees whole clips, margins included, and sets the mask."""
