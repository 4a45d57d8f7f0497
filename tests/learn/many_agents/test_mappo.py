"""MAPPO and IPPO: how joint experience is cut, beside loops; who sees what; and that they learn to agree.

PPO itself is judged in tests/learn/deep/test_ppo.py and test_on_policy.py; here it is what the cut is compared with.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from tutelage.experience.rollout import Rollout
from tutelage.experience.trajectory import Transition
from tutelage.experience.trees import pack, unpack
from tutelage.experiment.config import ALGORITHMS, RunConfig, from_json, to_json
from tutelage.games.alone import Alone
from tutelage.games.matrix import MatrixGame
from tutelage.games.nested import action_width, flat_width, legal_width
from tutelage.games.spec import Box, Discrete, Game, GameError, MultiDiscrete, Nested, Players, Space, Step
from tutelage.learn.deep import ppo
from tutelage.learn.learner import Experience, Learner, Progress
from tutelage.learn.many_agents.mappo import IPPO, MAPPO, Config
from tutelage.nets.parameters import Parameters

R, B, T = 2, 3, 5
SMALL: dict[str, Any] = dict(hidden=(12,), window=T, epochs=2, batch_size=6, learning_rate=1e-2, activation="tanh")
WAYS: dict[str, dict[str, Any]] = {
    "mappo": dict(scheme="ct-de"),
    "mappo, told who asks": dict(scheme="ct-de", agent_id=True),
    "mappo, own nets": dict(scheme="ct-de", parameter_sharing=False),
    "ippo": dict(scheme="shared"),
    "ippo, told who asks": dict(scheme="shared", agent_id=True),
    "ippo, own nets": dict(scheme="concurrent"),
    "one ppo for all": dict(scheme="centralized"),
}
OWN_NETS = ["mappo, own nets", "ippo, own nets"]
every_way = pytest.mark.parametrize("way", WAYS)
with_and_without_memory = pytest.mark.parametrize("memory", ["none", "gru"])
every_way_and_memory_in_two = pytest.mark.parametrize(
    ("way", "memory"), [(way, "none") for way in WAYS] + [("mappo", "gru"), (OWN_NETS[1], "lstm")]
)
REALS = Box((2,), -np.ones(2, np.float32), np.ones(2, np.float32))
MakePlayers = Callable[..., Players]


def learner(players: Players, way: str = "mappo", seeds: Sequence[int] = (1, 2), **changed: Any) -> MAPPO:
    return MAPPO(Config(**(SMALL | WAYS[way] | changed)), players, [Generator().manual_seed(seed) for seed in seeds])


class Numbers:
    """A game of random numbers: what happens does not depend on what is done. Agents die before the others, and stay dead."""

    def __init__(self, players: Players, seed: int = 0, members: int = R, restricted: bool = True, deaths: float = 0.2) -> None:
        self.players, self.lead, self.deaths = players, (members, B), deaths
        self.g, self.N = Generator().manual_seed(seed), len(players.names)
        self.choices = legal_width(players.action_space) if restricted else 0
        self.starts, self.alive = torch.ones(self.lead, dtype=torch.bool), torch.ones(*self.lead, self.N, dtype=torch.bool)
        self.observation, self.legal = self.rand(flat_width(players.observation_space)), self.allowed()

    def rand(self, *shape: int) -> Tensor:
        return 2.0 * torch.rand(*self.lead, *shape, generator=self.g) - 1.0

    def allowed(self) -> Tensor | None:
        """The second of every three choices is always legal; choices of these tests come in twos and threes."""
        if not self.choices:
            return None
        legal = self.rand(self.choices) > -0.4
        places = [leaf.sizes for group in self.players.groups for leaf in [stacked_sizes(group.action_space)] * len(group.agents)]
        start = 0
        for sizes in places:
            for size in sizes:
                legal[..., start + 1] = True
                start += size
        return legal

    def step(self, action: Tensor) -> Transition:
        mask, dies = self.alive, self.rand(self.N) < 2.0 * self.deaths - 1.0
        alive, successor = mask & ~dies, self.rand(self.observation.shape[-1])
        boundary = (self.rand() < -0.7) | ~alive.any(-1)
        following = torch.where(boundary[..., None], self.rand(successor.shape[-1]), successor)
        legal = self.allowed()
        made = Transition(
            self.observation, action, self.rand(self.N), successor, following, ~alive, boundary, mask, self.legal, legal
        )  # fmt: skip
        self.observation, self.starts, self.legal, self.alive = following, boundary, legal, alive | boundary[..., None]
        return made


class Sizes:
    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.sizes = sizes


def stacked_sizes(space: Space) -> Sizes:
    return Sizes((space.n,) if isinstance(space, Discrete) else space.sizes if isinstance(space, MultiDiscrete) else ())


def play(
    made: MAPPO, windows: Any, game: Numbers, steps: int, first: int = 0, change: Callable[[Transition], Transition] = lambda step: step
) -> list[dict[str, Tensor]]:
    """change: what the learner is told instead of what happened."""
    metrics: list[dict[str, Tensor]] = []
    for t in range(first, first + steps):
        step = game.step(made.behave(game.observation, game.starts, game.legal, Progress(t, 40)))
        windows.add(change(step))
        metrics.append(made.update(windows, Progress(t + 1, 40)))
    return metrics


def weights_of(made: MAPPO) -> list[Tensor]:
    return [weight for unit in made.units for weight in unit.learner.parameters.weights.values()]


class Drift(Game):
    """One agent on a line: it moves by what it does, is paid for being near 0, and may fall off; episodes are cut after 7 steps."""

    def __init__(self, copies: int, action_space: Space) -> None:
        self.observation_space = Box((2,), np.full(2, -9.0, np.float32), np.full(2, 9.0, np.float32))
        self.action_space, self.copies = action_space, copies
        self.x, self.steps = torch.zeros(copies, 2), torch.zeros(copies, dtype=torch.int64)

    def reset(self, seed: Sequence[int] | None = None, where: Tensor | None = None) -> Nested:
        if seed is not None:
            self.g = Generator().manual_seed(seed[0])
        chosen = torch.ones(self.copies, dtype=torch.bool) if where is None else where
        self.x = torch.where(chosen[:, None], torch.randn(self.copies, 2, generator=self.g), self.x)
        self.steps = torch.where(chosen, 0, self.steps)
        return self.x

    def step(self, actions: Any) -> Step:
        push = actions.sum(-1, keepdim=True) if actions.is_floating_point() else actions.view(self.copies, -1).sum(-1, keepdim=True) - 1.0
        self.x, self.steps = self.x + 0.5 * push, self.steps + 1
        fell = self.x[:, 0].abs() > 2.0
        over = fell | (self.steps == 7)
        return Step(self.x, -self.x.abs().sum(-1), fell, over, torch.ones_like(fell))


@pytest.mark.parametrize(("action_space", "memory"), [(Discrete(3), "none"), (MultiDiscrete((2, 3)), "lstm"), (REALS, "gru")])
def test_alone_it_is_ppo_to_the_bit(action_space: Space, memory: Any):
    """Under every scheme, normalization and all: nothing is left of the many."""
    changed: dict[str, Any] = SMALL | dict(memory=memory, normalize_observation=True, normalize_reward=True, anneal=True)
    single = Drift(R * B, action_space)
    theirs = ppo.PPO(
        ppo.Config(**changed, temperature=0.01, max_grad_norm=10.0), single.observation_space, action_space,
        [Generator().manual_seed(seed) for seed in (1, 2)],
    )  # fmt: skip
    rollout, window = Rollout(single, R, [0] * R * B), theirs.experience(40, B)
    actions: list[Tensor] = []
    for t in range(2 * T):
        actions.append(theirs.behave(rollout.observation, rollout.starts, rollout.legal, Progress(t, 40)))
        window.add(rollout.step(actions[-1]))
        theirs.update(window, Progress(t + 1, 40))
    for scheme in ("ct-de", "shared", "concurrent", "centralized"):
        game = Alone(Drift(R * B, action_space))
        assert game.players is not None
        ours = MAPPO(Config(**changed, scheme=scheme), game.players, [Generator().manual_seed(seed) for seed in (1, 2)])
        rollout, windows = Rollout(game, R, [0] * R * B), ours.experience(40, B)
        for t in range(2 * T):
            action = ours.behave(rollout.observation, rollout.starts, rollout.legal, Progress(t, 40))
            assert torch.equal(action, actions[t])
            windows.add(rollout.step(action))
            ours.update(windows, Progress(t + 1, 40))
        assert torch.equal(ours.units[0].learner.parameters.flat, theirs.parameters.flat)
        played = [made.act(rollout.observation, True, None, made.carry(B)) for made in (ours, theirs)]
        assert torch.equal(*played)


@pytest.mark.parametrize(
    ("way", "kinds"),
    [(way, "alike choices") for way in WAYS]
    + [(way, "alike") for way in ("mappo", "one ppo for all")]
    + [(way, "choices") for way in OWN_NETS]
    + [(way, "alike choices, a group each") for way in ("mappo, told who asks", "ippo")],
)
def test_every_learner_learns_from_what_a_loop_cuts_out_for_it(way: str, kinds: str, players: MakePlayers):
    """Each net beside a PPO alone, with the same first weights, that is told the story agent by agent: one pass over a whole window."""
    team = players(kinds.split(",")[0])
    if "," in kinds:  # as agents with nested spaces are
        each = [replace(group, agents=(agent,)) for group in team.groups for agent in group.agents]
        team = Players(team.names, tuple(each), team.teams)
    changed: dict[str, Any] = dict(epochs=1, batch_size=10_000, normalize_reward=True)
    made = learner(team, way, **changed)
    before = [unit.learner.parameters.flat.clone() for unit in made.units]
    game, windows, story = Numbers(team), made.experience(40, B), list[Transition]()
    play(made, windows, game, T, change=lambda step: (story.append(step), step)[1])
    assert any(bool((step.terminated & ~step.boundary[..., None]).any()) for step in story[:-1])

    # Where an agent's numbers lie: groups one after the other, agents of a group in the order of the game.
    columns: dict[int, tuple[list[int], list[int], list[int]]] = {}
    at = [0, 0, 0]
    for group in team.groups:
        widths = flat_width(group.observation_space), action_width(group.action_space), legal_width(group.action_space)
        for agent in group.agents:
            columns[agent] = tuple(list(range(a, a + w)) for a, w in zip(at, widths, strict=True))  # type: ignore[assignment]
            at = [a + w for a, w in zip(at, widths, strict=True)]
    order = [agent for group in team.groups for agent in group.agents]

    def told(agents: Sequence[int], step: Transition, r: int) -> dict[str, Any]:
        """What one learner is told of one step of seed r, by one agent, or by all at once where they are one."""
        own, names = agents[0], ("observation", "next_observation", "successor")
        see, act, may = ([c for agent in agents for c in columns[agent][k]] for k in range(3))

        def look(x: Tensor) -> Tensor:
            parts = [x[r, :, see]]
            if WAYS[way].get("agent_id"):
                parts.append(torch.eye(len(order))[order.index(own)].expand(B, -1))
            if WAYS[way]["scheme"] == "ct-de":
                parts += [x[r, :, columns[other][0]] for other in order if other != own]
            return torch.cat(parts, -1)

        over = torch.stack([step.terminated[r, :, agent] for agent in agents]).all(0)
        return {name: look(getattr(step, name)) for name in names} | dict(
            action=step.action[r, :, act],
            reward=sum((step.reward[r, :, agent] for agent in agents), torch.zeros(B)) / len(agents),
            terminated=over, boundary=over | step.boundary[r],
            mask=torch.stack([step.mask[r, :, agent] for agent in agents]).any(0),
            legal=None if step.legal is None or not may else step.legal[r, :, may],
        )  # fmt: skip

    scheme = WAYS[way]["scheme"]
    for number, unit in enumerate(made.units):
        group = team.groups[number]
        shared = [[tuple(order)]] if scheme == "centralized" else [[(agent,) for agent in order]]
        pools = [[(agent,)] for agent in group.agents] if way in OWN_NETS else shared
        for r in range(R):
            for place, pool in enumerate(pools):
                member = r * len(pools) + place
                space = {"centralized": joint_space(team)}.get(scheme, group.action_space)
                parts = [[told(agents, step, r) for agents in pool] for step in story]
                alone = ppo.PPO(unit.learner.config, box(unit.learner.observation_shape[0]), space, [Generator().manual_seed(5)])
                own_width = flat_width(group.observation_space) + (len(order) if WAYS[way].get("agent_id") else 0)
                if scheme == "ct-de":
                    alone.nets = alone.nets.narrowed(own_width, alone.parameters, alone.generators)
                for name, weight in unit.learner.parameters.split(before[number]).items():
                    alone.parameters.weights[name].copy_(weight[member : member + 1])
                window = alone.experience(40, B * len(pool))
                for step in parts:
                    each = {name: [part[name] for part in step] for name in step[0]}
                    fields: dict[str, Any] = {n: None if own[0] is None else torch.cat(own)[None] for n, own in each.items()}
                    window.add(Transition(**fields))
                alone.update(window, Progress(T, 40))
                for name, weight in unit.learner.parameters.weights.items():
                    torch.testing.assert_close(weight[member], alone.parameters.weights[name][0], atol=2e-5, rtol=1e-4, msg=name)


def box(width: int) -> Box:
    return Box((width,), np.full(width, -np.inf, np.float32), np.full(width, np.inf, np.float32))


def joint_space(players: Players) -> Space:
    spaces = [group.action_space for group in players.groups for _ in group.agents]
    if isinstance(spaces[0], Box):
        return box(sum(action_width(space) for space in spaces))
    return MultiDiscrete(tuple(size for space in spaces for size in stacked_sizes(space).sizes))


# --- who sees what ---------------------------------------------------------------------------------------------------------


def test_a_policy_sees_its_own_and_its_value_all(players: MakePlayers):
    made = learner(players("alike"), hidden=(8, 8), normalize_observation=True)
    game, windows = Numbers(players("alike")), made.experience(40, B)
    play(made, windows, game, 2 * T)
    nets, weights = made.units[0].learner.nets, made.units[0].learner.parameters.leaves
    x = torch.randn(R, 9, 9, generator=Generator().manual_seed(0)).requires_grad_()
    policy, value, _ = nets.both(weights, x)
    (to_policy,) = torch.autograd.grad(policy.square().sum(), x, retain_graph=True)
    (to_value,) = torch.autograd.grad(value.square().sum(), x)
    assert (to_policy[..., :3] != 0.0).all() and (to_policy[..., 3:] == 0.0).all() and (to_value != 0.0).all()
    # Where others are, and whether they are known at all, changes no bit of what is played.
    seen = torch.randn(R, B, 9, generator=Generator().manual_seed(1))
    for agent in range(3):
        own = slice(3 * agent, 3 * agent + 3)
        alone = torch.full_like(seen, 7.0)
        alone[..., own] = seen[..., own]
        actions = [made.act(x, deterministic=True)[..., 2 * agent : 2 * agent + 2] for x in (seen, alone)]
        assert torch.equal(*actions)


@pytest.mark.parametrize("hidden", [(8, 8), (4,), ()])
def test_a_narrowed_policy_is_a_smaller_net_beside_the_value(hidden: tuple[int, ...]):
    """Against two nets of torch with these weights, with their gradients; its first layer is orthogonal on what it sees."""
    made = ppo.PPO(ppo.Config(hidden=hidden), box(9), Discrete(3), [Generator().manual_seed(seed) for seed in (1, 2)])
    nets, parameters = made.nets.narrowed(4, made.parameters, made.generators), made.parameters
    first = parameters.weights["weight_0"][:, 0]
    gain = 2.0 if hidden else 0.01**2
    gram = first[:, :4] @ first[:, :4].mT if first.shape[-1] >= 4 else first[:, :4].mT @ first[:, :4]
    torch.testing.assert_close(gram, gain * torch.eye(gram.shape[-1]).expand_as(gram), atol=1e-5, rtol=0.0)
    assert (first[:, 4:] == 0.0).all()
    parameters.flat.add_(0.3 * torch.randn(parameters.flat.shape, generator=Generator().manual_seed(3)))
    x = torch.randn(2, 6, 9, generator=Generator().manual_seed(0))
    policy, value, _ = nets.both(parameters.leaves, x)
    loss = policy.square().sum() + value.square().sum()
    gradient = parameters.split(parameters.gather(torch.autograd.grad(loss, list(parameters.leaves.values()))))
    torch.testing.assert_close(nets.policy(parameters.weights, x)[0], policy)
    torch.testing.assert_close(nets.policy(parameters.weights, x[..., :4])[0], policy)  # to play, its own part is enough
    torch.testing.assert_close(nets.value(parameters.weights, x), value)
    for r in range(2):
        for which, (width, outputs, said) in enumerate(((4, 3, policy), (9, 1, value[..., None]))):
            sizes = (width, *hidden, outputs)
            layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
            with torch.no_grad():
                for i, layer in enumerate(layers):
                    a, b = layer.in_features, layer.out_features
                    layer.weight.copy_(parameters.weights[f"weight_{i}"][r, which, :a, :b].T)
                    layer.bias.copy_(parameters.weights[f"bias_{i}"][r, which, 0, :b])
            h = x[r, :, :width]
            for i, layer in enumerate(layers):
                h = layer(h) if i == len(layers) - 1 else layer(h).tanh()
            torch.testing.assert_close(h, said[r])
            h.square().sum().backward()
            for i, layer in enumerate(layers):
                a, b = layer.in_features, layer.out_features
                torch.testing.assert_close(gradient[f"weight_{i}"][r, which, :a, :b], layer.weight.grad.T, atol=1e-5, rtol=1e-4)  # type: ignore[union-attr]
                assert (gradient[f"weight_{i}"][r, which, a:] == 0.0).all()


@with_and_without_memory
def test_a_narrowed_policy_remembers_as_before(memory: Any):
    changed: dict[str, Any] = dict(hidden=(8,), memory=memory)
    made = ppo.PPO(ppo.Config(**changed), box(9), Discrete(3), [Generator().manual_seed(1)])
    nets = made.nets.narrowed(4, made.parameters, made.generators)
    x, starts = torch.randn(1, 5, 2, 9, generator=Generator().manual_seed(0)), torch.zeros(1, 5, 2, dtype=torch.bool)
    other = torch.cat([x[..., :4], torch.zeros(1, 5, 2, 5)], -1)
    if memory == "none":
        x, other = x.flatten(1, 2), other.flatten(1, 2)
    carry = nets.body.carry(2)
    ours, theirs = (n.both(made.parameters.weights, seen, starts, carry) for n, seen in ((nets, x), (made.nets, other)))
    torch.testing.assert_close(ours[0], theirs[0])
    assert not torch.allclose(ours[1], theirs[1])
    torch.testing.assert_close(ours[1], made.nets.both(made.parameters.weights, x, starts, carry)[1])
    assert isinstance(made.parameters, Parameters)


# --- the promises of a learner ---------------------------------------------------------------------------------------------


@every_way_and_memory_in_two
def test_a_stacked_seed_learns_what_it_would_alone(way: str, memory: str, players: MakePlayers):
    changed: dict[str, Any] = dict(memory=memory, normalize_observation=True)
    team = players("alike choices")
    stacked, alone = learner(team, way, **changed), [learner(team, way, (seed,), **changed) for seed in (1, 2)]
    game, windows, own = Numbers(team), stacked.experience(40, B), [made.experience(40, B) for made in alone]
    for t in range(2 * T):
        assert game.legal is not None
        action = stacked.behave(game.observation, game.starts, game.legal, Progress(t, 40))
        for r, made in enumerate(alone):
            one = slice(r, r + 1)
            assert torch.equal(action[one], made.behave(game.observation[one], game.starts[one], game.legal[one], Progress(t, 40)))
        assert game.legal.gather(-1, (action.long() + torch.tensor([0, 3, 6]))).all()
        step = game.step(action)
        windows.add(step)
        metrics = stacked.update(windows, Progress(t + 1, 40))
        for r, (made, window) in enumerate(zip(alone, own, strict=True)):
            one = slice(r, r + 1)
            fields: Any = [None if getattr(step, n) is None else getattr(step, n)[one] for n in Transition.__slots__]
            window.add(Transition(*fields))
            for name, value in made.update(window, Progress(t + 1, 40)).items():
                torch.testing.assert_close(value[0], metrics[name][r], atol=1e-3, rtol=1e-3)
    for r, made in enumerate(alone):
        for ours, theirs in zip(weights_of(stacked), weights_of(made), strict=True):
            torch.testing.assert_close(ours[r * len(theirs) : (r + 1) * len(theirs)], theirs, atol=1e-5, rtol=1e-4)


@every_way_and_memory_in_two
def test_saved_and_loaded_in_the_middle_of_a_window_it_goes_on_to_the_same_bits(way: str, memory: str, players: MakePlayers):
    team = players("alike choices", [(0, 1), (2,)])
    changed: dict[str, Any] = dict(memory=memory, normalize_observation=True)
    if WAYS[way].get("agent_id"):
        team = players("alike choices")
    first, second, game = learner(team, way, **changed), learner(team, way, (7, 8), **changed), Numbers(team)
    windows = first.experience(40, B), second.experience(40, B)
    play(first, windows[0], game, 2 * T + 3)
    second.load(unpack(*pack(first.state())))
    assert not list(windows[0].chunks(8))
    windows[1].load(unpack(*pack(windows[0].state())), [], 8)
    assert windows[1].steps == 2 * T + 3 and len(windows[1]) == 3
    again = Numbers(team)
    again.g.set_state(game.g.get_state())
    again.observation, again.starts, again.legal, again.alive = game.observation, game.starts, game.legal, game.alive
    logs = play(first, windows[0], game, 2 * T, 2 * T + 3), play(second, windows[1], again, 2 * T, 2 * T + 3)
    assert [sorted(m) for m in logs[0]] == [sorted(m) for m in logs[1]] and any(logs[0])
    assert all(torch.equal(x, y) for x, y in zip(weights_of(first), weights_of(second), strict=True))
    carries = [made.carry(B) for made in (first, second)]
    for _ in range(2):
        acted = [made.act(game.observation, True, game.legal, carry) for made, carry in zip((first, second), carries, strict=True)]
        assert torch.equal(*acted)


@pytest.mark.parametrize("way", ["mappo", "ippo, own nets"])
def test_the_same_seed_gives_the_same_bits_and_another_gives_others(way: str, players: MakePlayers):
    team = players("alike")
    made = [learner(team, way, seeds) for seeds in ((1, 2), (1, 2), (3, 4))]
    for one in made:
        metrics = play(one, one.experience(40, B), Numbers(team), 2 * T)
        assert [bool(told) for told in metrics] == ([False] * (T - 1) + [True]) * 2
        assert all(value.shape == (R,) and value.isfinite().all() for value in metrics[-1].values())
        assert all(not stopped.any() and stopped.shape == (R,) for stopped in one.frozen().values())
    assert all(torch.equal(x, y) for x, y in zip(weights_of(made[0]), weights_of(made[1]), strict=True))
    assert not torch.equal(weights_of(made[0])[0], weights_of(made[2])[0])


@pytest.mark.parametrize(("way", "memory"), [("mappo", "none"), ("mappo", "gru"), (OWN_NETS[1], "none"), ("ippo", "none")])
def test_what_the_dead_do_teaches_nothing(way: str, memory: str, players: MakePlayers):
    """A centralized team is there while one of it is, so that there what the dead are paid is the game's business."""

    def garbage(step: Transition) -> Transition:
        dead = ~step.mask
        return replace(step, reward=torch.where(dead, 1e6, step.reward), action=torch.where(dead, 1.0, step.action))

    def nothing(step: Transition) -> Transition:
        return replace(step, reward=torch.where(step.mask, step.reward, 0.0))

    team = players("alike choices")
    plain, other = learner(team, way, memory=memory, normalize_reward=False), learner(team, way, memory=memory, normalize_reward=False)
    for made, change in ((plain, nothing), (other, garbage)):
        play(made, made.experience(40, B), Numbers(team, deaths=0.4), T, change=change)
    for x, y in zip(weights_of(plain), weights_of(other), strict=True):
        torch.testing.assert_close(x, y, atol=1e-6, rtol=1e-5)


