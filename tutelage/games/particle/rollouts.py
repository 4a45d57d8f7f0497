"""Whole rollouts of a particle world under random actions, as one function of the state that can be compiled: how fast the world is."""

from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tutelage.games.particle.physics import State
from tutelage.games.particle.world import World
from tutelage.games.spec import GameError


class Trajectory(NamedTuple):
    """What T steps brought; episodes that end begin anew in the same step."""

    observation: tuple[Float[Tensor, "T B n D"], ...]
    """Per group, the true successor of each step."""
    action: tuple[Tensor, ...]
    """Per group, [T, B, n] or [T, B, n, A]."""
    reward: Float[Tensor, "T B N"]
    boundary: Bool[Tensor, "T B"]


Rollout = Callable[[State], tuple[State, list[Trajectory]]]
"""In parts, one after the other: to join them would write every observation once more, at 8,192 copies half of all the time."""


def random_actions(world: World, state: State) -> tuple[State, tuple[Tensor, ...]]:
    """Uniform over the action space, from the copies' own streams."""
    N, width = len(world.players.names), {"discrete": 1, "continuous": 2, "box5": 5}[world.actions]
    draws = world.draw(state.key, state.drawn, N * width).view(N, width, -1).permute(2, 0, 1)
    if world.actions == "discrete":
        joint = (5.0 * draws[..., 0]).long()
    else:
        joint = 2.0 * draws - 1.0 if world.actions == "continuous" else draws
    actions = tuple(joint[:, group.agents[0] : group.agents[-1] + 1] for group in world.players.groups)
    return state._replace(drawn=state.drawn + N * width), actions


def play(world: World, state: State, steps: int) -> tuple[State, Trajectory]:
    """`steps` of random play, resets included. Pure: everything that happens is in the state."""
    records: list[tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor, Tensor]] = []
    for _ in range(steps):
        state, actions = random_actions(world, state)
        state, outcome = world.advance(state, actions)
        records.append((outcome.observation, actions, outcome.reward, outcome.boundary))
        state = world.restart(state, outcome.boundary)
    observations, actions, rewards, boundaries = zip(*records, strict=True)
    return state, Trajectory(_stacked(observations), _stacked(actions), torch.stack(rewards), torch.stack(boundaries))


def compiled_rollout(world: World, steps: int, unroll: int = 4, cudagraphs: bool = False, backend: str = "inductor") -> Rollout:
    """`play`, compiled once for each number of copies.

    unroll: steps in one compiled graph; it must divide `steps`. More means less time between graphs, which matters below a thousand
    copies, and a compilation that takes proportionally longer. cudagraphs: captured on a GPU, where results last until the next call.
    Raises GameError where unroll does not divide steps.
    """
    if unroll < 1 or steps % unroll:
        raise GameError(f"a rollout of {steps} steps of {world.name} was asked for in graphs of {unroll}, which does not divide them")

    def some_steps(state: State) -> tuple[State, Trajectory]:
        return play(world, state, unroll)

    # Nothing of the world can change: to ask on every call whether it has would take as long as several steps of few copies. What
    # has been compiled is kept by code object, and without those guards one world would be given another's function.
    ours = FunctionType(some_steps.__code__.replace(), some_steps.__globals__, closure=some_steps.__closure__)
    options: dict[str, Any] = {"guard_filter_fn": lambda guards: [guard.guard_type == "TENSOR_MATCH" for guard in guards]}  # type: ignore
    if cudagraphs:
        options["triton.cudagraphs"] = True
    compiler: Any = torch
    graph: Callable[[State], tuple[State, Trajectory]] = compiler.compile(
        ours, fullgraph=True, dynamic=False, options=options, backend=backend
    )

    def rollout(state: State) -> tuple[State, list[Trajectory]]:
        parts: list[Trajectory] = []
        for _ in range(steps // unroll):
            state, part = graph(state)
            parts.append(part)
        return state, parts

    return rollout


def _stacked(rows: tuple[tuple[Tensor, ...], ...]) -> tuple[Tensor, ...]:
    return tuple(torch.stack(group) for group in zip(*rows, strict=True))
