"""Weights of stacked nets: one flat tensor, and named views into it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class Parameters:
    """Named weights that share one flat buffer, so that an optimiser or a target average is one operation.

    Every weight has the shape `[R, ...]`, where R counts the independent members (seeds). A flat buffer rather than
    a list of tensors: on CPU a fused Adam step and a Polyak average over one tensor cost one pass each.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], device: torch.device | str = "cpu") -> None:
        """shapes: name -> `[R, ...]`, the same R everywhere. Raises ValueError when the leading axes differ."""
        leading = {shape[0] for shape in shapes.values()}
        if len(leading) != 1:
            raise ValueError(f"weights of one net need one leading member axis; the shapes {dict(shapes)} have {sorted(leading)}")
        self.shapes = dict(shapes)
        self.members = leading.pop()
        self.sizes = [int(torch.Size(shape).numel()) for shape in shapes.values()]
        self.flat = torch.zeros(sum(self.sizes), device=device)
        self.weights = self.split(self.flat)
        """Views without gradient."""
        self.leaves = {name: view.detach().requires_grad_() for name, view in self.weights.items()}
        """The same storage as autograd leaves: what a loss is differentiated by."""

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of any flat tensor of this layout (a gradient, a moment, a target)."""
        pieces = flat.split(self.sizes)
        return {name: piece.view(shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)}

    def gather(self, gradients: Sequence[Tensor]) -> Tensor:
        """Gradients in the order of `leaves`, as one flat tensor."""
        return torch.cat([gradient.reshape(-1) for gradient in gradients])

    def copy_members(self, source: Tensor, target: Tensor, chosen: Tensor) -> None:
        """Copy the members that `chosen` marks (`[R]` bool) or lists from one flat tensor of this layout into another, in place."""
        for theirs, ours in zip(self.split(source).values(), self.split(target).values(), strict=True):
            ours[chosen] = theirs[chosen]

    def finite_members(self, flat: Tensor) -> Tensor:
        """`[R]` bool: which members have finite values only."""
        finite = torch.ones(self.members, dtype=torch.bool, device=flat.device)
        for view in self.split(flat).values():
            finite &= view.reshape(self.members, -1).isfinite().all(-1)
        return finite
