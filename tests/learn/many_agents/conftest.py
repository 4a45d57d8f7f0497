"""Small games for learners of many agents, and their losses once more: with loops over seeds, agents and samples.

The slow version shares nothing with the schemes that it judges but where weights lie: actors by group, agents in the order of the
groups, seed-major; under ct-de one stack of critics in the same order.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from tutelage.experience.trajectory import Batch
from tutelage.games.spec import Box, Discrete, Group, MultiDiscrete, Players, Space
from tutelage.learn.many_agents.matd3 import MATD3, Config

Weights = Mapping[str, Tensor]
Vectors = dict[int, Tensor]


def box(*bounds: tuple[float, float]) -> Box:
    low, high = np.array(bounds, np.float32).T
    return Box((len(bounds),), low, high)


REALS, REAL = box((-2.0, 2.0), (0.0, 1.0)), box((-1.0, 3.0))
KINDS: dict[str, list[tuple[int, Space]]] = {
    "reals": [(3, REALS), (2, REAL), (3, REALS)],
    "choices": [(3, Discrete(3)), (2, MultiDiscrete((2, 3))), (3, Discrete(3))],
    "mixed": [(3, REALS), (2, Discrete(3)), (3, REALS)],
    "alike": [(3, REALS)] * 3,
    "alike choices": [(3, Discrete(3))] * 3,
    "two": [(3, REALS)] * 2,
    "alone": [(3, REALS)],
}
"""Width of an observation and space of an action, agent by agent. In the first three agent 1 has a group of its own, between the others."""


def size_of(space: Space) -> int:
    """Entries of an action."""
    return space.shape[0] if isinstance(space, Box) else len(sizes_of(space))


def sizes_of(space: Space) -> tuple[int, ...]:
    assert isinstance(space, Discrete | MultiDiscrete)
    return (space.n,) if isinstance(space, Discrete) else space.sizes


def outputs_of(space: Space) -> int:
    """Numbers that an actor gives, and entries of an encoded action."""
    return size_of(space) if isinstance(space, Box) else sum(sizes_of(space))


def players_of(kinds: str | Sequence[tuple[int, Space]], teams: Sequence[tuple[int, ...]] = ()) -> Players:
    each = KINDS[kinds] if isinstance(kinds, str) else list(kinds)
    groups = tuple(
        Group(tuple(i for i, other in enumerate(each) if other == kind), box(*[(-9.0, 9.0)] * kind[0]), kind[1])
        for kind in dict.fromkeys(each)
    )
    return Players(tuple(f"agent_{i}" for i in range(len(each))), groups, tuple(teams) or (tuple(range(len(each))),))


def batch_of(players: Players, members: int = 2, rows: int = 5, seed: int = 0, restricted: bool = False, alive: float = 0.8) -> Batch:
    """A random batch in the game's units; restricted: some choices are illegal, those taken never."""
    g = Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(members, rows, *shape, generator=g)
    seen, done, may, may_next = [], [], [], []
    for group in players.groups:
        space = group.action_space
        for _ in group.agents:
            seen.append(3.0 * rand(2, *group.observation_space.shape) - 1.5)  # type: ignore[union-attr]
            if isinstance(space, Box):
                low, high = torch.as_tensor(space.low), torch.as_tensor(space.high)
                done.append(low + (high - low) * rand(space.shape[0]))
                continue
            for size in sizes_of(space):
                chosen = (rand() * size).long()
                done.append(chosen[..., None].float())
                may.append((rand(size) < 0.5) | one_hot(chosen, size).bool())
                may_next.append((rand(size) < 0.5) | one_hot((rand() * size).long(), size).bool())
    both, N = torch.cat(seen, -1), len(players.names)
    legal = (torch.cat(may, -1), torch.cat(may_next, -1)) if restricted else (None, None)
    mask = (rand(N) < alive).float()
    return Batch(both[..., 0, :], torch.cat(done, -1), rand(N), both[..., 1, :], rand(N) < 0.3, mask, *legal)


def learner_of(config: Config, players: Players, members: int = 2, seed: int = 0) -> MATD3:
    """With critics of which now this one is the smaller, now that one, and targets that differ from what they follow."""
    made = MATD3(config, players, [Generator().manual_seed(seed + i) for i in range(members)])
    g = Generator().manual_seed(77)
    for team in made.teams:
        for flat in (x.parameters.flat for x in team.train.groups.values()):
            flat.add_(0.2 * torch.randn(flat.shape, generator=g))
        for target in team.train.targets.values():
            target.flat.add_(0.3 * torch.randn(target.flat.shape, generator=g))
    return made


def net(weights: Weights, x: Tensor, *index: int) -> Tensor:
    """One sample through one net of a stack."""
    last = len(weights) // 2 - 1
    for i in range(last + 1):
        x = x @ weights[f"weight_{i}"][index] + weights[f"bias_{i}"][(*index, 0)]
        x = x.relu() if i < last else x
    return x


def detached(weights: Weights) -> Weights:
    return {name: weight.detach() for name, weight in weights.items()}


