"""A window to learn from, and a tape of the newest steps to cut clips from: what an on-policy learner with a teacher needs."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from tutelage.experience.replay import Replay
from tutelage.experience.trajectory import Transition
from tutelage.experience.window import Window


class Taped:
    """Every step goes into both; the window is emptied by its learner, the tape forgets its oldest.

    The window has actions as the policy drew them, the tape as the game played them, inside their bounds, and
    nothing of what else would have been legal.
    """

    def __init__(self, window: Window, tape: Replay, bounds: tuple[Float[Tensor, "A"], Float[Tensor, "A"]] | None = None) -> None:
        """bounds: lowest and highest action. None: actions are choices."""
        self.window, self.tape, self.bounds = window, tape, bounds

    @property
    def steps(self) -> int:
        """Ever added, per copy."""
        return self.tape.steps

    def __len__(self) -> int:
        """Steps on the tape, per copy."""
        return len(self.tape)

    def add(self, transition: Transition, reward: Float[Tensor, "R B"] | None = None) -> None:
        """Store one step of every copy; reward: what learners see (None: the game's)."""
        self.window.add(transition, reward)
        action = transition.action if self.bounds is None else transition.action.clamp(*self.bounds)
        self.tape.add(replace(transition, action=action, legal=None, next_legal=None), reward)

    def paid(self, seed: int, copy: int, length: int) -> float:
        """As the tape's."""
        return self.tape.paid(seed, copy, length)

    def interrupt(self, copies: Sequence[int]) -> None:
        """The next step of these copies (seed x B + copy) begins a new episode, though the last one did not end it."""
        self.window.interrupt(copies)
        self.tape.interrupt(copies)

    def state(self) -> dict[str, Any]:
        """Both."""
        return {"window": self.window.state(), "tape": self.tape.state()}

    def chunks(self, slots_per_chunk: int) -> Iterator[tuple[int, bool, dict[str, Tensor], dict[str, Tensor]]]:
        """The tape's."""
        return self.tape.chunks(slots_per_chunk)

    def load(self, state: dict[str, Any], chunks: Sequence[tuple[dict[str, Tensor], dict[str, Tensor]]], slots_per_chunk: int) -> None:
        """Take over what `state` and `chunks` gave."""
        self.window.load(state["window"], chunks, slots_per_chunk)
        self.tape.load(state["tape"], chunks, slots_per_chunk)
