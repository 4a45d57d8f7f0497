"""A2C's loss and step by hand and beside autograd of the paper's formula; what all on-policy learners promise is in test_on_policy.py."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from tutelage.experience.trajectory import Transition
from tutelage.games.spec import Box, Discrete
from tutelage.learn.deep.a2c import A2C, Config, a2c_loss
from tutelage.learn.learner import Progress

R, B, T, D, K = 2, 3, 4, 3, 3
SPACE = Box((D,), np.full(D, -np.inf, np.float32), np.full(D, np.inf, np.float32))


def one(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


def test_the_loss_by_hand():
    # -(-1 x 2) and -(-2 x -1): 2 - 2 = 0 over two; half the squared errors 2 and 0.5.
    given = (one(-1.0, -2.0), one(2.0, -1.0), one(3.0, 1.0), one(1.0, 2.0))
    assert a2c_loss(*given, None, None).item() == pytest.approx(0.0 + 1.25)
    assert a2c_loss(*given, one(0.5, 1.5), None, 0.5, 0.1).item() == pytest.approx(0.625 - 0.1)
    assert a2c_loss(*given, None, one(1.0, 0.0)).item() == pytest.approx(2.0 + 2.0)


def test_no_gradient_flows_through_the_advantage():
    logp, advantage = one(-1.0, -2.0).requires_grad_(), one(2.0, -1.0).requires_grad_()
    loss = a2c_loss(logp, advantage, one(0.0, 0.0), one(0.0, 0.0), None, None).sum()
    gradients = torch.autograd.grad(loss, (logp, advantage), allow_unused=True)
    assert gradients[0] is not None and gradients[0].tolist() == [[-1.0, 0.5]] and gradients[1] is None


def test_one_window_one_step_of_the_formula():
    """Returns written out: r_t + gamma r_t+1 + ... + gamma^n V(true successor), zero after a termination, cut at every boundary."""
    made = A2C(
        Config(hidden=(8,), window=T, discount=0.9, temperature=0.1), SPACE, Discrete(K), [Generator().manual_seed(r) for r in range(R)]
    )
    window, g = made.experience(100, B), Generator().manual_seed(7)
    rand = lambda *shape: torch.randn(R, B, *shape, generator=g)
    taken: list[Tensor] = []
    optimizer: Any = made.optimizers["policy and value"]
    optimizer.step = lambda gradient, active: taken.append(gradient)
    played: list[Transition] = []
    x = rand(D)
    for t in range(T):
        boundary, after = rand() < -0.5, rand(D)
        terminated = boundary & (rand() < 0.0)
        following = torch.where(boundary[..., None], rand(D), after)
        action = torch.randint(K, (R, B, 1), generator=g).float()
        played.append(Transition(x, action, rand(), after, following, terminated, boundary, torch.ones(R, B, dtype=torch.bool)))
        window.add(played[-1])
        made.update(window, Progress(t + 1, 100))
        x = following
    assert any(bool(s.boundary.any() and (s.boundary & ~s.terminated).any()) for s in played)
    leaves, total = made.parameters.leaves, torch.zeros(())
    value_of = lambda x, r: made.nets.value(leaves, x.expand(R, 1, D))[r, 0]
    for r in range(R):
        for b in range(B):
            for t in range(T):
                g_t, discount = torch.zeros(()), 1.0
                for s in range(t, T):
                    g_t = g_t + discount * played[s].reward[r, b]
                    discount *= 0.9
                    if played[s].boundary[r, b] or s == T - 1:
                        if not played[s].terminated[r, b]:
                            g_t = g_t + discount * value_of(played[s].successor[r, b], r).detach()
                        break
                step = played[t]
                logits = made.nets.policy(leaves, step.observation[r, b].expand(R, 1, D))[0][r, 0]
                logp = logits.log_softmax(-1)
                value = value_of(step.observation[r, b], r)
                advantage = (g_t - value).detach()
                entropy = -(logp.exp() * logp).sum()
                total = total + (-logp[int(step.action[r, b, 0])] * advantage + 0.5 * (value - g_t) ** 2 - 0.1 * entropy) / (T * B)
    slow = made.parameters.gather(torch.autograd.grad(total, list(leaves.values())))
    torch.testing.assert_close(taken[0], slow, atol=1e-5, rtol=1e-4)


def test_the_first_step_is_as_long_as_the_rate():
    """RMSProp whose second moment is corrected: g / sqrt(g^2) at first, where the plain one would take ten times that."""
    made = A2C(Config(hidden=(8,), learning_rate=0.1, epsilon=1e-12, max_grad_norm=1e9), SPACE, Discrete(K), [Generator().manual_seed(0)])
    before = made.parameters.flat.clone()
    gradient = torch.randn(before.shape, generator=Generator().manual_seed(1))
    optimizer = made.optimizers["policy and value"]
    optimizer.step(gradient)
    torch.testing.assert_close(before - made.parameters.flat, 0.1 * gradient.sign(), atol=1e-5, rtol=0.0)
    optimizer.step(2.0 * gradient)
    mean_square = (0.99 * 0.01 + 0.01 * 4.0) * gradient.square() / (1.0 - 0.99**2)
    torch.testing.assert_close(
        before - 0.1 * gradient.sign() - made.parameters.flat, 0.1 * 2.0 * gradient / mean_square.sqrt(), atol=1e-4, rtol=1e-4
    )
