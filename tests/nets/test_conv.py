"""The stacked convolution against a loop over torch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from tutelage.nets.conv import ATARI, Conv
from tutelage.nets.parameters import Parameters

SMALL = ((5, 3, 2), (4, 2, 1))


def generators(*seeds: int) -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in seeds]


def made(members: tuple[int, ...], seeds=(1, 2, 3), gain: float | None = None) -> tuple[Conv, Parameters]:
    net = Conv((2, 9, 8), members, SMALL)
    parameters = Parameters(net.shapes())
    net.initialize(parameters, generators(*seeds[: members[0]]), gain=gain)
    return net, parameters


def images(*shape: int) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=Generator().manual_seed(9))


def loop(net: Conv, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    out = torch.empty(*net.members, x.shape[-4], net.outputs)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in net.members)).view(-1, len(net.members)).tolist():
        h = x[tuple(index)] / 255.0
        for i, (_, _, stride) in enumerate(net.layers):
            h = F.relu(F.conv2d(h, weights[f"kernel_{i}"][tuple(index)], weights[f"kernel_bias_{i}"][tuple(index)], stride))
        out[tuple(index)] = h.flatten(1)
    return out


@pytest.mark.parametrize("members", [(1,), (3,), (3, 2)])
def test_it_equals_a_loop_of_convolutions(members: tuple[int, ...]):
    net, parameters = made(members)
    x = images(*members, 5, 2, 9, 8)
    torch.testing.assert_close(net(parameters.weights, x), loop(net, parameters.weights, x))


@pytest.mark.parametrize("members", [(1,), (3, 2)])
def test_gradients_equal_those_of_the_loop(members: tuple[int, ...]):
    net, parameters = made(members)
    x = images(*members, 5, 2, 9, 8)
    leaves = list(parameters.leaves.values())
    ours = torch.autograd.grad(net(parameters.leaves, x).square().sum(), leaves)
    theirs = torch.autograd.grad(loop(net, parameters.leaves, x).square().sum(), leaves)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


def test_an_input_expanded_over_members_is_the_same_as_copies_of_it():
    net, parameters = made((3, 2))
    x = images(3, 1, 5, 2, 9, 8).expand(-1, 2, -1, -1, -1, -1)
    assert torch.equal(net(parameters.weights, x), net(parameters.weights, x.contiguous()))


def test_the_atari_layers_give_3136_features_as_torchs_sequence_does():
    net = Conv((4, 84, 84), (1,))
    assert net.outputs == 64 * 7 * 7 and net.layers == ATARI
    parameters = Parameters(net.shapes())
    net.initialize(parameters, generators(1))
    torchs = [torch.nn.Conv2d(*layer) for layer in ((4, 32, 8), (32, 64, 4), (64, 64, 3))]
    assert sum(parameters.sizes) == sum(weight.numel() for layer in torchs for weight in layer.parameters())
    x = images(1, 2, 4, 84, 84)
    torch.testing.assert_close(net(parameters.weights, x), loop(net, parameters.weights, x))


def test_a_seed_in_a_stack_starts_as_it_would_alone_and_another_changes_no_bit_of_it():
    for gain in (None, 2.0**0.5):
        net, stacked = made((3,), gain=gain)
        for r in range(3):
            _, alone = made((1,), seeds=(r + 1,), gain=gain)
            for name, weight in stacked.weights.items():
                assert torch.equal(weight[r], alone.weights[name][0])
    net, parameters = made((3,))
    x = images(3, 5, 2, 9, 8)
    before = net(parameters.weights, x)
    x[0] = 255 - x[0]
    parameters.weights["kernel_1"][0].fill_(float("nan"))
    after = net(parameters.weights, x)
    assert torch.equal(before[1:], after[1:]) and after[0].isnan().any()


def test_first_weights():
    _, parameters = made((3,))
    for name, fan_in in (("kernel_0", 18), ("kernel_bias_0", 18), ("kernel_1", 20), ("kernel_bias_1", 20)):
        scaled = parameters.weights[name].abs() * fan_in**0.5
        assert 0.8 < float(scaled.max()) <= 1.0
    _, parameters = made((3,), gain=2.0)
    matrix = parameters.weights["kernel_1"].flatten(2)
    torch.testing.assert_close(matrix @ matrix.mT, 4.0 * torch.eye(4).expand(3, 4, 4), atol=1e-5, rtol=0.0)
    assert not parameters.weights["kernel_bias_0"].any()


def test_an_image_that_is_too_small_is_an_error():
    with pytest.raises(ValueError, match=r"an image of \(4, 35, 35\) \(channels, height, width\) is too small for the layers"):
        Conv((4, 35, 35), (1,)).outputs  # noqa: B018
    assert Conv((4, 36, 36), (1,)).outputs == 64
