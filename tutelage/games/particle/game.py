"""A particle world as a Game: it holds the state and checks what it is given."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from tutelage.games.particle.physics import State
from tutelage.games.particle.picture import draw
from tutelage.games.particle.world import World
from tutelage.games.spec import CannotSnapshot, Discrete, Game, GameError, Nested, Snapshot, Step
from tutelage.games.streams import stream_keys


class ParticleGame(Game):
    """B copies of a world; actions and observations are tuples over the groups of `players`, on the world's device."""

    def __init__(self, world: World, copies: int) -> None:
        """Raises GameError without copies."""
        if copies < 1:
            raise GameError(f"{world.name} was asked for in {copies} copies; at least one is needed")
        self.world, self.copies, self.players = world, copies, world.players
        self.observation_space, self.action_space = world.players.observation_space, world.players.action_space
        nothing = torch.zeros(copies, dtype=torch.int64, device=world.device)
        self.state = world.start(nothing, nothing)
        self._seeded, self._playing = torch.zeros(2, copies, dtype=torch.bool, device=world.device).unbind()

    def reset(self, seed: Sequence[int] | None = None, where: Bool[Tensor, "B"] | None = None) -> tuple[Float[Tensor, "B n D"], ...]:
        """As Game.reset. Raises GameError when a copy would start without ever having been seeded."""
        which = torch.ones_like(self._playing) if where is None else where.to(self.world.device)
        state = self.state
        if seed is not None:
            if len(seed) != self.copies:
                raise GameError(f"{self.world.name} was given {len(seed)} seeds for {self.copies} copies; one per copy is needed")
            key = torch.where(which, stream_keys(seed).to(self.world.device), state.key)
            state = state._replace(key=key, drawn=torch.where(which, 0, state.drawn))
            self._seeded = self._seeded | which
        if not bool(self._seeded.all()):
            copy = int((~self._seeded).long().argmax())
            raise GameError(f"copy {copy} of {self.world.name} was reset without a seed; the first reset needs one per copy")
        self.state = self.world.restart(state, which)
        self._playing = self._playing | which
        return self.world.look(self.state)

    def step(self, actions: Nested) -> Step:
        """As Game.step. Raises GameError for what is no action, and for a copy that awaits its reset."""
        if not bool(self._playing.all()):
            copy = int((~self._playing).long().argmax())
            raise GameError(f"copy {copy} of {self.world.name} was stepped outside an episode; reset it first")
        self.state, outcome = self.world.advance(self.state, self._checked(actions))
        self._playing = ~outcome.boundary
        nobody = torch.zeros_like(outcome.reward, dtype=torch.bool)
        return Step(outcome.observation, outcome.reward, nobody, outcome.boundary, torch.ones_like(nobody))

    def _checked(self, actions: Nested) -> tuple[Tensor, ...]:
        groups = self.world.players.groups
        if not isinstance(actions, tuple) or len(actions) != len(groups):
            given = f"a tuple of {len(actions)}" if isinstance(actions, tuple) else f"a {type(actions).__name__}"
            raise GameError(
                f"{self.world.name} was given {given} as actions; a tuple with one tensor for each of {len(groups)} groups is needed"
            )
        checked: list[Tensor] = []
        for group, action in zip(groups, actions, strict=True):
            shape = (self.copies, len(group.agents), *getattr(group.action_space, "shape", ()))
            integers = isinstance(group.action_space, Discrete)
            if not isinstance(action, Tensor) or tuple(action.shape) != shape or action.is_floating_point() == integers:
                given = f"{action.dtype} of shape {tuple(action.shape)}" if isinstance(action, Tensor) else type(action).__name__
                kind = "integers" if integers else "real numbers"
                raise GameError(f"{self.world.name} was given actions of type {given}; {kind} of shape {shape} are needed")
            action = action.to(self.world.device)
            if isinstance(group.action_space, Discrete):
                action = action.long()
                low, high = (int(end) for end in torch.aminmax(action))
                if low < 0 or high >= group.action_space.n:
                    raise GameError(f"{self.world.name} was given action {low if low < 0 else high}, which is outside {group.action_space}")
            checked.append(action)
        return tuple(checked)

    def snapshot(self, copy: int) -> Snapshot:
        """As Game.snapshot: the copy's column of every part of the state."""
        if not bool(self._seeded[copy]):
            raise GameError(f"copy {copy} of {self.world.name} has no state yet; reset it first")
        parts = {name: part[..., copy].cpu().clone() for name, part in self.state._asdict().items()}
        return {"game": self.world.name, "playing": bool(self._playing[copy]), **parts}

    def restore(self, copy: int, snapshot: Snapshot) -> tuple[Float[Tensor, "n D"], ...]:
        """As Game.restore, also into a game that has never been reset."""
        if snapshot["game"] != self.world.name:
            raise CannotSnapshot(f"a snapshot of {snapshot['game']} was given to {self.world.name}")
        parts: dict[str, Tensor] = {}
        for name, part in self.state._asdict().items():
            if part[..., copy].shape != snapshot[name].shape:
                raise CannotSnapshot(
                    f"{self.world.name}: {name} of the snapshot has shape {tuple(snapshot[name].shape)}, not {tuple(part[..., copy].shape)}"
                )
            parts[name] = part.clone()
            parts[name][..., copy] = snapshot[name].to(part)
        self.state = State(**parts)
        self._playing[copy], self._seeded[copy] = bool(snapshot["playing"]), True
        return tuple(seen[copy] for seen in self.world.look(self.state))

    def render(self, copy: int, width: int = 256, height: int = 256) -> UInt8[np.ndarray, "height width 3"]:
        """As Game.render: landmarks, agents in the colors of their teams, and where they are going."""
        if not bool(self._seeded[copy]):
            raise GameError(f"copy {copy} of {self.world.name} has nothing to draw yet; reset it first")
        return draw(self.world, self.state, copy, width, height)
