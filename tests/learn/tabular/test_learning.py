"""Learning in tables: the planners' numbers from experience alone."""

from typing import Any

import pytest
import torch
from torch.nn.functional import one_hot

from tutelage.equations.dynamic_programming import policy_value
from tutelage.experience.rollout import Rollout
from tutelage.games.finite import mdp_from_outcomes, random_mdp
from tutelage.games.finite_game import FiniteGame
from tutelage.games.grids import lecture_grid
from tutelage.games.spec import Box, Discrete, GameError
from tutelage.learn.learner import Learner, Progress
from tutelage.learn.tabular import monte_carlo, q_learning, sarsa, td_lambda
from tutelage.learn.tabular.policy_evaluation import uniform_policy
from tutelage.learn.tabular.table import Table, draw, epsilon_greedy
from tutelage.learn.tabular.value_iteration import Config, ValueIteration

CONTROL: list[Any] = [
    (q_learning.QLearning, q_learning.Config),
    (sarsa.Sarsa, sarsa.Config),
    (sarsa.Sarsa, lambda **x: sarsa.Config(expected=True, **x)),
    (monte_carlo.MonteCarlo, monte_carlo.Config),
]
ALL: list[Any] = [*CONTROL, (td_lambda.TDLambda, lambda **x: td_lambda.Config(trace_lambda=0.7, **x))]

pytestmark = pytest.mark.usefixtures("unchecked")


def generators(members, first=0):
    return [torch.Generator().manual_seed(first + r) for r in range(members)]


def build(kind: Any, config, game, members=1, first=0, **more) -> Any:
    return kind(config, game.observation_space, game.action_space, generators(members, first), **more)


class Run:
    """What a run does with a learner."""

    def __init__(self, learner, mdp, members=1, copies=1, first=0, max_steps=None):
        self.learner = learner
        seeds = [100 * (first + r) + b for r in range(members) for b in range(copies)]
        self.rollout = Rollout(FiniteGame(mdp, members * copies, max_steps), members, seeds)
        self.experience = learner.experience(10**9, copies)
        self.metrics: dict[str, torch.Tensor] = {}

    def go(self, steps, total=None, first=0):
        for t in range(first, first + steps):
            rollout, planned = self.rollout, total or steps
            action = self.learner.behave(rollout.observation, rollout.starts, rollout.legal, Progress(t, planned))
            self.experience.add(rollout.step(action))
            self.metrics = self.learner.update(self.experience, Progress(t + 1, planned)) or self.metrics
        return self


def garnet(seed=0, states=6):
    """Values lie between 0.7 and 5; the tests below allow for the noise of a few thousand samples of each entry."""
    return random_mdp(states, 2, 3, torch.Generator().manual_seed(seed), ending=0.2)


def best(world, discount=0.9):
    planner = ValueIteration(Config(discount=discount), world)
    while not planner.finished:
        planner.sweep()
    return planner


def greedy_return(learner: Any, mdp, seed=0, discount=0.9):
    """Exact value of the greedy policy from the start."""
    observation = torch.eye(mdp.states).expand(len(learner.generators), -1, -1)
    legal = None if mdp.legal is None else mdp.legal.expand(len(learner.generators), -1, -1)
    action = learner.act(observation, deterministic=True, legal=legal)[seed, :, 0].long()
    value = policy_value(mdp.expected_reward(), mdp.transition(), one_hot(action, mdp.actions).double(), discount)
    return float(mdp.start @ value)


@pytest.mark.parametrize(("kind", "config"), CONTROL)
def test_the_greedy_policy_becomes_optimal(kind, config):
    mdp = garnet()
    optimum = float(mdp.start @ best(mdp).value)
    learner = build(kind, config(), FiniteGame(mdp, 1), members=2)
    assert isinstance(learner, Learner)
    Run(learner, mdp, members=2, copies=16).go(300)
    for seed in range(2):
        assert greedy_return(learner, mdp, seed) == pytest.approx(optimum, rel=0.02)


