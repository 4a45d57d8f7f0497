"""How disks move: thrust, contact, damping. The physics of the multi-agent particle environments, as mpe2 1.1.1 integrates them.

A step moves with the velocity of before and changes the velocity afterwards (openai's original and VMAS do the opposite): from rest,
the first thrust moves nobody. Copies are the *last* axis everywhere, so that every operation runs over long rows.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

DT = 0.1
"""Seconds per step."""
DAMPING = 0.25
"""Share of the velocity that is lost per step."""
CONTACT_FORCE = 100.0
CONTACT_MARGIN = 1e-3
"""How softly contact begins, in units of length."""
THRUST = ((0.0, -1.0, 1.0, 0.0, 0.0), (0.0, 0.0, 0.0, -1.0, 1.0))
"""Directions (x; y) of the five discrete actions: none, left, right, down, up."""


class State(NamedTuple):
    """All that B copies of a world are. A copy's future depends on its own column and on nothing else."""

    position: Float[Tensor, "2 N B"]
    """Of the agents."""
    velocity: Float[Tensor, "2 N B"]
    place: Float[Tensor, "2 L B"]
    """Of the landmarks, which do not move by themselves."""
    memory: Int64[Tensor, "M B"]
    """What a world keeps besides: see each world."""
    steps: Int64[Tensor, "B"]
    """Taken in this episode."""
    key: Int64[Tensor, "B"]
    """Where the copy's random stream begins."""
    drawn: Int64[Tensor, "B"]
    """How many numbers it has given."""


class Bodies(NamedTuple):
    """What the physics must know of the disks."""

    acceleration: Float[Tensor, "N 1"]
    """Of full thrust."""
    reach: Float[Tensor, "N C 1"] | None
    """Distance at which an agent touches each disk that can be bumped into (C: the agents, or agents and landmarks);
    -inf for pairs that pass through each other. None: nobody collides."""
    top_speed: Float[Tensor, "N 1"] | None
    """None: no limit."""


def offsets(position: Float[Tensor, "2 N B"], place: Float[Tensor, "2 L B"]) -> Float[Tensor, "2 N E B"]:
    """From each agent to everything: E = N + L, the agents first."""
    return torch.cat([position, place], dim=1)[:, None] - position[:, :, None]


def length(vector: Float[Tensor, "2 *n"]) -> Float[Tensor, "*n"]:
    """Euclidean. Written out: a norm over an axis of two is a slow reduction, and hypot is not vectorized when compiled."""
    return (vector[0] * vector[0] + vector[1] * vector[1]).sqrt()


def reaches(
    agents: list[float], landmarks: list[float], collide: list[bool], *, obstacles: bool, device: torch.device, dtype: torch.dtype
) -> Float[Tensor, "N C 1"]:
    """`Bodies.reach` from radii. collide: which agents bump into one another; obstacles: whether landmarks are solid."""
    radius = torch.tensor(agents + (landmarks if obstacles else []), dtype=dtype, device=device)
    solid = torch.tensor(collide + [True] * (len(radius) - len(agents)), device=device)
    N = len(agents)
    pairs = solid[:N, None] & solid & ~torch.eye(N, len(radius), dtype=torch.bool, device=device)
    return torch.where(pairs, radius[:N, None] + radius, -torch.inf)[:, :, None]


def contact(position: Float[Tensor, "2 N B"], place: Float[Tensor, "2 L B"], reach: Float[Tensor, "N C 1"]) -> Float[Tensor, "2 N B"]:
    """Force on each agent from all that it touches, pushing it straight away: k m log(1 + exp(-(d - reach) / m)).

    Where two centers coincide there is no direction, and no force (mpe2 gives NaN there).
    """
    others = position if reach.shape[1] == position.shape[1] else torch.cat([position, place], dim=1)
    away = position[:, :, None] - others[:, None]
    distance = length(away)
    depth = torch.logaddexp((reach - distance) / CONTACT_MARGIN, distance.new_zeros(()))
    return (away * (depth * (CONTACT_FORCE * CONTACT_MARGIN) / distance.clamp(min=1e-12))).sum(2)


def move(state: State, thrust: Float[Tensor, "2 N B"], bodies: Bodies) -> State:
    """One step of motion under the agents' thrust (in [-1, 1] per axis)."""
    force = thrust * bodies.acceleration
    if bodies.reach is not None:
        force = force + contact(state.position, state.place, bodies.reach)
    position = state.position + DT * state.velocity
    velocity = (1.0 - DAMPING) * state.velocity + DT * force
    if bodies.top_speed is not None:
        velocity = velocity * (bodies.top_speed / length(velocity).clamp(min=1e-12)).clamp(max=1.0)
    return state._replace(position=position, velocity=velocity, steps=state.steps + 1)
