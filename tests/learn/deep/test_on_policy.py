"""The promises that every on-policy learner makes, for each of them."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from tutelage.equations.dynamic_programming import policy_value
from tutelage.experience.rollout import Rollout
from tutelage.experience.trajectory import Transition
from tutelage.experience.trees import pack, unpack
from tutelage.experience.window import Window
from tutelage.games.finite import random_mdp
from tutelage.games.spec import Box, DictSpace, Discrete, Game, GameError, MultiDiscrete, Nested, Space, Step, TupleSpace
from tutelage.learn.deep import a2c, policy_gradient, ppo, trpo
from tutelage.learn.learner import Learner, Progress
from tutelage.nets.recurrent import Carry

R, B, D, T, CHOICES = 3, 4, 4, 6, 5


def box(width: int, bound: float = math.inf) -> Box:
    return Box((width,), np.full(width, -bound, np.float32), np.full(width, bound, np.float32))


SMALL: dict[str, Any] = dict(hidden=(16,), window=T)
KINDS: dict[str, tuple[Any, Any]] = {
    "ppo": (ppo.PPO, ppo.Config(**SMALL, epochs=2, batch_size=8, temperature=0.01, value_clip_range=0.2, learning_rate=1e-2)),
    "a2c": (a2c.A2C, a2c.Config(**SMALL, temperature=0.01, learning_rate=1e-2)),
    "trpo": (trpo.TRPO, trpo.Config(**SMALL, value_epochs=2, batch_size=8)),
    "vpg": (policy_gradient.PolicyGradient, policy_gradient.Config(**SMALL, critic_steps=3, learning_rate=1e-2)),
}
ACTIONS: dict[str, Space] = {
    "discrete": Discrete(CHOICES),
    "reals": box(2, 1.0),
    "nested": DictSpace((("steer", TupleSpace((box(1, 1.0), MultiDiscrete((2, 3))))), ("shout", Discrete(2)))),
}
WIDTHS = {"discrete": (1, CHOICES), "reals": (2, 0), "nested": (4, 7)}
every = pytest.mark.parametrize("kind", KINDS)
with_and_without_memory = pytest.mark.parametrize("memory", ["none", "gru", "lstm"])


def learner(kind: str, seeds: Sequence[int] = (1, 2, 3), actions: str = "discrete", **changed: Any) -> Any:
    made, config = KINDS[kind]
    return made(replace(config, **changed), box(D), ACTIONS[actions], [Generator().manual_seed(seed) for seed in seeds])


class Numbers:
    """A game of random numbers for R x B copies: what happens does not depend on what is done."""

    def __init__(self, seed: int = 0, actions: str = "discrete", masked: float = 0.3, ends: float = 0.3) -> None:
        self.g, self.masked, self.ends = Generator().manual_seed(seed), masked, ends
        self.choices = WIDTHS[actions][1]
        self.observation, self.starts, self.legal = self.rand(D), torch.ones(R, B, dtype=torch.bool), self.allowed()

    def rand(self, *shape: int) -> Tensor:
        return 2.0 * torch.rand(R, B, *shape, generator=self.g) - 1.0

    def allowed(self) -> Tensor | None:
        if not self.choices:
            return None
        legal = self.rand(self.choices) > -0.5
        legal[..., [0, 2, 5] if self.choices == 7 else 0] = True
        return legal

    def step(self, action: Tensor) -> Transition:
        boundary = self.rand() < 2.0 * self.ends - 1.0
        # What is not real is what a world spends on its reset: it follows the end of an episode.
        mask = ~(self.starts & (self.rand() < 2.0 * self.masked - 1.0))
        terminated, successor = boundary & (self.rand() < 0.0), self.rand(D)
        following = torch.where(boundary[..., None], self.rand(D), successor)
        reward, legal = self.rand(), self.allowed()
        made = Transition(self.observation, action, reward, successor, following, terminated, boundary, mask, self.legal, legal)
        self.observation, self.starts, self.legal = following, boundary, legal
        return made


def part(step: Transition, members: slice) -> Transition:
    fields: Any = [None if getattr(step, n) is None else getattr(step, n)[members] for n in Transition.__slots__]
    return Transition(*fields)


def play(
    made: Any, window: Window, game: Numbers, steps: int, first: int = 0, change: Any = None, total: int = 40
) -> list[dict[str, Tensor]]:
    """change: what the learner is told instead of what happened."""
    metrics: list[dict[str, Tensor]] = []
    for t in range(first, first + steps):
        action = made.behave(game.observation, game.starts, game.legal, Progress(t, total))
        step = game.step(action)
        window.add(change(step, t) if change else step)
        metrics.append(made.update(window, Progress(t + 1, total)))
    return metrics


def trained(kind: str, steps: int = 3 * T, change: Any = None, seeds: Sequence[int] = (1, 2, 3), actions: str = "discrete", **changed: Any):
    made = learner(kind, seeds, actions, **changed)
    play(made, made.experience(40, B), Numbers(actions=actions), steps, change=change)
    return made


def weights_of(made: Any) -> dict[str, Tensor]:
    return {f"{n}/{w}": x for n, o in made.optimizers.items() for w, x in o.parameters.weights.items()}


@every
def test_it_is_a_learner(kind: str):
    assert isinstance(learner(kind), Learner)


@every
@with_and_without_memory
def test_a_stacked_seed_learns_what_it_would_alone(kind: str, memory: str):
    changed: dict[str, Any] = dict(memory=memory, normalize_observation=True, normalize_reward=True)
    stacked, game = learner(kind, **changed), Numbers(masked=0.0)
    window = stacked.experience(40, B)
    alone = [learner(kind, (seed,), **changed) for seed in (1, 2, 3)]
    windows = [made.experience(40, B) for made in alone]
    for t in range(3 * T):
        assert game.legal is not None
        action = stacked.behave(game.observation, game.starts, game.legal, Progress(t, 40))
        own = [
            made.behave(game.observation[r : r + 1], game.starts[r : r + 1], game.legal[r : r + 1], Progress(t, 40))
            for r, made in enumerate(alone)
        ]
        assert torch.equal(action, torch.cat(own))
        step = game.step(action)
        window.add(step)
        stacked.update(window, Progress(t + 1, 40))
        for r, (made, one) in enumerate(zip(alone, windows, strict=True)):
            one.add(part(step, slice(r, r + 1)))
            made.update(one, Progress(t + 1, 40))
    for r, made in enumerate(alone):
        theirs = weights_of(made)
        for name, weight in weights_of(stacked).items():
            torch.testing.assert_close(weight[r], theirs[name][0], atol=1e-5, rtol=1e-4)


@every
@pytest.mark.parametrize("poison", [False, True])
def test_another_seeds_data_changes_no_bit(kind: str, poison: bool):
    def change(step: Transition, t: int) -> Transition:
        reward = step.reward.clone()
        reward[0] = math.nan if poison and t > T else -3.0 * reward[0]
        return replace(step, reward=reward)

    plain, other = trained(kind), trained(kind, change=change)
    for (name, weight), theirs in zip(weights_of(plain).items(), weights_of(other).values(), strict=True):
        assert torch.equal(weight[1:], theirs[1:]), name
        assert theirs.isfinite().all()
    assert not torch.equal(plain.parameters.weights["weight_0"][0], other.parameters.weights["weight_0"][0])
    frozen = torch.stack(list(other.frozen().values())).any(0).tolist()
    assert frozen == [poison, False, False]


@every
def test_the_same_seed_gives_the_same_bits_and_another_gives_others(kind: str):
    one, two, other = trained(kind), trained(kind), trained(kind, seeds=(4, 5, 6))
    assert all(torch.equal(x, y) for x, y in zip(weights_of(one).values(), weights_of(two).values(), strict=True))
    assert not torch.equal(one.parameters.flat, other.parameters.flat)


@every
@with_and_without_memory
def test_saved_and_loaded_it_goes_on_to_the_same_bits(kind: str, memory: str):
    changed: dict[str, Any] = dict(memory=memory, normalize_observation=True, normalize_reward=True)
    first, second, game = learner(kind, **changed), learner(kind, (7, 8, 9), **changed), Numbers()
    windows = first.experience(40, B), second.experience(40, B)
    play(first, windows[0], game, 2 * T + 3)
    second.load(unpack(*pack(first.state())))
    windows[1].load(unpack(*pack(windows[0].state())), [], 8)
    assert first.state().keys() == second.state().keys()
    again = Numbers()
    again.g.set_state(game.g.get_state())
    again.observation, again.starts, again.legal = game.observation, game.starts, game.legal
    logs = play(first, windows[0], game, 2 * T, 2 * T + 3), play(second, windows[1], again, 2 * T, 2 * T + 3)
    assert [sorted(m) for m in logs[0]] == [sorted(m) for m in logs[1]] and any(logs[0])
    assert all(torch.equal(a[n], b[n]) for a, b in zip(*logs, strict=True) for n in a)
    assert all(torch.equal(x, y) for x, y in zip(weights_of(first).values(), weights_of(second).values(), strict=True))


@every
@with_and_without_memory
def test_masked_steps_teach_nothing(kind: str, memory: str):
    """Steps that were not real, each the last of its episode: nothing that follows remembers them."""

    def change(step: Transition, t: int, garbage: bool) -> Transition:
        hidden = ~step.mask
        both = dict(boundary=step.boundary | hidden, terminated=step.terminated | hidden)
        if not garbage:
            return replace(step, **both)
        return replace(
            step, **both,
            observation=torch.where(hidden[..., None], 9.0, step.observation),
            action=torch.where(hidden[..., None], 0.0, step.action), reward=torch.where(hidden, 1e6, step.reward),
        )  # fmt: skip

    plain, other = learner(kind, memory=memory), learner(kind, memory=memory)
    # One window: what is played in the next depends on what memory has seen.
    logs = [
        play(made, made.experience(40, B), Numbers(masked=0.5), T, change=lambda step, t, g=garbage: change(step, t, g))
        for made, garbage in ((plain, False), (other, True))
    ]
    for name, value in logs[0][-1].items():
        torch.testing.assert_close(value, logs[1][-1][name], atol=1e-5, rtol=1e-4, msg=name)
    for (name, x), y in zip(weights_of(plain).items(), weights_of(other).values(), strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-4, msg=name)


@every
@pytest.mark.parametrize("actions", ACTIONS)
def test_every_kind_of_action_is_learned(kind: str, actions: str):
    made, game = learner(kind, actions=actions), Numbers(actions=actions)
    before, window = made.parameters.flat.clone(), made.experience(40, B)
    metrics = play(made, window, game, 2 * T)
    assert [bool(m) for m in metrics] == ([False] * (T - 1) + [True]) * 2
    assert all(value.isfinite().all() and value.shape == (R,) for value in metrics[-1].values())
    assert not torch.equal(before, made.parameters.flat) and made.parameters.flat.isfinite().all()
    if actions == "discrete":
        chosen = torch.stack([made.behave(game.observation, game.starts, game.legal, Progress(0, 1)) for _ in range(50)])
        assert game.legal is not None and game.legal.expand(50, -1, -1, -1).gather(-1, chosen.long()).all()
        assert (~game.legal).any()


@every
def test_a_mask_that_forbids_everything_is_refused(kind: str):
    made = learner(kind)
    with pytest.raises(GameError, match="no action is legal at index"):
        made.behave(torch.zeros(R, B, D), torch.ones(R, B, dtype=torch.bool), torch.zeros(R, B, CHOICES, dtype=torch.bool), Progress(0, 1))


@every
def test_what_it_cannot_see_or_do_is_refused(kind: str):
    made, config = KINDS[kind]
    image = Box((1, 40, 40), np.zeros((1, 40, 40), np.uint8), np.full((1, 40, 40), 255, np.uint8), "uint8")
    with pytest.raises(GameError, match=r"normalize_observation is for vectors; .* images of \(1, 40, 40\)"):
        made(replace(config, normalize_observation=True), image, Discrete(2), [Generator()])
    with pytest.raises(GameError, match="actions of bytes"):
        made(config, box(D), image, [Generator()])


@every
def test_images_are_learned_from(kind: str):
    made, config = KINDS[kind]
    image = Box((1, 36, 36), np.zeros((1, 36, 36), np.uint8), np.full((1, 36, 36), 255, np.uint8), "uint8")
    one = made(replace(config, window=2), image, Discrete(2), [Generator().manual_seed(0)])
    window, before = one.experience(10, 2), one.parameters.flat.clone()
    g = Generator().manual_seed(0)
    no = torch.zeros(1, 2, dtype=torch.bool)
    for t in range(2):
        seen = torch.randint(256, (1, 2, 1, 36, 36), generator=g).byte()
        action = one.behave(seen, no, None, Progress(t, 10))
        window.add(Transition(seen, action, torch.randn(1, 2, generator=g), seen, seen, no, no, ~no))
        metrics = one.update(window, Progress(t + 1, 10))
    assert metrics["loss/value"].isfinite().all() and not torch.equal(before, one.parameters.flat)


# --- what a window is worth ------------------------------------------------------------------------------------------------


def slow(made: Any, r: int, observations: Sequence[Tensor], carry: Tensor | None) -> tuple[Tensor, Tensor]:
    """The value after a whole episode has been seen from its start (or from `carry`), one copy of one seed, one step at a time."""
    value, parameters = torch.zeros(()), torch.zeros(0)
    for x in observations:
        x = made.normalizer(x.expand(R, 1, D)) if made.normalizer else x.expand(R, 1, D)
        x = x[:, None]
        starts = torch.zeros(R, 1, 1, dtype=torch.bool)
        state = None if carry is None else Carry(carry)
        parameters, value, carries = made.nets.both(made.parameters.weights, x if carry is not None else x[:, 0], starts, state)
        carry = None if carries is None else carries[..., -1, :, :]
        value, parameters = value.reshape(R, -1)[r, 0], parameters.reshape(R, -1)[r]
    return value, parameters


@pytest.mark.parametrize("shared", [False, True])
@with_and_without_memory
def test_values_and_policies_of_a_window_are_those_of_playing_it_step_by_step(memory: str, shared: bool):
    """Also of the true successors, at time limits inside the window, at its end, and over two windows with what was remembered."""
    made, game = learner("ppo", memory=memory, shared=shared, normalize_observation=True, learning_rate=0.0), Numbers(masked=0.0)
    window = made.experience(40, B)
    seen: list[Any] = []
    recorded: list[Any] = []

    def estimate(x: Any) -> Any:
        recorded.append(x)
        return type(made).estimate(made, x)

    made.estimate = estimate
    read: list[Any] = []

    def improve(steps: Any, progress: Any) -> Any:
        read.append(steps)
        return {}

    made.improve = improve
    if made.normalizer is not None:  # numbers that matter, and that do not change while we look
        made.normalizer.update(torch.randn(R, 50, D, generator=Generator().manual_seed(1)) * 0.7 + 0.2)
        made.normalizer.update = lambda *_: None
    zero = made.nets.body.carry(1)
    for t in range(2 * T):
        action = made.behave(game.observation, game.starts, game.legal, Progress(t, 40))
        step = game.step(action)
        seen.append(step)
        window.add(step)
        made.update(window, Progress(t + 1, 40))
    assert len(recorded) == 2 and any(bool((s.boundary & ~s.terminated).any()) for s in seen[: T - 1])
    for r in range(R):
        for b in range(B):
            episode: list[Tensor] = []
            for t, step in enumerate(seen):
                k, own = divmod(t, T)
                episode.append(step.observation[r, b])
                history = episode if memory != "none" else episode[-1:]
                value, parameters = slow(made, r, history, None if zero is None else zero.state)
                after, _ = slow(made, r, [*history, step.successor[r, b]] if memory != "none" else [step.successor[r, b]],
                                None if zero is None else zero.state)  # fmt: skip
                assert recorded[k].value[own, r, b].item() == pytest.approx(value.item(), abs=1e-5)
                assert recorded[k].next_value[own, r, b].item() == pytest.approx(after.item(), abs=1e-5)
                steps = read[k]
                told = steps.parameters[r, own, b] if memory != "none" else steps.parameters[r, own * B + b]
                torch.testing.assert_close(told, parameters, atol=1e-5, rtol=1e-4)
                if step.boundary[r, b]:
                    episode.clear()


@with_and_without_memory
def test_the_first_gradient_step_sees_the_policy_that_played(memory: str):
    made, game = learner("ppo", memory=memory, normalize_observation=True, actions="reals"), Numbers(actions="reals")
    window, improve, looked = made.experience(40, B), made.improve, []

    def look(steps: Any, progress: Progress) -> dict[str, Tensor]:
        parameters = made.policy(made.parameters.weights, steps)
        torch.testing.assert_close(parameters, steps.parameters, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(made.nets.head.log_prob(parameters, steps.action), steps.logp, atol=1e-5, rtol=1e-5)
        looked.append(progress.steps)
        return improve(steps, progress)

    made.improve = look
    play(made, window, game, 2 * T)
    assert looked == [0, T]


def test_normalization_changes_at_the_end_of_an_update_only():
    made, game = learner("ppo", normalize_observation=True, normalize_reward=True), Numbers()
    window, before = made.experience(40, B), made.normalizer.state()["count"]
    play(made, window, game, T - 1)
    made.act(torch.randn(R, B, D, generator=game.g))
    assert torch.equal(made.normalizer.state()["count"], before) and made.scaler.moments.count.tolist() == [0.0] * R
    seen = window.observation[:, :-1].clone()
    play(made, window, game, 1, T - 1)
    seen[:, -1] = window.observation[:, T - 1]
    real = window.mask.flatten(1)
    mean = torch.stack([x[m].mean(0) for x, m in zip(seen.flatten(1, 2), real, strict=True)])
    torch.testing.assert_close(made.normalizer.state()["mean"].float(), mean, atol=1e-5, rtol=1e-5)
    assert made.scaler.moments.count.tolist() == real.sum(1).tolist()


def test_a_run_shorter_than_a_window_learns_once():
    made = learner("ppo")
    window = made.experience(4, B)
    metrics = play(made, window, Numbers(), 4)
    assert window.length == 4 and [bool(m) for m in metrics] == [False] * 3 + [True]


def test_a_deterministic_player_takes_the_likeliest_action_and_draws_nothing():
    made, x = trained("ppo"), torch.randn(R, 7, D, generator=Generator().manual_seed(3))
    states = [g.get_state() for g in made.generators]
    parameters, _ = made.nets.policy(made.parameters.weights, x)
    assert torch.equal(made.act(x, deterministic=True)[..., 0], parameters.argmax(-1).float())
    assert all(torch.equal(g.get_state(), state) for g, state in zip(made.generators, states, strict=True))
    drawn = torch.stack([made.act(x) for _ in range(3000)])[..., 0]
    frequency = torch.stack([(drawn == i).float().mean(0) for i in range(CHOICES)], -1)
    torch.testing.assert_close(frequency, parameters.softmax(-1), atol=0.05, rtol=0.0)


# --- games that are solved within seconds -------------------------------------------------------------------------------------


class RandomWorlds(Game):
    """K random MDPs of six states and three actions, each in B copies, world-major; any step may be the last one."""

    S, A = 6, 3

    def __init__(self, worlds: int, copies: int, ending: float = 0.1, limit: int = 20) -> None:
        self.mdps = [random_mdp(self.S, self.A, 3, Generator().manual_seed(k), ending) for k in range(worlds)]
        self.observation_space, self.action_space, self.copies = Discrete(self.S), Discrete(self.A), worlds * copies
        going_on = torch.stack([mdp.transition().to_dense().view(self.A, self.S, self.S) for mdp in self.mdps])
        self.ladder = going_on.cumsum(-1).float() / max(1.0 - ending, 1e-9)
        self.reward = torch.stack([mdp.expected_reward().T for mdp in self.mdps]).float()
        self.world, self.ending, self.limit = torch.arange(worlds).repeat_interleave(copies), ending, limit
        self.state, self.steps = torch.zeros(2, self.copies, dtype=torch.int64).unbind()

    def reset(self, seed: Sequence[int] | None = None, where: Tensor | None = None) -> Nested:
        if seed is not None:
            self.g = Generator().manual_seed(seed[0])
        chosen = torch.ones(self.copies, dtype=torch.bool) if where is None else where
        self.state = torch.where(chosen, torch.randint(self.S, (self.copies,), generator=self.g), self.state)
        self.steps = torch.where(chosen, 0, self.steps)
        return self.state

    def step(self, actions: Nested) -> Step:
        assert isinstance(actions, Tensor)
        at = (self.world, actions, self.state)
        reward, draw = self.reward[at], torch.rand(self.copies, 2, generator=self.g)
        self.state = (self.ladder[at] < draw[:, :1]).sum(-1).clamp(max=self.S - 1)
        self.steps = self.steps + 1
        terminated = draw[:, 1] < self.ending
        return Step(self.state, reward, terminated, terminated | (self.steps >= self.limit), torch.ones_like(terminated))


SMALLER: dict[str, Any] = dict(hidden=(32,), discount=0.9)
VPG: dict[str, Any] = dict(window=16, learning_rate=5e-3, critic_learning_rate=1e-2, critic_steps=5)
EXACT: dict[str, tuple[Any, int, int]] = {
    "ppo": (ppo.Config(**SMALLER, window=32, batch_size=256, epochs=4, learning_rate=5e-3, anneal=True, temperature=0.02), 32, 40),
    "a2c": (a2c.Config(**SMALLER, window=8, learning_rate=7e-3, anneal=True, temperature=0.05), 32, 300),
    "trpo": (
        trpo.Config(**SMALLER, window=32, learning_rate=5e-3, value_epochs=3, batch_size=512, target_kl=0.02, solver_steps=10), 64, 45,
    ),
    "reward_to_go": (policy_gradient.Config("reward_to_go", **SMALLER, **VPG), 64, 150),
    "gae": (policy_gradient.Config("gae", **SMALLER, **VPG), 64, 150),
}  # fmt: skip


def shares_of_the_best(kind: str, config: Any, copies: int, windows: int, ending: float) -> Tensor:
    """Ten worlds, one for each stacked seed: what the greedy policy is worth, by a linear solve, over what the best one is."""
    worlds, steps = 10, windows * config.window
    game = RandomWorlds(worlds, copies, ending)
    learned = KINDS[kind][0](config, game.observation_space, game.action_space, [Generator().manual_seed(k) for k in range(worlds)])
    rollout, window = Rollout(game, worlds, [0] * game.copies), learned.experience(steps, copies)
    for t in range(steps):
        window.add(rollout.step(learned.behave(rollout.observation, rollout.starts, rollout.legal, Progress(t, steps))))
        learned.update(window, Progress(t + 1, steps))
    greedy = learned.act(torch.eye(game.S).expand(worlds, -1, -1), deterministic=True)[..., 0].long()
    shares: list[Tensor] = []
    for k, mdp in enumerate(game.mdps):
        reward, transition = mdp.expected_reward(), mdp.transition().to_dense()
        own = policy_value(reward, transition, one_hot(greedy[k], game.A).double(), config.discount).mean()
        shares.append(own / best_of(reward, transition, config.discount))
    return torch.stack(shares)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", EXACT)
def test_the_optimal_value_of_ten_small_mdps(kind: str):
    """Within 2 %, from a uniform start. Episodes also end by the clock, after 20 steps, which is no part of the exact solution."""
    config, copies, windows = EXACT[kind]
    shares = shares_of_the_best(kind if kind in KINDS else "vpg", config, copies, windows, 0.1)
    assert (shares >= 0.98).all(), shares


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("weight", ["q", "advantage"])
def test_a_learned_critic_of_actions_teaches(weight: Any):
    """In worlds of one step, and on the mean: a policy may settle before the critic is right about what is rarely done."""
    config = policy_gradient.Config(weight, **SMALLER, **VPG)
    assert shares_of_the_best("vpg", config, 16, 80, 1.0).mean() > 0.85


def best_of(reward: Tensor, transition: Tensor, discount: float) -> Tensor:
    """By trying all 3^6 policies."""
    S, A = reward.shape
    policies = torch.cartesian_prod(*[torch.arange(A)] * S)
    rows = transition.view(A, S, S)[policies, torch.arange(S)]
    values = torch.linalg.solve(torch.eye(S, dtype=torch.float64) - discount * rows, reward[torch.arange(S), policies].unsqueeze(-1))
    return values[..., 0].amax(0).mean()


class Remember(Game):
    """The first observation shows a bit; `delay` blank steps later the action must name it, which pays 1. Memoryless: one half."""

    def __init__(self, copies: int, delay: int = 4) -> None:
        self.observation_space, self.action_space, self.copies, self.delay = box(3), Discrete(2), copies, delay
        self.bit, self.clock = torch.zeros(2, copies, dtype=torch.int64).unbind()

    def reset(self, seed: Sequence[int] | None = None, where: Tensor | None = None) -> Nested:
        if seed is not None:
            self.g = Generator().manual_seed(seed[0])
        chosen = torch.ones(self.copies, dtype=torch.bool) if where is None else where
        self.bit = torch.where(chosen, torch.randint(2, (self.copies,), generator=self.g), self.bit)
        self.clock = torch.where(chosen, 0, self.clock)
        return self.seen()

    def seen(self) -> Tensor:
        first = (self.clock == 0).float()
        return torch.stack([first * self.bit, first * (1 - self.bit), (self.clock == self.delay).float()], -1)

    def step(self, actions: Nested) -> Step:
        over = self.clock == self.delay
        reward = (over & (actions == self.bit)).float()
        self.clock = self.clock + 1
        return Step(self.seen(), reward, over, over, torch.ones_like(over))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", ["ppo", "a2c"])
@with_and_without_memory
def test_a_game_that_needs_memory(kind: str, memory: Any):
    common: dict[str, Any] = dict(hidden=(16,), activation="tanh", memory=memory, discount=0.9)
    config = {
        "ppo": ppo.Config(**common, window=20, batch_size=320, epochs=4, learning_rate=1e-2, temperature=0.01),
        "a2c": a2c.Config(**common, window=20, learning_rate=1e-2, temperature=0.01),
    }[kind]
    steps, copies = {"ppo": 20 * 30, "a2c": 20 * 80}[kind], 32
    game = Remember(2 * copies)
    learned = KINDS[kind][0](config, game.observation_space, game.action_space, [Generator().manual_seed(k) for k in range(2)])
    rollout, window = Rollout(game, 2, [0] * game.copies), learned.experience(steps, copies)
    for t in range(steps):
        window.add(rollout.step(learned.behave(rollout.observation, rollout.starts, rollout.legal, Progress(t, steps))))
        learned.update(window, Progress(t + 1, steps))
    rollout.episodes.clear()
    carry, rollout = learned.carry(copies), Rollout(game, 2, [1] * game.copies)
    for _ in range(50):
        if carry is not None:
            carry.restart(rollout.starts)
        rollout.step(learned.act(rollout.observation, True, None, carry))
    score = [np.mean([e.total for e in rollout.episodes if e.seed == seed]) for seed in range(2)]
    assert min(score) > 0.98 if memory != "none" else max(score) < 0.65
