"""TRPO's solver, Fisher matrix and search against explicit ones; what all on-policy learners promise is in test_on_policy.py."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from tutelage.experience.steps import Steps
from tutelage.games.spec import Box, Discrete, Space
from tutelage.learn.deep.trpo import TRPO, Config, conjugate_gradient, trpo_loss
from tutelage.learn.learner import Progress

R, N, D, K = 3, 40, 3, 3


def box(width: int) -> Box:
    return Box((width,), np.full(width, -np.inf, np.float32), np.full(width, np.inf, np.float32))


def learner(space: Space | None = None, **changed: Any) -> TRPO:
    config = replace(Config(hidden=(5,), window=8, value_epochs=2, batch_size=16), **changed)
    made = TRPO(config, box(D), space or Discrete(K), [Generator().manual_seed(r) for r in range(R)])
    g = Generator().manual_seed(99)
    made.parameters.flat.add_(0.3 * torch.randn(made.parameters.flat.shape, generator=g))  # a policy with an opinion
    return made


def steps_for(made: TRPO, seed: int = 0, masked: bool = False) -> Steps:
    g = Generator().manual_seed(seed)
    rand = lambda *shape: torch.randn(R, N, *shape, generator=g)
    observation = rand(D)
    with torch.no_grad():
        parameters, value, _ = made.nets.both(made.parameters.weights, observation)
        action = made.nets.head.sample(parameters, [g] * R)
        logp = made.nets.head.log_prob(parameters, action)
    mask = (torch.rand(R, N, generator=g) < 0.7).float() if masked else None
    return Steps(observation, action, parameters, logp, value, rand(), rand(), mask, None, None, None)


def one(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


def test_the_loss_by_hand():
    # Ratios 2 and 1/2 with advantages 3 and -1: the mean of 6 and -1/2.
    given = (one(np.log(2.0), -np.log(2.0)), one(0.0, 0.0), one(3.0, -1.0))
    assert trpo_loss(*given, None).item() == pytest.approx(-2.75)
    assert trpo_loss(*given, one(0.0, 1.0)).item() == pytest.approx(0.5)


def test_conjugate_gradients_solve_each_row_for_itself():
    g = Generator().manual_seed(0)
    root = torch.randn(4, 6, 6, generator=g, dtype=torch.float64)
    matrix = root @ root.mT + torch.eye(6, dtype=torch.float64)
    matrix[2] = 3.0 * torch.eye(6)  # done after one step
    b = torch.randn(4, 6, generator=g, dtype=torch.float64)
    b[3] = 0.0  # done before the first
    product = lambda x: (matrix @ x.unsqueeze(-1)).squeeze(-1)
    x = conjugate_gradient(product, b, 6, tolerance=1e-24)
    torch.testing.assert_close(x, torch.linalg.solve(matrix, b), atol=1e-8, rtol=1e-8)
    assert (x[3] == 0.0).all()
    for r in range(4):
        alone = conjugate_gradient(lambda v, r=r: v @ matrix[r], b[r : r + 1], 6, tolerance=1e-24)
        torch.testing.assert_close(alone[0], x[r], atol=1e-10, rtol=1e-10)
    # After k steps the error is the smallest of the Krylov space, in the norm of A: it falls with every step.
    errors = [((e := conjugate_gradient(product, b, k) - torch.linalg.solve(matrix, b)) * product(e)).sum(-1) for k in range(6)]
    assert all((later <= earlier + 1e-12).all() for earlier, later in pairwise(errors))


def fisher_of(made: TRPO, steps: Steps, r: int) -> Tensor:
    """E_s E_a [grad log pi (grad log pi)^T], the sum over all actions written out."""
    leaves = list(made.parameters.leaves.values())
    weight = torch.ones(N) if steps.mask is None else steps.mask[r]
    total = torch.zeros(0)
    for i in range(N):
        logp = made.policy(made.parameters.leaves, steps)[r, i].log_softmax(-1)
        for a in range(K):
            gradient = torch.autograd.grad(logp[a], leaves, retain_graph=True, materialize_grads=True)
            row = torch.cat([x[r].reshape(-1) for x in gradient])
            total = (total if len(total) else torch.zeros(len(row), len(row))) + weight[i] * logp[a].detach().exp() * torch.outer(row, row)
    return total / weight.sum()


@pytest.mark.parametrize("masked", [False, True])
def test_the_step_is_the_natural_gradient_scaled_to_the_bound(masked: bool):
    made = learner(damping=0.01, solver_steps=200, tries=1, target_kl=1e-5)
    steps, damping = steps_for(made, masked=masked), 0.01
    searched: list[Tensor] = []
    made._search = lambda steps, advantage, step, loss: (searched.append(step), torch.ones(R))[1]
    made.improve_policy(steps)
    leaves = list(made.parameters.leaves.values())
    for r in range(R):
        matrix = fisher_of(made, steps, r)
        matrix = matrix + damping * torch.eye(len(matrix))
        mask = torch.ones(N) if steps.mask is None else steps.mask[r]
        advantage = steps.advantage[r]
        mean = (advantage * mask).sum() / mask.sum()
        std = (((advantage - mean).square() * mask).sum() / (mask.sum() - 1.0)).sqrt()
        logp = made.policy(made.parameters.leaves, steps)[r].log_softmax(-1).gather(-1, steps.action[r].long())[:, 0]
        gradient = torch.autograd.grad((logp * (advantage - mean) / std * mask).sum() / mask.sum(), leaves, materialize_grads=True)
        ascent = torch.cat([x[r].reshape(-1) for x in gradient])
        natural = torch.linalg.solve(matrix, ascent)
        expected = natural * (2.0 * 1e-5 / (natural @ matrix @ natural)).sqrt()
        torch.testing.assert_close(searched[0][r], expected, atol=2e-5, rtol=1e-2)


@pytest.mark.parametrize("space", [Discrete(K), box(2)], ids=["discrete", "reals"])
def test_an_accepted_step_is_better_and_keeps_the_bound(space: Space):
    made = learner(space, target_kl=0.02)
    steps = steps_for(made, masked=True)
    assert steps.mask is not None
    before = {name: weight.clone() for name, weight in made.parameters.weights.items()}
    taken = made.improve_policy(steps)
    assert (taken > 0.0).all()
    parameters = made.policy(made.parameters.weights, steps)
    divergence = (made.nets.head.kl(steps.parameters, parameters) * steps.mask).sum(1) / steps.mask.sum(1)
    assert (divergence <= 0.02).all() and (divergence > 0.002).all()
    ratio = (made.nets.head.log_prob(parameters, steps.action) - steps.logp).exp()
    advantage = steps.advantage - ((steps.advantage * steps.mask).sum(1) / steps.mask.sum(1))[:, None]
    assert ((ratio * advantage * steps.mask).sum(1) > 0.0).all()
    for name in ("weight_0", "bias_0", "weight_1", "bias_1"):  # the value's half has not moved by a bit
        assert torch.equal(made.parameters.weights[name][:, 1], before[name][:, 1])
        assert not torch.equal(made.parameters.weights[name][:, 0], before[name][:, 0])


def test_a_seed_that_finds_no_step_keeps_its_policy_and_the_others_move():
    made = learner()
    steps = steps_for(made)
    steps.advantage[1] = 0.0  # nothing to gain, and no direction
    before = made.parameters.weights["weight_0"].clone()
    taken = made.improve_policy(steps)
    assert (taken > 0.0).tolist() == [True, False, True]
    moved = [not torch.equal(made.parameters.weights["weight_0"][r], before[r]) for r in range(R)]
    assert moved == [True, False, True]


def test_a_step_is_shrunk_until_it_is_accepted_or_given_up():
    made = learner(shrink=0.5, tries=6, solver_steps=10)
    steps = steps_for(made)
    old = {name: weight.clone() for name, weight in made.parameters.weights.items()}
    loss_of = lambda: trpo_loss(
        made.nets.head.log_prob(made.policy(made.parameters.leaves, steps), steps.action), steps.logp, steps.advantage, None
    )
    gradient = made._back(loss_of())
    scale = torch.tensor([3.0, -3.0, 0.05])[:, None]  # far too long, uphill, short
    step = -gradient / gradient.norm(dim=1, keepdim=True) * scale
    taken = made._search(steps, steps.advantage, step, loss_of().detach())
    assert taken[0] < 1.0 and taken[0] > 0.0 and np.log2(float(taken[0])) % 1.0 == 0.0
    assert taken[1] == 0.0 and taken[2] == 1.0
    rows = made._rows(list(made.parameters.weights.values()))
    torch.testing.assert_close(rows, made._rows(list(old.values())) + taken[:, None] * step, atol=1e-6, rtol=0.0)
    assert torch.equal(rows[1], made._rows(list(old.values()))[1])


def test_the_values_steps_leave_the_policy_alone():
    made = learner()
    steps = steps_for(made)
    made.improve_policy = lambda steps: torch.ones(R)
    before = {name: weight.clone() for name, weight in made.parameters.weights.items()}
    error = lambda: (made.value(made.parameters.weights, steps) - steps.target).square().mean(1)
    worse = error()
    assert made.improve(steps, Progress(0, 1))["step_taken"].tolist() == [1.0] * R
    for name, weight in made.parameters.weights.items():
        assert torch.equal(weight[:, 0], before[name][:, 0]) and not torch.equal(weight[:, 1], before[name][:, 1])
    assert (error() < worse).all()
