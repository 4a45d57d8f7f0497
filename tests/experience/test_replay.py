"""Replay against a slow model made of lists that forgets nothing by accident."""

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from tutelage.experience.replay import Replay
from tutelage.experience.trajectory import Transition
from tutelage.experience.trees import pack, unpack

D, A = 2, 1


def generators(count: int, seed: int = 0) -> list[Generator]:
    return [Generator().manual_seed(seed + i) for i in range(count)]


@dataclass
class Entry:
    """One step of one copy, as it happened."""

    time: int
    observation: list[float]
    action: float
    game_reward: float
    reward: float
    successor: list[float]
    terminated: bool
    boundary: bool
    mask: bool


@dataclass
class Model:
    """R x B lists of everything that ever happened, beside a replay that holds the newest `capacity` steps of it."""

    capacity: int
    R: int
    B: int
    lists: list[list[list[Entry]]] = field(init=False)
    replay: Replay = field(init=False)
    now: Tensor = field(init=False)
    """Where play goes on, `[R, B, D]`; every observation occurs once: (number, copy of the game)."""

    def __post_init__(self) -> None:
        self.replay = Replay(self.capacity, self.R, self.B, (D,), A)
        self.lists = [[[] for _ in range(self.B)] for _ in range(self.R)]
        self.serial = 0
        self.now = self.fresh()

    def fresh(self) -> Tensor:
        self.serial += 1
        return torch.stack(
            [torch.full((self.R, self.B), float(self.serial)), torch.arange(self.R * self.B).view(self.R, self.B).float()], -1
        )

    def step(self, terminated: Tensor, boundary: Tensor, mask: Tensor) -> None:
        """Flags `[R, B]` of one step of every copy."""
        boundary = boundary | terminated
        successor = self.fresh()
        following = torch.where(boundary[..., None], self.fresh(), successor)
        action, pay = self.now[..., :1] / 2.0, self.now[..., 0] / 4.0 + self.now[..., 1]
        t = len(self.lists[0][0])
        for r in range(self.R):
            for b in range(self.B):
                observation, after = self.now[r, b].tolist(), successor[r, b].tolist()
                paid, flags = pay[r, b].item(), [bool(x[r, b]) for x in (terminated, boundary, mask)]
                self.lists[r][b].append(Entry(t, observation, action[r, b].item(), paid, -paid, after, *flags))
        self.replay.add(Transition(self.now, action, pay, successor, following, terminated, boundary, mask), -pay)
        self.now = following

    def random_steps(self, count: int, seed: int = 0, ends: float = 0.2, masked: float = 0.1) -> "Model":
        g = Generator().manual_seed(seed)
        draw = lambda p: torch.rand(self.R, self.B, generator=g) < p
        for _ in range(count):
            self.step(draw(ends / 2.0), draw(ends / 2.0), ~draw(masked))
        return self

    def held(self, seed: int, copy: int) -> list[Entry]:
        return self.lists[seed][copy][-self.capacity :]

    def column(self, entry: Entry, copy: int) -> int:
        return entry.time % (self.capacity + 1) * self.B + copy

    def starts(self, seed: int, length: int, episodes: int) -> set[int]:
        """Columns at which a segment may begin, by the rules as a person would say them."""
        found: list[tuple[tuple[int, int], int]] = []  # (episode's place in time, column)
        ends: set[tuple[int, int]] = set()
        for b in range(self.B):
            held = self.held(seed, b)
            for i in range(len(held)):
                end = next((j for j in range(i, len(held)) if held[j].boundary), len(held) - 1)
                ends.add((held[end].time, b))
                if i + length - 1 <= end and all(e.mask for e in held[i : i + length]):
                    found.append(((held[end].time, b), self.column(held[i], b)))
        newest = sorted(ends)[-episodes:]
        return {column for episode, column in found if episode in newest}

    def check_everything(self) -> None:
        """Every transition held is as it happened; the successor is the true one."""
        rows = [[(self.column(e, b), e) for b in range(self.B) for e in self.held(r, b)] for r in range(self.R)]
        if not rows[0]:
            return
        batch = self.replay.take(torch.tensor([[column for column, _ in own] for own in rows]))
        for r, own in enumerate(rows):
            assert batch.observation[r].tolist() == [e.observation for _, e in own]
            assert batch.action[r, :, 0].tolist() == [e.action for _, e in own]
            assert batch.reward[r].tolist() == [e.reward for _, e in own]
            assert batch.next_observation[r].tolist() == [e.successor for _, e in own]
            assert batch.terminated[r].tolist() == [e.terminated for _, e in own]
            assert batch.mask[r].tolist() == [float(e.mask) for _, e in own]