def test_q_learning_finds_the_optimal_values_while_it_acts_at_random():
    mdp = garnet()
    config = q_learning.Config(exploration_end=1.0)
    learner = build(q_learning.QLearning, config, FiniteGame(mdp, 1))
    Run(learner, mdp, copies=256).go(400)
    torch.testing.assert_close(learner.table.values[0], best(mdp).action_values(), atol=0.25, rtol=0)


@pytest.mark.parametrize("expected", [False, True])
def test_sarsa_finds_what_the_random_policy_is_worth(expected):
    mdp = garnet()
    config = sarsa.Config(expected=expected, exploration_end=1.0)
    learner = build(sarsa.Sarsa, config, FiniteGame(mdp, 1))
    Run(learner, mdp, copies=256).go(400)
    value = policy_value(mdp.expected_reward(), mdp.transition(), uniform_policy(mdp), 0.9)
    q = mdp.expected_reward() + 0.9 * (mdp.transition() @ value).view(2, 6).T
    torch.testing.assert_close(learner.table.values[0], q, atol=0.16, rtol=0)


@pytest.mark.parametrize("first_visit", [False, True])
def test_monte_carlo_averages_returns(first_visit):
    mdp = garnet()
    config = monte_carlo.Config(first_visit=first_visit, rate_power=1.0, exploration_end=1.0)
    learner = build(monte_carlo.MonteCarlo, config, FiniteGame(mdp, 1))
    Run(learner, mdp, copies=128).go(300)
    value = policy_value(mdp.expected_reward(), mdp.transition(), uniform_policy(mdp), 0.9)
    q = mdp.expected_reward() + 0.9 * (mdp.transition() @ value).view(2, 6).T
    torch.testing.assert_close(learner.table.values[0], q, atol=0.15, rtol=0)


@pytest.mark.parametrize("trace_lambda", [0.0, 0.7])
def test_td_finds_what_a_policy_is_worth(trace_lambda):
    mdp = garnet()
    table = torch.rand(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64).softmax(1)
    for policy in (None, table):
        learner = build(td_lambda.TDLambda, td_lambda.Config(trace_lambda=trace_lambda), FiniteGame(mdp, 1), policy=policy)
        Run(learner, mdp, copies=256).go(300)
        value = policy_value(mdp.expected_reward(), mdp.transition(), uniform_policy(mdp) if policy is None else policy, 0.9)
        torch.testing.assert_close(learner.values[0], value, atol=0.16, rtol=0)


def test_q_learning_solves_the_lectures_grid():
    grid = lecture_grid(slip=0.2)
    learner = build(q_learning.QLearning, q_learning.Config(), FiniteGame(grid.mdp, 1))
    Run(learner, grid.mdp, copies=32).go(600)
    at = grid.state
    assert greedy_return(learner, grid.mdp) == pytest.approx(float(best(grid).value[at(1, 1)]), rel=0.02)
    assert float(learner.table.values[0, at(4, 3)].amax()) == pytest.approx(1.0)


# --- the updates, by hand ------------------------------------------------------------------------------------------------


def corridor(length=3):
    """Action 1 goes right and pays 1 at every step, action 0 stays and pays nothing; the last step right ends the episode."""

    def outcomes(state: int, action: int):
        if action == 0:
            return [(1.0, state, 0.0, False)]
        return [(1.0, min(state + 1, length - 1), 1.0, state == length - 1)]

    start = torch.zeros(length, dtype=torch.float64)
    start[0] = 1.0
    return mdp_from_outcomes(length, 2, outcomes, start)


RIGHT = torch.tensor([[0.0, 1.0]] * 3)


