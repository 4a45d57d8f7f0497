"""Planning against the lecture's numbers, hand computation and linear solves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import one_hot

from tutelage.equations.dynamic_programming import action_values, policy_value
from tutelage.games.finite import mdp_from_outcomes, random_mdp
from tutelage.games.grids import lecture_grid, random_grid
from tutelage.games.spec import GameError
from tutelage.learn.tabular import modified_policy_iteration as mpi
from tutelage.learn.tabular import policy_evaluation as pe
from tutelage.learn.tabular import policy_iteration as pi
from tutelage.learn.tabular import q_value_iteration as qvi
from tutelage.learn.tabular import value_iteration as vi
from tutelage.learn.tabular.sweeps import Planner, arrays_of
from tutelage.learn.tabular.value_iteration import value_iteration

UP, RIGHT, DOWN, LEFT = range(4)


def plan(planner):
    while not planner.finished:
        planner.sweep()
        assert planner.sweeps < 5000
    return planner


def garnet(seed=0, ending=0.1):
    return random_mdp(12, 3, 4, torch.Generator().manual_seed(seed), ending)


def ladder():
    """Three states; going up is not possible in the last, stepping down not in the first; it ends above."""

    def outcomes(state: int, action: int):
        if action == 0:
            return [(1.0, min(state + 1, 2), [0.0, 0.0, 5.0][state], state == 2)]
        return [(0.5, state - 1, 1.0, False), (0.5, state, 1.0, False)] if state else []

    return mdp_from_outcomes(3, 2, outcomes, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))


def optimal(mdp, discount):
    """V* by trying: value iteration names a policy, one linear solve prices it, and no action is better than its price."""
    policy = plan(vi.ValueIteration(vi.Config(discount=discount), mdp)).policy
    reward, transition = mdp.expected_reward(), mdp.transition()
    value = policy_value(reward, transition, one_hot(policy, mdp.actions).double(), discount)
    torch.testing.assert_close(action_values(reward, transition, value, discount).amax(1), value, atol=1e-12, rtol=0)
    return value


PLANNERS = [
    (vi.ValueIteration, vi.Config),
    (qvi.QValueIteration, qvi.Config),
    (pi.PolicyIteration, pi.Config),
    (pi.PolicyIteration, lambda **x: pi.Config(evaluation="sweeps", **x)),
    (mpi.ModifiedPolicyIteration, mpi.Config),
    (mpi.ModifiedPolicyIteration, lambda **x: mpi.Config(evaluation_sweeps=0, **x)),
]


def test_the_lectures_deterministic_grid():
    """Discount 1, horizon 100: V*(4,3) = V*(3,3) = V*(2,3) = V*(1,1) = 1, V*(4,2) = -1."""
    grid = lecture_grid(slip=0.0)
    values, policies = value_iteration(grid, horizon=100, discount=1.0)
    last = values[-1]
    for cell, expected in (((4, 3), 1.0), ((3, 3), 1.0), ((2, 3), 1.0), ((1, 1), 1.0), ((4, 2), -1.0)):
        assert float(last[grid.state(*cell)]) == expected
    assert int(policies[1][grid.state(3, 3)]) == RIGHT  # two steps left; with more, every way that arrives is as good
    assert values.shape == (101, 11) and policies.shape == (100, 11)


def test_the_lectures_noisy_grid_by_hand():
    """0.8 ahead, 0.1 to either side, discount 0.9; V_0, ..., V_3 with pencil and paper.

    V_1: an exit pays by its exit action, everything else is one step away from anything: V_1(3,3) = 0.
    V_2(3,3) = 0.9 x 0.8 x 1 = 0.72, to the right.
    V_3(3,3) = 0.9 (0.8 x 1 + 0.1 x V_2(3,3) + 0.1 x V_2(3,2)) = 0.9 (0.8 + 0.072) = 0.7848: the slip upwards is a bump and stays.
    V_3(2,3) = 0.9 x 0.8 x 0.72 = 0.5184.
    V_3(3,2) = 0.9 (0.8 x 0.72 + 0.1 x 0 - 0.1 x 1) = 0.4284, upwards: its left is the wall, its right the pit.
    """
    grid = lecture_grid(slip=0.2)
    values, policies = value_iteration(grid, horizon=3, discount=0.9)
    assert values[0].tolist() == [0.0] * 11
    by_hand = {
        1: {(4, 3): 1.0, (4, 2): -1.0},
        2: {(4, 3): 1.0, (4, 2): -1.0, (3, 3): 0.72},
        3: {(4, 3): 1.0, (4, 2): -1.0, (3, 3): 0.7848, (2, 3): 0.5184, (3, 2): 0.4284},
    }
    for k, cells in by_hand.items():
        expected = torch.zeros(11, dtype=torch.float64)
        for cell, value in cells.items():
            expected[grid.state(*cell)] = value
        torch.testing.assert_close(values[k], expected, atol=1e-12, rtol=0)
    assert [int(policies[k][grid.state(3, 3)]) for k in (1, 2)] == [RIGHT, RIGHT]
    assert int(policies[2][grid.state(3, 2)]) == UP and int(policies[2][grid.state(2, 3)]) == RIGHT


@pytest.mark.parametrize(("planner", "config"), PLANNERS)
def test_the_fixed_point_is_a_linear_solve(planner, config):
    for world, discount in ((lecture_grid(slip=0.2), 0.9), (garnet(), 0.95), (garnet(ending=0.2), 1.0), (ladder(), 0.8)):
        mdp = arrays_of(world)
        found = plan(planner(config(discount=discount), world))
        expected = optimal(mdp, discount)
        assert isinstance(found, Planner)
        # At discount 1 a small change bounds nothing: the last changes shrink by a fifth each and add up to five times the tolerance.
        torch.testing.assert_close(found.value, expected, atol=1e-10 if discount < 1.0 else 1e-9, rtol=0)
        q = action_values(mdp.expected_reward(), mdp.transition(), expected, discount)
        assert (q.gather(1, found.policy[:, None])[:, 0] >= expected - 1e-8).all()


def test_a_map_and_its_arrays_give_the_same_sweeps():
    for slip in (0.0, 0.3, 1.0):
        grid = random_grid(11, 8, walls=0.25, pits=3, slip=slip, step_reward=-0.02, seed=5)
        on_map, on_arrays = vi.ValueIteration(vi.Config(), grid), vi.ValueIteration(vi.Config(), grid.mdp)
        q = qvi.QValueIteration(qvi.Config(), grid)
        for _ in range(30):
            change = on_map.sweep()
            assert change == pytest.approx(on_arrays.sweep(), abs=1e-12)
            q.sweep()
            torch.testing.assert_close(on_map.value, on_arrays.value, atol=1e-12, rtol=0)
            torch.testing.assert_close(on_map.action_values(), on_arrays.action_values(), atol=1e-12, rtol=0)
            torch.testing.assert_close(q.value, on_map.value, atol=1e-12, rtol=0)


def test_bands_of_rows_are_seamless(monkeypatch):
    grid = random_grid(9, 13, walls=0.2, seed=1)
    whole = vi.ValueIteration(vi.Config(), grid)
    monkeypatch.setattr("tutelage.learn.tabular.sweeps.BAND", 27)  # bands of three rows
    banded = vi.ValueIteration(vi.Config(), grid)
    for _ in range(20):
        assert whole.sweep() == banded.sweep()
    assert torch.equal(whole.value, banded.value)


# In a process of its own: the compiler cannot look through the checks of shapes that pytest wraps every function in.
COMPILED = """
import torch
from tutelage.games.grids import random_grid
from tutelage.learn.tabular.value_iteration import Config, ValueIteration