def test_a_policy_with_memory_remembers_each_agent_and_copy_by_itself(players: MakePlayers):
    team = players("choices", [(0, 1), (2,)])
    made, game = learner(team, "ippo, own nets", memory="gru"), Numbers(team)
    play(made, made.experience(40, B), game, 2 * T)
    for unit in made.units:  # policies whose actions depend on what they see, and on what they remember
        unit.learner.parameters.flat.mul_(3.0)
    seen = torch.randn(8, R, B, 8, generator=Generator().manual_seed(3))
    together, copy = made.carry(B), made.carry(1)
    assert together is not None and copy is not None and together.state.shape == (R, B, 3 * 12)
    for t, x in enumerate(seen):
        if t == 5:
            forget = torch.zeros(R, B, dtype=torch.bool)
            forget[:, 1] = True
            together.restart(forget)
            copy.restart(forget[:, 1:2])
        all_copies = made.act(x, True, None, together)
        assert torch.equal(all_copies[:, 1:2], made.act(x[:, 1:2], True, None, copy))
    torch.testing.assert_close(together.state[:, 1:2], copy.state)
    assert (together.state[:, 0] != together.state[:, 1]).any()


def test_a_world_that_could_not_be_put_back_interrupts_every_agent_of_its_copy(players: MakePlayers):
    for way in ("mappo", "mappo, own nets", "one ppo for all"):
        made, game = learner(players("alike")), Numbers(players("alike"), deaths=0.0)
        made = learner(players("alike"), way)
        windows = made.experience(40, B)
        play(made, windows, game, 2)
        before = [window.boundary[:, 1].clone() for window in windows.windows]
        windows.interrupt([1, B + 2])
        for unit, window, old in zip(made.units, windows.windows, before, strict=True):
            marked = torch.zeros(R, B, unit.seats, dtype=torch.bool)
            marked[0, 1], marked[1, 2] = True, True
            assert torch.equal(window.boundary[:, 1], old | unit.fold(marked))