def test_td_zero_and_traces_by_hand():
    """Learning rate 0.5, discount 0.5, always to the right, from zeros."""
    for trace_lambda, after in ((0.0, [0.5, 0.5, 0.5]), (1.0, [0.5 + 0.25 + 0.125, 0.5 + 0.25, 0.5])):
        config = td_lambda.Config(trace_lambda=trace_lambda, learning_rate=0.5, rate_power=0.0, discount=0.5)
        learner = build(td_lambda.TDLambda, config, FiniteGame(corridor(), 1), policy=RIGHT)
        Run(learner, corridor()).go(3)
        # Every step has the error 1; with lambda = 1 it reaches back 0.5 a step.
        assert learner.values[0].tolist() == after
        # The second episode: V(0) sees V(1), and no trace of the first episode.
        Run.go(run := Run(learner, corridor()), 1)
        assert float(learner.values[0, 0]) == pytest.approx(after[0] + 0.5 * (1 + 0.5 * after[1] - after[0]))
        assert run.metrics["error"].shape == (1,)


def test_replacing_and_accumulating_traces():
    trace = torch.tensor([[[0.75, 0.5]]]).double()
    state, no, yes = torch.tensor([[0]]), torch.tensor([[False]]), torch.tensor([[True]])
    assert td_lambda.decay_traces(trace, state, no, 0.5, False).tolist() == [[[1.375, 0.25]]]
    assert td_lambda.decay_traces(trace, state, no, 0.5, True).tolist() == [[[1.0, 0.25]]]
    assert td_lambda.decay_traces(trace, state, yes, 0.5, False).tolist() == [[[1.0, 0.0]]]


def test_errors_by_hand():
    q, r = torch.tensor([[1.0]]).double(), torch.tensor([[2.0]]).double()
    next_q = torch.tensor([[[4.0, 8.0]]]).double()
    going, over = torch.tensor([[False]]), torch.tensor([[True]])
    legal = torch.tensor([[[True, False]]])
    assert q_learning.q_learning_error(q, next_q, r, going, None, 0.5).item() == 2 + 4 - 1
    assert q_learning.q_learning_error(q, next_q, r, going, legal, 0.5).item() == 2 + 2 - 1
    assert q_learning.q_learning_error(q, next_q, r, over, None, 0.5).item() == 1
    policy = torch.tensor([[[0.75, 0.25]]]).double()
    assert sarsa.sarsa_error(q, next_q, policy, r, going, 0.5).item() == 2 + 2.5 - 1
    assert td_lambda.td_error(q, q, r, over, 0.5).item() == 1


def test_a_time_limit_bootstraps_and_an_end_does_not():
    """One state that pays 1 for ever, cut after two steps: worth 1 / (1 - 0.5) = 2 all the same."""
    endless = mdp_from_outcomes(1, 1, lambda s, a: [(1.0, 0, 1.0, False)], torch.ones(1, dtype=torch.float64))
    for kind, config in ALL:
        learner = build(kind, config(discount=0.5, learning_rate=0.5, rate_power=0.0), FiniteGame(endless, 1))
        Run(learner, endless, max_steps=2).go(60)
        values = learner.values if isinstance(learner, td_lambda.TDLambda) else learner.table.values
        assert float(values.flatten()[0]) == pytest.approx(2.0, abs=1e-3)


def test_monte_carlo_counts_first_visits():
    entry = torch.tensor([3, 1, 3, 3, 1, 2])
    assert monte_carlo.first_visits(entry).tolist() == [True, True, False, False, False, True]
    # Two steps in one state, then the end: returns 1 + 0.5 and 1; first visit 1.5, every visit their mean.
    twice = mdp_from_outcomes(1, 1, lambda s, a: [(0.5, 0, 1.0, True), (0.5, 0, 1.0, False)], torch.ones(1, dtype=torch.float64))
    for first_visit, expected in ((True, 1.5), (False, 1.25)):
        config = monte_carlo.Config(first_visit=first_visit, rate_power=1.0, discount=0.5)
        for seed in range(50):
            learner = build(monte_carlo.MonteCarlo, config, FiniteGame(twice, 1))
            run = Run(learner, twice, first=seed).go(1)
            if not run.rollout.starts.any() and run.go(1).rollout.starts.all():
                assert float(learner.table.values) == expected
                break
        else:
            raise AssertionError("no episode of two steps")


