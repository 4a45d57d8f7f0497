"""Replay: every transition once, the successor found by index, rewards relabelled in place."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from tutelage.experience.trajectory import Batch, Segments, Transition

FLAGS = 3  # terminated, boundary, mask


class Replay:
    """A ring of time slots for R seeds with B copies each, preallocated.

    One row holds observation, action and flags; the successor's observation is the next slot's, except at a boundary,
    where a side buffer keeps the final observation. The game's reward is kept beside the reward that learners see, so
    that relabelling loses nothing. Rows lie seed-major: row = (seed x slots + slot) x B + copy.
    """

    def __init__(
        self, capacity: int, members: int, copies: int, observation_width: int, action_width: int, device: torch.device | str = "cpu"
    ) -> None:
        """capacity: steps kept per copy; one slot more holds the newest successor."""
        self.capacity, self.members, self.copies = capacity, members, copies
        self.observation_width, self.action_width = observation_width, action_width
        self.slots = capacity + 1
        rows, width = members * self.slots * copies, observation_width + action_width + FLAGS
        self.rows = torch.zeros(rows, width, device=device)
        self.reward = torch.zeros(members, self.slots * copies, device=device)
        """What learners see."""
        self.game_reward = torch.zeros_like(self.reward)
        self.final_row = torch.full((rows,), -1, dtype=torch.int64, device=device)
        self.finals = torch.zeros(64, observation_width, device=device)
        self.free_finals = list(range(64))
        self.steps = 0
        """Steps ever added per copy."""
        self._offset = (torch.arange(members, device=device) * self.slots * copies)[:, None]

    def __len__(self) -> int:
        """Steps held per copy."""
        return min(self.steps, self.capacity)

    def bytes(self) -> int:
        """Memory taken by the preallocated storage."""
        return sum(x.numel() * x.element_size() for x in (self.rows, self.reward, self.game_reward, self.final_row))

    @property
    def _slots_of(self) -> Tensor:
        return self.rows.view(self.members, self.slots, self.copies, -1)

    def add(self, transition: Transition, reward: Float[Tensor, "R B"] | None = None) -> None:
        """Store one step of every copy; reward: what learners see (None: the game's)."""
        D, A = self.observation_width, self.action_width
        slot, following = self.steps % self.slots, (self.steps + 1) % self.slots
        here = self._slots_of[:, slot]
        here[..., :D] = transition.observation
        here[..., D : D + A] = transition.action
        here[..., D + A] = transition.terminated
        here[..., D + A + 1] = transition.boundary
        here[..., D + A + 2] = transition.mask
        self._slots_of[:, following, :, :D] = transition.next_observation
        columns = slice(slot * self.copies, (slot + 1) * self.copies)
        self.game_reward[:, columns] = transition.reward
        self.reward[:, columns] = transition.reward if reward is None else reward
        final_row = self.final_row.view(self.members, self.slots, self.copies)[:, slot]
        if self.steps >= self.slots:  # the ring has come round: what this slot held is forgotten
            self.free_finals.extend(int(i) for i in final_row[final_row >= 0])
            final_row.fill_(-1)
        for place in transition.boundary.nonzero():
            seed, copy = int(place[0]), int(place[1])
            final_row[seed, copy] = self._keep_final(transition.successor[seed, copy])
        self.steps += 1

    def interrupt(self, copies: Sequence[int]) -> None:
        """The next step of these copies of the game (seed x B + copy) begins a new episode, though the last one did not end it.

        What happens where a resumed run cannot put a world back. The newest step becomes a boundary, as at a time limit.
        """
        if not self.steps:
            return
        newest, following = (self.steps - 1) % self.slots, self.steps % self.slots
        boundary = self._slots_of[:, newest, :, self.observation_width + self.action_width + 1]
        final_row = self.final_row.view(self.members, self.slots, self.copies)[:, newest]
        for seed, copy in (divmod(copy, self.copies) for copy in copies):
            if not boundary[seed, copy]:
                boundary[seed, copy] = 1.0
                final_row[seed, copy] = self._keep_final(self._slots_of[seed, following, copy, : self.observation_width])

    def _keep_final(self, observation: Tensor) -> int:
        if not self.free_finals:
            size = len(self.finals)
            self.finals = torch.cat([self.finals, torch.zeros_like(self.finals)])
            self.free_finals = list(range(size, 2 * size))
        index = self.free_finals.pop(0)
        self.finals[index] = observation
        return index

    def _held(self, index: Tensor) -> Tensor:
        """Column (slot x B + copy) of the index-th oldest transition."""
        first = (self.steps - len(self)) % self.slots
        return (index + first * self.copies) % (self.slots * self.copies)

    def sample(self, batch_size: int, generators: Sequence[Generator]) -> Batch:
        """Uniform with replacement, batch_size transitions of each seed, seed r by generators[r]. Raises IndexError when empty."""
        if not len(self):
            raise IndexError("the replay is empty: at least one step must be added before sampling")
        count = len(self) * self.copies
        return self.take(self._held(torch.stack([torch.randint(count, (batch_size,), generator=g) for g in generators])))

    def take(self, columns: Tensor) -> Batch:
        """The transitions at columns `[R, N]` (slot x B + copy)."""
        D, A = self.observation_width, self.action_width
        columns = columns.to(self.rows.device)
        N = columns.shape[1]
        rows = columns + self._offset
        successors = (columns + self.copies) % (self.slots * self.copies) + self._offset
        taken = self.rows.index_select(0, torch.cat([rows, successors], 1).view(-1)).view(self.members, 2 * N, -1)
        here, following = taken[:, :N], taken[:, N:, :D]
        ended = here[..., D + A + 1] > 0
        if ended.any():
            following[ended] = self.finals[self.final_row[rows[ended]]]
        return Batch(
            observation=here[..., :D],
            action=here[..., D : D + A],
            reward=self.reward.gather(1, columns),
            next_observation=following,
            terminated=here[..., D + A] > 0,
            mask=here[..., D + A + 2],
        )

    def relabel(
        self,
        reward: Callable[[Tensor, Tensor], Tensor],
        chunk: int = 16384,
        newest: int | None = None,
        chosen: Bool[Tensor, "R"] | None = None,
    ) -> None:
        """Write `reward(observation [R, N, D], action [R, N, A]) -> [R, N]` over everything held, chunk by chunk.

        newest: only the last so many steps. chosen: only these seeds (None: all).
        """
        kept = torch.ones(self.members, dtype=torch.bool) if chosen is None else chosen
        kept = kept.to(self.reward.device)
        D, A = self.observation_width, self.action_width
        rows = self.rows.view(self.members, self.slots * self.copies, -1)
        for low, high in self._spans(newest):
            for start in range(low, high, chunk):
                part = rows[:, start : min(start + chunk, high)]
                self.reward[kept, start : start + part.shape[1]] = reward(part[..., :D], part[..., D : D + A])[kept]

    def pay(self, reward: Float[Tensor, "R N"], chosen: Bool[Tensor, "R"] | None = None) -> None:
        """Write one reward for each transition held, in the order of `observations`. chosen: only these seeds (None: all)."""
        kept = torch.ones(self.members, dtype=torch.bool) if chosen is None else chosen
        kept, paid = kept.to(self.reward.device), 0
        for low, high in self._spans():
            self.reward[kept, low:high] = reward[kept, paid : paid + high - low]
            paid += high - low

    def _spans(self, newest: int | None = None) -> Iterator[tuple[int, int]]:
        """Ranges of columns that hold transitions, oldest first; one, or two where the ring wraps."""
        count = len(self) if newest is None else min(newest, len(self))
        first = (self.steps - count) % self.slots
        end = first + count
        yield first * self.copies, min(end, self.slots) * self.copies
        if end > self.slots:
            yield 0, (end - self.slots) * self.copies

    def observations(self, newest: int | None = None) -> Float[Tensor, "R N D"]:
        """All observations held (or of the newest steps), in the order of storage."""
        rows = self.rows.view(self.members, self.slots * self.copies, -1)
        return torch.cat([rows[:, low:high, : self.observation_width] for low, high in self._spans(newest)], 1)

    def actions(self) -> Float[Tensor, "R N A"]:
        """All actions held, in the order of storage."""
        D, A = self.observation_width, self.action_width
        rows = self.rows.view(self.members, self.slots * self.copies, -1)
        return torch.cat([rows[:, low:high, D : D + A] for low, high in self._spans()], 1)

    def segment_starts(self, length: int, episodes: int) -> list[Tensor]:
        """For each seed the columns at which a segment of `length` steps within one of its newest `episodes` begins.

        A segment may end with its episode's last step but never crosses it; masked steps belong to no segment. The
        episode under way counts as one.
        """
        B, T = self.copies, len(self)
        index = self._held(torch.arange(T * B)).view(T, B)
        held = index.to(self.rows.device)
        time = torch.arange(T)[:, None].expand(T, B)
        number = time * B + torch.arange(B)  # of a step, the older ones first
        flags = self.rows.view(self.members, self.slots * B, -1)[..., self.observation_width + self.action_width :]
        starts: list[Tensor] = []
        for seed in range(self.members):
            _, boundary, mask = (flags[seed, held].cpu() > 0).unbind(-1)  # [T, B] each
            end = torch.where(boundary, time, T - 1).flip(0).cummin(0).values.flip(0)  # last step of the episode under way at t
            masked = torch.where(mask, T, time).flip(0).cummin(0).values.flip(0)  # next masked step
            fits = (time + length - 1 <= end) & (time + length - 1 < masked)
            # Episodes are numbered by when they end, the newest first, over all copies of this seed.
            ends = number[boundary | (time == T - 1)]
            fits &= end * B + torch.arange(B) >= (ends[-episodes] if len(ends) >= episodes else 0)
            starts.append(index[fits])
        return starts

    def segments(self, starts: Tensor, length: int) -> Segments:
        """Cut segments at columns `starts` `[R, N]` (as `segment_starts` lists them): `[R, N, H, ...]`."""
        D, A = self.observation_width, self.action_width
        steps = (starts[..., None] + torch.arange(length) * self.copies) % (self.slots * self.copies)  # [R, N, H]
        device = self.rows.device
        flat = (steps.to(device) + self._offset[..., None]).view(-1)
        rows = self.rows.index_select(0, flat).view(*steps.shape, -1)
        reward = self.game_reward.gather(1, steps.to(device).view(self.members, -1)).view(steps.shape)
        return Segments(rows[..., :D].contiguous(), rows[..., D : D + A].contiguous(), reward, starts)

    def draw_starts(self, count: int, length: int, episodes: int, generators: Sequence[Generator]) -> Tensor:
        """`count` segment starts of each seed, uniform with replacement: `[R, count]`. Raises IndexError when a seed has none."""
        drawn: list[Tensor] = []
        for seed, (starts, generator) in enumerate(zip(self.segment_starts(length, episodes), generators, strict=True)):
            if not len(starts):
                raise IndexError(f"seed {seed} has no episode with {length} steps among its newest {episodes}: no segment can be cut")
            drawn.append(starts[torch.randint(len(starts), (count,), generator=generator)])
        return torch.stack(drawn)

    def state(self) -> dict[str, Any]:
        """Counters and the side buffer; the rows themselves go through `chunks`."""
        return {"steps": self.steps, "finals": self.finals, "free_finals": self.free_finals}

    def chunks(self, slots_per_chunk: int) -> Iterator[tuple[int, bool, dict[str, Tensor], dict[str, Tensor]]]:
        """Everything held, in pieces of fixed slot ranges: (number, still growing, rows, rewards), for saving."""
        used = min(self.steps + 1, self.slots)
        B = self.copies
        for number, low in enumerate(range(0, used, slots_per_chunk)):
            high = min(low + slots_per_chunk, self.slots)
            columns = slice(low * B, high * B)
            rows = self.rows.view(self.members, self.slots * B, -1)[:, columns]
            final_row = self.final_row.view(self.members, -1)[:, columns]
            growing = self.steps >= self.slots or high > self.steps
            yield (
                number,
                growing,
                {"rows": rows.contiguous(), "final_row": final_row.contiguous(), "game_reward": self.game_reward[:, columns].contiguous()},
                {"reward": self.reward[:, columns].contiguous()},
            )

    def load(self, state: dict[str, Any], chunks: Sequence[tuple[dict[str, Tensor], dict[str, Tensor]]], slots_per_chunk: int) -> None:
        """Take over what `state` and `chunks` gave."""
        self.steps = int(state["steps"])
        self.finals = state["finals"].to(self.rows.device, copy=True)
        self.free_finals = [int(i) for i in state["free_finals"]]
        B = self.copies
        for number, (rows, rewards) in enumerate(chunks):
            columns = slice(number * slots_per_chunk * B, number * slots_per_chunk * B + rows["rows"].shape[1])
            self.rows.view(self.members, self.slots * B, -1)[:, columns] = rows["rows"]
            self.final_row.view(self.members, -1)[:, columns] = rows["final_row"]
            self.game_reward[:, columns] = rows["game_reward"]
            self.reward[:, columns] = rewards["reward"]
