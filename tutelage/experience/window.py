"""The window: the newest steps of every copy, learned from once and then forgotten."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from tutelage.experience.trajectory import Transition


class Window:
    """T time slots for R seeds with B copies each, preallocated, in the order `[R, T, B, ...]`.

    Slot t holds what was seen, done, paid and flagged at step t; slot T of the observations is where play goes on. The successor of
    a step is the next slot's observation, except at a boundary, where a side buffer keeps the true one. Neither log-probabilities
    nor values are kept: the weights do not change while a window fills, so that a learner computes them when it is full.
    """

    def __init__(
        self,
        length: int,
        members: int,
        copies: int,
        observation_shape: tuple[int, ...],
        action_width: int,
        device: torch.device | str = "cpu",
    ) -> None:
        """length: T. observation_shape: (D,) for vectors, (C, H, W) for images of bytes."""
        self.length, self.members, self.copies = length, members, copies
        kind = torch.uint8 if len(observation_shape) == 3 else torch.float32
        lead = (members, length, copies)
        self.observation = torch.zeros(members, length + 1, copies, *observation_shape, dtype=kind, device=device)
        self.action = torch.zeros(*lead, action_width, device=device)
        self.reward = torch.zeros(lead, device=device)
        """What learners see."""
        self.terminated, self.boundary, self.mask = torch.zeros(3, *lead, dtype=torch.bool, device=device).unbind()
        self.legal: Tensor | None = None
        """[R, T, B, K], from the first step on that says which actions are legal; None where all are, always."""
        self.finals = torch.zeros(members, 16, *observation_shape, dtype=kind, device=device)
        """True successors of the steps that are boundaries, `[R, F, *O]`; the first `final_counts[r]` of seed r are filled."""
        self.final_index = torch.zeros(lead, dtype=torch.int64, device=device)
        """[R, T, B], where in `finals` the successor of a boundary lies."""
        self.final_counts = torch.zeros(members, dtype=torch.int64, device=device)
        self.steps, self.held = 0, 0
        """`steps` ever added per copy; `held` since the last `clear`."""
        self.first = torch.ones(members, copies, dtype=torch.bool, device=device)
        """[R, B], whether the step of slot 0 is the first of an episode."""
        # Made once: to cut a view out of every buffer at every step would take longer than to write it.
        buffers = [self.observation[:, :-1], self.observation[:, 1:], self.action, self.reward, self.terminated, self.boundary, self.mask]
        self._slots = list(zip(*(buffer.unbind(1) for buffer in buffers), strict=True))

    def __len__(self) -> int:
        """Steps held per copy."""
        return self.held

    @property
    def full(self) -> bool:
        """Whether every slot is filled, and a learner has to learn and to clear before the next step."""
        return self.held == self.length

    @property
    def starts(self) -> Bool[Tensor, "R T B"]:
        """Whether the observation of a slot is the first of an episode."""
        return torch.cat([self.first[:, None], self.boundary[:, :-1]], 1)

    def clear(self) -> None:
        """Forget everything but which copies begin an episode."""
        if self.held:
            self.first = self.boundary[:, self.held - 1].clone()
        self.held, self.final_counts = 0, torch.zeros_like(self.final_counts)

    def add(self, transition: Transition, reward: Float[Tensor, "R B"] | None = None) -> None:
        """Store one step of every copy; reward: what learners see (None: the game's). Raises IndexError when the window is full."""
        if self.full:
            raise IndexError(f"the window of {self.length} steps is full: it must be cleared before another is added")
        step = transition
        paid = step.reward if reward is None else reward
        values = (step.observation, step.next_observation, step.action, paid, step.terminated, step.boundary, step.mask)
        # One call for all buffers; at one copy of the game, to copy one by one takes as long as the policy.
        torch._foreach_copy_(self._slots[self.held], values)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        if step.legal is not None and self.legal is None:
            lead = (self.members, self.length, self.copies)
            self.legal = torch.ones(*lead, step.legal.shape[-1], dtype=torch.bool, device=self.reward.device)
        if self.legal is not None:
            self.legal[:, self.held] = True if step.legal is None else step.legal
        if step.boundary.any():
            self._keep_finals(step.boundary.to(self.reward.device), self.held, step.successor.to(self.reward.device))
        self.steps += 1
        self.held += 1

    def _keep_finals(self, where: Bool[Tensor, "R B"], slot: int, observation: Shaped[Tensor, "R B *O"]) -> None:
        places = self.final_counts[:, None] + where.cumsum(1) - 1
        self.final_counts = self.final_counts + where.sum(1)
        if int(self.final_counts.max()) > self.finals.shape[1]:
            wider = torch.zeros_like(self.finals)
            while self.finals.shape[1] < int(self.final_counts.max()):
                self.finals = torch.cat([self.finals, wider], 1)
        seed, copy = where.nonzero(as_tuple=True)
        self.finals[seed, places[seed, copy]] = observation[seed, copy]
        self.final_index[:, slot] = torch.where(where, places, self.final_index[:, slot])

    def interrupt(self, copies: Sequence[int]) -> None:
        """The next step of these copies of the game (seed x B + copy) begins a new episode, though the last one did not end it.

        What happens where a resumed run cannot put a world back. The newest step becomes a boundary, as at a time limit.
        """
        chosen = torch.zeros(self.members * self.copies, dtype=torch.bool, device=self.reward.device)
        chosen[list(copies)] = True
        chosen = chosen.view(self.members, self.copies)
        if not self.held:
            self.first = self.first | chosen
            return
        boundary = self.boundary[:, self.held - 1]
        self._keep_finals(chosen & ~boundary, self.held - 1, self.observation[:, self.held])
        boundary |= chosen

    def final_observations(self) -> Shaped[Tensor, "R F *O"]:
        """True successors of the boundaries; F is the greatest number of any seed, what a seed lacks is left as it was."""
        return self.finals[:, : int(self.final_counts.max())]

    def of_successors(self, slots: Float[Tensor, "R S B"], finals: Float[Tensor, "R F"]) -> Float[Tensor, "R T B"]:
        """What belongs to the true successor of every step, from what was computed of every slot and of every final observation.

        slots: [R, T + 1, B]; finals: [R, F], as `final_observations` has them.
        """
        following = slots[:, 1:]
        if not finals.shape[1]:
            return following
        at_ends = finals.gather(1, self.final_index.flatten(1).clamp(max=finals.shape[1] - 1)).view_as(following)
        return torch.where(self.boundary, at_ends, following)

    def state(self) -> dict[str, Any]:
        """Everything: a window is small, and changes as a whole."""
        return {
            "steps": self.steps,
            "held": self.held,
            "first": self.first,
            "final_counts": self.final_counts,
            "finals": self.finals,
            "final_index": self.final_index,
            "legal": self.legal,
            "slots": self._buffers(),
        }

    def _buffers(self) -> dict[str, Tensor]:
        names = ("observation", "action", "reward", "terminated", "boundary", "mask")
        return {name: getattr(self, name) for name in names}

    def chunks(self, slots_per_chunk: int) -> Iterator[tuple[int, bool, dict[str, Tensor], dict[str, Tensor]]]:
        """None: `state` has it all."""
        yield from ()

    def load(self, state: dict[str, Any], chunks: Sequence[tuple[dict[str, Tensor], dict[str, Tensor]]], slots_per_chunk: int) -> None:
        """Take over what `state` gave."""
        self.steps, self.held = int(state["steps"]), int(state["held"])
        self.final_counts = state["final_counts"].to(self.final_counts.device, copy=True)
        self.first = state["first"].to(self.first.device, copy=True)
        self.finals = state["finals"].to(self.finals.device, copy=True)
        self.final_index.copy_(state["final_index"])
        self.legal = None if state["legal"] is None else state["legal"].to(self.reward.device, copy=True)
        for name, buffer in self._buffers().items():
            buffer.copy_(state["slots"][name])