def test_long_episodes_are_kept_whole():
    """More steps than the first 64 places: the return of the first step still knows the last reward."""
    mdp = corridor(200)
    policy = torch.tensor([[0.0, 1.0]] * 200)
    learner = build(monte_carlo.MonteCarlo, monte_carlo.Config(discount=1.0), FiniteGame(mdp, 1))
    learner._policy = lambda state, legal, progress: policy[state].double()
    Run(learner, mdp).go(200)
    assert float(learner.table.values[0, 0, 1]) == 200.0
    short = build(monte_carlo.MonteCarlo, monte_carlo.Config(longest_episode=50), FiniteGame(mdp, 1))
    with pytest.raises(GameError, match="an episode has not ended after 50 steps"):
        Run(short, mdp).go(100)


def test_sarsa_plays_what_it_planned():
    mdp = garnet()
    learner = build(sarsa.Sarsa, sarsa.Config(), FiniteGame(mdp, 1), members=2)
    run = Run(learner, mdp, members=2, copies=4)
    for t in range(60):
        run.go(1, total=100, first=t)
        planned, starts = learner._planned, run.rollout.starts
        assert planned is not None
        action = learner.behave(run.rollout.observation, starts, None, Progress(t + 1, 100))
        assert torch.equal(action[..., 0].long()[~starts], planned[~starts])


def test_missing_actions_are_neither_played_nor_hoped_for():
    def outcomes(state: int, action: int):
        # Action 1 would be better than any other but is only there in state 0, where it ends.
        if action == 1:
            return [(1.0, 0, -1.0, True)] if state == 0 else []
        return [(1.0, 1 - state, -1.0, False)]

    mdp = mdp_from_outcomes(2, 2, outcomes, torch.tensor([0.5, 0.5], dtype=torch.float64))
    assert mdp.legal is not None
    for kind, config in CONTROL:
        learner = build(kind, config(), FiniteGame(mdp, 1))
        Run(learner, mdp, copies=8).go(200)
        assert float(learner.table.counts[0, 1, 1]) == 0.0
        assert learner.act(torch.eye(2)[None], legal=mdp.legal[None])[0, :, 0].tolist() == [1.0, 0.0]
        assert float(learner.table.values[0, 1, 0]) == pytest.approx(-1.9, abs=0.25)  # with exploration a little less


# --- tables ----------------------------------------------------------------------------------------------------------------


def test_a_table_of_rate_one_over_n_is_a_mean():
    table = Table(1, 2, 1, 1.0, 1.0)
    samples = torch.tensor([3.0, 5.0, 10.0, -2.0]).double()
    for part in (samples[:3], samples[3:]):
        table.learn(torch.zeros(len(part), dtype=torch.int64), part - table.values[0, 0, 0])
    assert table.values.flatten().tolist() == [4.0, 0.0] and table.counts.flatten().tolist() == [4.0, 0.0]
    constant = Table(1, 2, 1, 0.25, 0.0)
    constant.learn(torch.tensor([1, 1, 0]), torch.tensor([2.0, 4.0, 1.0]).double())
    assert constant.values.flatten().tolist() == [0.25, 1.5]
    constant.learn(torch.zeros(8, dtype=torch.int64), torch.ones(8).double())
    assert constant.values.flatten().tolist() == [1.25, 1.5]  # eight moves at once are never more than the whole error


def test_epsilon_greedy_by_hand():
    q = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 5.0, 9.0]]]).double()
    assert epsilon_greedy(q, 0.3, None)[0, 0].tolist() == pytest.approx([0.45, 0.45, 0.1])
    legal = torch.tensor([[[True, True, True], [True, True, False]]])
    assert epsilon_greedy(q, 0.2, legal)[0, 1].tolist() == pytest.approx([0.1, 0.9, 0.0])
    with pytest.raises(GameError, match="no action is legal in copy 1 of seed 0"):
        epsilon_greedy(q, 0.2, legal & torch.tensor([[True], [False]]))


