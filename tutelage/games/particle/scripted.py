"""Reference policies for particle worlds, written by hand: what a learner's return is held against.

A wish says from one agent's observation where it would like to be; the controller steers there, knowing how far a velocity still
carries an agent that pushes no more: DT (1 - (1 - DAMPING)^h) / DAMPING times the velocity in h steps.
"""

from collections.abc import Callable, Sequence
from itertools import permutations

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from tutelage.games.against import Against
from tutelage.games.particle.adversary import Adversary
from tutelage.games.particle.physics import DAMPING, DT, THRUST, length
from tutelage.games.particle.tag import Tag
from tutelage.games.particle.world import World
from tutelage.games.spec import Game, GameError, Nested

HORIZON = 8
"""Steps that a discrete push looks ahead. Fewer get closer (3: -7.6 in simple_spread), but agents then lock horns in long episodes."""

BORDER = 0.8
"""From where on prey turns back; from 0.9 on it is fined."""

Wish = Callable[[Float[Tensor, "B D"]], Float[Tensor, "B 2"]]
"""From an agent's observation to the offset of the place where it wants to be."""


class ScriptedTeam:
    """Plays every agent of a world by its wish. A `Policy`, also for the evaluation: `restart` tells it where episodes begin."""

    def __init__(self, world: World, wishes: Sequence[Wish | Generator]) -> None:
        """wishes: one per agent; a generator stands for uniformly random actions. Raises GameError for another number of them."""
        if len(wishes) != len(world.players.names):
            raise GameError(f"{world.name} has {len(world.players.names)} agents; {len(wishes)} scripts were given")
        self.world, self.wishes = world, wishes
        self._gain = DT * world.bodies.acceleration[:, 0]
        # In simple_adversary nobody sees velocities, but nothing else moves an agent: it can add up its own pushes.
        self._blind = isinstance(world, Adversary)
        self._velocity: Tensor | None = None

    def restart(self, where: Tensor | None = None) -> None:
        """New episodes begin, with everybody at rest."""
        if self._velocity is not None:
            self._velocity = None if where is None else torch.where(where[:, None, None], 0.0, self._velocity)

    def act(self, observation: Nested, deterministic: bool = True, legal: Tensor | None = None) -> tuple[Tensor, ...]:
        """observation: per group [B, n, D] -> actions: per group [B, n] or [B, n, A]."""
        assert isinstance(observation, tuple)
        B, N = observation[0].shape[0], len(self.wishes)
        if self._velocity is None:
            self._velocity = torch.zeros(B, N, 2, device=self.world.device)
        actions: list[list[Tensor]] = []
        for group, seen in zip(self.world.players.groups, observation, strict=True):
            actions.append([self._act(agent, seen[:, j]) for j, agent in enumerate(group.agents)])
        return tuple(torch.stack(group, dim=1) for group in actions)

    def _act(self, agent: int, seen: Float[Tensor, "B D"]) -> Tensor:
        assert self._velocity is not None
        wish, gain = self.wishes[agent], float(self._gain[agent])
        velocity = self._velocity[:, agent] if self._blind else seen[:, :2]
        if isinstance(wish, Generator):
            action, push = self._random(len(seen), wish)
        else:
            action, push = self._steer(wish(seen), velocity, gain)
        self._velocity[:, agent] = (1.0 - DAMPING) * velocity + gain * push
        return action

    def _steer(self, offset: Float[Tensor, "B 2"], velocity: Float[Tensor, "B 2"], gain: float) -> tuple[Tensor, Float[Tensor, "B 2"]]:
        """The action, and the push in [-1, 1]^2 that it is. gain: velocity that a full push adds."""
        if self.world.actions == "discrete":
            # The push after which the distances of the next steps sum to the least, if none followed.
            directions = torch.tensor(THRUST, device=self.world.device)
            carried = [DT * (1.0 - (1.0 - DAMPING) ** h) / DAMPING for h in range(HORIZON + 1)]
            missing = [offset.t() - carried[h] * velocity.t() for h in range(1, HORIZON + 1)]
            distances = [length(m[:, :, None] - carried[h] * gain * directions[:, None]) for h, m in enumerate(missing)]
            choice = torch.stack(distances).sum(0).argmin(1)
            return choice, directions.t()[choice]
        push = ((offset - DT / DAMPING * velocity) / (gain * DT / DAMPING)).clamp(-1.0, 1.0)
        if self.world.actions == "continuous":
            return push, push
        up, down = push.clamp(min=0.0), (-push).clamp(min=0.0)
        return torch.stack([torch.zeros_like(up[:, 0]), down[:, 0], up[:, 0], down[:, 1], up[:, 1]], dim=1), push

    def _random(self, B: int, generator: Generator) -> tuple[Tensor, Float[Tensor, "B 2"]]:
        if self.world.actions == "discrete":
            choice = torch.randint(5, (B,), generator=generator, device=self.world.device)
            return choice, torch.tensor(THRUST, device=self.world.device).t()[choice]
        draws = torch.rand(B, 2 if self.world.actions == "continuous" else 5, generator=generator, device=self.world.device)
        if self.world.actions == "continuous":
            return 2.0 * draws - 1.0, 2.0 * draws - 1.0
        return draws, torch.stack([draws[:, 2] - draws[:, 1], draws[:, 4] - draws[:, 3]], dim=1)


