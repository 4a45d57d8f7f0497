"""Memories against torch's cells, loops, and recordings cut where their episodes end."""

from typing import Literal

import pytest
import torch
from torch import Generator, Tensor

from tutelage.nets.parameters import Parameters
from tutelage.nets.recurrent import Carry, Recurrent

KINDS = ["gru", "lstm"]
Kind = Literal["gru", "lstm"]


def generators(*seeds: int) -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in seeds]


def made(kind: Kind, members: tuple[int, ...] = (3,), seeds=(1, 2, 3), orthogonal: bool = False) -> tuple[Recurrent, Parameters]:
    net = Recurrent(kind, 4, 5, members)
    parameters = Parameters(net.shapes())
    net.initialize(parameters, generators(*seeds[: members[0]]), orthogonal=orthogonal)
    return net, parameters


def recording(net: Recurrent, T: int = 6, B: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, carry, starts; no episode starts."""
    g = Generator().manual_seed(9)
    x = torch.randn(*net.members, T, B, 4, generator=g)
    return x, torch.randn(*net.members, B, net.carry_width, generator=g), torch.zeros(*net.members, T, B, dtype=torch.bool)


def torchs(kind: Kind, weights: dict[str, Tensor], index: tuple[int, ...]) -> torch.nn.RNNBase:
    """torch's own module with the weights of one member."""
    module = (torch.nn.GRU if kind == "gru" else torch.nn.LSTM)(4, 5)
    own = {name: as_torch(kind, weight[index]) for name, weight in weights.items()}
    bias = torch.zeros_like(own["gate_bias"][0])
    if kind == "gru":
        bias[10:] = weights["reset_bias"][index][0]
    values = {
        "weight_ih_l0": own["input_weight"].mT,
        "weight_hh_l0": own["recurrent_weight"].mT,
        "bias_ih_l0": own["gate_bias"][0],
        "bias_hh_l0": bias,
    }
    module.load_state_dict(values)
    return module


def as_torch(kind: Kind, weight: Tensor) -> Tensor:
    """Our gates (columns) in torch's order: its LSTM has the candidate before the output gate; ours has it last."""
    if kind == "gru" or weight.shape[-1] != 20:
        return weight
    store, keep, show, candidate = weight.chunk(4, -1)
    return torch.cat([store, keep, candidate, show], -1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("members", [(1,), (3,), (3, 2)])
def test_it_equals_torchs(kind: Kind, members: tuple[int, ...]):
    net, parameters = made(kind, members)
    x, carry, starts = recording(net)
    features, carries = net.unroll(parameters.weights, x, carry, starts)
    assert features.shape == (*members, 6, 2, 5) and carries.shape == (*members, 6, 2, net.carry_width)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in members)).view(-1, len(members)).tolist():
        at = tuple(index)
        h, c = carry[at][None, :, :5].contiguous(), carry[at][None, :, 5:].contiguous()
        module = torchs(kind, parameters.weights, at)
        theirs, last = module(x[at], h if kind == "gru" else (h, c))
        torch.testing.assert_close(features[at], theirs)
        torch.testing.assert_close(carries[at][-1], last[0] if kind == "gru" else torch.cat(last, -1)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_torchs(kind: Kind):
    net, parameters = made(kind, (1,))
    x, carry, starts = recording(net)
    x.requires_grad_()
    features, _ = net.unroll(parameters.leaves, x, carry, starts)
    names = ["input_weight", "recurrent_weight", "gate_bias"]
    ours = torch.autograd.grad(features.square().sum(), [x, *(parameters.leaves[name] for name in names)])
    module = torchs(kind, parameters.weights, (0,))
    h, c = carry[:, :, :5].contiguous(), carry[:, :, 5:].contiguous()
    theirs, _ = module(x[0], h if kind == "gru" else (h, c))
    named = dict(module.named_parameters())
    grads = torch.autograd.grad(theirs.square().sum(), [x, *(named[name] for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0"))])
    for mine, other in zip(ours, (grads[0], grads[1].mT[None], grads[2].mT[None], grads[3][None, None]), strict=True):
        torch.testing.assert_close(as_torch(kind, mine), other)


@pytest.mark.parametrize("kind", KINDS)
def test_step_by_step_is_the_same_as_at_once(kind: Kind):
    net, parameters = made(kind)
    x, carry, starts = recording(net)
    starts[1, 3, 0] = starts[0, 2, 1] = True
    features, carries = net.unroll(parameters.weights, x, carry, starts)
    for t in range(6):
        step, after = net.unroll(parameters.weights, x[:, t : t + 1], carry, starts[:, t : t + 1])
        torch.testing.assert_close(step[:, 0], features[:, t])
        torch.testing.assert_close(after[:, 0], carries[:, t])
        carry = after[:, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_an_episode_remembers_nothing_of_the_one_before(kind: Kind):
    """A recording that is cut equals two recordings, and what lies before the cut, NaN included, changes no bit after it."""
    net, parameters = made(kind)
    x, carry, starts = recording(net)
    starts[:, 3] = True
    features, carries = net.unroll(parameters.weights, x, carry, starts)
    alone, last = net.unroll(parameters.weights, x[:, 3:], torch.zeros_like(carry), starts[:, 3:] & False)
    torch.testing.assert_close(features[:, 3:], alone)
    torch.testing.assert_close(carries[:, 3:], last)
    sick = x.clone()
    sick[:, :3] = float("nan")
    assert torch.equal(net.unroll(parameters.weights, sick, carry, starts)[0][:, 3:], features[:, 3:])
    x.requires_grad_()
    gradient = torch.autograd.grad(net.unroll(parameters.weights, x, carry, starts)[0][:, 3:].sum(), x)[0]
    assert not gradient[:, :3].any() and gradient[:, 3:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_start_the_past_is_remembered(kind: Kind):
    net, parameters = made(kind)
    x, carry, starts = recording(net)
    changed = x.clone()
    changed[:, 0] += 1.0
    before, after = (net.unroll(parameters.weights, y, carry, starts)[0] for y in (x, changed))
    assert (before[:, -1] != after[:, -1]).any(-1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_start_in_one_copy_leaves_the_others_alone(kind: Kind):
    net, parameters = made(kind)
    x, carry, starts = recording(net)
    cut = starts.clone()
    cut[1, 2, 0] = True
    plain, other = (net.unroll(parameters.weights, x, carry, s)[0] for s in (starts, cut))
    differs = (plain != other).any(-1)
    assert differs[1, 2:, 0].all()
    differs[1, 2:, 0] = False
    assert not differs.any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orthogonal", [False, True])
def test_a_seed_in_a_stack_starts_as_it_would_alone_and_another_changes_no_bit_of_it(kind: Kind, orthogonal: bool):
    net, stacked = made(kind, orthogonal=orthogonal)
    for r in range(3):
        _, alone = made(kind, (1,), seeds=(r + 1,), orthogonal=orthogonal)
        assert all(torch.equal(weight[r], alone.weights[name][0]) for name, weight in stacked.weights.items())
    x, carry, starts = recording(net)
    before, _ = net.unroll(stacked.weights, x, carry, starts)
    x[0] = float("nan")
    stacked.weights["recurrent_weight"][0] += 1.0
    assert torch.equal(net.unroll(stacked.weights, x, carry, starts)[0][1:], before[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_first_weights(kind: Kind):
    net, parameters = made(kind)
    for name in net.shapes():
        scaled = parameters.weights[name].abs() * 5**0.5
        assert 0.7 < float(scaled.max()) <= 1.0
    _, parameters = made(kind, orthogonal=True)
    for gate in parameters.weights["recurrent_weight"].split(5, -1):
        torch.testing.assert_close(gate @ gate.mT, torch.eye(5).expand(3, 5, 5), atol=1e-5, rtol=0.0)
    assert not parameters.weights["gate_bias"].any() and parameters.weights["input_weight"].any()


def test_a_carry_restarts_where_it_is_told():
    carry = Carry(torch.full((2, 3, 4), float("nan")))
    before = carry.state
    carry.restart(torch.tensor([[True, False, False], [False, False, True]]))
    assert (carry.state == 0.0).all(-1).tolist() == [[True, False, False], [False, False, True]]
    assert before.isnan().all()  # whoever kept the old state has it still
