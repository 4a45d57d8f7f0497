"""What learning changes: groups of weights with an optimizer each, the targets that follow them, and one step down a loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Generator, Tensor

from tutelage.nets.adam import StackedAdam
from tutelage.nets.compiled import CompiledUpdate, Loss
from tutelage.nets.parameters import Parameters
from tutelage.nets.targets import Target


@runtime_checkable
class Net(Protocol):
    """A net whose weights are kept outside (MLP, Body)."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every weight."""
        ...

    def initialize(self, parameters: Parameters, generators: Sequence[Generator]) -> None:
        """First weights, seed r by generators[r]."""
        ...


@dataclass(frozen=True)
class Group:
    """Weights and the optimizer that moves them."""

    parameters: Parameters
    optimizer: StackedAdam

    @classmethod
    def of(
        cls,
        net: Net,
        generators: Sequence[Generator],
        learning_rate: float,
        device: torch.device | str = "cpu",
        max_grad_norm: float | None = None,
    ) -> "Group":
        """Fresh weights of a net, seed r by generators[r]."""
        parameters = Parameters(net.shapes(), device)
        net.initialize(parameters, generators)
        return cls(parameters, StackedAdam(parameters, learning_rate, max_grad_norm=max_grad_norm))


class TrainState:
    """All that a learner has to save: named groups, the targets of some of them, the generators, and the count of updates."""

    def __init__(self, groups: Mapping[str, Group], targets: Sequence[str], generators: Sequence[Generator]) -> None:
        """targets: the groups that have one, which starts as their copy."""
        self.groups, self.generators = dict(groups), list(generators)
        self.targets = {name: Target(groups[name].parameters) for name in targets}
        self.updates = 0

    def weights(self, group: str) -> dict[str, Tensor]:
        """Named views without gradient."""
        return self.groups[group].parameters.weights

    def frozen(self) -> dict[str, Bool[Tensor, "R"]]:
        """Which seeds have a net that stopped at its last finite weights, by net."""
        return {name: group.optimizer.frozen for name, group in self.groups.items()}

    def state(self) -> dict[str, Any]:
        """Weights, targets, moments, generators and the count of updates."""
        return {
            "groups": {n: {"weights": g.parameters.flat, "optimizer": g.optimizer.state()} for n, g in self.groups.items()},
            "targets": {name: target.flat for name, target in self.targets.items()},
            "generators": [g.get_state() for g in self.generators],
            "updates": self.updates,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        for name, group in self.groups.items():
            group.parameters.flat.copy_(state["groups"][name]["weights"])
            group.optimizer.load(state["groups"][name]["optimizer"])
        for name, target in self.targets.items():
            target.flat.copy_(state["targets"][name])
        for generator, saved in zip(self.generators, state["generators"], strict=True):
            generator.set_state(saved)
        self.updates = int(state["updates"])


class Update:
    """One step down a loss, in all of its groups at once and from the same weights; then the targets follow."""

    def __init__(self, loss: Loss, groups: Sequence[Group], targets: Sequence[Target], follow: bool = True, compile: bool = False) -> None:
        """loss: (weights of each group, weights of each target, whatever else it needs) -> (losses `[R]`, metrics).

        follow: whether these targets follow after each step; their sources must be among the groups. compile: see CompiledUpdate.
        """
        self._loss, self._groups, self._targets, self._follow = loss, list(groups), list(targets), follow
        self._leaves = [leaf for group in groups for leaf in group.parameters.leaves.values()]
        pairs = [(group.parameters, group.optimizer) for group in groups]
        self._compiled = CompiledUpdate(loss, pairs, *targets, follow=follow) if compile else None

    def __call__(self, target_rate: float, *inputs: Any) -> dict[str, Tensor]:
        """The metrics of the loss. target_rate: how far the targets follow; 0: they stay."""
        metrics = self._compiled(target_rate, *inputs) if self._compiled else None
        if metrics is None:
            weights = [group.parameters.leaves for group in self._groups]
            loss, metrics = self._loss(weights, *(target.weights for target in self._targets), *inputs)
            gradients = iter(torch.autograd.grad(loss.sum(), self._leaves))
            for group in self._groups:
                group.optimizer.step(group.parameters.gather([next(gradients) for _ in group.parameters.leaves]))
            if self._follow and target_rate:
                for target in self._targets:
                    target.follow(target_rate)
        return metrics
