"""SAC against separate nets and losses, closed forms by quadrature, and the promises every learner makes."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn
from torch.distributions import Normal

from tutelage.experience.replay import Replay
from tutelage.experience.trajectory import Batch, Transition
from tutelage.experience.trees import pack, unpack
from tutelage.games.spec import Box, Discrete, GameError
from tutelage.learn.deep.sac import SAC, Config, sac_loss
from tutelage.learn.learner import Progress
from tutelage.nets.parameters import Parameters
from tutelage.nets.tanh_gaussian import tanh_gaussian
from tutelage.nets.targets import Target

R, N, D, A = 3, 16, 4, 2
SMALL = Config(hidden=(16, 16), batch_size=N, learning_rate=1e-3, initial_temperature=0.3)


def box(low: list[float], high: list[float]) -> Box:
    return Box((len(low),), np.array(low, np.float32), np.array(high, np.float32))


ACTIONS = box([-2.0, 0.0], [2.0, 1.0])
OBSERVATIONS = box([-1.0] * D, [1.0] * D)


def learner(config: Config = SMALL, seeds: tuple[int, ...] = (1, 2, 3)) -> SAC:
    return SAC(config, OBSERVATIONS, ACTIONS, [Generator().manual_seed(seed) for seed in seeds])


def of(made: SAC, group: str) -> Parameters:
    return made.train.groups[group].parameters


def target(made: SAC) -> Target:
    return made.train.targets["critic"]


def explored(made: SAC, copies: int) -> Tensor:
    return made.behave(torch.zeros(R, copies, D), torch.zeros(R, copies, dtype=torch.bool), None, Progress(0, 10))


def batch(seed: int = 0, masked: bool = True, members: int = R) -> Batch:
    """Actions in the units of ACTIONS."""
    g = Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(members, N, *shape, generator=g)
    action = torch.stack([4.0 * rand() - 2.0, rand()], -1)
    mask = (rand() < 0.8).float() if masked else torch.ones(members, N)
    return Batch(3.0 * rand(D) - 1.5, action, rand(), 3.0 * rand(D) - 1.5, rand() < 0.3, mask)


def row(made: Batch, r: int) -> Batch:
    return made[r : r + 1]


def to_unit(action: Tensor) -> Tensor:
    return torch.stack([action[..., 0] / 2.0, 2.0 * action[..., 1] - 1.0], -1)


def net_of(weights: dict[str, Tensor], *index: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(len(weights) // 2):
        weight = weights[f"weight_{i}"][index]
        layer = nn.Linear(weight.shape[0], weight.shape[1])
        layer.weight.data.copy_(weight.mT)
        layer.bias.data.copy_(weights[f"bias_{i}"][(*index, 0)])
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def gradient_of(net: nn.Sequential, name: str) -> Tensor:
    kind, i = name.split("_")
    layer: Any = net[2 * int(i)]
    return layer.weight.grad.mT if kind == "weight" else layer.bias.grad[None]


def sampled(actor: nn.Sequential, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    mean, log_std = actor(observation).chunk(2, -1)
    std = log_std.clamp(-5.0, 2.0).exp()
    u = mean + std * noise
    return u.tanh(), (Normal(mean, std).log_prob(u) - (1.0 - u.tanh().square() + 1e-12).log()).sum(-1)


def losses(made: SAC, given: Batch, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    unit = dataclasses.replace(given, action=to_unit(given.action))
    return sac_loss(
        made.actor, made.critic, of(made, "actor").leaves, of(made, "critic").leaves, target(made).weights,
        of(made, "temperature").leaves["log_temperature"], unit, noise, 0.9, -1.5,
    )  # fmt: skip


def noise_of(seed: int = 5) -> Tensor:
    return torch.randn(R, 2, N, A, generator=Generator().manual_seed(seed))


def distinct(made: SAC) -> SAC:
    """Target nets and temperatures that differ from what they are copied from, and between seeds."""
    g = Generator().manual_seed(77)
    target(made).flat.add_(0.1 * torch.randn(target(made).flat.shape, generator=g))
    of(made, "temperature").flat.copy_(torch.tensor([-1.0, -0.5, 0.3])[: of(made, "temperature").members])
    return made


def test_gradients_equal_those_of_separate_nets_with_separate_losses():
    made, given, noise = distinct(learner()), batch(), noise_of()
    total, metrics = losses(made, given, noise)
    groups = (of(made, "actor"), of(made, "critic"), of(made, "temperature"))
    leaves = [leaf for parameters in groups for leaf in parameters.leaves.values()]
    gradient = dict(zip(map(id, leaves), torch.autograd.grad(total.sum(), leaves), strict=True))
    for r in range(R):
        b, mask = row(given, r), given.mask[r] > 0
        actor = net_of(of(made, "actor").weights, r)
        critics = [net_of(of(made, "critic").weights, r, j) for j in range(2)]
        targets = [net_of(target(made).weights, r, j) for j in range(2)]
        log_alpha = of(made, "temperature").weights["log_temperature"][r].clone().requires_grad_()
        alpha = log_alpha.detach().exp()
        with torch.no_grad():
            next_action, next_logp = sampled(actor, b.next_observation[0], noise[r, 1])
            next_q = torch.minimum(*(q(torch.cat([b.next_observation[0], next_action], -1))[:, 0] for q in targets))
            y = b.reward[0] + 0.9 * (~b.terminated[0]).float() * (next_q - alpha * next_logp)
        critic_loss = torch.zeros(())
        for q in critics:
            error = q(torch.cat([b.observation[0], to_unit(b.action[0])], -1))[:, 0] - y
            critic_loss = critic_loss + 0.5 * error[mask].square().mean()
        critic_loss.backward()
        for name, leaf in of(made, "critic").leaves.items():
            for j, q in enumerate(critics):
                torch.testing.assert_close(gradient[id(leaf)][r, j], gradient_of(q, name), atol=1e-5, rtol=1e-4)
        action, logp = sampled(actor, b.observation[0], noise[r, 0])
        q = torch.minimum(*(c(torch.cat([b.observation[0], action], -1))[:, 0] for c in critics))
        actor_loss = (alpha * logp - q)[mask].mean()
        actor_loss.backward()
        for name, leaf in of(made, "actor").leaves.items():
            torch.testing.assert_close(gradient[id(leaf)][r], gradient_of(actor, name), atol=1e-5, rtol=1e-4)
        temperature_loss = -(log_alpha * (logp.detach() - 1.5))[mask].mean()
        temperature_loss.backward()
        torch.testing.assert_close(gradient[id(leaves[-1])][r], log_alpha.grad, atol=1e-6, rtol=1e-5)
        for name, value in (("critic", critic_loss), ("actor", actor_loss), ("temperature", temperature_loss)):
            assert metrics[f"loss/{name}"][r].item() == pytest.approx(value.item(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("what", ["actor", "critic"])
def test_no_loss_reaches_the_other_nets(what: str):
    """Without its own loss a net has no gradient at all, and with it none but that loss's."""
    made, given, noise = distinct(learner()), batch(), noise_of()
    total, _ = losses(made, given, noise)
    own = list((of(made, "actor") if what == "actor" else of(made, "critic")).leaves.values())
    whole = torch.autograd.grad(total.sum(), own)
    with torch.no_grad():  # scale what only the other loss depends on: the temperature weighs the actor's, the reward the critic's
        if what == "critic":
            other = losses(made, given, torch.cat([noise[:, :1] + 1.0, noise[:, 1:]], 1))  # other actions at s: another actor loss
        else:
            other = losses(made, dataclasses.replace(given, reward=given.reward + 5.0), noise)  # other targets: another critic loss
    changed = "loss/actor" if what == "critic" else "loss/critic"
    assert (other[1][changed] - losses(made, given, noise)[1][changed]).abs().min() > 1e-3
    varied = dataclasses.replace(given, reward=given.reward + 5.0) if what == "actor" else given
    again, _ = losses(made, varied, noise if what == "actor" else torch.cat([noise[:, :1] + 1.0, noise[:, 1:]], 1))
    for one, two in zip(whole, torch.autograd.grad(again.sum(), own), strict=True):
        assert torch.equal(one, two) and one.abs().max() > 0.0


