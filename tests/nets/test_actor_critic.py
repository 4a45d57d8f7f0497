"""Policy and value in one stacked body against the same two nets apart."""

from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from tutelage.games.spec import Discrete, GameError, MultiBinary, TupleSpace
from tutelage.nets.actor_critic import ActorCritic, make_actor_critic
from tutelage.nets.body import make_body
from tutelage.nets.parameters import Parameters
from tutelage.nets.recurrent import Carry

R, D, T, B, K = 2, 3, 4, 5, 3
kinds = pytest.mark.parametrize("memory", ["none", "gru", "lstm"])
sharing = pytest.mark.parametrize("shared", [False, True])


def made(shared: bool, memory: Any = "none", shape: tuple[int, ...] = (D,)) -> tuple[ActorCritic, Parameters]:
    nets = make_actor_critic(shape, Discrete(K), (6,), R, shared, memory)
    parameters = Parameters(nets.shapes())
    nets.initialize(parameters, [Generator().manual_seed(r) for r in range(R)])
    parameters.flat.add_(0.3 * torch.randn(parameters.flat.shape, generator=Generator().manual_seed(9)))
    return nets, parameters


def given(nets: ActorCritic, seed: int = 0) -> dict[str, Any]:
    g = Generator().manual_seed(seed)
    x = torch.randn(R, T, B, D, generator=g)
    if not nets.remembers:
        return dict(observation=x.flatten(1, 2))
    carry = nets.body.carry(B)
    assert carry is not None
    return dict(
        observation=x, starts=torch.rand(R, T, B, generator=g) < 0.3, carry=Carry(torch.rand(carry.state.shape, generator=g))
    )  # fmt: skip


@kinds
@sharing
def test_both_are_policy_and_value(memory: str, shared: bool):
    nets, parameters = made(shared, memory)
    x = given(nets)
    policy, value, carries = nets.both(parameters.weights, **x)
    own = {"policy": dict(x), "value": dict(x)}
    if nets.remembers:
        own["policy"]["carry"], own["value"]["carry"] = nets.policy_carry(x["carry"]), nets.value_carry(x["carry"])
    alone, after = nets.policy(parameters.weights, **own["policy"])
    torch.testing.assert_close(policy, alone)
    torch.testing.assert_close(value, nets.value(parameters.weights, **own["value"]))
    half = nets.halves(parameters.weights)[0]
    torch.testing.assert_close(nets.policy(parameters.weights, **own["policy"], half=half)[0], alone)
    if carries is None or after is None:
        assert not nets.remembers and carries is None and after is None
    else:
        torch.testing.assert_close(carries if shared else carries[:, 0], after)


@kinds
def test_the_two_members_are_two_bodies(memory: Any):
    """A policy and a value built apart, with these weights, say the same."""
    nets, parameters = made(False, memory)
    x = given(nets)
    policy, value, _ = nets.both(parameters.weights, **x)
    for which, said in ((0, policy), (1, value)):
        body = make_body((D,), (6,), K, (R,), memory)
        own = Parameters(body.shapes())
        for name, weight in own.weights.items():
            weight.copy_(parameters.weights[name][:, which])
        if memory == "none":
            output = body(own.weights, x["observation"])
        else:
            output, _ = body.unroll(own.weights, x["observation"], Carry(x["carry"].state[:, which]), x["starts"])
        torch.testing.assert_close(said, output if which == 0 else output[..., 0])


@sharing
def test_gradients_of_one_do_not_reach_the_other_unless_they_share(shared: bool):
    nets, parameters = made(shared)
    x = given(nets)
    leaves = list(parameters.leaves.values())

    def reached(loss: Tensor) -> Tensor:
        return parameters.gather(torch.autograd.grad(loss, leaves, retain_graph=True, materialize_grads=True)) != 0.0

    policy, value, _ = nets.both(parameters.leaves, **x)
    first, second = reached(policy.square().sum()), reached(value.square().sum())
    assert first.any() and second.any() and bool((first & second).any()) == shared


def test_the_value_of_a_single_output_and_the_weights_beside_the_body():
    space = TupleSpace((MultiBinary((1,)),))
    nets = make_actor_critic((D,), space, (6,), R)
    assert nets.head.outputs == 1 and nets.shapes()["weight_1"] == (R, 2, 6, 1)
    with pytest.raises(GameError, match="has no entries"):
        make_actor_critic((D,), TupleSpace(()), (6,), R)