# --- what it cannot do, and what it can ------------------------------------------------------------------------------------


def test_it_is_a_learner(players: MakePlayers):
    made = learner(players("alike"))
    assert isinstance(made, Learner) and isinstance(made.experience(10, 2), Experience)
    for name, config in (("mappo", Config(parameter_sharing=False)), ("ippo", IPPO(agent_id=True))):
        run = RunConfig(config, "particle:simple_spread", 100)
        assert run.name == name and from_json(to_json(run)) == run and ALGORITHMS[name].many
    assert (Config().scheme, IPPO().scheme) == ("ct-de", "shared")


def test_what_a_team_cannot_have_is_refused(players: MakePlayers):
    with pytest.raises(GameError, match="shares its nets unless parameter_sharing is off: .* agent_0, agent_2 and agent_1 differ"):
        learner(players("choices"))
    with pytest.raises(GameError, match="agent_0, agent_2 and agent_1 differ"):
        learner(players("choices"), "ippo")
    with pytest.raises(GameError, match="agent_id was given with scheme=ct-de"):
        learner(players("alike"), "mappo, own nets", agent_id=True)
    with pytest.raises(GameError, match="with one body for both"):
        learner(players("alike"), shared=True)
    assert learner(players("alike"), "ippo", shared=True).units[0].learner.nets.shared
    with pytest.raises(GameError, match="some choose and others give reals"):
        learner(players("mixed"), "one ppo for all")
    teams = players("choices", [(0, 2), (1,)])
    assert [unit.learner.observation_shape for unit in learner(teams).units] == [(6,), (2,)]
    assert [unit.learner.observation_shape for unit in learner(teams, "mappo, own nets", one_team=True).units] == [(8,), (8,)]