def test_masked_transitions_teach_nothing():
    made, given, noise = distinct(learner()), batch(), noise_of()
    leaves = [
        leaf
        for p in (
            of(made, "actor"),
            of(made, "critic"),
            of(made, "temperature"),
        )
        for leaf in p.leaves.values()
    ]
    hidden = given.mask[..., None] == 0.0
    garbage = dataclasses.replace(
        given,
        observation=torch.where(hidden, 9.0, given.observation),
        reward=torch.where(hidden[..., 0], 1e6, given.reward),
        next_observation=torch.where(hidden, -9.0, given.next_observation),
    )
    ours, theirs = (torch.autograd.grad(losses(made, b, noise)[0].sum(), leaves) for b in (given, garbage))
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5)
    nothing, _ = losses(made, dataclasses.replace(given, mask=torch.zeros(R, N)), noise)
    assert (nothing == 0.0).all()


def test_a_time_limit_is_bootstrapped_and_a_termination_is_not():
    """The same two transitions in two replays, once ended by the rules and once by the clock."""
    made = distinct(learner(seeds=(1,)))
    targets = []
    for terminated in (True, False):
        replay = Replay(8, 1, 1, (D,), A)
        g = Generator().manual_seed(3)
        o, s, fresh, a = torch.randn(1, 1, D, generator=g), torch.randn(1, 1, D, generator=g), torch.zeros(1, 1, D), torch.zeros(1, 1, A)
        yes, end = torch.ones(1, 1, dtype=torch.bool), torch.tensor([[terminated]])
        replay.add(Transition(o, a, torch.ones(1, 1), s, fresh, end, yes, yes))
        given = replay.take(torch.zeros(1, 1, dtype=torch.int64))
        assert torch.equal(given.next_observation, s)
        noise = torch.zeros(1, 2, 1, A)
        unit = dataclasses.replace(given, action=to_unit(given.action))
        q = made.critic(of(made, "critic").weights, torch.cat([o, unit.action], -1)[:, None].expand(-1, 2, -1, -1)).squeeze()
        _, metrics = losses(made, given, noise)
        # 1/2 sum_j (q_j - y)^2, solved for y
        b, c = float(q.sum()), float(q.square().sum() - 2.0 * metrics["loss/critic"].item())
        roots = [(b + sign * math.sqrt(max(b * b - 2.0 * c, 0.0))) / 2.0 for sign in (-1.0, 1.0)]
        actor = net_of(of(made, "actor").weights, 0)
        action, logp = sampled(actor, s[0], noise[0, 1])
        v = torch.minimum(*(net_of(target(made).weights, 0, j)(torch.cat([s[0], action], -1))[:, 0] for j in range(2)))
        v = v - of(made, "temperature").weights["log_temperature"][0].exp() * logp
        y = 1.0 if terminated else 1.0 + 0.9 * v.item()
        assert min(abs(root - y) for root in roots) < 1e-3
        targets.append(y)
    assert abs(targets[0] - targets[1]) > 0.05


