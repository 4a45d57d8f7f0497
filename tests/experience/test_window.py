"""Window against lists of what happened."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from tutelage.experience.trajectory import Transition
from tutelage.experience.trees import pack, unpack
from tutelage.experience.window import Window

R, B, A, T = 2, 3, 2, 7


@dataclass
class Play:
    """Random steps of R x B copies, each remembered; every observation occurs once."""

    window: Window
    shape: tuple[int, ...] = (4,)
    ends: float = 0.3
    legal_width: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        self.g, self.serial = Generator().manual_seed(self.seed), 0
        self.now, self.starts = self.fresh(), torch.ones(R, B, dtype=torch.bool)
        self.happened: list[tuple[Transition, Tensor, Tensor]] = []

    def fresh(self) -> Tensor:
        self.serial += 1
        numbers = (self.serial * R * B + torch.arange(R * B)).view(R, B, *[1] * len(self.shape)).expand(R, B, *self.shape)
        return (numbers % 251).byte() if len(self.shape) == 3 else numbers.float()

    def draw(self, probability: float, *shape: int) -> Tensor:
        return torch.rand(R, B, *shape, generator=self.g) < probability

    def step(self) -> None:
        boundary = self.draw(self.ends)
        terminated, successor = boundary & self.draw(0.5), self.fresh()
        chosen = boundary.view(R, B, *[1] * len(self.shape))
        following = torch.where(chosen, self.fresh(), successor)
        legal = self.draw(0.5, self.legal_width) if self.legal_width else None
        action, reward = torch.rand(R, B, A, generator=self.g), torch.rand(R, B, generator=self.g)
        transition = Transition(
            self.now, action, reward, successor, following, terminated, boundary, self.draw(0.9), legal, legal
        )  # fmt: skip
        self.window.add(transition, -reward)
        self.happened.append((transition, -reward, self.starts))
        self.now, self.starts = following, boundary

    def check(self, count: int) -> None:
        """The newest `count` steps lie in the window as they happened."""
        window = self.window
        assert len(window) == count
        slots, finals = number_of(window.observation), number_of(window.final_observations())
        successors = window.of_successors(slots, finals)
        for t, (step, reward, starts) in enumerate(self.happened[-count:] if count else []):
            for name in ("action", "terminated", "boundary", "mask"):
                assert torch.equal(getattr(window, name)[:, t], getattr(step, name)), name
            assert torch.equal(window.observation[:, t], step.observation) and torch.equal(window.reward[:, t], reward)
            assert torch.equal(window.starts[:, t], starts)
            assert torch.equal(successors[:, t], number_of(step.successor))
            if step.legal is not None:
                assert window.legal is not None and torch.equal(window.legal[:, t], step.legal)
        assert torch.equal(window.observation[:, count], self.now)


def number_of(observation: Tensor) -> Tensor:
    """One number for each observation, `[R, *]`."""
    lead = 3 if observation.dim() in (4, 6) else 2
    return observation.flatten(lead).float().mean(-1)


def window(shape: tuple[int, ...] = (4,)) -> Window:
    return Window(T, R, B, shape, A)


@pytest.mark.parametrize("ends", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("shape", [(4,), (1, 2, 2)])
def test_everything_lies_where_it_happened(shape: tuple[int, ...], ends: float):
    play = Play(window(shape), shape, ends)
    for fill in range(3):
        for count in range(1, T + 1):
            play.step()
            if fill != 1:
                play.check(count)
        assert play.window.full and play.window.steps == T * (fill + 1)
        play.window.clear()
        assert len(play.window) == 0 and not play.window.full
    assert play.window.observation.dtype == (torch.uint8 if len(shape) == 3 else torch.float32)


def test_a_full_window_takes_no_more():
    play = Play(window())
    for _ in range(T):
        play.step()
    with pytest.raises(IndexError, match="the window of 7 steps is full: it must be cleared"):
        play.step()


def test_more_ends_than_the_side_buffer_first_holds():
    wide = Window(T, R, B, (4,), A)
    play = Play(wide, ends=1.0)
    for _ in range(T):
        play.step()
    assert wide.final_observations().shape == (R, T * B, 4)  # 21 of each seed, the buffer began with 16
    play.check(T)


def test_legal_actions_are_kept_from_the_first_step_that_names_them():
    play = Play(window(), legal_width=5)
    assert play.window.legal is None
    for count in range(1, T + 1):
        play.step()
        play.check(count)
    play.window.clear()
    play.legal_width = 0
    play.step()
    assert play.window.legal is not None and play.window.legal[:, 0].all()


def test_an_interrupted_copy_ends_its_episode_as_at_a_time_limit():
    play = Play(window(), ends=0.0)
    for _ in range(3):
        play.step()
    play.window.interrupt([1, B + 2, 1])
    before, fresh = play.now.clone(), play.fresh()
    play.now = play.now.clone()
    for seed, copy in ((0, 1), (1, 2)):
        play.now[seed, copy] = fresh[seed, copy]
        play.happened[-1][0].boundary[seed, copy] = True
        assert play.window.boundary[seed, 2, copy] and not play.window.terminated[seed, 2, copy]
    play.starts = play.happened[-1][0].boundary
    play.step()
    play.check(4)
    assert play.window.final_observations().shape[1] == 1
    assert torch.equal(play.window.of_successors(number_of(play.window.observation), number_of(play.window.final_observations()))[:, 2],
                       number_of(before))  # fmt: skip


def test_an_interruption_between_two_windows_is_the_start_of_an_episode():
    play = Play(window(), ends=0.0)
    for _ in range(T):
        play.step()
    play.window.clear()
    assert not play.window.first.any()
    play.window.interrupt([4])
    play.step()
    assert play.window.starts[:, 0].tolist() == [[False] * 3, [False, True, False]]
    assert play.window.starts[:, 1:2].sum() == 0 and not play.window.boundary[:, 0].any()


def same(one: Any, two: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[name], two[name]) for name in one)
    return torch.equal(one, two) if isinstance(one, Tensor) else one == two


@pytest.mark.parametrize("held", [0, 4, T])
def test_saved_and_loaded_it_goes_on_to_the_same_bits(held: int):
    play = Play(window(), ends=1.0, legal_width=2)
    for _ in range(T):
        play.step()
    play.window.clear()
    for _ in range(held):
        play.step()
    other = window()
    assert list(play.window.chunks(10)) == []
    other.load(unpack(*pack(play.window.state())), [], 10)
    assert same(play.window.state(), other.state()) and play.window.state().keys() == window().state().keys()
    if held == T:
        return
    first, play.window = play.window, other
    now, g = play.now, play.g.get_state()
    play.step()
    play.window, play.now = first, now
    play.g.set_state(g)
    play.serial -= 2
    play.step()
    assert same(first.state(), other.state())