flags = st.lists(st.lists(st.sampled_from(["", "", "", "t", "b", "m"]), min_size=6, max_size=6), min_size=0, max_size=40)


def played(capacity: int, R: int, B: int, script: list[list[str]]) -> Model:
    model = Model(capacity, R, B)
    for row in script:
        kinds = [row[i * 6 // (R * B)] if R * B <= 6 else row[i % 6] for i in range(R * B)]
        terminated, boundary, masked = (torch.tensor([own == kind for own in kinds]).view(R, B) for kind in "tbm")
        model.step(terminated, boundary, ~masked)
    return model


@given(capacity=st.integers(1, 12), R=st.integers(1, 2), B=st.integers(1, 3), script=flags)
@settings(max_examples=80, deadline=None)
def test_everything_held_is_as_it_happened(capacity: int, R: int, B: int, script: list[list[str]]):
    model = played(capacity, R, B, script)
    assert len(model.replay) == min(len(script), capacity)
    model.check_everything()


@given(
    capacity=st.integers(1, 12),
    R=st.integers(1, 2),
    B=st.integers(1, 3),
    script=flags,
    length=st.integers(1, 5),
    episodes=st.integers(1, 6),
)
@settings(max_examples=120, deadline=None)
def test_segments_lie_within_one_of_the_newest_episodes(capacity: int, R: int, B: int, script: list[list[str]], length: int, episodes: int):
    model = played(capacity, R, B, script)
    starts = model.replay.segment_starts(length, episodes)
    for seed, own in enumerate(starts):
        assert len(own) == len(set(own.tolist()))
        assert set(own.tolist()) == model.starts(seed, length, episodes)
        if not len(own):
            continue
        cut = model.replay.segments(own.expand(R, -1), length)
        for n, column in enumerate(own.tolist()):
            entries = model.held(seed, column % B)
            first = next(i for i, e in enumerate(entries) if model.column(e, column % B) == column)
            expected = entries[first : first + length]
            assert cut.observation[seed, n].tolist() == [e.observation for e in expected]
            assert cut.action[seed, n, :, 0].tolist() == [e.action for e in expected]
            assert cut.reward[seed, n].tolist() == [e.game_reward for e in expected]  # the game's, whatever learners see
            assert [e.time for e in expected] == list(range(expected[0].time, expected[0].time + length))
            assert all(e.mask for e in expected) and not any(e.boundary for e in expected[:-1])


def test_a_termination_and_a_time_limit_are_told_apart_and_both_keep_their_successor():
    model = Model(10, 1, 3)
    no = torch.zeros(1, 3, dtype=torch.bool)
    model.step(torch.tensor([[True, False, False]]), torch.tensor([[False, True, False]]), ~no)
    model.step(no, no, ~no)
    batch = model.replay.take(torch.tensor([[0, 1, 2]]))
    assert batch.terminated.tolist() == [[True, False, False]]
    assert batch.next_observation[0, :, 0].tolist() == [2.0, 2.0, 2.0]  # play goes on at 3 in the first two
    assert model.replay.observations()[0, 3:, 0].tolist() == [3.0, 3.0, 2.0]


def test_the_side_buffer_grows_and_gives_back_what_the_ring_forgets():
    model = Model(30, 2, 4).random_steps(400, ends=1.6)
    model.check_everything()
    finals = model.replay.finals
    used = int((model.replay.final_row >= 0).sum())
    assert len(finals) - len(model.replay.free_finals) == used
    assert used <= 31 * 8 <= 256 and len(finals) == 256  # grown from 64, and no further than one ring needs
    assert len(set(model.replay.free_finals)) == len(model.replay.free_finals)


def test_sampling_is_uniform_over_what_is_held_and_its_own_for_each_seed():
    model = Model(12, 2, 3).random_steps(30)
    own = generators(2)
    batch = model.replay.sample(36_000, own)
    for r in range(2):
        values, counts = batch.observation[r].unique(dim=0, return_counts=True)
        assert len(values) == 36  # everything held, nothing else
        chi = ((counts - 1000.0).square() / 1000.0).sum()
        assert chi < 35 + 5 * (2 * 35) ** 0.5
        assert {tuple(v) for v in values.tolist()} == {tuple(e.observation) for b in range(3) for e in model.held(r, b)}
    assert not torch.equal(batch.observation[0, :, 0], batch.observation[1, :, 0])
    again = model.replay.sample(36_000, [generators(3)[2], generators(2)[1]])
    assert torch.equal(again.observation[1], batch.observation[1])  # whatever the other generator is


def test_an_empty_replay_says_so():
    replay = Replay(5, 2, 1, (D,), A)
    with pytest.raises(IndexError, match="the replay is empty"):
        replay.sample(4, generators(2))
    with pytest.raises(IndexError, match="seed 0 has no episode with 3 steps"):
        replay.draw_starts(4, 3, 10, generators(2))
    assert replay.observations().shape == (2, 0, D)


@pytest.mark.parametrize("steps", [3, 12, 13, 14, 40])
@pytest.mark.parametrize("chunk", [1, 5, 1000])
@pytest.mark.parametrize("newest", [None, 0, 2, 100])
def test_relabelling_touches_what_is_held_and_nothing_else(steps: int, chunk: int, newest: int | None):
    model = Model(12, 2, 3).random_steps(steps)
    model.replay.reward.fill_(-99.0)
    seen: list[Tensor] = []

    def reward(observation: Tensor, action: Tensor) -> Tensor:
        assert observation.shape[:2] == action.shape[:2] and observation.shape[1] <= chunk
        assert torch.equal(action[..., 0], observation[..., 0] / 2.0)
        seen.append(observation)
        return observation[..., 0] * 100.0 + observation[..., 1]

    model.replay.relabel(reward, chunk, newest)
    kept = min(steps, 12) if newest is None else min(newest, steps, 12)
    expected = torch.full_like(model.replay.reward, -99.0)
    for r in range(2):
        for b in range(3):
            for e in model.held(r, b)[len(model.held(r, b)) - kept :]:
                expected[r, model.column(e, b)] = e.observation[0] * 100.0 + e.observation[1]
    assert torch.equal(model.replay.reward, expected)
    assert sum(x.shape[1] for x in seen) == kept * 3
    assert torch.equal(torch.cat(seen, 1) if seen else torch.zeros(2, 0, D), model.replay.observations(newest))


def test_relabelling_and_paying_can_leave_seeds_alone():
    model = Model(12, 3, 2).random_steps(20)
    model.replay.reward.fill_(-99.0)
    only = torch.tensor([True, False, True])
    model.replay.relabel(lambda observation, action: observation[..., 0], chosen=only)
    assert (model.replay.reward[1] == -99.0).all() and (model.replay.reward[0] != -99.0).sum() == 24
    model.replay.pay(-model.replay.observations()[..., 0], ~only)
    for r in range(3):
        columns = torch.tensor([model.column(e, b) for b in range(2) for e in model.held(r, b)])
        taken = model.replay.take(columns.expand(3, -1))
        assert torch.equal(taken.reward[r], taken.observation[r, :, 0] * (1.0 if only[r] else -1.0))


def test_observations_and_actions_come_in_the_order_of_time():
    model = Model(6, 2, 2).random_steps(9)
    expected = [[model.held(r, b)[t].observation for t in range(6) for b in range(2)] for r in range(2)]
    assert model.replay.observations().tolist() == expected
    assert model.replay.actions()[..., 0].tolist() == [[x[0] / 2.0 for x in own] for own in expected]
    assert model.replay.observations(newest=2).tolist() == [own[-4:] for own in expected]


def test_starts_are_drawn_uniformly_and_by_the_seeds_own_generator():
    model = Model(20, 2, 2).random_steps(33, ends=0.1, masked=0.0)
    drawn = model.replay.draw_starts(20_000, 3, 4, generators(2))
    for r in range(2):
        allowed = model.starts(r, 3, 4)
        values, counts = drawn[r].unique(return_counts=True)
        assert set(values.tolist()) == allowed
        mean = 20_000 / len(allowed)
        assert ((counts - mean).square() / mean).sum() < len(allowed) + 5 * (2 * len(allowed)) ** 0.5


def test_the_window_counts_episodes_over_all_copies_the_one_under_way_included():
    model = Model(20, 1, 2)
    no = torch.zeros(1, 2, dtype=torch.bool)
    for t in range(9):  # copy 0 ends at 2 and 5, copy 1 at 3; both are under way at 8
        model.step(no, torch.tensor([[t in (2, 5), t == 3]]), ~no)
    by_window = [{(c // 2, c % 2) for c in model.replay.segment_starts(1, n)[0].tolist()} for n in (1, 2, 3, 4, 5)]
    assert by_window[0] == {(t, 1) for t in range(4, 9)}
    assert by_window[1] - by_window[0] == {(t, 0) for t in range(6, 9)}
    assert by_window[2] - by_window[1] == {(t, 0) for t in range(3, 6)}
    assert by_window[3] - by_window[2] == {(t, 1) for t in range(4)}
    assert by_window[4] - by_window[3] == {(t, 0) for t in range(3)}


@pytest.mark.parametrize("steps", [0, 1, 7, 12, 13, 30])
@pytest.mark.parametrize("slots", [1, 4, 5, 13, 100])
def test_saved_in_chunks_and_loaded_it_is_the_same_and_goes_on_the_same(steps: int, slots: int):
    model = Model(12, 2, 3).random_steps(steps)
    replay = model.replay
    chunks = [
        ({k: v.clone() for k, v in rows.items()}, {k: v.clone() for k, v in rewards.items()})
        for _, _, rows, rewards in replay.chunks(slots)
    ]
    state = unpack(*pack(replay.state()))
    model.replay = Replay(12, 2, 3, (D,), A)
    model.replay.load(state, chunks, slots)
    model.check_everything()
    assert torch.equal(model.replay.game_reward, replay.game_reward)
    model.random_steps(17, seed=5)
    model.check_everything()


@pytest.mark.parametrize("slots", [1, 4, 5, 13])
def test_a_chunk_that_no_longer_grows_does_not_change(slots: int):
    model = Model(12, 2, 3)
    closed: dict[int, dict[str, Tensor]] = {}
    ever_closed: set[int] = set()
    for step in range(12 + 1):
        for number, growing, rows, _ in model.replay.chunks(slots):
            if number in closed:
                assert not growing or step >= 13
                assert all(torch.equal(value, closed[number][name]) for name, value in rows.items())
            elif not growing:
                closed[number] = {name: value.clone() for name, value in rows.items()}
                ever_closed.add(number)
        model.random_steps(1, seed=step, ends=0.8)
    assert len(ever_closed) >= (13 // slots) - 1
    assert all(growing for _, growing, _, _ in model.replay.chunks(slots))  # the ring comes round: every slot may be overwritten


def summed(held: list[Entry], first: int, n: int, discount: float) -> tuple[float, Entry, int]:
    """Rewards from `first` on as a person would add them: their sum, the last step of it, and how many they were."""
    total, k = 0.0, 0
    while True:
        entry = held[first + k]
        total += discount**k * entry.reward
        k += 1
        more = first + k < len(held) and held[first + k].mask
        if entry.boundary or k == n or not more:
            return total, entry, k


@given(capacity=st.integers(1, 12), R=st.integers(1, 2), B=st.integers(1, 3), script=flags, n=st.integers(1, 5))
@settings(max_examples=120, deadline=None)
def test_rewards_of_several_steps_stop_at_boundaries_masks_and_the_present(capacity: int, R: int, B: int, script: list[list[str]], n: int):
    model = played(capacity, R, B, script)
    if not script:
        return
    places = [(b, i) for b in range(B) for i in range(len(model.held(0, b)))]
    columns = torch.tensor([[model.column(model.held(r, b)[i], b) for b, i in places] for r in range(R)])
    batch = model.replay.take_returns(columns, n, 0.5)
    assert batch.discount is not None
    for r in range(R):
        for at, (b, i) in enumerate(places):
            held = model.held(r, b)
            total, last, k = summed(held, i, n, 0.5)
            assert batch.reward[r, at].item() == pytest.approx(total, rel=1e-6)
            assert batch.discount[r, at].item() == 0.5**k
            assert batch.observation[r, at].tolist() == held[i].observation and batch.action[r, at, 0].item() == held[i].action
            assert batch.next_observation[r, at].tolist() == last.successor  # the true one, also at a time limit
            assert (batch.terminated[r, at].item(), batch.mask[r, at].item()) == (last.terminated, float(held[i].mask))
    if n == 1:
        plain = model.replay.take(columns)
        for name in ("observation", "action", "reward", "next_observation", "terminated", "mask"):
            assert torch.equal(getattr(plain, name), getattr(batch, name))


SHAPE, CHOICES = (3, 2, 2), 4


def legal_of(observation: Tensor) -> Tensor:
    """A mask that is written in what is seen, so that each can be held against the other."""
    return observation.flatten(2)[..., :CHOICES] % 2 == 0


class Pictures:
    """The same game stored twice: its pictures as bytes, and as vectors."""

    def __init__(self, capacity: int, priority_exponent: float | None = None) -> None:
        self.bytes = Replay(capacity, 2, 2, SHAPE, A, CHOICES, priority_exponent)
        self.vectors = Replay(capacity, 2, 2, (12,), A, CHOICES, priority_exponent)
        self.generator = Generator().manual_seed(5)
        self.now = self.picture()

    def picture(self) -> Tensor:
        return torch.randint(0, 256, (2, 2, *SHAPE), generator=self.generator, dtype=torch.uint8)

    def play(self, steps: int) -> "Pictures":
        draw = lambda p: torch.rand(2, 2, generator=self.generator) < p
        for _ in range(steps):
            successor, terminated, mask = self.picture(), draw(0.1), ~draw(0.1)
            boundary = terminated | draw(0.2)
            following = torch.where(boundary[..., None, None, None], self.picture(), successor)
            action, reward, flags = torch.rand(2, 2, A, generator=self.generator), torch.rand(2, 2), (terminated, boundary, mask)
            masks = legal_of(self.now), legal_of(successor)
            self.bytes.add(Transition(self.now, action, reward, successor, following, *flags, *masks))
            seen = [x.flatten(2).float() for x in (self.now, successor, following)]
            self.vectors.add(Transition(seen[0], action, reward, seen[1], seen[2], *flags, *masks))
            self.now = following
        return self

    def check(self) -> None:
        count = len(self.bytes) * 2
        columns = self.bytes._held(torch.arange(count)).expand(2, -1)
        pairs = [(replay.take(columns), replay.take_returns(columns, 3, 0.9)) for replay in (self.bytes, self.vectors)]
        for ours, theirs in zip(*pairs, strict=True):
            assert ours.observation.dtype == ours.next_observation.dtype == torch.uint8
            assert ours.observation.shape == (2, count, *SHAPE)
            for name in ("observation", "next_observation"):
                assert torch.equal(getattr(ours, name).flatten(2).float(), getattr(theirs, name))
            for name in ("action", "reward", "terminated", "mask", "legal", "next_legal"):
                assert torch.equal(getattr(ours, name), getattr(theirs, name))
            assert torch.equal(ours.legal, legal_of(ours.observation))
            assert torch.equal(ours.next_legal, legal_of(ours.next_observation))
        assert torch.equal(self.bytes.observations().flatten(2).float(), self.vectors.observations())
        starts = self.bytes.segment_starts(2, 100)
        assert [x.tolist() for x in starts] == [x.tolist() for x in self.vectors.segment_starts(2, 100)]
        if all(len(own) for own in starts):
            first = torch.stack([own[:1] for own in starts])
            ours, theirs = self.bytes.segments(first, 2), self.vectors.segments(first, 2)
            assert torch.equal(ours.observation.flatten(3).float(), theirs.observation) and torch.equal(ours.action, theirs.action)


@pytest.mark.parametrize("steps", [1, 5, 12, 13, 200])
def test_pictures_are_kept_as_bytes_and_legal_actions_beside_them(steps: int):
    both = Pictures(12).play(steps)
    both.check()
    both.bytes.interrupt([1, 2])
    both.vectors.interrupt([1, 2])
    both.now = both.picture()
    both.play(3).check()
    assert both.bytes.bytes() < 0.7 * both.vectors.bytes()


@pytest.mark.parametrize("steps", [0, 1, 12, 30])
def test_pictures_masks_and_priorities_survive_saving(steps: int):
    both = Pictures(12, priority_exponent=0.6).play(steps)
    for name in ("bytes", "vectors"):
        old = getattr(both, name)
        if steps:
            columns = old.draw(5, generators(2))
            old.priorities.set(columns, torch.rand(2, 5, generator=Generator().manual_seed(2)))
        chunks = [({k: v.clone() for k, v in a.items()}, {k: v.clone() for k, v in b.items()}) for _, _, a, b in old.chunks(5)]
        new = Replay(12, 2, 2, old.observation_shape, A, CHOICES, 0.6)
        new.load(unpack(*pack(old.state())), chunks, 5)
        setattr(both, name, new)
        if steps:
            assert torch.equal(new.draw(20, generators(2)), old.draw(20, generators(2)))
            both.check()
    both.play(20).check()


def test_a_game_without_masks_leaves_none_in_the_batch():
    model = Model(5, 1, 1).random_steps(3)
    batch = model.replay.take(torch.zeros(1, 2, dtype=torch.int64))
    assert batch.legal is None and batch.next_legal is None and batch.discount is None


def test_with_priorities_only_real_steps_that_are_held_are_drawn_and_the_newest_at_least_as_often():
    model = Model(6, 2, 2)
    model.replay = Replay(6, 2, 2, (D,), A, priority_exponent=1.0)
    for steps in (1, 3, 6, 7, 20):
        model.random_steps(steps, seed=steps)
        real = [{model.column(e, b) for b in range(2) for e in model.held(r, b) if e.mask} for r in range(2)]
        drawn = model.replay.draw(600, generators(2))
        assert [set(own.tolist()) for own in drawn] == real
        model.check_everything()
    columns = drawn[:, ::60]
    assert model.replay.priorities is not None
    model.replay.priorities.set(columns, torch.full((2, 10), 50.0))
    no = torch.zeros(2, 2, dtype=torch.bool)
    model.step(no, no, ~no)
    newest = [model.column(model.held(r, 0)[-1], 0) for r in range(2)]
    leaves = model.replay.priorities.leaves.view(2, -1)
    assert [leaves[r, column].item() for r, column in enumerate(newest)] == [50.0, 50.0]


def test_an_interrupted_episode_keeps_its_true_successor_and_no_segment_crosses_it():
    model = Model(12, 2, 2).random_steps(5, ends=0.0, masked=0.0)
    assert model.replay.segment_starts(5, 10)[0].tolist() == [0, 1]
    model.replay.interrupt([0, 3])
    fresh = model.fresh()
    for copy in (0, 3):
        r, b = divmod(copy, 2)
        model.lists[r][b][-1].boundary = True
        model.now[r, b] = fresh[r, b]
    model.random_steps(4, ends=0.0, masked=0.0)
    model.check_everything()
    for r in range(2):
        for length in (3, 5, 6):
            assert set(model.replay.segment_starts(length, 10)[r].tolist()) == model.starts(r, length, 10)
    batch = model.replay.take(torch.tensor([[8, 9], [8, 9]]))
    assert not batch.terminated.any()  # cut as by a time limit: the value goes on
    model.random_steps(40)
    model.check_everything()


def test_interrupting_before_the_first_step_or_at_a_boundary_changes_nothing():
    empty = Replay(5, 1, 1, (D,), A)
    empty.interrupt([0])
    assert len(empty.free_finals) == 64
    model = Model(5, 1, 1).random_steps(3, ends=2.0)
    before = len(model.replay.free_finals)
    model.replay.interrupt([0])
    assert len(model.replay.free_finals) == before
    model.check_everything()
