"""The nets of a team under a scheme, and what every loss of theirs reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage.experience.trajectory import Batch
from tutelage.learn.many_agents.schemes import View
from tutelage.nets.mlp import MLP


@dataclass(frozen=True)
class Nets:
    """The nets of one team: a stack of actors for each unit, and for each stack of critics its models, with `fork`."""

    view: View
    members: int
    """R, seeds."""
    actors: tuple[MLP, ...]
    critics: tuple[MLP, ...]
    systems: tuple[MLP, ...]
    """(w, a) -> w'; none without `fork`."""
    rewards: tuple[MLP, ...]
    """(w, w', a) -> r."""


Weights = Sequence[Mapping[str, Tensor]]


def make_nets(view: View, members: int, hidden: tuple[int, ...], twins: int, models: bool) -> Nets:
    """Member axes are `[R n]` for actors and `[R m, twins]` for critics; under ct-de one model of the world serves all critics."""
    actors = tuple(MLP((u.width, *hidden, u.actions.outputs), (members * u.learners,)) for u in view.units)
    critics = tuple(MLP((seen + acted, *hidden, 1), (members * m, twins)) for m, seen, acted in view.critics)
    if not models:
        return Nets(view, members, actors, critics, (), ())
    systems = tuple(MLP((seen + acted, *hidden, seen), (members * (1 if view.joint else m),)) for m, seen, acted in view.critics)
    rewards = tuple(MLP((2 * seen + acted, *hidden, 1), (members * m,)) for m, seen, acted in view.critics)
    return Nets(view, members, actors, critics, systems, rewards)


def values(critic: MLP, weights: Mapping[str, Tensor], pair: Float[Tensor, "_Rm _N _W"]) -> Float[Tensor, "_Rm _C _N"]:
    """Q_1 .. Q_C of what a stack of critics is shown, observations and actions side by side."""
    return critic(weights, pair[:, None].expand(-1, critic.members[1], -1, -1)).squeeze(-1)


def climbed(critic: MLP, weights: Mapping[str, Tensor], pair: Float[Tensor, "_Rm _N _W"], minimum: bool) -> Float[Tensor, "_Rm _N"]:
    """What an actor climbs, Q_1 or min_j Q_j; the critics get no gradient."""
    if minimum:
        return values(critic, {name: weight.detach() for name, weight in weights.items()}, pair).amin(1)
    first = {name: weight[:, 0].detach() for name, weight in weights.items()}
    return MLP(critic.sizes, critic.members[:1])(first, pair).squeeze(-1)


@dataclass(frozen=True)
class Cut:
    """A batch as a team's learners see it: per unit, and rewards, ends and masks per stack of critics."""

    observations: list[Tensor]
    actions: list[Tensor]
    """Encoded."""
    following: list[Tensor]
    """Observations of the true successor."""
    legal: list[Tensor | None]
    next_legal: list[Tensor | None]
    reward: list[Tensor]
    terminated: list[Tensor]
    mask: list[Tensor]


def cut(view: View, batch: Batch) -> Cut:
    """Every loss of an update reads the same one: cutting takes as long as a small net."""
    observations, following = view.observations(batch.observation), view.observations(batch.next_observation)
    legal = view.legal(batch.legal), view.legal(batch.next_legal)
    return Cut(observations, view.actions(batch.action), following, *legal, *outcomes(view, batch))


def outcomes(view: View, batch: Batch) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Rewards, ends and masks for each stack of critics; a centralized team is paid the mean, and ends when all have."""
    return (
        view.each(batch.reward, lambda x: x.mean(1)),
        view.each(batch.terminated, lambda x: x.all(1)),
        view.each(batch.mask, lambda x: x.amax(1)),
    )


def of_seeds(per_critic: Sequence[Float[Tensor, "_Rm"]], members: int) -> Float[Tensor, "R"]:
    """The mean over all learners of each seed."""
    return torch.cat([x.detach().view(members, -1) for x in per_critic], 1).mean(1)
