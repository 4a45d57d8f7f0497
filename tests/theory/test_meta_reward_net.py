"""Meta-Reward-Net's rate: the smallest outer gradient among T steps falls at least as fast as T^(-1/2).

Liu et al. 2022, theorem 1: with alpha = min(1, c1 / T) of the critic and beta = min(1 / L, c2 / sqrt(T)) of the reward model,
min_k ||grad_psi L||^2 = O(1 / sqrt(T)). The bound is for the worst smooth problem and noisy gradients; on one problem, with batches drawn
anew at every step, the slope of log min_k ||grad||^2 against log T is measured and may only be steeper.
"""

import math

import torch
from torch import Generator

from tests.learn.preference.test_meta_reward_net import Problem
from tutelage.experience.trajectory import Batch
from tutelage.learn.deep.sac import critic_loss, twin_values
from tutelage.learn.preference.meta_reward_net import meta_reward_net_loss, virtual_critic

TIMES = (16, 32, 64, 128, 256)


def smallest_gradient(T: int, seed: int) -> float:
    """min_k ||grad_psi L||^2 over T steps from the same start: of both, the critic's step and the reward model's."""
    made, g = Problem(), Generator().manual_seed(seed)
    psi, weights = made.psi.detach().clone().requires_grad_(), made.weights
    alpha, beta = min(1.0, 4.0 / T), min(1.0, 4.0 / math.sqrt(T))
    found = math.inf
    for _ in range(T):
        rows = torch.randint(6, (6,), generator=g)
        whole = made.batch
        drawn = (whole.observation, whole.action, whole.reward, whole.next_observation, whole.terminated)
        batch = Batch(*(x[:, rows] for x in drawn), mask=whole.mask)
        reward = (torch.cat([batch.observation, batch.action], -1) * psi[:, None]).sum(-1).tanh()
        future = made.future[:, rows]
        loss = meta_reward_net_loss(
            made.critic, weights, batch, reward, future, made.first_observation, made.first_action, made.label, made.weight, alpha
        )
        [gradient] = torch.autograd.grad(loss.sum(), psi)
        found = min(found, float(gradient.square().sum()) / alpha**2)  # the virtual step scales it by alpha, which falls with T
        psi = (psi - beta * gradient / alpha).detach().requires_grad_()
        td = 2.0 * critic_loss(twin_values(made.critic, weights, batch.observation, batch.action), (reward + future).detach(), batch.mask)
        stepped = virtual_critic(weights, td, alpha)
        weights = {name: weight.detach().requires_grad_() for name, weight in stepped.items()}
    return found


def test_the_outer_gradient_falls_at_the_promised_rate():
    norms = torch.tensor([[smallest_gradient(T, seed) for T in TIMES] for seed in range(4)], dtype=torch.float64)
    x = torch.tensor(TIMES, dtype=torch.float64).log()
    y = norms.log().mean(0)
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    print(f"log-log slope of the smallest squared outer gradient against T: {slope:.2f} (promised: -0.5 or steeper)")
    assert slope < -0.5
