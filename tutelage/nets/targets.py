"""Target nets: frozen copies that follow slowly."""

import torch
from torch import Tensor

from tutelage.nets.parameters import Parameters


class Target:
    """A copy of Parameters that no gradient reaches."""

    def __init__(self, source: Parameters) -> None:
        self.source = source
        self.flat = source.flat.clone()
        self.weights = source.split(self.flat)

    def follow(self, rate: float) -> None:
        """theta' <- (1 - rate) theta' + rate theta  (Polyak average; Lillicrap et al. 2016, sec. 3). Rate 1 copies."""
        self.flat.lerp_(self.source.flat, rate)

    def copy(self, members: Tensor | None = None) -> None:
        """Become the source again, in the members that `members` `[R]` marks (None: all)."""
        chosen = torch.ones(self.source.members, dtype=torch.bool) if members is None else members
        self.source.copy_members(self.source.flat, self.flat, chosen)
