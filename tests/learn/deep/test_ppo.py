"""PPO's loss by hand and beside separate nets, and what its settings do; what all on-policy learners promise is in test_on_policy.py."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn
from torch.distributions import Categorical

from tutelage.experience.steps import Steps
from tutelage.experience.trajectory import Transition
from tutelage.games.spec import Box, Discrete, GameError
from tutelage.learn.deep.ppo import PPO, Config, ppo_loss
from tutelage.learn.learner import Progress

R, N, D, K = 3, 12, 4, 3


def box(width: int) -> Box:
    return Box((width,), np.full(width, -np.inf, np.float32), np.full(width, np.inf, np.float32))


def learner(seeds: tuple[int, ...] = (1, 2, 3), **changed: Any) -> Any:
    config = Config(hidden=(16,), window=6, batch_size=N, epochs=2, learning_rate=1e-2)
    return PPO(replace(config, **changed), box(D), Discrete(K), [Generator().manual_seed(seed) for seed in seeds])


def steps_for(made: Any, seed: int = 0, drift: float = 0.3) -> Steps:
    """drift: how far the policy that played was from the one of today."""
    g = Generator().manual_seed(seed)
    rand = lambda *shape: torch.randn(R, N, *shape, generator=g)
    observation = rand(D)
    action = torch.randint(K, (R, N, 1), generator=g).float()
    with torch.no_grad():
        parameters, value, _ = made.nets.both(made.parameters.weights, observation)
        logp = made.nets.head.log_prob(parameters, action) + drift * rand()
    mask = (torch.rand(R, N, generator=g) < 0.8).float()
    return Steps(observation, action, parameters, logp, value + 0.2 * rand(), rand(), rand(), mask, None, None, None)


def one(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


def test_the_loss_by_hand():
    # Ratios 2, 2, 1/2, 1/2 with advantages 1, -1, 1, -1, clipped to [0.8, 1.2]: min(rA, clip A) = 1.2, -2, 0.5, -0.8; the mean is -0.275.
    logp, advantage, zero = one(np.log(2.0), np.log(2.0), np.log(0.5), np.log(0.5)), one(1.0, -1.0, 1.0, -1.0), one(0.0, 0.0, 0.0, 0.0)
    value, target = one(1.0, 2.0, 3.0, 4.0), one(0.0, 0.0, 3.0, 6.0)
    # Half the squared errors are 0.5, 2, 0, 2, their mean 1.125.
    given = (logp, zero, advantage, value, zero, target)
    assert ppo_loss(*given, None, None, 0.2).item() == pytest.approx(0.275 + 1.125)
    assert ppo_loss(*given, one(1.0, 1.0, 1.0, 3.0), None, 0.2, None, 0.5, 0.1).item() == pytest.approx(0.275 + 0.5 * 1.125 - 0.1 * 1.5)
    # Values may move by 1 from 0: clipped they are 1, 1, 1, 1, with errors 1, 1, -2, -5; the larger squares are 1, 4, 4, 25, halved 17/4.
    assert ppo_loss(*given, None, None, 0.2, 1.0).item() == pytest.approx(0.275 + 17.0 / 4.0)
    assert ppo_loss(*given, None, one(1.0, 0.0, 0.0, 1.0), 0.2).item() == pytest.approx(-(1.2 - 0.8) / 2.0 + (0.5 + 2.0) / 2.0)
    assert ppo_loss(*given, None, one(0.0, 0.0, 0.0, 0.0), 0.2).item() == 0.0


def test_no_gradient_where_a_ratio_has_left_the_interval_in_the_direction_that_pays():
    logp = one(0.5, 0.5, -0.5, -0.5).requires_grad_()
    zero = torch.zeros_like(logp)
    (gradient,) = torch.autograd.grad(ppo_loss(logp, zero, one(1.0, -1.0, 1.0, -1.0), zero, zero, zero, None, None, 0.2).sum(), logp)
    assert gradient[0].tolist() == pytest.approx([0.0, np.exp(0.5) / 4.0, -np.exp(-0.5) / 4.0, 0.0])


@pytest.mark.parametrize("value_clip_range", [None, 0.1])
def test_gradients_equal_those_of_separate_nets(value_clip_range: float | None):
    made = learner(value_clip_range=value_clip_range, temperature=0.05, value_coefficient=0.7)
    steps, taken = steps_for(made), []
    made.optimizers["policy and value"].step = lambda gradient, active: taken.append(gradient)
    made.improve_on(steps, torch.ones(R, dtype=torch.bool))
    ours = made.parameters.split(taken[0])
    assert steps.mask is not None
    for r in range(R):
        real = steps.mask[r] > 0.0
        nets: list[Any] = [nn.Sequential(nn.Linear(D, 16), nn.Tanh(), nn.Linear(16, width)) for width in (K, 1)]
        policy, critic = nets
        with torch.no_grad():
            for which, net in enumerate((policy, critic)):
                for i, layer in enumerate((net[0], net[2])):
                    layer.weight.copy_(made.parameters.weights[f"weight_{i}"][r, which, :, : layer.out_features].T)
                    layer.bias.copy_(made.parameters.weights[f"bias_{i}"][r, which, 0, : layer.out_features])
        x = steps.observation[r, real]
        distribution = Categorical(logits=policy(x))
        ratio = (distribution.log_prob(steps.action[r, real, 0]) - steps.logp[r, real]).exp()
        advantage = steps.advantage[r, real]
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        surrogate = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        value, target, old = critic(x)[:, 0], steps.target[r, real], steps.value[r, real]
        error = (value - target) ** 2
        if value_clip_range is not None:
            error = torch.max(error, (old + (value - old).clamp(-0.1, 0.1) - target) ** 2)
        loss = -surrogate.mean() + 0.7 * 0.5 * error.mean() - 0.05 * distribution.entropy().mean()
        loss.backward()
        for which, net in enumerate((policy, critic)):
            for i, layer in enumerate((net[0], net[2])):
                weight, bias = ours[f"weight_{i}"][r, which], ours[f"bias_{i}"][r, which, 0]
                torch.testing.assert_close(weight[:, : layer.out_features], layer.weight.grad.T, atol=1e-6, rtol=1e-4)
                torch.testing.assert_close(bias[: layer.out_features], layer.bias.grad, atol=1e-6, rtol=1e-4)
                assert (weight[:, layer.out_features :] == 0.0).all()  # the value's net is as wide as the policy's, and reads one output


def test_a_seed_that_moved_too_far_stops_and_the_others_go_on():
    made = learner(target_kl=0.05)
    steps, active = steps_for(made, drift=0.0), torch.ones(R, dtype=torch.bool)
    far = steps.logp.clone()
    far[1] -= 1.0  # k3 of a log-ratio of 1 is e - 2, far beyond 1.5 x 0.05
    before = made.parameters.weights["weight_0"].clone()
    made.improve_on(replace(steps, logp=far), active)
    assert active.tolist() == [True, False, True]
    moved = [not torch.equal(made.parameters.weights["weight_0"][r], before[r]) for r in range(R)]
    assert moved == [True, False, True]
    made.improve_on(replace(steps, logp=steps.logp), active)  # near again, but its window is over
    assert torch.equal(made.parameters.weights["weight_0"][1], before[1]) and active.tolist() == [True, False, True]
    assert made.optimizers["policy and value"].steps.tolist() == [2.0, 0.0, 2.0]


def test_all_seeds_stopped_end_the_window():
    made, count = learner(target_kl=1e-9, epochs=50), []
    improve_on = made.improve_on
    made.improve_on = lambda batch, active: (count.append(1), improve_on(batch, active))[1]
    made.improve(steps_for(made, drift=0.5), Progress(0, 10))
    assert len(count) == 1
    made.improve(steps_for(made, drift=0.0), Progress(0, 10))
    assert 2 < len(count) < 50


def test_the_rate_falls_in_a_line_that_begins_at_the_first_window():
    made = learner(anneal=True, learning_rate=1.0)
    rates, window = [], made.experience(30, 2)
    no = torch.zeros(R, 2, dtype=torch.bool)
    for t in range(30):
        x = torch.full((R, 2, D), float(t))
        window.add(Transition(x, torch.zeros(R, 2, 1), torch.zeros(R, 2), x, x, no, no, ~no))
        if made.update(window, Progress(t + 1, 30)):
            rates.append(made.optimizers["policy and value"].learning_rate)
    assert rates == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    made = learner(learning_rate=0.5)
    made.improve(steps_for(made), Progress(29, 30))
    assert made.optimizers["policy and value"].learning_rate == 0.5


def test_the_first_policy_is_nearly_uniform_and_its_layers_are_orthogonal():
    made = PPO(Config(), box(5), Discrete(K), [Generator().manual_seed(0)])
    weights = made.parameters.weights
    assert weights["weight_0"].shape == (1, 2, 5, 64) and weights["weight_2"].shape == (1, 2, 64, K)
    for which in range(2):
        first, second, last = (weights[f"weight_{i}"][0, which] for i in range(3))
        torch.testing.assert_close(first @ first.T, 2.0 * torch.eye(5), atol=1e-5, rtol=0.0)
        torch.testing.assert_close(second @ second.T, 2.0 * torch.eye(64), atol=1e-5, rtol=0.0)
        torch.testing.assert_close(last.T @ last, (0.01**2 if which == 0 else 1.0) * torch.eye(K), atol=1e-5, rtol=0.0)
    assert all((weights[f"bias_{i}"] == 0.0).all() for i in range(3))
    parameters, _ = made.nets.policy(weights, torch.randn(1, 50, 5, generator=Generator().manual_seed(1)))
    assert (parameters.softmax(-1) - 1.0 / K).abs().max() < 0.02


@pytest.mark.parametrize("memory", ["none", "gru"])
def test_a_shared_body_learns_through_one_body(memory: Any):
    made = learner(shared=True, memory=memory)
    assert made.parameters.weights["weight_0"].shape == (R, D, 16) and made.parameters.weights["weight_1"].shape == (R, 16, K + 1)
    last = made.parameters.weights["weight_1"]
    assert last[..., :K].norm(dim=1).sub(0.01).abs().max() < 1e-5 and last[..., K].norm(dim=1).sub(1.0).abs().max() < 1e-5
    x = torch.randn(R, N, D, generator=Generator().manual_seed(2))
    starts, carry = torch.zeros(R, 1, N, dtype=torch.bool), made.nets.body.carry(N)
    given = (x[:, None], starts, carry) if memory == "gru" else (x,)
    policy, value, _ = made.nets.both(made.parameters.weights, *given)
    torch.testing.assert_close(policy, made.nets.policy(made.parameters.weights, *given)[0])
    torch.testing.assert_close(value, made.nets.value(made.parameters.weights, *given))


@pytest.mark.parametrize("changed", [dict(target_kl=0.1), dict(memory="gru")])
def test_what_cannot_be_compiled_is_refused(changed: dict[str, Any]):
    with pytest.raises(GameError, match="a compiled update of PPO knows neither memory nor target_kl"):
        learner(compile=True, **changed)
