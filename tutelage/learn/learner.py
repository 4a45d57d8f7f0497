"""The learner: what every algorithm of a game offers to the run that trains it."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from tutelage.experience.trajectory import Transition
from tutelage.nets.recurrent import Carry


class Progress(NamedTuple):
    """How far a run has come, in steps of every copy of the game."""

    steps: int
    """Taken."""
    total: int
    """Planned."""

    @property
    def share(self) -> float:
        """0 at the start, 1 at the end: what schedules run along."""
        return self.steps / self.total


@runtime_checkable
class Experience(Protocol):
    """What a learner learns from: a replay of all that happened, or a window of the newest steps."""

    steps: int
    """Ever added, per copy."""

    def __len__(self) -> int: ...

    def add(self, transition: Transition, reward: Float[Tensor, "R B *n"] | None = None) -> None:
        """Store one step of every copy; reward: what learners see (None: the game's)."""
        ...

    def interrupt(self, copies: Sequence[int]) -> None:
        """The next step of these copies (seed x B + copy) begins a new episode, though the last one did not end it."""
        ...

    def state(self) -> dict[str, Any]:
        """What `load` needs beside the chunks."""
        ...

    def chunks(self, slots_per_chunk: int) -> Iterator[tuple[int, bool, dict[str, Tensor], dict[str, Tensor]]]:
        """The bulk in pieces that stop changing: (number, still growing, rows, rewards)."""
        ...

    def load(self, state: dict[str, Any], chunks: Sequence[tuple[dict[str, Tensor], dict[str, Tensor]]], slots_per_chunk: int) -> None:
        """Take over what `state` and `chunks` gave."""
        ...


@runtime_checkable
class Acting(Protocol):
    """R stacked policies."""

    def act(
        self,
        observation: Shaped[Tensor, "R B *O"],
        deterministic: bool = False,
        legal: Bool[Tensor, "R B K"] | None = None,
        carry: Carry | None = None,
    ) -> Float[Tensor, "R B A"]:
        """Actions of the policy as it stands, laid out as `nested.flatten_action` does. With memory: reads and writes `carry`."""
        ...

    def carry(self, copies: int) -> Carry | None:
        """Fresh memory for playing so many copies per seed; None where the policy has no memory."""
        ...


@runtime_checkable
class Learner(Acting, Protocol):
    """R stacked learners of one algorithm; each seed draws from a generator of its own.

    Every algorithm is built as `Name(config, observation_space, action_space, generators, device)`.
    """

    def experience(self, steps: int, copies: int) -> Any:
        """Empty storage (an `Experience`) for a run of so many steps with so many copies of the game per seed."""
        ...

    def behave(
        self, observation: Shaped[Tensor, "R B *O"], starts: Bool[Tensor, "R B"], legal: Bool[Tensor, "R B K"] | None, progress: Progress
    ) -> Float[Tensor, "R B A"]:
        """Actions to learn from; exploration is the learner's business. starts: the observation is the first of an episode."""
        ...

    def update(self, experience: Any, progress: Progress) -> dict[str, Tensor]:
        """Learn what is due after a step of the game; metrics `[R]`, none where nothing was due."""
        ...

    def frozen(self) -> dict[str, Bool[Tensor, "R"]]:
        """Which seeds have a net that stopped at its last finite weights, by net."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs, as a tree of plain values and tensors."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        ...