grid = random_grid(20, 10, walls=0.2, seed=1)
eager, compiled = ValueIteration(Config(), grid), ValueIteration(Config(compile=True), grid)
for _ in range(20):
    assert abs(eager.sweep() - compiled.sweep()) < 1e-12
torch.testing.assert_close(eager.value, compiled.value, atol=1e-12, rtol=0)
print(float(compiled.value.amax()))
"""


def test_a_compiled_sweep_is_the_same():
    path = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, env=path)
    assert done.stdout.strip() == "1.0", done.stderr


def test_finite_horizons_by_trying_every_plan():
    """V_k of a three-state world, against the best of all action sequences of a world without chance."""
    from itertools import product

    def outcomes(state: int, action: int):
        return [(1.0, (state + action + 1) % 3, [[1.0, -2.0], [0.5, 3.0], [0.0, -1.0]][state][action], False)]

    mdp = mdp_from_outcomes(3, 2, outcomes, torch.full((3,), 1 / 3, dtype=torch.float64))
    values, _ = value_iteration(mdp, horizon=5, discount=0.7)
    for k in range(6):
        for start in range(3):
            best = -1e9
            for plan_ in product(range(2), repeat=k):
                state, total = start, 0.0
                for t, action in enumerate(plan_):
                    ((_, after, reward, _),) = outcomes(state, action)
                    total, state = total + 0.7**t * reward, after
                best = max(best, total)
            assert float(values[k][start]) == pytest.approx(best, abs=1e-12)


def test_the_soft_fixed_point():
    """V = alpha log sum exp(Q / alpha), and the policy softmax(Q / alpha) earns it with its entropy counted."""
    mdp, alpha = garnet(), 0.3
    planner = plan(vi.ValueIteration(vi.Config(discount=0.9, temperature=alpha), mdp))
    value = planner.value
    q = action_values(mdp.expected_reward(), mdp.transition(), value, 0.9)
    torch.testing.assert_close(value, alpha * torch.logsumexp(q / alpha, 1), atol=1e-9, rtol=0)
    policy = torch.softmax(q / alpha, 1)
    with_bonus = mdp.expected_reward() - alpha * policy.log()
    torch.testing.assert_close(policy_value(with_bonus, mdp.transition(), policy, 0.9), value, atol=1e-9, rtol=0)
    assert (value > plan(vi.ValueIteration(vi.Config(discount=0.9), mdp)).value).all()
    on_grid = plan(vi.ValueIteration(vi.Config(temperature=alpha), lecture_grid()))
    assert float(on_grid.value[lecture_grid().state(4, 3)]) == pytest.approx(1.0 + alpha * torch.tensor(4.0).log().item())


@pytest.mark.parametrize("world", [garnet(), ladder(), lecture_grid()])
def test_evaluation_by_sweeps_and_by_solve(world):
    mdp = arrays_of(world)
    table = torch.rand(mdp.states, mdp.actions, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    table = table if mdp.legal is None else table * mdp.legal
    for policy in (None, table / table.sum(1, keepdim=True)):
        swept = plan(pe.PolicyEvaluation(pe.Config(discount=0.9), world, policy))
        solved = plan(pe.PolicyEvaluation(pe.Config(method="solve", discount=0.9), world, policy))
        torch.testing.assert_close(swept.value, solved.value, atol=1e-10, rtol=0)
        assert solved.sweeps == 1 < swept.sweeps
    for bad, sentence in ((torch.ones(mdp.states, mdp.actions), "summing to 1"), (torch.ones(1, 1), "summing to 1")):
        with pytest.raises(GameError, match=sentence):
            pe.PolicyEvaluation(pe.Config(), world, bad)


def test_a_policy_cannot_take_what_is_missing():
    table = torch.full((3, 2), 0.5)
    with pytest.raises(GameError, match="takes an action that state 0 does not have"):
        pe.PolicyEvaluation(pe.Config(), ladder(), table)


def test_sweeps_of_evaluation_are_finite_horizons():
    mdp = garnet(ending=0.0)
    planner = pe.PolicyEvaluation(pe.Config(discount=0.9, horizon=2), mdp)
    plan(planner)
    r, P = mdp.expected_reward().mean(1), mdp.transition().to_dense().view(3, 12, 12).mean(0)
    torch.testing.assert_close(planner.value, r + 0.9 * P @ r)


def test_policy_iteration_takes_fewer_steps_than_value_iteration():
    mdp = garnet()
    counts = [plan(planner(config(discount=0.99), mdp)).sweeps for planner, config in (PLANNERS[0], PLANNERS[4], PLANNERS[2])]
    assert counts[0] > 5 * counts[1] and counts[2] < 10


def test_every_improvement_is_one():
    planner = pi.PolicyIteration(pi.Config(discount=0.95), garnet(3))
    last = None
    while not planner.finished:
        planner.sweep()
        assert last is None or (planner.value >= last - 1e-12).all()
        last = planner.value


def test_single_precision_stops_where_rounding_does():
    for planner, config in (*PLANNERS[:2], *PLANNERS[4:]):
        found = plan(planner(config(discount=0.99, precision="float32"), garnet()))
        assert found.value.dtype == torch.float32
        torch.testing.assert_close(found.value.double(), optimal(garnet(), 0.99), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(("planner", "config"), [*PLANNERS, (pe.PolicyEvaluation, pe.Config)])
def test_a_resumed_plan_has_the_same_bits(planner, config):
    for world in (lecture_grid(), ladder()):
        whole, half = planner(config(), world), planner(config(), world)
        half.sweep()
        state = half.state()
        json.dumps(state, default=lambda tensor: tensor.tolist())  # plain values and tensors only
        resumed = planner(config(), world)
        resumed.load({key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in state.items()})
        plan(whole)
        plan(resumed)
        assert (whole.sweeps, whole.finished) == (resumed.sweeps, resumed.finished)
        assert torch.equal(whole.value, resumed.value) and torch.equal(whole.policy, resumed.policy)


def test_settings_that_make_no_sense():
    world = lecture_grid()
    for planner, config in PLANNERS:
        with pytest.raises(GameError, match="discount=1.5 and tolerance"):
            planner(config(discount=1.5), world)
    with pytest.raises(GameError, match="horizon=0 was given"):
        vi.ValueIteration(vi.Config(horizon=0), world)
    with pytest.raises(GameError, match="temperature=-1"):
        vi.ValueIteration(vi.Config(temperature=-1.0), world)
    with pytest.raises(GameError, match="a linear solve takes at most 10000"):
        pi.PolicyIteration(pi.Config(), random_grid(110, 110, walls=0.0))
    with pytest.raises(ValueError, match="can play on for ever"):
        plan(pi.PolicyIteration(pi.Config(discount=1.0), garnet(ending=0.0)))
