"""The six weights by enumeration; what all on-policy learners promise is in test_on_policy.py."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from tutelage.experience.trajectory import Transition
from tutelage.games.spec import Box, Discrete, GameError
from tutelage.learn.deep.on_policy import Recorded
from tutelage.learn.deep.policy_gradient import WEIGHTS, Config, PolicyGradient, policy_gradient_loss, total_return
from tutelage.learn.learner import Progress

R, B, T, D, K = 2, 3, 6, 3, 3
SPACE = Box((D,), np.full(D, -np.inf, np.float32), np.full(D, np.inf, np.float32))


def one(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


def test_the_loss_by_hand():
    assert policy_gradient_loss(one(-1.0, -2.0), one(3.0, 0.5), None).item() == pytest.approx(2.0)
    assert policy_gradient_loss(one(-1.0, -2.0), one(3.0, 0.5), one(0.0, 1.0)).item() == pytest.approx(1.0)


def test_the_total_return_is_that_of_the_first_step_of_the_episode():
    to_go = torch.tensor([5.0, 4.0, 3.0, 9.0, 8.0, 7.0])[:, None]
    ends = torch.tensor([False, False, True, False, False, False])[:, None]
    assert total_return(to_go, ends)[:, 0].tolist() == [5.0, 5.0, 5.0, 9.0, 9.0, 9.0]
    assert total_return(to_go, torch.ones_like(ends))[:, 0].tolist() == to_go[:, 0].tolist()
    assert total_return(to_go, torch.zeros_like(ends))[:, 0].tolist() == [5.0] * 6


class Tree:
    """Two states, two actions, two steps, chance at each: every path with its probability under a softmax policy with logits `theta`."""

    def __init__(self) -> None:
        g = Generator().manual_seed(3)
        draw = lambda *shape: torch.rand(*shape, generator=g, dtype=torch.float64)
        self.theta = (2.0 * draw(2, 2, 2) - 1.0).requires_grad_()  # by time, state, action
        self.reward = 4.0 * draw(2, 2, 2) + 3.0  # by time, state, action; far from 0, as a baseline wants it
        self.go = draw(2, 2)  # probability of state 1 after (state, action)
        self.start = 0.3  # of state 1

    def paths(self) -> Any:
        """(probability, states, actions) with the gradient of log pi of each step, `[2, 8]`."""
        logp = self.theta.log_softmax(-1)
        for s0, a0, s1, a1 in itertools.product(range(2), repeat=4):
            going = self.go[s0, a0] if s1 else 1.0 - self.go[s0, a0]
            p = (self.start if s0 else 1.0 - self.start) * logp[0, s0, a0].exp() * going * logp[1, s1, a1].exp()
            scores = [
                torch.autograd.grad(logp[t, s, a], self.theta, retain_graph=True)[0].flatten() for t, s, a in ((0, s0, a0), (1, s1, a1))
            ]
            yield p.detach(), (s0, s1), (a0, a1), torch.stack(scores)

    def exact(self) -> tuple[Tensor, Tensor]:
        """Q and V by time and state."""
        pi = self.theta.detach().softmax(-1)
        q1 = self.reward[1]
        v1 = (pi[1] * q1).sum(-1)
        q0 = self.reward[0] + self.go * v1[1] + (1.0 - self.go) * v1[0]
        return torch.stack([q0, q1]), torch.stack([(pi[0] * q0).sum(-1), v1])


def test_all_weights_have_the_same_expectation_and_the_better_informed_ones_vary_less():
    """By enumeration, with exact Q and V and no discount: the gradient of J, and the variance of each estimate of it."""
    tree, config = Tree(), Config(discount=1.0, gae_lambda=0.6)
    q, v = tree.exact()
    estimates: dict[str, list[Tensor]] = {name: [] for name in (*WEIGHTS, "q", "advantage")}
    probabilities: list[Tensor] = []
    for p, states, actions, scores in tree.paths():
        reward = torch.stack([tree.reward[t, states[t], actions[t]] for t in range(2)])
        value = torch.stack([v[t, states[t]] for t in range(2)])
        column = lambda *numbers: torch.stack([torch.as_tensor(x) for x in numbers])[:, None, None]
        ended = column(False, True)
        recorded = Recorded(reward[:, None, None], value[:, None, None], column(value[1], torch.tensor(0.0).double()), ended, ended)
        to_go = column(reward[0] + reward[1], reward[1])
        weights = {name: weigh(recorded, to_go, config)[:, 0, 0] for name, weigh in WEIGHTS.items()}
        weights["q"] = torch.stack([q[t, states[t], actions[t]] for t in range(2)])
        weights["advantage"] = weights["q"] - value
        probabilities.append(p)
        for name, weight in weights.items():
            estimates[name].append((scores * weight[:, None]).sum(0))
    p = torch.stack(probabilities)
    assert p.sum().item() == pytest.approx(1.0)
    # J itself: the value of the first state, differentiated.
    pi = tree.theta.softmax(-1)
    v1 = (pi[1] * tree.reward[1]).sum(-1)
    v0 = (pi[0] * (tree.reward[0] + tree.go * v1[1] + (1.0 - tree.go) * v1[0])).sum(-1)
    (exact,) = torch.autograd.grad(0.7 * v0[0] + 0.3 * v0[1], tree.theta)
    variance: dict[str, float] = {}
    for name, estimate in estimates.items():
        stacked = torch.stack(estimate)
        mean = (p[:, None] * stacked).sum(0)
        torch.testing.assert_close(mean, exact.flatten(), atol=1e-12, rtol=1e-12, msg=name)
        variance[name] = float((p[:, None] * (stacked - mean).square()).sum())
    assert variance["total_return"] > variance["reward_to_go"] > variance["q"] > variance["advantage"]
    assert variance["reward_to_go"] > variance["baseline"] > variance["gae"] > variance["td_residual"] > variance["advantage"]


def learner(weight: str, **changed: Any) -> Any:
    config = Config(weight=weight, hidden=(8,), window=T, critic_steps=2, discount=0.8, gae_lambda=0.5)  # pyright: ignore[reportArgumentType]
    return PolicyGradient(replace(config, **changed), SPACE, Discrete(K), [Generator().manual_seed(r) for r in range(R)])


@pytest.mark.parametrize("weight", [*WEIGHTS, "q", "advantage"])
def test_each_weight_of_a_window_by_a_slow_loop(weight: str):
    """What log pi is multiplied by: from the values before the critics' steps; for Q, after them."""
    made = learner(weight, standardize_weight=False)
    window, g = made.experience(100, B), Generator().manual_seed(5)
    rand = lambda *shape: torch.randn(R, B, *shape, generator=g)
    value_of = lambda x: made.nets.value(made.parameters.weights, x.expand(R, 1, D))[:, 0].detach()
    played: list[Transition] = []
    x = rand(D)
    for _ in range(T):
        boundary, after = rand() < -0.6, rand(D)
        terminated = boundary & (rand() < 0.0)
        following = torch.where(boundary[..., None], rand(D), after)
        action = torch.randint(K, (R, B, 1), generator=g).float()
        played.append(Transition(x, action, rand(), after, following, terminated, boundary, torch.ones(R, B, dtype=torch.bool)))
        x = following
    expected = torch.zeros(R, T, B)
    for r, b in itertools.product(range(R), range(B)):
        at = lambda t, r=r, b=b: played[t]
        v = [float(value_of(at(t).observation[r, b])[r]) for t in range(T)]
        after = [0.0 if at(t).terminated[r, b] else float(value_of(at(t).successor[r, b])[r]) for t in range(T)]
        reward = [float(at(t).reward[r, b]) for t in range(T)]
        cut = [bool(at(t).boundary[r, b]) or t == T - 1 for t in range(T)]
        to_go, gae = [0.0] * (T + 1), [0.0] * (T + 1)
        for t in reversed(range(T)):
            to_go[t] = reward[t] + 0.8 * (after[t] if cut[t] else to_go[t + 1])
            gae[t] = reward[t] + 0.8 * after[t] - v[t] + (0.0 if cut[t] else 0.8 * 0.5 * gae[t + 1])
        first = 0
        for t in range(T):
            expected[r, t, b] = {
                "total_return": to_go[first], "reward_to_go": to_go[t], "baseline": to_go[t] - v[t],
                "td_residual": reward[t] + 0.8 * after[t] - v[t], "gae": gae[t],
            }.get(weight, 0.0)  # fmt: skip
            first = t + 1 if cut[t] else first
    weighed: list[Tensor] = []
    descend = made.descend

    def spy(name: str, loss: Tensor, active: None = None) -> None:
        if name == "policy":  # d loss / d log pi = -w / N, found through the logits' gradient
            weighed.append(loss)
        descend(name, loss)

    made.descend = spy
    given: list[Any] = []
    improve = made.improve
    made.improve = lambda steps, progress: (given.append(steps), improve(steps, progress))[1]
    for t, step in enumerate(played):
        window.add(step)
        made.update(window, Progress(t + 1, 100))
    (steps,) = given
    logits = made.nets.policy(made.parameters.weights, steps.observation)[0]
    assert logits.shape == (R, T * B, K) and len(weighed) == 1
    if weight in WEIGHTS:
        torch.testing.assert_close(steps.advantage.view(R, T, B), expected, atol=1e-5, rtol=1e-4)
        used = steps.advantage
    else:
        assert made.q is not None
        pairs = torch.cat([steps.observation, torch.nn.functional.one_hot(steps.action[..., 0].long(), K)], -1)
        used = made.q(made.optimizers["q"].parameters.weights, pairs)[..., 0]
        used = used - made.nets.value(made.parameters.weights, steps.observation) if weight == "advantage" else used
    torch.testing.assert_close(weighed[0], -(steps.logp * used).mean(1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("weight", ["gae", "q", "advantage"])
def test_critics_regress_on_the_reward_to_go(weight: str):
    made = learner(weight, critic_steps=600, critic_learning_rate=1e-2, learning_rate=0.0)
    window, g = made.experience(100, B), Generator().manual_seed(5)
    no, yes = torch.zeros(R, B, dtype=torch.bool), torch.ones(R, B, dtype=torch.bool)
    states, actions = torch.eye(D)[torch.randint(D, (T, R, B), generator=g)], torch.randint(K, (T, R, B, 1), generator=g).float()
    paid = lambda t: states[t, ..., 0] + 2.0 * actions[t, ..., 0]
    before = made.parameters.weights["weight_0"][:, 0].clone()
    for t in range(T):  # episodes of one step: the reward to go is the reward
        window.add(Transition(states[t], actions[t], paid(t), states[t], states[t], yes, yes, ~no))
        metrics = made.update(window, Progress(t + 1, 100))
    assert torch.equal(made.parameters.weights["weight_0"][:, 0], before)
    if made.q is not None:
        pairs = torch.cat([states, torch.nn.functional.one_hot(actions[..., 0].long(), K)], -1).transpose(0, 1).flatten(1, 2)
        q = made.q(made.optimizers["q"].parameters.weights, pairs)[..., 0]
        torch.testing.assert_close(q, torch.stack([paid(t) for t in range(T)], 1).flatten(1), atol=0.1, rtol=0.0)
    value = made.nets.value(made.parameters.weights, states.transpose(0, 1).flatten(1, 2))
    target = torch.stack([paid(t) for t in range(T)], 1).flatten(1)
    seen = states.transpose(0, 1).flatten(1, 2).argmax(-1)
    mean = torch.stack([torch.stack([target[r][seen[r] == s].mean() for s in seen[r]]) for r in range(R)])
    torch.testing.assert_close(value, mean, atol=0.1, rtol=0.0)
    assert metrics["loss/value"].isfinite().all()


def test_what_a_critic_of_actions_cannot_read_is_refused():
    with pytest.raises(GameError, match='weight="q" needs vectors and no memory'):
        learner("q", memory="gru")
    image = Box((1, 40, 40), np.zeros((1, 40, 40), np.uint8), np.full((1, 40, 40), 255, np.uint8), "uint8")
    with pytest.raises(GameError, match='weight="advantage" needs vectors and no memory'):
        PolicyGradient(Config(weight="advantage"), image, Discrete(2), [Generator()])