class Slow:
    """The losses of one team: sums over seeds r, agents i and samples n. A centralized team's only learner goes by its first agent."""

    def __init__(self, made: MATD3, batch: Batch, number: int = 0) -> None:
        self.config, self.batch, self.players = made.config, batch, made.players
        train = made.teams[number].train
        self.leaves = {name: group.parameters.leaves for name, group in train.groups.items()}
        self.targets = {name: target.weights for name, target in train.targets.items()}
        self.members, self.rows = batch.reward.shape[:2]
        everyone = tuple(range(len(self.players.names)))
        self.team = everyone if self.config.one_team else self.players.teams[number]
        self.order: list[int] = []
        self.spaces: dict[int, Space] = {}
        self._columns: dict[int, tuple[list[int], list[int], list[int]]] = {}
        self._place: dict[int, tuple[int, int, int]] = {}
        at, unit = [0, 0, 0], 0
        for group in self.players.groups:
            space = group.action_space
            widths = group.observation_space.shape[0], size_of(space), 0 if isinstance(space, Box) else outputs_of(space)  # type: ignore[union-attr]
            own = [i for i in group.agents if i in self.team]
            for i in group.agents:
                self.spaces[i] = space
                self._columns[i] = tuple([*range(a, a + w)] for a, w in zip(at, widths, strict=True))  # type: ignore[assignment]
                at = [a + w for a, w in zip(at, widths, strict=True)]
            for p, i in enumerate(own):
                self._place[i] = unit, p, len(own)
            unit, self.order = unit + bool(own), self.order + own

    @property
    def pools(self) -> list[list[int]]:
        """Agents by the net that learns from them; under centralized one stands for all."""
        scheme = self.config.scheme
        return [self.order] if scheme == "shared" else [[self.order[0]]] if scheme == "centralized" else [[i] for i in self.order]

    def seen(self, source: Tensor, r: int, n: int) -> Vectors:
        return {i: source[r, n, self._columns[i][0]] for i in self.order}

    def done(self, r: int, n: int) -> Vectors:
        """What was done, as critics see it."""
        coded: Vectors = {}
        for i in self.order:
            raw, space = self.batch.action[r, n, self._columns[i][1]], self.spaces[i]
            if isinstance(space, Box):
                low, high = torch.as_tensor(space.low), torch.as_tensor(space.high)
                coded[i] = (raw - (low + high) / 2.0) / ((high - low) / 2.0)
            else:
                coded[i] = torch.cat([one_hot(a.long(), size).float() for a, size in zip(raw, sizes_of(space), strict=True)])
        return coded

    def shown(self, i: int, seen: Vectors) -> Tensor:
        """What one actor sees."""
        if self.config.scheme == "centralized":
            return torch.cat([seen[k] for k in self.order])
        who = one_hot(torch.tensor(self._place[i][1]), len(self.order)).float() if self.config.agent_id else torch.zeros(0)
        return torch.cat([seen[i], who])

    def pair(self, i: int, seen: Vectors, done: Vectors) -> tuple[Tensor, Tensor]:
        """What a critic sees."""
        if self.config.scheme in ("centralized", "ct-de"):
            return torch.cat([seen[k] for k in self.order]), torch.cat([done[k] for k in self.order])
        return self.shown(i, seen), done[i]

    def index(self, i: int, r: int) -> tuple[int, int]:
        """Unit and member of one agent's actor."""
        unit, p, n = self._place[i]
        return (0, r) if self.config.scheme in ("shared", "centralized") else (unit, r * n + p)

    def critic_index(self, i: int, r: int) -> tuple[int, int]:
        return (0, r * len(self.order) + self.order.index(i)) if self.config.scheme == "ct-de" else self.index(i, r)

    def q(self, kind: Mapping[str, Weights], i: int, r: int, j: int, seen: Vectors, done: Vectors) -> Tensor:
        unit, member = self.critic_index(i, r)
        return net(kind[f"critics_{unit}"], torch.cat(self.pair(i, seen, done)), member, j)[0]

    def climbed(self, i: int, r: int, seen: Vectors, done: Vectors) -> Tensor:
        fixed = {name: detached(weights) for name, weights in self.leaves.items()}
        first = self.q(fixed, i, r, 0, seen, done)
        return torch.minimum(first, self.q(fixed, i, r, 1, seen, done)) if self.config.minimum_actor else first

    def act(
        self, kind: Mapping[str, Weights], i: int, r: int, seen: Vectors, noise: Sequence[Tensor], row: int, draw: str, legal: Tensor | None
    ) -> Tensor:
        """One agent's encoded action. row: of the noise, but for the agent's place in a shared batch. draw: target or climb."""
        unit, member = self.index(i, r)
        output, e = net(kind[f"actors_{unit}"], self.shown(i, seen), member), noise[unit]
        e = e[member, self._place[i][1] * self.rows + row] if self.config.scheme == "shared" else e[member, row]
        if self.config.scheme == "centralized":
            start = sum(outputs_of(self.spaces[k]) for k in self.order[: self.order.index(i)])
            own = slice(start, start + outputs_of(self.spaces[i]))
            output, e = output[own], e[..., own]
        space = self.spaces[i]
        if isinstance(space, Box):
            mean, (std, clip) = output.tanh(), (self.config.target_noise, self.config.target_noise_clip)
            return mean if draw == "climb" else (mean + (std * e).clamp(-clip, clip)).clamp(-1.0, 1.0)
        if legal is not None:
            output = torch.where(legal[self._columns[i][2]], output, -torch.inf)
        hot: list[Tensor] = []
        for logits, noise_of in zip(output.split(sizes_of(space)), e[0].split(sizes_of(space)), strict=True):
            x = logits - noise_of.log()
            y, hard = (x / self.config.temperature).softmax(0), one_hot(x.argmax(), len(x)).float()
            hot.append(hard if draw == "target" else hard - y.detach() + y)
        return torch.cat(hot)

    def outcome(self, i: int, r: int, n: int) -> tuple[Tensor, bool, bool]:
        """Reward, end, and whether it counts."""
        reward, ended, mask = (x[r, n] for x in (self.batch.reward, self.batch.terminated, self.batch.mask))
        if self.config.scheme == "centralized":
            return sum(reward[k] for k in self.order) / len(self.order), all(ended[k] for k in self.order), any(mask[k] for k in self.order)  # type: ignore[return-value]
        return reward[i], bool(ended[i]), bool(mask[i])

    def mean(self, of: Callable[[int, int, int], Tensor]) -> Tensor:
        """Of (agent, seed, sample), over what counts for each net; the sum over nets and seeds."""
        total = torch.zeros(())
        for r in range(self.members):
            for pool in self.pools:
                terms = [of(i, r, n) for i in pool for n in range(self.rows) if self.outcome(i, r, n)[2]]
                total = total + sum(terms, torch.zeros(())) / max(len(terms), 1)
        return total

    def critic_loss(self, noise: Sequence[Tensor]) -> Tensor:
        def squares(i: int, r: int, n: int) -> Tensor:
            legal = None if self.batch.next_legal is None else self.batch.next_legal[r, n]
            with torch.no_grad():
                following = self.seen(self.batch.next_observation, r, n)
                ahead = {k: self.act(self.targets, k, r, following, noise, n, "target", legal) for k in self.order}
                next_q = min(self.q(self.targets, i, r, j, following, ahead) for j in range(1 + self.config.twin_critics))
            reward, ended, _ = self.outcome(i, r, n)
            y = reward if ended else reward + self.config.discount * next_q
            seen, done = self.seen(self.batch.observation, r, n), self.done(r, n)
            return sum(((self.q(self.leaves, i, r, j, seen, done) - y) ** 2 for j in range(1 + self.config.twin_critics)), torch.zeros(()))

        return self.mean(squares)

    def turn(self, i: int, r: int, n: int, noise: Sequence[Tensor]) -> tuple[Vectors, Vectors]:
        """What is seen and done in an actor's step: one's own action fresh, that of others as it was, or with `soft` as it is now."""
        legal = None if self.batch.legal is None else self.batch.legal[r, n]
        seen, done = self.seen(self.batch.observation, r, n), self.done(r, n)
        fresh = {k: self.act(self.leaves, k, r, seen, noise, n, "climb", legal) for k in self.order}
        if self.config.scheme == "centralized":
            return seen, fresh
        others = {k: x.detach() for k, x in fresh.items()} if self.config.soft else done
        return seen, others | {i: fresh[i]}

    def actor_loss(self, noise: Sequence[Tensor], ahead: Callable[[int, int, int, Vectors, Vectors], Tensor] | None = None) -> Tensor:
        def climb(i: int, r: int, n: int) -> Tensor:
            seen, done = self.turn(i, r, n, noise)
            value = self.climbed(i, r, seen, done)
            return -value if ahead is None else -value - ahead(i, r, n, seen, done)

        return self.mean(climb)

    def noise(self, seed: int, each: int = 1) -> list[Tensor]:
        """For all actors, `each` times as many rows; as the learner wants it."""
        g, drawn = Generator().manual_seed(seed), []
        units = [[i for i in self.order if self._place[i][0] == k] for k in range(1 + max(p[0] for p in self._place.values()))]
        if self.config.scheme == "centralized":
            width = sum(outputs_of(self.spaces[i]) for i in self.order)
            shapes = [(self.members, self.rows, width)]
        elif self.config.scheme == "shared":
            shapes = [(self.members, self.rows * len(self.order), outputs_of(self.spaces[self.order[0]]))]
        else:
            shapes = [(self.members * len(own), self.rows * each, outputs_of(self.spaces[own[0]])) for own in units]
        for own, (nets, rows, width) in zip(units, shapes, strict=False):
            if isinstance(self.spaces[own[0]], Box):
                drawn.append(torch.randn(nets, rows, width, generator=g))
            else:
                drawn.append(torch.empty(nets, rows, 1, width).exponential_(generator=g))
        return drawn


@pytest.fixture
def players() -> Callable[..., Players]:
    return players_of


@pytest.fixture
def batch() -> Callable[..., Batch]:
    return batch_of


@pytest.fixture
def learner() -> Callable[..., MATD3]:
    return learner_of


@pytest.fixture
def slow() -> type[Slow]:
    return Slow
