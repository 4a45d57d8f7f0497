"""The stacked MLP against a loop over plain ones."""

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from tutelage.nets.mlp import MLP
from tutelage.nets.noise import normal
from tutelage.nets.parameters import Parameters
from tutelage.nets.targets import Target

PLAIN = {"relu": F.relu, "leaky_relu": lambda x: F.leaky_relu(x, 0.01), "tanh": torch.tanh}


def generators(*seeds: int) -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in seeds]


def made(members: tuple[int, ...], sizes=(4, 8, 6, 2), activation="relu", seeds=(1, 2, 3)) -> tuple[MLP, Parameters]:
    net = MLP(sizes, members, activation)
    parameters = Parameters(net.shapes())
    net.initialize(parameters, generators(*seeds[: members[0]]))
    return net, parameters


def loop(net: MLP, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    layers = len(net.sizes) - 1
    out = torch.empty(*net.members, x.shape[-2], net.sizes[-1])
    for index in torch.cartesian_prod(*(torch.arange(n) for n in net.members)).view(-1, len(net.members)).tolist():
        h = x[tuple(index)]
        for i in range(layers):
            h = F.linear(h, weights[f"weight_{i}"][tuple(index)].mT, weights[f"bias_{i}"][tuple(index)][0])
            h = PLAIN[net.activation](h) if i < layers - 1 else h
        out[tuple(index)] = h
    return out


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh"])
@pytest.mark.parametrize("members", [(1,), (3,), (3, 2)])
@pytest.mark.parametrize("sizes", [(4, 2), (4, 8, 6, 2)])
def test_it_equals_a_loop_of_linear_layers(activation: str, members: tuple[int, ...], sizes: tuple[int, ...]):
    net, parameters = made(members, sizes, activation)
    x = torch.randn(*members, 5, 4, generator=Generator().manual_seed(9))
    torch.testing.assert_close(net(parameters.weights, x), loop(net, parameters.weights, x))


def test_gradients_equal_those_of_the_loop():
    net, parameters = made((3, 2), activation="leaky_relu")
    x = torch.randn(3, 2, 5, 4, generator=Generator().manual_seed(9))
    leaves = list(parameters.leaves.values())
    ours = torch.autograd.grad(net(parameters.leaves, x).square().sum(), leaves)
    theirs = torch.autograd.grad(loop(net, parameters.leaves, x).square().sum(), leaves)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)
    assert torch.equal(parameters.gather(ours)[: ours[0].numel()], ours[0].flatten())


def test_an_input_expanded_over_members_is_the_same_as_copies_of_it():
    net, parameters = made((3, 2))
    x = torch.randn(3, 1, 5, 4, generator=Generator().manual_seed(9)).expand(-1, 2, -1, -1)
    assert torch.equal(net(parameters.weights, x), net(parameters.weights, x.contiguous()))


@pytest.mark.parametrize("members", [(3,), (3, 2)])
def test_a_seed_in_a_stack_starts_as_it_would_alone(members: tuple[int, ...]):
    _, stacked = made(members)
    for r in range(3):
        _, alone = made((1, *members[1:]), seeds=(r + 1,))
        for name, weight in stacked.weights.items():
            assert torch.equal(weight[r], alone.weights[name][0])


def test_weights_start_uniform_within_one_over_the_root_of_the_fan_in():
    _, parameters = made((3,), sizes=(16, 400, 1))
    for name, fan_in in (("weight_0", 16), ("bias_0", 16), ("weight_1", 400)):
        scaled = parameters.weights[name] * fan_in**0.5
        assert scaled.abs().max() <= 1.0 and scaled.abs().max() > 0.95
        assert abs(float(scaled.std()) - 3**-0.5) < 0.03 and abs(float(scaled.mean())) < 0.05


def test_only_the_chosen_seeds_are_filled_and_only_their_generators_move():
    net, parameters = made((3,))
    own, before = generators(5, 6, 7), parameters.flat.clone()
    states = [g.get_state() for g in own]
    net.initialize(parameters, own, torch.tensor([False, True, False]))
    assert [torch.equal(g.get_state(), state) for g, state in zip(own, states, strict=True)] == [True, False, True]
    for name, old in parameters.split(before).items():
        assert torch.equal(parameters.weights[name][0], old[0]) and torch.equal(parameters.weights[name][2], old[2])
        assert (parameters.weights[name][1] != old[1]).all()


def test_another_members_input_and_weights_change_no_bit():
    net, parameters = made((3, 2), sizes=(4, 33, 17, 2))
    x = torch.randn(3, 2, 37, 4, generator=Generator().manual_seed(9))
    before = net(parameters.weights, x)
    x[0] += 1.0
    x[2] = float("nan")
    parameters.weights["weight_1"][0].mul_(-3.0)
    after = net(parameters.weights, x)
    assert torch.equal(before[1], after[1])
    assert not torch.equal(before[0], after[0])


def test_noise_of_a_seed_does_not_depend_on_the_stack():
    stacked = normal(generators(1, 2, 3), (2, 5, 4))
    assert torch.equal(stacked[1], normal(generators(2), (2, 5, 4))[0])
    assert stacked.shape == (3, 2, 5, 4) and len(stacked.unique()) == stacked.numel()


def test_a_target_follows_slowly_and_copies_the_chosen():
    _, parameters = made((3,))
    target = Target(parameters)
    start = target.flat.clone()
    parameters.flat.add_(1.0)
    target.follow(0.25)
    torch.testing.assert_close(target.flat, start + 0.25)
    target.copy(torch.tensor([False, True, False]))
    assert torch.equal(target.weights["weight_0"][1], parameters.weights["weight_0"][1])
    torch.testing.assert_close(target.weights["weight_0"][0], parameters.weights["weight_0"][0] - 0.75)
    target.copy()
    assert torch.equal(target.flat, parameters.flat)
    assert not target.flat.requires_grad
