"""The newest step and nothing before it: what a learner that learns from each step once, at once, needs."""

from collections.abc import Iterator, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from tutelage.experience.trajectory import Transition


class Latest:
    """Holds the transition that was added last, of R seeds with B copies each."""

    def __init__(self) -> None:
        self.steps = 0
        """Steps ever added per copy."""
        self._transition: Transition | None = None
        self._reward: Tensor | None = None

    def __len__(self) -> int:
        """Steps held per copy: none or one."""
        return int(self._transition is not None)

    @property
    def transition(self) -> Transition:
        """The newest step. Raises IndexError when nothing was added since the start or the last resumption."""
        if self._transition is None:
            raise IndexError("no step has been added yet")
        return self._transition

    @property
    def reward(self) -> Float[Tensor, "R B"]:
        """What learners see of its reward."""
        return self.transition.reward if self._reward is None else self._reward

    def add(self, transition: Transition, reward: Float[Tensor, "R B"] | None = None) -> None:
        """Replace what is held; reward: what learners see (None: the game's)."""
        self._transition, self._reward = transition, reward
        self.steps += 1

    def interrupt(self, copies: Sequence[int]) -> None:
        """Nothing to do: what is held has been learned from, and the learner is told where the next step begins an episode."""

    def state(self) -> dict[str, Any]:
        """The count: the step itself has been learned from by the time anybody saves."""
        return {"steps": self.steps}

    def chunks(self, slots_per_chunk: int) -> Iterator[tuple[int, bool, dict[str, Tensor], dict[str, Tensor]]]:
        """None."""
        yield from ()

    def load(self, state: dict[str, Any], chunks: Sequence[tuple[dict[str, Tensor], dict[str, Tensor]]], slots_per_chunk: int) -> None:
        """Take over what `state` gave."""
        self.steps = int(state["steps"])
        self._transition = self._reward = None
