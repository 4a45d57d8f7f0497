"""FORK: an actor that looks two steps ahead through learned models.

Wei & Ying 2021 (arXiv 2010.01652), in the form of the authors' code: besides Q(s, mu(s)) the actor climbs
w [ G(s, s1, mu(s)) + gamma G(s1, s2, mu(s1)) + gamma^2 Q(s2, mu(s2)) ],   s1 = F(s, mu(s)),   s2 = F(s1, mu(s1)),
F the model of the world, trained on the Huber loss, G that of the reward, on the squared one, both on every batch. What is predicted is
detached wherever it is used: the gradient reaches the actor through the actions alone, not through F. Where F's loss on the
batch is not below a threshold, nothing is added.

Among many agents (our definition; that of the thesis is not known): what a critic sees, F predicts and G pays. Under ct-de F predicts the
joint observation, G^i pays agent i, and in steps ahead all act by their present policies, the gradient reaching one's own alone. Under
concurrent and shared F sees one agent only, so that the others are noise to it.

Where we depart from the authors' code
- F and G are as wide as the critics; F's weights start as every net's here.
- The weight of the term is fixed (the code can lower it as returns rise).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from tutelage.equations.statistics import masked_mean
from tutelage.experience.trajectory import Batch
from tutelage.learn.many_agents.actions import ESTIMATORS
from tutelage.learn.many_agents.nets import Cut, Nets, Weights, climbed, of_seeds
from tutelage.nets.mlp import MLP


def no_bounds(nets: Nets) -> list[Float[Tensor, "_Rs 2"]]:
    """Before anything was observed; for each stack of critics one row for each of its models of the world."""
    return [torch.tensor([torch.inf, -torch.inf]).repeat(system.members[0], 1) for system in nets.systems]


def widened(nets: Nets, bounds: Sequence[Float[Tensor, "_Rs 2"]], batch: Batch) -> list[Float[Tensor, "_Rs 2"]]:
    """The least and the greatest entry that each model of the world has seen, with this batch."""
    view, wider = nets.view, list[Tensor]()
    shown = view.seen_by_critics(view.observations(batch.observation), nets.members)
    for system, old, seen in zip(nets.systems, bounds, shown, strict=True):
        own = seen[..., : seen.shape[-1] - view.told].reshape(system.members[0], -1)
        wider.append(torch.stack([torch.minimum(old[:, 0], own.amin(1)), torch.maximum(old[:, 1], own.amax(1))], 1))
    return wider


def predicted(
    system: MLP, weights: Mapping[str, Tensor], seen: Tensor, acted: Tensor, bounds: Float[Tensor, "_Rs 2"], told: int
) -> Float[Tensor, "_Rm _N _S"]:
    """F(w, a), kept within the bounds (as the authors' code does); the last `told` entries say who asks and stay.

    Where one model serves the critics of all agents, their rows go through it together.
    """
    rows = torch.cat([seen, acted], -1)
    own = rows.reshape(system.members[0], -1, rows.shape[-1])
    following = system(weights, own).clamp(bounds[:, :1, None], bounds[:, 1:, None]).view_as(seen)
    return torch.cat([following[..., :-told], seen[..., -told:]], -1) if told else following


def model_loss(
    nets: Nets, systems: Weights, rewards: Weights, given: Cut, bounds: Sequence[Tensor], config: Any
) -> tuple[list[Float[Tensor, "_Rm"]], list[Float[Tensor, "_Rm"]], dict[str, Tensor]]:
    """Losses of F and of G, for each stack of critics whether its actors may look ahead (0 or 1), and metrics `[R]`."""
    view, R = nets.view, nets.members
    seen, acted, following = (view.seen_by_critics(x, R) for x in (given.observations, given.actions, given.following))
    losses: list[Tensor] = []
    gates: list[Tensor] = []
    for i, (system, payer) in enumerate(zip(nets.systems, nets.rewards, strict=True)):
        alike = len(given.mask[i]) // system.members[0]  # critics that one model serves see the same: one of them is enough
        s, a, s1 = (x[::alike] for x in (seen[i], acted[i], following[i]))
        m = given.mask[i].view(-1, alike, given.mask[i].shape[1]).amax(1)
        error = smooth_l1_loss(predicted(system, systems[i], s, a, bounds[i], view.told), s1, reduction="none").mean(-1)
        loss = masked_mean(error, m)
        gates.append((loss.detach() < config.fork_threshold).float().repeat_interleave(alike))
        paid = payer(rewards[i], torch.cat([seen[i], following[i], acted[i]], -1)).squeeze(-1)
        losses += [loss, masked_mean((paid - given.reward[i]).square(), given.mask[i])]
    told = {"loss/system": of_seeds(losses[::2], R), "loss/reward": of_seeds(losses[1::2], R), "fork/share": of_seeds(gates, R)}
    return losses, gates, told


@dataclass(frozen=True)
class Ahead:
    """What actors see ahead, at given weights of everything."""

    nets: Nets
    systems: Weights
    rewards: Weights
    critics: Weights
    actors: Weights
    gates: list[Float[Tensor, "_Rm"]]
    bounds: Sequence[Float[Tensor, "_Rs 2"]]
    """For each stack of critics the least and the greatest entry that its models of the world have seen (`widened`)."""
    noise: Sequence[Sequence[Tensor]]
    """For the actions one step and two steps ahead, by unit."""
    config: Any

    def value(self, i: int, seen: Tensor, acted: Tensor) -> Float[Tensor, "_Rm _N"]:
        """G(s, s1, a) + gamma G(s1, s2, a1) + gamma^2 Q(s2, a2) for what critics i were shown; models and critics get no gradient."""
        nets, gamma = self.nets, self.config.discount
        system, payer = nets.systems[i], nets.rewards[i]
        F, G = ({name: w.detach() for name, w in weights[i].items()} for weights in (self.systems, self.rewards))
        total = torch.zeros(seen.shape[:2], device=seen.device)
        for step in (0, 1):
            with torch.no_grad():
                following = predicted(system, F, seen, acted, self.bounds[i], nets.view.told)
            total = total + gamma**step * payer(G, torch.cat([seen, following, acted], -1)).squeeze(-1)
            seen, acted = following, self._act(i, following, self.noise[step])
        return total + gamma**2 * climbed(nets.critics[i], self.critics[i], torch.cat([seen, acted], -1), self.config.minimum_actor)

    def _act(self, i: int, seen: Float[Tensor, "_Rm _N _S"], noise: Sequence[Tensor]) -> Float[Tensor, "_Rm _N _A"]:
        """What everybody whom critics i see does there; the gradient reaches a critic's own agent only."""
        nets, view = self.nets, self.nets.view
        if not view.joint:
            return self._climbing(i, seen, noise[i])
        R, m, N = nets.members, view.critics[0][0], seen.shape[1]
        widths = [unit.learners * unit.width for unit in view.units]
        blocks: list[Tensor] = []
        for k, (piece, (mine, unit)) in enumerate(zip(seen.split(widths, -1), view.owners, strict=True)):
            n = unit.learners
            own = piece.view(R, m, N, n, unit.width).movedim(3, 1).reshape(R * n, m * N, unit.width)
            action = self._climbing(k, own, noise[k]).view(R, n, m, N, -1).movedim(1, 3)
            blocks.append(torch.where(mine.to(seen.device), action, action.detach()).flatten(-2))
        return torch.cat(blocks, -1).flatten(0, 1)

    def _climbing(self, unit: int, seen: Tensor, noise: Tensor) -> Tensor:
        estimator, _ = ESTIMATORS[self.config.estimator]
        output = self.nets.actors[unit](self.actors[unit], seen)
        return self.nets.view.units[unit].actions.climbing(output, noise, estimator, self.config.temperature)
