"""The theory behind the trust region, by enumeration of a small world: nothing is sampled, nothing is estimated."""

import math

import pytest
import torch

from tutelage.equations.divergences import kl_categorical
from tutelage.equations.dynamic_programming import occupancy, policy_value
from tutelage.equations.trust_region import advantages, performance_difference, surrogate, surrogate_error_bound
from tutelage.games.finite import mdp_from_outcomes, random_mdp

GAMMA = 0.9


class World:
    """A random MDP with all that two policies need."""

    def __init__(self, seed=0, states=6, actions=3):
        g = torch.Generator().manual_seed(seed)
        mdp = random_mdp(states, actions, 3, g)
        self.reward, self.transition, self.start = mdp.expected_reward(), mdp.transition().to_dense(), mdp.start
        self.theta = torch.randn(states, actions, generator=g, dtype=torch.float64)
        self.direction = torch.randn(states, actions, generator=g, dtype=torch.float64)
        self.old = self.theta.softmax(1)
        self.visits = occupancy(self.old, self.transition, self.start, GAMMA)
        self.advantage = advantages(self.reward, self.transition, self.old, GAMMA)

    def performance(self, policy):
        return self.start @ policy_value(self.reward, self.transition, policy, GAMMA)

    def drift(self, step):
        """How far the surrogate is from the truth after a step, the mean and the largest KL, and the surrogate."""
        theta = self.theta + step * self.direction
        new = theta.softmax(1)
        promised = surrogate(self.visits, self.old, new, self.advantage)
        kl = kl_categorical(self.theta, theta)
        gained = self.performance(new) - self.performance(self.old)
        return gained - promised, kl, promised


@pytest.mark.parametrize("seed", range(5))
def test_the_performance_difference_identity(seed):
    world = World(seed)
    for step in (0.1, 1.0, 5.0):
        new = (world.theta + step * world.direction).softmax(1)
        visits = occupancy(new, world.transition, world.start, GAMMA)
        difference = performance_difference(visits, new, world.advantage)
        torch.testing.assert_close(difference, world.performance(new) - world.performance(world.old), atol=1e-10, rtol=0)
    torch.testing.assert_close(performance_difference(world.visits, world.old, world.advantage), torch.tensor(0.0).double())


def test_the_identity_by_summing_over_time():
    """E sum_t gamma^t A(s_t, a_t), step by step instead of by a linear solve."""
    world = World()
    new = (world.theta + world.direction).softmax(1)
    here, total = world.start.clone(), 0.0
    P = torch.einsum("sa,ast->st", new, world.transition.view(3, 6, 6))
    for t in range(400):
        total += GAMMA**t * float(here @ (new * world.advantage).sum(1))
        here = here @ P
    assert total == pytest.approx(float(world.performance(new) - world.performance(world.old)), abs=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_the_surrogates_gradient_at_the_old_policy_is_the_policy_gradient(seed):
    world = World(seed)
    theta = world.theta.clone().requires_grad_()
    (of_surrogate,) = torch.autograd.grad(surrogate(world.visits, world.old, theta.softmax(1), world.advantage), theta)
    (of_performance,) = torch.autograd.grad(world.performance(theta.softmax(1)), theta)
    torch.testing.assert_close(of_surrogate, of_performance, atol=1e-12, rtol=0)
    # The theorem as it is written: sum_s d(s) sum_a grad pi(a|s) A(s, a), for a softmax d(s) pi(a|s) A(s, a).
    torch.testing.assert_close(of_performance, world.visits[:, None] * world.old * world.advantage, atol=1e-12, rtol=0)
    assert float(of_performance.abs().amax()) > 0.01
    # Away from the old policy the two part.
    theta = (world.theta + world.direction).requires_grad_()
    (of_surrogate,) = torch.autograd.grad(surrogate(world.visits, world.old, theta.softmax(1), world.advantage), theta)
    (of_performance,) = torch.autograd.grad(world.performance(theta.softmax(1)), theta)
    assert (of_surrogate - of_performance).abs().amax() > 0.01


def test_the_surrogate_drifts_in_proportion_to_the_kl():
    """Small steps: promise is of first order in the step, drift and KL of second, so that drift / KL settles on a number."""
    world = World()
    steps = [0.02 / 2**i for i in range(4)]
    drifts, promises, kls = zip(*[(float(d.abs()), float(p.abs()), float(kl.mean())) for d, kl, p in map(world.drift, steps)], strict=True)
    for i in range(3):
        assert math.log2(drifts[i] / drifts[i + 1]) == pytest.approx(2.0, abs=0.05)
        assert math.log2(kls[i] / kls[i + 1]) == pytest.approx(2.0, abs=0.05)
        assert math.log2(promises[i] / promises[i + 1]) == pytest.approx(1.0, abs=0.05)
    ratios = [drift / kl for drift, kl in zip(drifts, kls, strict=True)]
    assert ratios[-1] == pytest.approx(ratios[-2], rel=0.02) and ratios[-1] > 1e-3


@pytest.mark.parametrize("seed", range(5))
def test_the_drift_stays_below_its_bound(seed):
    world = World(seed)
    last = 0.0
    for step in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0):
        drift, kl, _ = world.drift(step)
        bound = surrogate_error_bound(world.advantage, kl.amax(), GAMMA)
        assert abs(float(drift)) <= float(bound)
        assert float(kl.amax()) > last
        last = float(kl.amax())


def test_a_trust_region_is_needed():
    """The policy that is best for the surrogate alone promises more than it gains; within a small KL the promise is kept."""
    for seed in range(30):
        world = World(seed)
        best = torch.nn.functional.one_hot(world.advantage.argmax(1), 3).double()
        promised = float(surrogate(world.visits, world.old, best, world.advantage))
        gained = float(world.performance(best) - world.performance(world.old))
        theta = world.theta.clone().requires_grad_()
        (world.direction,) = torch.autograd.grad(world.performance(theta.softmax(1)), theta)
        drift, _, small = world.drift(0.01)
        assert promised > 0 and gained > 0
        assert abs(float(drift)) < 0.05 * float(small)
        if abs(gained - promised) > 0.3 * promised:
            return
    raise AssertionError("no world in which the surrogate misleads")


def test_missing_actions_change_nothing():
    def outcomes(state, action):
        return [] if (state, action) == (0, 1) else [(1.0, 1 - state, float(action + 1), False)]

    mdp = mdp_from_outcomes(2, 2, outcomes, torch.tensor([0.5, 0.5], dtype=torch.float64))
    old, new = (torch.tensor([[1.0, 0.0], [p, 1.0 - p]], dtype=torch.float64) for p in (0.3, 0.8))
    reward, transition = mdp.expected_reward(), mdp.transition()
    advantage = advantages(reward, transition, old, GAMMA)
    value = [mdp.start @ policy_value(reward, transition, policy, GAMMA) for policy in (old, new)]
    visits = occupancy(new, transition, mdp.start, GAMMA)
    torch.testing.assert_close(performance_difference(visits, new, advantage), value[1] - value[0])
    # In this world every policy visits alike, so that the surrogate is exact.
    torch.testing.assert_close(surrogate(visits, old, new, advantage), value[1] - value[0])
    assert torch.isfinite(surrogate_error_bound(advantage, torch.tensor(0.1).double(), GAMMA))