def navigators(agents: int) -> list[Wish]:
    """simple_spread, simple_target and simple_collect: each takes the landmark that is its own in the shortest assignment."""

    def wish(agent: int) -> Wish:
        def own(seen: Float[Tensor, "B D"]) -> Float[Tensor, "B 2"]:
            landmarks = seen[:, 4 : 4 + 2 * agents].reshape(len(seen), agents, 2)
            others = seen[:, 4 + 2 * agents : 2 + 4 * agents].reshape(len(seen), agents - 1, 2)
            return assigned(agent, others, landmarks)

        return own

    return [wish(agent) for agent in range(agents)]


def splitters(agents: int) -> list[Wish]:
    """The good agents of simple_adversary, one to each landmark: the adversary cannot tell which is the goal."""

    def wish(agent: int) -> Wish:
        def own(seen: Float[Tensor, "B D"]) -> Float[Tensor, "B 2"]:
            landmarks = seen[:, 2 : 2 + 2 * agents].reshape(len(seen), agents, 2)
            others = seen[:, 4 + 2 * agents : 2 + 4 * agents].reshape(len(seen), agents - 1, 2)  # behind the adversary
            return assigned(agent, others, landmarks)

        return own

    return [wish(agent) for agent in range(agents)]


def to_goal(seen: Float[Tensor, "B D"]) -> Float[Tensor, "B 2"]:
    """A good agent of simple_adversary that does not deceive."""
    return seen[:, :2]


def to_midpoint(seen: Float[Tensor, "B D"]) -> Float[Tensor, "B 2"]:
    """The adversary between the landmarks: the best reply to good agents that split."""
    agents = seen.shape[1] // 4
    return seen[:, : 2 * agents].reshape(len(seen), agents, 2).mean(1)


def to_closest(seen: Float[Tensor, "B D"]) -> Float[Tensor, "B 2"]:
    """The adversary at the landmark that a good agent is closest to: it follows whoever seems to know."""
    agents = seen.shape[1] // 4
    landmarks, others = seen[:, : 2 * agents].reshape(len(seen), agents, 2), seen[:, 2 * agents :].reshape(len(seen), agents, 2)
    distance = length((landmarks[:, :, None] - others[:, None]).permute(3, 0, 1, 2))  # [B, landmarks, agents]
    return landmarks[torch.arange(len(seen), device=seen.device), distance.amin(2).argmin(1)]


def chase_of(world: Tag) -> list[Wish]:
    """simple_tag: predators go to the closest prey; prey goes where the nearer predators are not, and back before it leaves the picture."""
    adversaries, agents = world.config.adversaries, world.config.agents
    start, count = 4 + 2 * world.config.obstacles, adversaries + agents - 1

    def hunt(seen: Float[Tensor, "B D"]) -> Float[Tensor, "B 2"]:
        prey = seen[:, start : start + 2 * count].reshape(len(seen), count, 2)[:, adversaries - 1 :]
        return prey[torch.arange(len(seen), device=seen.device), prey.square().sum(-1).argmin(1)]

    def flee(seen: Float[Tensor, "B D"]) -> Float[Tensor, "B 2"]:
        hunters, place = seen[:, start : start + 2 * adversaries].reshape(len(seen), adversaries, 2), seen[:, 2:4]
        away = -(hunters / hunters.square().sum(-1, keepdim=True).clamp(min=1e-4)).sum(1)
        return away / away.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-4) - 4.0 * place * (place.abs() > BORDER)

    return [hunt] * adversaries + [flee] * agents


def against_script(game: Game, world: Tag, frozen: str) -> Against:
    """simple_tag, a world of ours or mpe2's own, for one side. frozen: "predators" or "prey", who are scripted."""
    return Against(game, 0 if frozen == "prey" else 1, ScriptedTeam(world, chase_of(world)))


def assigned(agent: int, others: Float[Tensor, "B n 2"], landmarks: Float[Tensor, "B N 2"]) -> Float[Tensor, "B 2"]:
    """The landmark that is `agent`'s where all agents together have the least way to go; tries all N! assignments."""
    B, N = landmarks.shape[:2]
    everyone = torch.cat([others[:, :agent], landmarks.new_zeros(B, 1, 2), others[:, agent:]], dim=1)
    distance = length((landmarks[:, None] - everyone[:, :, None]).permute(3, 0, 1, 2))  # [B, agents, landmarks]
    orders = torch.tensor(list(permutations(range(N))), device=landmarks.device)  # [N!, N]
    total = sum(distance[:, i, orders[:, i]] for i in range(N))
    assert isinstance(total, Tensor)
    return landmarks[torch.arange(B, device=landmarks.device), orders[total.argmin(1), agent]]