def test_draws_follow_the_policy():
    policy = torch.tensor([0.0, 0.3, 0.0, 0.7, 0.0]).double().expand(1, 20_000, 5)
    counts = torch.bincount(draw(policy, generators(1))[0], minlength=5) / 20_000
    assert counts[[0, 2, 4]].sum() == 0 and float(counts[1]) == pytest.approx(0.3, abs=0.015)


# --- every learner -----------------------------------------------------------------------------------------------------------


def everything(learner) -> list[Any]:
    """All tensors of a learner's state."""

    def walk(value):
        if isinstance(value, dict):
            return [leaf for name in sorted(value) for leaf in walk(value[name])]
        return [leaf for entry in value for leaf in walk(entry)] if isinstance(value, list) else [value]

    return walk(learner.state())


def assert_same(a: Any, b: Any):
    for x, y in zip(everything(a), everything(b), strict=True):
        assert x is y is None or torch.equal(x, y)


def values_of(learner):
    return learner.values if isinstance(learner, td_lambda.TDLambda) else learner.table.values


@pytest.mark.parametrize(("kind", "config"), ALL)
def test_one_seed_one_result(kind, config):
    mdp = garnet()
    a, b, c = (build(kind, config(), FiniteGame(mdp, 1), first=first) for first in (0, 0, 1))
    for learner, first in ((a, 0), (b, 0), (c, 1)):
        Run(learner, mdp, copies=2, first=first).go(100)
    assert_same(a, b)
    assert not torch.equal(values_of(a), values_of(c))


@pytest.mark.parametrize(("kind", "config"), ALL)
def test_stacked_seeds_are_single_ones(kind, config):
    mdp = garnet()
    stacked = build(kind, config(), FiniteGame(mdp, 1), members=3)
    Run(stacked, mdp, members=3, copies=2).go(150)
    for r in range(3):
        single = build(kind, config(), FiniteGame(mdp, 1), first=r)
        Run(single, mdp, copies=2, first=r).go(150)
        torch.testing.assert_close(values_of(stacked)[r], values_of(single)[0], atol=1e-12, rtol=0)
    assert list(stacked.frozen()["table"].tolist()) == [False] * 3


@pytest.mark.parametrize(("kind", "config"), ALL)
def test_a_resumed_learner_has_the_same_bits(kind, config):
    mdp = garnet()
    whole = Run(build(kind, config(), FiniteGame(mdp, 1), members=2), mdp, members=2, copies=3).go(120, total=200)
    half = Run(build(kind, config(), FiniteGame(mdp, 1), members=2), mdp, members=2, copies=3).go(50, total=200)
    saved, world, counted = half.learner.state(), half.rollout.state(), half.experience.state()
    saved = _copied(saved)
    half.go(5, total=200, first=50)  # what goes on does not reach into what was saved
    resumed = Run(build(kind, config(), FiniteGame(mdp, 1), members=2, first=7), mdp, members=2, copies=3, first=9)
    resumed.learner.load(saved)
    assert resumed.rollout.load(world) == []
    resumed.experience.load(counted, [], 1)
    resumed.rollout.legal = None
    resumed.go(70, total=200, first=50)
    assert_same(whole.learner, resumed.learner)
    assert resumed.experience.steps == 120


def _copied(value):
    if isinstance(value, dict):
        return {name: _copied(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_copied(entry) for entry in value]
    return value.clone() if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize(("kind", "config"), ALL)
def test_spaces_without_a_table_are_refused(kind, config):
    box = Box((2,), torch.zeros(2).numpy(), torch.ones(2).numpy())
    for spaces in ((box, Discrete(2)), (Discrete(2), box)):
        with pytest.raises(GameError, match="a row for each state and a column for each action"):
            kind(config(), *spaces, generators(1))
    with pytest.raises(GameError, match="learning_rate"):
        kind(config(learning_rate=0.0), Discrete(2), Discrete(2), generators(1))
