"""Bodies: the right parts in the right order, with memory and without."""

import pytest
import torch
from torch import Generator, Tensor

from tutelage.nets.body import Body, make_body
from tutelage.nets.conv import Conv
from tutelage.nets.mlp import MLP
from tutelage.nets.parameters import Parameters
from tutelage.nets.recurrent import Carry, Memory, Recurrent

IMAGE, VECTOR = (2, 36, 37), (6,)
MEMORIES: list[Memory] = ["none", "gru", "lstm"]


def generators(*seeds: int) -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in seeds]


def made(shape=VECTOR, memory: Memory = "none", members=(3,), seeds=(1, 2, 3), hidden=(8, 7), **initial) -> tuple[Body, Parameters]:
    body = make_body(shape, hidden, 4, members, memory)
    parameters = Parameters(body.shapes())
    body.initialize(parameters, generators(*seeds[: members[0]]), **initial)
    return body, parameters


def observations(shape: tuple[int, ...], *lead: int) -> Tensor:
    g = Generator().manual_seed(9)
    if len(shape) == 3:
        return torch.randint(256, (*lead, *shape), dtype=torch.uint8, generator=g)
    return torch.randn(*lead, *shape, generator=g)


def by_hand(body: Body, weights: dict[str, Tensor], x: Tensor, carry: Carry | None, starts: Tensor) -> Tensor:
    """Layer by layer, seed by seed and step by step."""
    out = torch.empty(*starts.shape, 4)
    for r in range(starts.shape[0]):
        own = {name: weight[r : r + 1] for name, weight in weights.items()}
        state = None if carry is None else carry.state[r : r + 1]
        for t in range(starts.shape[1]):
            h = x[r : r + 1, t]
            if body.conv is not None:
                h = Conv(body.conv.image, (1,))(own, h)
            for i in range(len(body.mlp.sizes) - 2):
                h = torch.tanh(h @ own[f"weight_{i}"] + own[f"bias_{i}"])
            if body.recurrent is not None and state is not None:
                cell = Recurrent(body.recurrent.kind, body.recurrent.width_in, body.recurrent.width, (1,))
                h, state = (y[:, 0] for y in cell.unroll(own, h[:, None], state, starts[r : r + 1, t : t + 1]))
            last = len(body.mlp.sizes) - 2
            out[r, t] = (h @ own[f"weight_{last}"] + own[f"bias_{last}"])[0]
    return out


@pytest.mark.parametrize("shape", [VECTOR, IMAGE])
@pytest.mark.parametrize("memory", MEMORIES)
def test_it_equals_its_layers_one_by_one(shape: tuple[int, ...], memory: Memory):
    body, parameters = made(shape, memory)
    x, starts = observations(shape, 3, 5, 2), torch.zeros(3, 5, 2, dtype=torch.bool)
    starts[1, 2, 0] = True
    carry = body.carry(2)
    if carry is not None:
        carry.state.normal_(generator=Generator().manual_seed(4))
    out, after = body.unroll(parameters.weights, x, carry, starts)
    torch.testing.assert_close(out, by_hand(body, parameters.weights, x, carry, starts))
    same, carries = body.trace(parameters.weights, x, carry, starts)
    assert torch.equal(same, out) and (carries is None) == (after is None) == (memory == "none")
    if after is not None and carries is not None:
        assert torch.equal(carries[:, -1], after.state)
        one_step, _ = body.unroll(parameters.weights, x[:, 3:4], Carry(carries[:, 2]), starts[:, 3:4])
        torch.testing.assert_close(one_step[:, 0], out[:, 3])


def test_a_vector_without_memory_is_an_mlp():
    body, parameters = made(members=(3, 2))
    mlp = MLP((6, 8, 7, 4), (3, 2), "tanh")
    assert body.shapes() == mlp.shapes()
    again = Parameters(mlp.shapes())
    mlp.initialize(again, generators(1, 2, 3))
    assert torch.equal(parameters.flat, again.flat)
    x = observations(VECTOR, 3, 2, 5)
    assert torch.equal(body(parameters.weights, x), mlp(parameters.weights, x))


@pytest.mark.parametrize("shape", [VECTOR, IMAGE])
def test_a_recording_without_memory_is_its_steps(shape: tuple[int, ...]):
    body, parameters = made(shape)
    x = observations(shape, 3, 5, 2)
    out, carry = body.unroll(parameters.weights, x, None, torch.ones(3, 5, 2, dtype=torch.bool))
    assert carry is None and body.carry(2) is None
    assert torch.equal(out, body(parameters.weights, x.flatten(1, 2)).view(3, 5, 2, 4))