def quadrature(reward: Callable[[np.ndarray], np.ndarray], alpha: float) -> float:
    """alpha log of the integral of exp(r(a) / alpha) over [-1, 1]: the soft value of a one-step game."""
    a = np.linspace(-1.0, 1.0, 200_001)
    return alpha * math.log(np.trapezoid(np.exp(reward(a) / alpha), a))


def soft_value(made: SAC, observation: Tensor, samples: int = 20_000) -> Tensor:
    """E[min Q - alpha log pi], `[R]`, under the learner's own policy and critics."""
    members = len(made.train.generators)
    x = observation.expand(members, samples, -1)
    with torch.no_grad():
        a, logp = tanh_gaussian(
            made.actor(of(made, "actor").weights, x),
            torch.randn(members, samples, 1, generator=Generator().manual_seed(0)),
        )
        q = made.critic(of(made, "critic").weights, torch.cat([x, a], -1)[:, None].expand(-1, 2, -1, -1)).squeeze(-1)
        alpha = of(made, "temperature").weights["log_temperature"].exp()
        return (q.mean(1) - alpha[:, None] * logp).mean(1)


ALPHA = 0.5
BANDIT = Config(
    hidden=(32, 32),
    batch_size=128,
    learning_rate=3e-3,
    temperature_learning_rate=0.0,
    initial_temperature=ALPHA,
    target_rate=0.05,
    discount=0.9,
)


def train(made: SAC, given: Callable[[Generator], Batch], updates: int) -> SAC:
    g = Generator().manual_seed(4)
    for step in range(updates):
        if step == updates * 2 // 3:  # smaller steps at the end: the noise of a constant rate is several percent
            for optimizer in (made.train.groups["actor"].optimizer, made.train.groups["critic"].optimizer):
                optimizer.learning_rate = 3e-4
        made.update_on(given(g))
    return made


@pytest.mark.usefixtures("unchecked")
def test_the_soft_value_of_a_bandit_is_that_of_quadrature():
    def given(g: Generator) -> Batch:
        action = 2.0 * torch.rand(2, 128, 1, generator=g) - 1.0
        zero = torch.zeros(2, 128, 1)
        reward = 2.0 - 4.0 * (action[..., 0] - 0.3).square()
        return Batch(zero, action, reward, zero, torch.ones(2, 128, dtype=torch.bool), torch.ones(2, 128))

    made = train(SAC(BANDIT, box([0.0], [1.0]), box([-1.0], [1.0]), [Generator().manual_seed(i) for i in range(2)]), given, 600)
    exact = quadrature(lambda a: 2.0 - 4.0 * (a - 0.3) ** 2, ALPHA)
    value = soft_value(made, torch.zeros(1, 1, 1))
    assert value.tolist() == pytest.approx([exact, exact], rel=0.02)
    assert (of(made, "temperature").flat.exp() - ALPHA).abs().max() < 1e-6
    assert made.act(torch.zeros(2, 1, 1), deterministic=True).flatten().tolist() == pytest.approx([0.3, 0.3], abs=0.06)


