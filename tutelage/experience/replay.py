"""Replay: every transition once, the successor found by index, rewards relabelled in place."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Generator, Tensor

from tutelage.experience.priorities import Priorities
from tutelage.experience.trajectory import Batch, Segments, Transition


class Replay:
    """A ring of time slots for R seeds with B copies each, preallocated.

    One row holds observation, legal actions, action and flags; the successor's observation is the next slot's, except at a
    boundary, where a side buffer keeps the final one. Images stay bytes, in a tensor of their own. The game's reward is kept
    beside the reward that learners see, so that relabelling loses nothing. Rows lie seed-major: row = (seed x slots + slot) x B + copy.
    In a game of many a row holds the joint observation and action, and rewards and flags of each agent.
    """

    def __init__(
        self,
        capacity: int,
        members: int,
        copies: int,
        observation_shape: tuple[int, ...],
        action_width: int,
        legal_width: int = 0,
        priority_exponent: float | None = None,
        device: torch.device | str = "cpu",
        agents: int | None = None,
    ) -> None:
        """capacity: steps kept per copy; one slot more holds the newest successor.

        observation_shape: (D,), or (C, H, W) for images of bytes. legal_width: K, 0 where all actions are always legal.
        priority_exponent: how much priorities count when a batch is drawn (`Priorities`). None: drawn uniformly.
        agents: how many are paid and end. None: one, without an axis of agents.
        """
        self.capacity, self.members, self.copies = capacity, members, copies
        self.observation_shape, self.action_width, self.legal_width = observation_shape, action_width, legal_width
        self.slots = capacity + 1
        rows = members * self.slots * copies
        pictures = len(observation_shape) > 1
        self._seen = slice(0, 0 if pictures else prod(observation_shape))
        self._legal = slice(self._seen.stop, self._seen.stop + legal_width)
        self._action = slice(self._legal.stop, self._legal.stop + action_width)
        self._each, each = (() if agents is None else (agents,)), agents or 1
        self._terminated = slice(self._action.stop, self._action.stop + each)
        self._boundary = self._terminated.stop
        self._mask = slice(self._boundary + 1, self._boundary + 1 + each)
        self.rows = torch.zeros(rows, self._mask.stop, device=device)
        self.images = torch.zeros(rows, *observation_shape, dtype=torch.uint8, device=device) if pictures else None
        self.reward = torch.zeros(members, self.slots * copies, *self._each, device=device)
        """What learners see."""
        self.game_reward = torch.zeros_like(self.reward)
        self.final_row = torch.full((rows,), -1, dtype=torch.int64, device=device)
        self.finals = torch.zeros(64, self._legal.stop, device=device)
        self.final_images = None if self.images is None else torch.zeros(64, *observation_shape, dtype=torch.uint8, device=device)
        self.free_finals = list(range(64))
        self.priorities = None if priority_exponent is None else Priorities(members, self.slots * copies, priority_exponent, device)
        self.masked = False
        """Whether some step has come with a mask of legal actions: a game gives one always or never."""
        self.steps = 0
        """Steps ever added per copy."""
        self._spans_then: tuple[int, int, list[int]] | None = None
        """Of `newest_episodes`, as long as no other episode has ended: for how many, at which step, and what."""
        self._offset = (torch.arange(members, device=device) * self.slots * copies)[:, None]

    def __len__(self) -> int:
        """Steps held per copy."""
        return min(self.steps, self.capacity)

    def bytes(self) -> int:
        """Memory taken by the preallocated storage."""
        held = [self.rows, self.reward, self.game_reward, self.final_row, *([] if self.images is None else [self.images])]
        return sum(x.numel() * x.element_size() for x in held)

    @property
    def _slots_of(self) -> Tensor:
        return self.rows.view(self.members, self.slots, self.copies, -1)

    @property
    def _images_of(self) -> Tensor | None:
        return None if self.images is None else self.images.view(self.members, self.slots, self.copies, *self.observation_shape)

    def add(self, transition: Transition, reward: Float[Tensor, "R B *n"] | None = None) -> None:
        """Store one step of every copy; reward: what learners see (None: the game's)."""
        slot, following = self.steps % self.slots, (self.steps + 1) % self.slots
        slots, images = self._slots_of, self._images_of
        here, there = slots[:, slot], slots[:, following]
        if images is None:
            here[..., self._seen] = transition.observation
            there[..., self._seen] = transition.next_observation
        else:
            images[:, slot] = transition.observation
            images[:, following] = transition.next_observation
        if transition.legal is not None and transition.next_legal is not None:
            self.masked = True
            here[..., self._legal] = transition.legal
            there[..., self._legal] = transition.next_legal
        here[..., self._action] = transition.action
        here[..., self._terminated] = transition.terminated if self._each else transition.terminated[..., None]
        here[..., self._boundary] = transition.boundary
        here[..., self._mask] = transition.mask if self._each else transition.mask[..., None]
        columns = slice(slot * self.copies, (slot + 1) * self.copies)
        self.game_reward[:, columns] = transition.reward
        self.reward[:, columns] = transition.reward if reward is None else reward
        forgets, ends = self.steps >= self.slots, bool(transition.boundary.any())
        if ends:
            self._spans_then = None
        if forgets or ends:
            final_row = self.final_row.view(self.members, self.slots, self.copies)[:, slot]
            if forgets:  # the ring has come round: what this slot held is forgotten
                self.free_finals.extend(int(i) for i in final_row[final_row >= 0])
                final_row.fill_(-1)
            for place in transition.boundary.nonzero():
                seed, copy = int(place[0]), int(place[1])
                seen = transition.successor[seed, copy]
                legal = None if transition.next_legal is None else transition.next_legal[seed, copy]
                final_row[seed, copy] = self._keep_final(seen, legal)
        if self.priorities is not None:
            self._enter(slot, following, transition.mask)
        self.steps += 1

    def _enter(self, slot: int, following: int, mask: Bool[Tensor, "R B"]) -> None:
        """The newest step can be drawn from now on, and the slot that holds its successor cannot."""
        assert self.priorities is not None
        copy = torch.arange(self.copies)
        columns = torch.cat([slot * self.copies + copy, following * self.copies + copy]).expand(self.members, -1)
        self.priorities.enter(columns, torch.cat([mask, torch.zeros_like(mask)], 1))

    def interrupt(self, copies: Sequence[int]) -> None:
        """The next step of these copies of the game (seed x B + copy) begins a new episode, though the last one did not end it.

        What happens where a resumed run cannot put a world back. The newest step becomes a boundary, as at a time limit.
        """
        if not self.steps:
            return
        self._spans_then = None
        newest, following = (self.steps - 1) % self.slots, self.steps % self.slots
        boundary = self._slots_of[:, newest, :, self._boundary]
        final_row = self.final_row.view(self.members, self.slots, self.copies)[:, newest]
        images = self._images_of
        for seed, copy in (divmod(copy, self.copies) for copy in copies):
            if not boundary[seed, copy]:
                boundary[seed, copy] = 1.0
                row = self._slots_of[seed, following, copy]
                seen = row[self._seen] if images is None else images[seed, following, copy]
                final_row[seed, copy] = self._keep_final(seen, row[self._legal] if self.masked else None)

    def _keep_final(self, observation: Tensor, legal: Tensor | None) -> int:
        if not self.free_finals:
            size = len(self.finals)
            self.finals = torch.cat([self.finals, torch.zeros_like(self.finals)])
            if self.final_images is not None:
                self.final_images = torch.cat([self.final_images, torch.zeros_like(self.final_images)])
            self.free_finals = list(range(size, 2 * size))
        index = self.free_finals.pop(0)
        if self.final_images is None:
            self.finals[index, self._seen] = observation
        else:
            self.final_images[index] = observation
        if legal is not None:
            self.finals[index, self._legal] = legal
        return index

    def _held(self, index: Tensor) -> Tensor:
        """Column (slot x B + copy) of the index-th oldest transition."""
        first = (self.steps - len(self)) % self.slots
        return (index + first * self.copies) % (self.slots * self.copies)

    def draw(self, batch_size: int, generators: Sequence[Generator]) -> Int[Tensor, "R N"]:
        """Columns of batch_size transitions of each seed with replacement, seed r by generators[r]: uniform, or in proportion to priority.

        Raises IndexError when the replay is empty.
        """
        if not len(self):
            raise IndexError("the replay is empty: at least one step must be added before sampling")
        if self.priorities is not None:
            return self.priorities.draw(batch_size, generators)
        count = len(self) * self.copies
        return self._held(torch.stack([torch.randint(count, (batch_size,), generator=g) for g in generators]))

    def sample(self, batch_size: int, generators: Sequence[Generator]) -> Batch:
        """The transitions that `draw` draws. Raises IndexError when empty."""
        return self.take(self.draw(batch_size, generators))

    def take(self, columns: Int[Tensor, "R N"]) -> Batch:
        """The transitions at columns (slot x B + copy)."""
        columns = columns.to(self.rows.device)
        return self._join(columns, columns, self.reward.flatten(0, 1)[columns + self._offset])

    def draw_newest(self, batch_size: int, newest: Sequence[int], generators: Sequence[Generator]) -> Int[Tensor, "R N"]:
        """As `draw`, uniform over the newest steps of each seed only, `newest` of every copy."""
        B, T = self.copies, len(self)
        return self._held(
            torch.stack(
                [torch.randint((T - min(n, T)) * B, T * B, (batch_size,), generator=g) for n, g in zip(newest, generators, strict=True)]
            )
        )

    def newest_episodes(self, episodes: int) -> list[int]:
        """How many of the newest steps hold each seed's newest episodes that have ended, of all copies; all if there are fewer."""
        T, B = len(self), self.copies
        if self._spans_then is not None and self._spans_then[0] == episodes:  # nothing has ended since: they lie further back now
            return [min(span + self.steps - self._spans_then[1], T) for span in self._spans_then[2]]
        held = self._held(torch.arange(T * B)).to(self.rows.device)
        spans: list[int] = []
        for seed in range(self.members):
            ends = (self._columns_of(self.rows)[seed, held, self._boundary] > 0).nonzero().flatten().cpu()  # the older ones first
            if len(ends) <= episodes:
                spans.append(T)
                continue
            oldest = int(ends[-episodes])
            before = ends[(ends % B == oldest % B) & (ends < oldest)]  # where the oldest of them began
            spans.append(T - 1 - int(before[-1]) // B if len(before) else T)
        self._spans_then = (episodes, self.steps, spans)
        return spans

    def next_actions(self, columns: Int[Tensor, "R N"]) -> tuple[Float[Tensor, "R N A"], Bool[Tensor, "R N"]]:
        """What was done after the transitions at columns, and where that is known: neither after a boundary nor after the newest step."""
        columns = columns.to(self.rows.device)
        following = (columns + self.copies) % (self.slots * self.copies)
        newest = (self.steps - 1) % self.slots
        ended = self.rows[columns + self._offset][..., self._boundary] > 0
        return self.rows[following + self._offset][..., self._action], ~ended & (columns // self.copies != newest)

    def take_returns(self, columns: Int[Tensor, "R N"], n_step: int, discount: float) -> Batch:
        """The transitions at columns, each as one of k <= n_step steps: reward = sum_{j < k} discount^j r_j, with the successor of step k.

        k is smaller than n_step where the episode ends (by rule or by clock), where a masked step follows, and where the future is not
        known yet; batch.discount = discount^k. Sutton & Barto 2018, eq. 7.1; Hessel et al. 2018 (arXiv 1710.02298), "multi-step learning".
        """
        columns = columns.to(self.rows.device)
        ahead = torch.arange(n_step, device=columns.device)
        path = (columns[..., None] + ahead * self.copies) % (self.slots * self.copies)  # [R, N, n_step]
        flags = self.rows[:, self._boundary : self._mask.stop][path + self._offset[..., None]]
        known = ((self.steps - 1) % self.slots - columns // self.copies) % self.slots
        follows = (flags[..., :-1, 0] == 0) & (flags[..., 1:, 1] > 0) & (ahead[1:] <= known[..., None])
        counts = torch.cat([torch.ones_like(follows[..., :1]), follows], -1).cumprod(-1) if n_step > 1 else torch.ones_like(path)
        reward = self.reward.gather(1, path.view(self.members, -1)).view(path.shape)
        steps = counts.sum(-1)
        last = path.gather(-1, (steps - 1)[..., None]).squeeze(-1)
        batch = self._join(columns, last, (reward * counts * discount**ahead).sum(-1))
        return replace(batch, discount=discount ** steps.float())

    def _join(self, columns: Tensor, last: Tensor, reward: Tensor) -> Batch:
        """What was seen and done at `columns` `[R, N]`, and how things stood after the step at `last` `[R, N]`."""
        N = columns.shape[1]
        rows = columns + self._offset
        ends = rows if last is columns else last + self._offset
        successors = (last + self.copies) % (self.slots * self.copies) + self._offset
        both = torch.cat([rows, successors], 1).view(-1)
        taken = self.rows.index_select(0, both).view(self.members, 2 * N, -1)
        here, following = taken[:, :N], taken[:, N:, : self._legal.stop]
        flags = here if last is columns else self.rows[ends]
        ended = flags[..., self._boundary] > 0
        images = None if self.images is None else self.images.index_select(0, both).view(self.members, 2 * N, *self.observation_shape)
        if ended.any():
            finals = self.final_row[ends[ended]]
            following[ended] = self.finals[finals]
            if images is not None and self.final_images is not None:
                images[:, N:][ended] = self.final_images[finals]
        return Batch(
            observation=here[..., self._seen] if images is None else images[:, :N],
            action=here[..., self._action],
            reward=reward,
            next_observation=following[..., self._seen] if images is None else images[:, N:],
            terminated=flags[..., self._terminated].view(*flags.shape[:2], *self._each) > 0,
            mask=here[..., self._mask].reshape(*here.shape[:2], *self._each),
            legal=here[..., self._legal] > 0 if self.masked else None,
            next_legal=following[..., self._legal] > 0 if self.masked else None,
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
        rows, seen = self._columns_of(self.rows), self._seen_columns
        for low, high in self._spans(newest):
            for start in range(low, high, chunk):
                part = slice(start, min(start + chunk, high))
                self.reward[kept, part] = reward(seen[:, part], rows[:, part, self._action])[kept]

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

    def _columns_of(self, rows: Tensor) -> Tensor:
        """[R, slots x B, ...]."""
        return rows.view(self.members, self.slots * self.copies, *rows.shape[1:])

    @property
    def _seen_columns(self) -> Tensor:
        return self._columns_of(self.rows)[..., self._seen] if self.images is None else self._columns_of(self.images)

    def observations(self, newest: int | None = None) -> Shaped[Tensor, "R N *O"]:
        """All observations held (or of the newest steps), in the order of storage."""
        return torch.cat([self._seen_columns[:, low:high] for low, high in self._spans(newest)], 1)

    def actions(self) -> Float[Tensor, "R N A"]:
        """All actions held, in the order of storage."""
        rows = self._columns_of(self.rows)
        return torch.cat([rows[:, low:high, self._action] for low, high in self._spans()], 1)

    def action_at(self, seed: int, copy: int, time: int) -> Float[Tensor, "A"]:
        """The action of one copy's step number `time`, counted from the start of the run; it must still be held."""
        return self._slots_of[seed, time % self.slots, copy, self._action]

    def paid(self, seed: int, copy: int, length: int) -> float:
        """Sum of what the learner was paid for the newest `length` steps of one copy; they must still be held."""
        slots = torch.arange(self.steps - length, self.steps) % self.slots
        return float(self.reward[seed, (slots * self.copies + copy).to(self.reward.device)].sum())

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
        flags = self._columns_of(self.rows)[..., self._boundary : self._mask.stop]
        starts: list[Tensor] = []
        for seed in range(self.members):
            boundary, mask = (flags[seed, held].cpu() > 0).unbind(-1)  # [T, B] each
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
        steps = (starts[..., None] + torch.arange(length) * self.copies) % (self.slots * self.copies)  # [R, N, H]
        device = self.rows.device
        flat = (steps.to(device) + self._offset[..., None]).view(-1)
        rows = self.rows.index_select(0, flat).view(*steps.shape, -1)
        seen = rows[..., self._seen] if self.images is None else self.images[flat].view(*steps.shape, *self.observation_shape)
        reward = self.game_reward.gather(1, steps.to(device).view(self.members, -1)).view(steps.shape)
        return Segments(seen.contiguous(), rows[..., self._action].contiguous(), reward, starts)

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
        state: dict[str, Any] = {"steps": self.steps, "finals": self.finals, "free_finals": self.free_finals}
        if self.legal_width:
            state["masked"] = self.masked
        if self.final_images is not None:
            state["final_images"] = self.final_images
        if self.priorities is not None:
            state["maximum_priority"] = self.priorities.maximum
        return state

    def chunks(self, slots_per_chunk: int) -> Iterator[tuple[int, bool, dict[str, Tensor], dict[str, Tensor]]]:
        """Everything held, in pieces of fixed slot ranges: (number, still growing, rows, what may change at any time), for saving."""
        used = min(self.steps + 1, self.slots)
        for number, low in enumerate(range(0, used, slots_per_chunk)):
            high = min(low + slots_per_chunk, self.slots)
            columns = slice(low * self.copies, high * self.copies)
            growing = self.steps >= self.slots or high > self.steps
            rows, changing = ({n: x[:, columns].contiguous() for n, x in part.items()} for part in self._parts())
            yield number, growing, rows, changing

    def _parts(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """By name, all that is stored for each column: what never changes once it is written, and what may. `[R, slots x B, ...]` each."""
        final_row = self.final_row.view(self.members, -1)
        rows = {"rows": self._columns_of(self.rows), "final_row": final_row, "game_reward": self.game_reward}
        changing = {"reward": self.reward}
        if self.images is not None:
            rows["images"] = self._columns_of(self.images)
        if self.priorities is not None:
            changing["priority"] = self.priorities.leaves.view(self.members, -1)
        return rows, changing

    def load(self, state: dict[str, Any], chunks: Sequence[tuple[dict[str, Tensor], dict[str, Tensor]]], slots_per_chunk: int) -> None:
        """Take over what `state` and `chunks` gave."""
        self.steps, self._spans_then = int(state["steps"]), None
        self.finals = state["finals"].to(self.rows.device, copy=True)
        self.free_finals = [int(i) for i in state["free_finals"]]
        self.masked = bool(self.legal_width and state["masked"])
        if self.final_images is not None:
            self.final_images = state["final_images"].to(self.rows.device, copy=True)
        for number, saved in enumerate(chunks):
            low = number * slots_per_chunk * self.copies
            for part, loaded in zip(self._parts(), saved, strict=True):
                for name, tensor in part.items():
                    tensor[:, low : low + loaded[name].shape[1]] = loaded[name]
        if self.priorities is not None:
            self.priorities.maximum.copy_(state["maximum_priority"])
            self.priorities.add_up()