def test_orthogonal_weights_have_the_gain_of_their_layer():
    _, parameters = made(memory="gru", output_gain=0.01)
    for name, gain in (("weight_0", 2.0**0.5), ("weight_1", 2.0**0.5), ("weight_2", 0.01)):
        weight = parameters.weights[name]
        torch.testing.assert_close(torch.linalg.svdvals(weight), torch.full((3, min(weight.shape[1:])), gain), atol=1e-5, rtol=1e-4)
    assert not any(parameters.weights[f"bias_{i}"].any() for i in range(3))
    assert parameters.weights["recurrent_weight"].any() and not parameters.weights["gate_bias"].any()


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("output_gain", [None, 1.0])
def test_a_seed_in_a_stack_starts_as_it_would_alone_and_another_changes_no_bit_of_it(memory: Memory, output_gain: float | None):
    for shape in (VECTOR, IMAGE):
        body, stacked = made(shape, memory, output_gain=output_gain)
        for r in range(3):
            _, alone = made(shape, memory, (1,), seeds=(r + 1,), output_gain=output_gain)
            assert all(torch.equal(weight[r], alone.weights[name][0]) for name, weight in stacked.weights.items())
    body, parameters = made(VECTOR, memory)
    x, starts = observations(VECTOR, 3, 5, 2), torch.zeros(3, 5, 2, dtype=torch.bool)
    before, _ = body.unroll(parameters.weights, x, body.carry(2), starts)
    x[0] = float("nan")
    parameters.weights["weight_1"][0] += 1.0
    assert torch.equal(body.unroll(parameters.weights, x, body.carry(2), starts)[0][1:], before[1:])


@pytest.mark.parametrize("memory", MEMORIES)
def test_every_weight_has_a_gradient_and_the_given_carry_stays(memory: Memory):
    for shape in (VECTOR, IMAGE):
        body, parameters = made(shape, memory)
        carry = body.carry(2)
        before = None if carry is None else carry.state.clone()
        out, _ = body.unroll(parameters.leaves, observations(shape, 3, 5, 2), carry, torch.zeros(3, 5, 2, dtype=torch.bool))
        gradients = torch.autograd.grad(out.square().sum(), list(parameters.leaves.values()))
        assert all(gradient.flatten(1).any(-1).all() for gradient in gradients)
        if carry is not None and before is not None:
            assert torch.equal(carry.state, before)


def test_only_the_chosen_seeds_are_filled():
    for memory in MEMORIES:
        for gain in (None, 1.0):
            body = make_body(IMAGE, (8,), 4, (3,), memory)
            parameters = Parameters(body.shapes())
            body.initialize(parameters, generators(1, 2, 3), torch.tensor([False, True, False]), gain)
            assert not any(weight[[0, 2]].any() for weight in parameters.weights.values())
            assert all(weight[1].any() for name, weight in parameters.weights.items() if "bias" not in name)


@pytest.mark.parametrize(
    ("shape", "hidden", "memory", "sentence"),
    [
        ((4, 4), (8,), "none", r"an observation of shape \(4, 4\) is neither a vector \(D,\) nor an image"),
        ((4,), (), "lstm", 'memory="lstm" takes the width of the last hidden layer, and hidden is empty'),
        ((1, 20, 20), (8,), "none", r"an image of \(1, 20, 20\) \(channels, height, width\) is too small"),
    ],
)
def test_what_no_body_can_be_made_of(shape: tuple[int, ...], hidden: tuple[int, ...], memory: Memory, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        make_body(shape, hidden, 4, (1,), memory)


def test_memory_needs_a_recording_and_a_carry():
    body, parameters = made(memory="gru")
    with pytest.raises(ValueError, match="a body with memory reads whole recordings: use unroll"):
        body(parameters.weights, observations(VECTOR, 3, 5))
    with pytest.raises(ValueError, match="a body with memory needs a carry"):
        body.unroll(parameters.weights, observations(VECTOR, 3, 5, 2), None, torch.zeros(3, 5, 2, dtype=torch.bool))


def test_no_hidden_layer_is_a_linear_map():
    body, parameters = made(hidden=())
    x = observations(VECTOR, 3, 5)
    torch.testing.assert_close(body(parameters.weights, x), x @ parameters.weights["weight_0"] + parameters.weights["bias_0"])
