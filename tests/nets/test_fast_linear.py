"""Fast layers against those they replace: values, gradients, and the cases that they leave to the library."""

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

from tutelage.nets.fast_linear import FastConv1D, FastGELU, FastLinear, product, use_fast_layers


def layers() -> dict[str, nn.Module]:
    g = torch.Generator().manual_seed(0)
    made = {"linear": nn.Linear(5, 7), "without bias": nn.Linear(5, 7, bias=False), "conv1d": Conv1D(7, 5), "gelu": NewGELUActivation()}
    for layer in made.values():
        for p in layer.parameters():
            nn.init.normal_(p, generator=g)
    return made


def gradients(layer: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)
    weights = torch.linspace(-1.0, 1.0, y.numel()).view(y.shape)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), [x, *layer.parameters()])]


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (1, 5), (0, 5)])
@pytest.mark.parametrize("kind", layers())
def test_the_same_values_and_gradients(kind: str, shape: tuple[int, ...]):
    plain = layers()[kind]
    fast = copy.deepcopy(plain)
    use_fast_layers(fast)
    assert type(fast) in (FastLinear, FastConv1D, FastGELU)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for a, b in zip(gradients(fast, x), gradients(plain, x), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_other_precisions_are_the_librarys(kind: str):
    plain = layers()[kind].double()
    fast = copy.deepcopy(plain)
    use_fast_layers(fast)
    x = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert all(torch.equal(a, b) for a, b in zip(gradients(fast, x), gradients(plain, x), strict=True))
    with torch.autocast("cpu", torch.bfloat16):
        assert fast.float()(x.float()).dtype == torch.bfloat16


def test_a_layer_of_ones_own_keeps_its_class():
    class Own(nn.Linear):
        pass

    net = nn.Sequential(Own(2, 2), nn.Linear(2, 2))
    use_fast_layers(net)
    assert type(net[0]) is Own and type(net[1]) is FastLinear


def test_frozen_weights_get_no_gradient():
    layer = layers()["conv1d"].requires_grad_(False)
    use_fast_layers(layer)
    x = torch.randn(3, 5, requires_grad=True, generator=torch.Generator().manual_seed(1))
    layer(x).sum().backward()
    assert x.grad is not None and layer.weight.grad is None


def test_products_of_views():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(6, 4, generator=g), torch.randn(4, 9, generator=g)
    torch.testing.assert_close(product(a, b.T), a @ b)
    c = torch.randn(6, 9, generator=g)
    torch.testing.assert_close(product(a.T, c.T), a.T @ c)
