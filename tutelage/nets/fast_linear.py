"""Linear layers on CPUs by oneDNN, forward and backward, and GELU as one operation, in the eager nets of transformers.

As in `products.py`: MKL keeps to AVX2 on AMD's processors, oneDNN takes AVX-512 (Zen 5, one thread, 1024 x 384 x 1536: 98 and 211 GFLOP
per second), and PyTorch calls MKL. So `use_fast_layers` gives the linear layers of a net another class, whose weights, names and folders
are those of the old one. Single precision on a CPU goes through oneDNN, anything else through the library's own code. GPT-2's GELU, eight
operations there that each keep a tensor for the backward pass, is the one that PyTorch has for the same formula.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a b^T + bias for `a` [N, K] and `b` [O, K], either of them perhaps a transposed view. Without gradient."""
    if a.device.type == "cpu" and a.dtype == b.dtype == torch.float32 and torch.backends.mkldnn.is_available() and a.numel():
        return torch.ops.mkldnn._linear_pointwise.default(a, b, bias, "none", [], "")
    return nn.functional.linear(a, b, bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, transposed: bool = False) -> Tensor:
    """x W^T + b for `x` [..., K]; transposed: `weight` lies as `[K, O]`."""
    if torch.is_grad_enabled():
        return _Linear.apply(x, weight, bias, transposed)
    return product(x.reshape(-1, x.shape[-1]), weight.T if transposed else weight, bias).view(*x.shape[:-1], -1)


class _Linear(torch.autograd.Function):
    """x W^T + b, with W as it lies in the layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.transposed = transposed
        rows = x.reshape(-1, x.shape[-1])
        return product(rows, weight.T if transposed else weight, bias).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient, rows = gradients[0].reshape(-1, gradients[0].shape[-1]), x.reshape(-1, x.shape[-1])
        to_x = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            to_x = product(gradient, weight if ctx.transposed else weight.T).view(x.shape)
        if ctx.needs_input_grad[1]:
            to_weight = product(rows.T, gradient.T) if ctx.transposed else product(gradient.T, rows.T)
        if ctx.needs_input_grad[2]:
            to_bias = gradient.sum(0)
        return to_x, to_weight, to_bias, None


def _here(x: Tensor, weight: Tensor) -> bool:
    single = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return single and x.numel() > 0


class FastLinear(nn.Linear):
    """nn.Linear."""

    def forward(self, input: Tensor) -> Tensor:
        """x W^T + b."""
        if not _here(input, self.weight):
            return super().forward(input)
        return linear(input, self.weight, self.bias)


class FastConv1D(Conv1D):
    """GPT-2's linear layer, whose weight lies transposed."""

    def forward(self, x: Tensor) -> Tensor:
        """x W + b."""
        if not _here(x, self.weight):
            return super().forward(x)
        return linear(x, self.weight, self.bias, transposed=True)


class FastGELU(NewGELUActivation):
    """GPT-2's GELU, by the approximation with tanh."""

    def forward(self, input: Tensor) -> Tensor:
        """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
        return nn.functional.gelu(input, approximate="tanh")


def use_fast_layers(net: nn.Module) -> None:
    """Give plain layers of the net their fast class, in place; the instances, their names and weights stay."""
    fast = {nn.Linear: FastLinear, Conv1D: FastConv1D, NewGELUActivation: FastGELU}
    for layer in net.modules():
        layer.__class__ = fast.get(type(layer), type(layer))