class Signals(Game):
    """Each of two agents sees one of three signals, its own; both are paid 1 where both name theirs, else 0. It lasts for two steps."""

    def __init__(self, copies: int, players: Players) -> None:
        self.copies, self.players = copies, players
        self.observation_space, self.action_space = players.observation_space, players.action_space
        self.g, self.second = Generator().manual_seed(0), torch.zeros(copies, dtype=torch.bool)

    def reset(self, seed: Sequence[int] | None = None, where: Tensor | None = None) -> Nested:
        self.second = self.second if where is None else self.second & ~where
        return self._next() if where is None or bool(where.any()) else (self.shown,)

    def _next(self) -> Nested:
        self.signal = torch.randint(3, (self.copies, 2), generator=self.g)
        self.shown = torch.eye(3)[self.signal]
        return (self.shown,)

    def step(self, actions: Any) -> Step:
        paid = (actions[0] == self.signal).all(-1).float()[:, None].expand(-1, 2)
        over, self.second = self.second, ~self.second
        return Step(self._next(), paid, over[:, None].expand(-1, 2), over, torch.ones_like(paid, dtype=torch.bool))


@pytest.mark.parametrize("way", ["mappo", "ippo", "one ppo for all"])
def test_two_learn_to_be_right_together(way: str, players: MakePlayers):
    """Chance is right once in nine."""
    team = players([(3, Discrete(3))] * 2)
    made = learner(team, way, hidden=(16,), window=8, epochs=4, batch_size=10_000, learning_rate=1e-2)
    rollout = Rollout(Signals(R * 16, team), R, [0] * R * 16)
    windows = made.experience(144, 16)
    for t in range(144):
        windows.add(rollout.step(made.behave(rollout.observation, rollout.starts, rollout.legal, Progress(t, 144))))
        made.update(windows, Progress(t + 1, 144))
    rollout.episodes.clear()
    for _ in range(20):
        rollout.step(made.act(rollout.observation, deterministic=True))
    scores = [float(np.mean([e.total for e in rollout.episodes if e.seed == seed])) for seed in range(R)]
    assert min(scores) == 2.0, scores


def test_two_of_different_spaces_find_the_better_of_two_equilibria():
    payoff = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    game = MatrixGame(payoff.double().expand(2, -1, -1), R * 16)
    assert game.players is not None
    made = learner(game.players, "mappo, own nets", window=4, epochs=4, batch_size=10_000)
    rollout, windows = Rollout(game, R, [0] * R * 16), made.experience(80, 16)
    for t in range(80):
        windows.add(rollout.step(made.behave(rollout.observation, rollout.starts, rollout.legal, Progress(t, 80))))
        made.update(windows, Progress(t + 1, 80))
    assert (made.act(rollout.observation, deterministic=True) == 0.0).all()