@pytest.mark.usefixtures("unchecked")
def test_the_soft_value_of_two_steps_is_that_of_quadrature():
    """At state 0 the action pays -(a + 0.4)^2 and leads to state 1, the bandit; then it is over."""
    first, second = lambda a: -((a + 0.4) ** 2), lambda a: 2.0 - 4.0 * (a - 0.3) ** 2
    v1 = quadrature(second, ALPHA)
    v0 = quadrature(first, ALPHA) + 0.9 * v1

    def given(g: Generator) -> Batch:
        action = 2.0 * torch.rand(2, 128, 1, generator=g) - 1.0
        state = (torch.rand(2, 128, 1, generator=g) < 0.5).float()
        at_second = state[..., 0] > 0.5
        reward = torch.where(at_second, second(action[..., 0]), first(action[..., 0]))
        return Batch(state, action, reward, torch.ones(2, 128, 1), at_second, torch.ones(2, 128))

    made = train(SAC(BANDIT, box([0.0], [1.0]), box([-1.0], [1.0]), [Generator().manual_seed(i) for i in range(2)]), given, 900)
    assert soft_value(made, torch.ones(1, 1, 1)).tolist() == pytest.approx([v1, v1], rel=0.02)
    assert soft_value(made, torch.zeros(1, 1, 1)).tolist() == pytest.approx([v0, v0], rel=0.02)


def parameters_of(made: SAC) -> list[Tensor]:
    return [
        of(made, "actor").flat,
        of(made, "critic").flat,
        of(made, "temperature").flat,
        target(made).flat,
    ]


def trained(made: SAC, members: slice = slice(None), updates: int = 20, change: int | None = None) -> SAC:
    for step in range(updates):
        given = batch(step)
        if change is not None:
            for name in ("observation", "reward"):
                getattr(given, name)[change] *= -3.0
        made.update_on(given[members])
    return made


def test_a_stacked_seed_learns_what_it_would_alone():
    stacked = trained(learner())
    for r in range(R):
        alone = trained(learner(seeds=(r + 1,)), slice(r, r + 1))
        groups = [
            (of(stacked, "actor"), of(alone, "actor")),
            (of(stacked, "critic"), of(alone, "critic")),
        ]
        for both, own in groups:
            for name, weight in both.weights.items():
                torch.testing.assert_close(weight[r], own.weights[name][0], atol=1e-5, rtol=1e-5)
        assert of(stacked, "temperature").flat[r].item() == pytest.approx(of(alone, "temperature").flat[0].item(), abs=1e-5)


