"""A whole update as one compiled function: losses, their gradients, Adam and the target's average."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor

from tutelage.nets.adam import StackedAdam
from tutelage.nets.parameters import Parameters
from tutelage.nets.targets import Target

Weights = Mapping[str, Tensor]
Loss = Callable[..., tuple[Tensor, dict[str, Tensor]]]
"""(weights of each group, weights of every target, whatever else it needs) -> (losses `[R]`, metrics)."""


class CompiledUpdate:
    """Minimizes a loss as the eager step would (StackedAdam.step, then Target.follow of each target), to rounding.

    One torch.compile over everything lets the compiler fuse activations, their derivatives and the optimizer's arithmetic; a
    compiled loss alone gains nothing on nets this small. Large products go where they are fastest (`nets.products`). Weights, moments
    and counts stay in the buffers of the eager objects, so that saving, resetting and freezing see no difference. What it does not
    know: the decay of weights (none of its users).
    """

    def __init__(self, loss: Loss, groups: Sequence[tuple[Parameters, StackedAdam]], *targets: Target, follow: bool = True) -> None:
        """groups: in the order in which `loss` wants their weights. follow: each target follows one of them; else they all stay."""
        if any(optimizer.weight_decay for _, optimizer in groups):
            raise ValueError("a compiled update does not decay weights; one of its optimizers asks for it")
        self._loss, self._groups, self._targets = loss, list(groups), targets
        sources = [parameters for parameters, _ in groups]
        self._followed = [sources.index(target.source) for target in targets] if follow else []
        # Which member an entry of a flat tensor belongs to.
        self._owners = [self._owner(parameters) for parameters, _ in groups]
        # Of what the function reads only tensors can change; to ask on every call whether the rest has would take 0.2 ms.
        tensors = lambda guards: [guard.guard_type == "TENSOR_MATCH" for guard in guards]
        # What has been compiled is kept by code object, and without those other guards one learner would be given another's function.
        ours = FunctionType(CompiledUpdate._update.__code__.replace(), globals())
        options: dict[str, Any] = {"guard_filter_fn": tensors}
        if mkl_holds_back():
            from tutelage.nets.products import ByOneDNN  # with the whole compiler, which takes a second to import

            options["post_grad_custom_post_pass"] = ByOneDNN()
        self._compiled = torch.compile(MethodType(ours, self), fullgraph=True, dynamic=False, options=options)

    @staticmethod
    def _owner(parameters: Parameters) -> Tensor:
        owner = torch.empty(parameters.flat.shape, dtype=torch.int64, device=parameters.flat.device)
        for view in parameters.split(owner).values():
            view.copy_(torch.arange(parameters.members, device=owner.device).view((-1,) + (1,) * (view.dim() - 1)))
        return owner

    def __call__(self, target_rate: float, *inputs: Any) -> dict[str, Tensor] | None:
        """One update in place, and the loss's metrics. None: a gradient is not finite; nothing was moved, and the eager step, which knows
        whom to freeze, has to do it."""
        buffers = [
            (parameters.flat, optimizer.first_moment, optimizer.second_moment, optimizer.steps, optimizer.frozen, *fates(optimizer))
            for parameters, optimizer in self._groups
        ]
        # A tensor, for a number would be compiled in, once for each value.
        finite, metrics = self._compiled(buffers, [target.flat for target in self._targets], torch.tensor(target_rate), inputs)
        return metrics if finite else None

    def _update(
        self, buffers: Sequence[tuple[Tensor, ...]], targets: Sequence[Tensor], target_rate: Tensor, inputs: Sequence[Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        groups = self._groups

        def total(flats: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            weights = [parameters.split(flat) for (parameters, _), flat in zip(groups, flats, strict=True)]
            frozen = (target.source.split(flat) for target, flat in zip(self._targets, targets, strict=True))
            loss, metrics = self._loss(weights, *frozen, *inputs)
            return loss.sum(), metrics

        gradients, metrics = torch.func.grad(total, has_aux=True)([flat for flat, *_ in buffers])
        each = lambda of_members, owner: of_members if len(of_members) == 1 else of_members[owner]
        moving = [~each(own[5], owner) for owner, own in zip(self._owners, buffers, strict=True)]
        gradients = [torch.where(moves, gradient, 0.0) for moves, gradient in zip(moving, gradients, strict=True)]
        # One number to test, since every entry repeats the test; squares, as StackedAdam has them.
        finite = torch.isfinite(torch.stack([(gradient * gradient).sum() for gradient in gradients]).sum())
        gradients = [optimizer.clipped(gradient) for (_, optimizer), gradient in zip(groups, gradients, strict=True)]
        for (_, optimizer), owner, gradient, moves, own in zip(groups, self._owners, gradients, moving, buffers, strict=True):
            weights, first, second, steps, frozen, _, rate, root = own
            paces = each(rate, owner), each(root, owner)
            new = adam_step(weights, gradient, first, second, *paces, optimizer.betas, optimizer.epsilon)
            for buffer, value in zip((weights, first, second), new, strict=True):
                buffer.copy_(torch.where(finite & moves, value, buffer))
            steps.copy_(torch.where(finite, steps + ~frozen, steps))
        for target, followed in zip(targets, self._followed, strict=False):
            target.copy_(torch.where(finite, target + target_rate * (buffers[followed][0] - target), target))
        return finite, metrics


@cache
def mkl_holds_back() -> bool:
    """Whether this machine has AVX-512 that MKL leaves unused, as it does on AMD's processors."""
    told = Path("/proc/cpuinfo")
    amd = told.exists() and "AuthenticAMD" in told.read_text()
    return amd and torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"


def fates(optimizer: StackedAdam) -> tuple[Tensor, Tensor, Tensor]:
    """Who is frozen, the step size over the first moment's bias, and the root of the second's, for the step that comes.

    `[1]` each where all members share one, `[R]` else: to look every entry's up by its member takes longer than the step itself, so that
    members that part cost another compilation.
    """
    beta1, beta2 = optimizer.betas
    counts = [count + 1.0 for count in optimizer.steps.tolist()]  # in Python's doubles: in single precision 1 - 0.999 has five digits
    given = optimizer.learning_rate
    rates = given.tolist() if isinstance(given, Tensor) else [given] * len(counts)
    step = [rate / (1.0 - beta1**count) for rate, count in zip(rates, counts, strict=True)]
    root = [(1.0 - beta2**count) ** 0.5 for count in counts]
    alike = len(set(zip(step, root, strict=True))) == 1
    both = torch.tensor([step[:1], root[:1]] if alike else [step, root], device=optimizer.steps.device)
    return (optimizer.frozen if optimizer.frozen.any() else optimizer.frozen[:1]), both[0], both[1]


def adam_step(
    weights: Tensor, gradient: Tensor, first: Tensor, second: Tensor, rate: Tensor, root: Tensor, betas: tuple[float, float], epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights and moments after one step; rate and root as `fates` gives them, `[1]` or one for each entry.

    theta - rate m / (sqrt(v) / root + epsilon),   m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2.
    Kingma & Ba 2015 (arXiv 1412.6980), algorithm 1.
    """
    first = torch.lerp(first, gradient, 1.0 - betas[0])
    second = betas[1] * second + (1.0 - betas[1]) * gradient * gradient
    return weights - rate * first / (second.sqrt() / root + epsilon), first, second
