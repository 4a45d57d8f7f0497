"""Meta-Reward-Net: the outer gradient against finite differences and the identity, and when a bilevel step is taken."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from tests.learn.preference.test_pebble import QUICK, Classroom
from tutelage.experience.trajectory import Batch
from tutelage.learn.preference import pebble as pebble_module
from tutelage.learn.preference.meta_reward_net import Config, meta_reward_net_loss, virtual_critic
from tutelage.nets.mlp import MLP
from tutelage.nets.parameters import Parameters
from tutelage.nets.training import Net

R, N, P, D, A = 2, 6, 4, 3, 2
RATE = 0.05


class Problem:
    """Two seeds, a critic of smooth nets, and a linear reward model, in double precision."""

    def __init__(self) -> None:
        g = Generator().manual_seed(0)
        draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)
        self.critic = MLP((D + A, 8, 1), (R, 2), activation="tanh")
        parameters = Parameters(self.critic.shapes())
        assert isinstance(self.critic, Net)
        self.critic.initialize(parameters, [Generator().manual_seed(i) for i in range(R)])
        self.weights = {name: weight.double().requires_grad_() for name, weight in parameters.weights.items()}
        terminated = torch.tensor([[True, *[False] * (N - 1)]] * R)
        self.batch = Batch(draw(R, N, D), draw(R, N, A), draw(R, N), draw(R, N, D), terminated, torch.ones(R, N))
        self.psi = draw(R, D + A).requires_grad_()
        self.future = draw(R, N)
        self.first_observation, self.first_action = draw(R, P, 2, D), draw(R, P, 2, A)
        self.label = torch.tensor([[1.0, 0.0, 0.5, 1.0], [0.0, 0.0, 1.0, 7.0]], dtype=torch.float64)
        self.weight = torch.tensor([[1.0] * 4, [1.0, 1.0, 1.0, 0.0]], dtype=torch.float64)

    def reward(self, psi: Tensor) -> Tensor:
        return (torch.cat([self.batch.observation, self.batch.action], -1) * psi[:, None]).sum(-1).tanh()

    def outer(self, psi: Tensor) -> Tensor:
        return meta_reward_net_loss(
            self.critic, self.weights, self.batch, self.reward(psi), self.future, self.first_observation, self.first_action,
            self.label, self.weight, RATE,
        )  # fmt: skip

    def q(self, weights: dict[str, Tensor], seed: int, head: int, observation: Tensor, action: Tensor) -> Tensor:
        net = {name: weight[seed, head] for name, weight in weights.items()}
        hidden = torch.tanh(torch.cat([observation, action], -1) @ net["weight_0"] + net["bias_0"])
        return (hidden @ net["weight_1"] + net["bias_1"]).squeeze(-1)


@pytest.mark.usefixtures("unchecked")
def test_the_outer_gradient_is_that_of_finite_differences():
    made = Problem()
    [gradient] = torch.autograd.grad(made.outer(made.psi).sum(), made.psi)
    assert gradient.abs().min() > 1e-6
    h = 1e-5
    for index in torch.cartesian_prod(torch.arange(R), torch.arange(D + A)).tolist():
        step = torch.zeros_like(made.psi)
        step[tuple(index)] = h
        difference = (made.outer(made.psi.detach() + step) - made.outer(made.psi.detach() - step)).sum().item() / (2.0 * h)
        assert gradient[tuple(index)].item() == pytest.approx(difference, abs=1e-8)


@pytest.mark.usefixtures("unchecked")
def test_the_outer_gradient_is_the_sum_of_products_of_gradients():
    """dL/dpsi = sum_i (2 alpha / B) (grad_theta' L . grad_theta Q(s_i, a_i)) dr/dpsi per head, in plain loops."""
    made = Problem()
    [gradient] = torch.autograd.grad(made.outer(made.psi).sum(), made.psi)
    expected = torch.zeros_like(made.psi)
    for seed in range(R):
        for head in range(2):
            target = (made.reward(made.psi)[seed] + made.future[seed]).detach()
            td = (made.q(made.weights, seed, head, made.batch.observation[seed], made.batch.action[seed]) - target).square().mean()
            steps = dict(zip(made.weights, torch.autograd.grad(td, list(made.weights.values())), strict=True))
            virtual = {name: (weight - RATE * steps[name]).detach().requires_grad_() for name, weight in made.weights.items()}
            rows = made.weight[seed] > 0
            values = made.q(virtual, seed, head, made.first_observation[seed, rows], made.first_action[seed, rows])
            p = torch.softmax(values, -1)[:, 0]
            y = made.label[seed, rows]
            outer = -(y * p.log() + (1.0 - y) * (1.0 - p).log()).mean()
            into = torch.autograd.grad(outer, list(virtual.values()))
            for i in range(N):
                q = made.q(made.weights, seed, head, made.batch.observation[seed, i], made.batch.action[seed, i])
                through = torch.autograd.grad(q, list(made.weights.values()))
                product = sum(float((a * b).sum()) for a, b in zip(into, through, strict=True))
                [dr] = torch.autograd.grad(made.reward(made.psi)[seed, i], made.psi)
                expected += 2.0 * RATE / N * product * dr
    torch.testing.assert_close(gradient, expected, atol=1e-10, rtol=1e-8)


@pytest.mark.usefixtures("unchecked")
def test_a_reward_that_is_detached_teaches_nothing():
    made = Problem()
    loss = meta_reward_net_loss(
        made.critic, made.weights, made.batch, made.reward(made.psi).detach(), made.future, made.first_observation, made.first_action,
        made.label, made.weight, RATE,
    )  # fmt: skip
    assert torch.autograd.grad(loss.sum(), made.psi, allow_unused=True) == (None,)


@pytest.mark.usefixtures("unchecked")
def test_the_virtual_step_is_plain_gradient_descent():
    made = Problem()
    loss = sum(weight.square().sum(dim=tuple(range(1, weight.dim()))) for weight in made.weights.values())
    assert isinstance(loss, Tensor)
    for name, weight in virtual_critic(made.weights, loss, 0.25).items():
        torch.testing.assert_close(weight, 0.5 * made.weights[name])  # Adam's first step would be 0.25 whatever the gradient


META = dataclasses.replace(QUICK, labels=14, session_labels=4, meta=Config(every=10))


class Watched:
    """Counts bilevel steps and what they were given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[tuple[int, int, Tensor]] = []
        inner = pebble_module.bilevel_step

        def bilevel_step(config, ensemble, sac, replay, comparisons, learned):
            before = sac.train.groups["critic"].parameters.flat.clone()
            loss = inner(config, ensemble, sac, replay, comparisons, learned)
            assert torch.equal(before, sac.train.groups["critic"].parameters.flat)  # the real critic has not moved
            self.steps.append((replay.steps, int((comparisons.weight[0] > 0).sum()), loss))
            return loss

        monkeypatch.setattr(pebble_module, "bilevel_step", bilevel_step)


@pytest.mark.usefixtures("unchecked")
def test_bilevel_steps_come_every_n_steps_after_the_first_fit_until_the_budget_is_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    watched = Watched(monkeypatch)
    room = Classroom(tmp_path, META).run(160)
    assert room.sessions == [(70, [6, 6]), (100, [10, 10]), (130, [14, 14])]
    assert [step for step, _, _ in watched.steps] == [70, 80, 90, 100, 110, 120]
    assert [labels for _, labels, _ in watched.steps] == [4] * 6  # of the newest session only
    relabeled = room.pebble.ensemble.reward(room.replay.observations(), room.replay.actions())
    torch.testing.assert_close(room.replay.reward[:, : relabeled.shape[1]], relabeled, atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("unchecked")
def test_a_bilevel_step_relabels_all_of_memory_and_a_real_update_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    watched = Watched(monkeypatch)
    room = Classroom(tmp_path, META).run(79)
    before, critic = room.pebble.ensemble.parameters.flat.clone(), room.group("critic").parameters.flat.clone()
    updates = room.pebble.sac.train.updates
    room.run(1)
    assert watched.steps[-1][0] == 80 and not torch.equal(before, room.pebble.ensemble.parameters.flat)
    assert room.pebble.sac.train.updates == updates + 1 and not torch.equal(critic, room.group("critic").parameters.flat)
    rewards = room.pebble.ensemble.reward(room.replay.observations(), room.replay.actions())
    torch.testing.assert_close(room.replay.reward[:, : rewards.shape[1]], rewards, atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("unchecked")
def test_bilevel_steps_lower_the_outer_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """On one problem that stands still: the reward model learns to give the critic the opinions of the rater."""
    made = Problem()
    optimizer = torch.optim.SGD([made.psi], lr=1.0)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = made.outer(made.psi).sum()
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 1e-3 and losses == sorted(losses, reverse=True)