def test_the_same_seed_gives_the_same_bits_and_another_gives_others():
    for one, two in zip(parameters_of(trained(learner())), parameters_of(trained(learner())), strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(parameters_of(trained(learner()))[0], parameters_of(trained(learner(seeds=(4, 5, 6))))[0])


@pytest.mark.parametrize("poison", [False, True])
def test_another_seeds_data_changes_no_bit(poison: bool):
    plain, other = trained(learner()), learner()
    if poison:
        for step in range(20):
            given = batch(step)
            given.reward[0, 3] = math.nan if step >= 7 else 0.0
            given.mask[0, 3] = 1.0
            other.update_on(given)
        assert other.frozen()["critic"].tolist() == [True, False, False] and of(other, "critic").flat.isfinite().all()
    else:
        other = trained(other, change=0)
    for name in ("actor", "critic"):
        for weight, theirs in zip(of(plain, name).weights.values(), of(other, name).weights.values(), strict=True):
            assert torch.equal(weight[1:], theirs[1:]) and not torch.equal(weight[0], theirs[0])
    assert torch.equal(of(plain, "temperature").flat[1:], of(other, "temperature").flat[1:])


def filled_replay() -> Replay:
    replay, g = Replay(50, R, 1, (D,), A), Generator().manual_seed(8)
    observation = torch.randn(R, 1, D, generator=g)
    for t in range(60):
        following = torch.randn(R, 1, D, generator=g)
        action = torch.rand(R, 1, A, generator=g)
        end = torch.full((R, 1), t % 9 == 8)
        replay.add(
            Transition(
                observation, action, observation[..., 0], following, following + 1.0 * end[..., None], end, end, ~torch.zeros_like(end)
            )
        )
        observation = following + 1.0 * end[..., None]
    return replay


def test_saved_and_loaded_it_goes_on_to_the_same_bits():
    config = dataclasses.replace(SMALL, target_every=2, updates_per_step=3)
    replay, first, second = filled_replay(), learner(config), learner(config, (7, 8, 9))
    first.improve(replay)
    first.act(torch.zeros(R, 1, D))
    second.load(unpack(*pack(first.state())))
    for _ in range(4):
        metrics = first.improve(replay), second.improve(replay)
        assert all(torch.equal(metrics[0][name], metrics[1][name]) for name in metrics[0])
    for one, two in zip(parameters_of(first), parameters_of(second), strict=True):
        assert torch.equal(one, two)
    assert torch.equal(first.act(torch.ones(R, 2, D)), second.act(torch.ones(R, 2, D)))
    assert torch.equal(explored(first, 3), explored(second, 3))
    assert first.train.updates == second.train.updates == 15


def test_the_target_moves_only_so_often():
    made = learner(dataclasses.replace(SMALL, target_every=3))
    moved = []
    for step in range(6):
        before = target(made).flat.clone()
        made.update_on(batch(step))
        moved.append(not torch.equal(target(made).flat, before))
    assert moved == [False, False, True] * 2


def test_fresh_critics_for_the_chosen_seeds():
    made = trained(learner())
    before = {name: weight.clone() for name, weight in of(made, "critic").weights.items()}
    actor = of(made, "actor").flat.clone()
    made.reset_critic(torch.tensor([True, False, False]))
    for name, weight in of(made, "critic").weights.items():
        assert (weight[0] != before[name][0]).all() and torch.equal(weight[1:], before[name][1:])
        assert torch.equal(target(made).weights[name][0], weight[0]) and not torch.equal(target(made).weights[name][1], weight[1])
    assert made.train.groups["critic"].optimizer.steps.tolist() == [0.0, 20.0, 20.0] and torch.equal(of(made, "actor").flat, actor)


def test_learning_begins_after_the_random_steps():
    made, replay = learner(dataclasses.replace(SMALL, random_steps=5)), filled_replay()
    before = of(made, "actor").flat.clone()
    assert made.update(replay, Progress(5, 10)) == {} and torch.equal(of(made, "actor").flat, before)
    assert set(made.update(replay, Progress(6, 10))) >= {"loss/actor"} and not torch.equal(of(made, "actor").flat, before)
    acted = [made.behave(torch.zeros(R, 1, D), torch.zeros(R, 1, dtype=torch.bool), None, Progress(n, 10)) for n in (4, 5)]
    assert acted[0].shape == acted[1].shape == (R, 1, A)
    twin = learner(dataclasses.replace(SMALL, random_steps=5))
    twin.load(unpack(*pack(made.state())))
    assert torch.equal(
        made.behave(torch.zeros(R, 1, D), torch.zeros(R, 1, dtype=torch.bool), None, Progress(5, 10)), twin.act(torch.zeros(R, 1, D))
    )


def test_actions_are_in_the_games_units():
    made = learner()
    random = explored(made, 4000)
    assert random.shape == (R, 4000, A)
    assert random.amin((0, 1)).tolist() == pytest.approx([-2.0, 0.0], abs=0.01)
    assert random.amax((0, 1)).tolist() == pytest.approx([2.0, 1.0], abs=0.01)
    acted = made.act(10.0 * torch.randn(R, 500, D, generator=Generator().manual_seed(0)))
    assert (acted[..., 0].abs() <= 2.0).all() and (acted[..., 1] >= 0.0).all() and (acted[..., 1] <= 1.0).all()
    still = made.act(torch.ones(R, 2, D), deterministic=True)
    assert torch.equal(still, made.act(torch.ones(R, 2, D), deterministic=True)) and torch.equal(still[:, 0], still[:, 1])


@pytest.mark.parametrize(
    "space", [Discrete(3), box([-1.0], [math.inf]), box([-math.inf], [1.0]), Box((1, 2), -np.ones((1, 2)), np.ones((1, 2)))]
)
def test_actions_that_are_no_vector_of_bounded_reals_are_refused(space):
    with pytest.raises(GameError, match="SAC needs a vector of bounded continuous actions; this game's actions are") as error:
        SAC(SMALL, OBSERVATIONS, space, [Generator()])
    assert type(space).__name__ in str(error.value)
