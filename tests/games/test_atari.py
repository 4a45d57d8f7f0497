"""Atari: the frames of Gymnasium's wrappers to the bit, starts, ends, lives, snapshots and errors."""

from typing import Any

import ale_py
import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

from tutelage.games import make as addresses
from tutelage.games.atari import CHRISTIANO, HIDDEN
from tutelage.games.spec import CannotSnapshot, Discrete, GameError

make: Any = addresses.make  # Any: a test knows which world it made
gymnasium.register_envs(ale_py)


def peer(title: str, **options: Any) -> Any:
    env = gymnasium.make(f"ALE/{title}-v5", frameskip=1, repeat_action_probability=0.0, max_num_frames_per_episode=108_000)
    return FrameStackObservation(AtariPreprocessing(env, **options), 4)


def scripted(n: int, steps: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, n, steps).tolist()


@pytest.mark.parametrize(("title", "life_loss"), [("Pong", False), ("Breakout", True)])
def test_the_frames_of_gymnasium(title: str, life_loss: bool):
    theirs, ours = peer(title, terminal_on_life_loss=life_loss), make(f"atari:{title}", 1, fire_reset=False, life_loss_ends=life_loss)
    observation, _ = theirs.reset(seed=7)
    assert torch.equal(ours.reset(seed=[7])[0], torch.tensor(observation))
    ends = 0
    for action in [1, *scripted(ours.action_space.n, 300)]:
        observation, reward, terminated, truncated, _ = theirs.step(action)
        step = ours.step(torch.tensor([action]))
        assert (float(step.reward), bool(step.terminated), bool(step.boundary)) == (reward, terminated, terminated or truncated)
        if terminated:
            ends += 1
            break  # at an end the wrapper shows the frames of the step before
        assert torch.equal(step.observation[0], torch.tensor(observation))
    assert ends == life_loss, "the script must lose a life where that is an end, or this shows nothing"


def test_a_whole_game_pays_what_gymnasium_pays():
    theirs, ours = peer("Pong", noop_max=30), make("atari:Pong", 1, fire_reset=False)
    theirs.reset(seed=3)
    ours.reset(seed=[3])
    total, expected, ended = 0.0, 0.0, False
    while not ended:
        expected_step = theirs.step(0)
        step = ours.step(torch.tensor([0]))
        total, expected, ended = total + float(step.reward), expected + expected_step[1], bool(step.boundary)
        assert (bool(step.terminated), ended) == (expected_step[2], expected_step[2] or expected_step[3])
    assert total == expected == -21.0 and bool(step.terminated)


def test_copies_are_independent_and_seeds_repeat():
    game = make("atari:Pong", 3)
    first = game.reset(seed=[1, 1, 2])
    assert game.observation_space.shape == (4, 84, 84) and game.observation_space.dtype == "uint8" and game.action_space == Discrete(6)
    assert torch.equal(first[0], first[1])
    for action in scripted(6, 30):
        step = game.step(torch.tensor([action, action, 0]))
    assert torch.equal(step.observation[0], step.observation[1]) and not torch.equal(step.observation[0], step.observation[2])
    kept = step.observation.clone()
    game.step(torch.tensor([2, 3, 4]))
    assert torch.equal(step.observation, kept), "a later step must not write into what an earlier one gave"
    assert torch.equal(game.reset(seed=[1, 1, 2]), first)


def test_only_the_marked_copies_are_reset():
    game = make("atari:Pong", 2)
    game.reset(seed=[1, 2])
    for _ in range(20):
        step = game.step(torch.tensor([2, 3]))
    again = game.reset(where=torch.tensor([True, False]))
    assert torch.equal(again[1], step.observation[1]) and not torch.equal(again[0], step.observation[0])
    assert all(torch.equal(again[0, 0], frame) for frame in again[0])  # a new episode has seen one frame only


def test_fire_begins_breakout():
    moved: dict[bool, bool] = {}
    for fire in (True, False):
        game = make("atari:Breakout", 1, fire_reset=fire, noop_max=0)
        frames = [game.reset(seed=[0])[0, -1]]
        for _ in range(20):
            frames.append(game.step(torch.tensor([0])).observation[0, -1])
        moved[fire] = any(not torch.equal(frame[40:70], frames[-1][40:70]) for frame in frames)  # between the wall and the paddle
    assert moved == {True: True, False: False}


def test_a_time_limit_is_a_boundary():
    game = make("atari:Pong?max_frames=40&noop_max=0", 1)
    game.reset(seed=[0])
    steps = [game.step(torch.tensor([0])) for _ in range(9)]  # FIRE took 4 frames
    assert [bool(step.boundary) for step in steps] == [False] * 8 + [True]
    assert not any(bool(step.terminated) for step in steps)
    with pytest.raises(GameError, match="stepped outside an episode"):
        game.step(torch.tensor([0]))


def test_a_lost_life_goes_on_with_the_next_one():
    game = make("atari:Breakout", 1, life_loss_ends=True)
    game.reset(seed=[0])
    seat = game._seats[0]
    lives: list[int] = []
    for _ in range(5):
        while not (step := game.step(torch.tensor([0]))).boundary:
            pass
        assert bool(step.terminated)
        lives.append(seat.console.lives())
        game.reset(where=step.boundary)
    assert lives == [4, 3, 2, 1, 0] and seat.console.lives() == 5  # after the last one a new game


def test_a_snapshot_continues_to_the_bit_also_into_a_fresh_game():
    game = make("atari:Pong", 2)
    game.reset(seed=[1, 2])
    for action in scripted(6, 50):
        game.step(torch.tensor([action, 5 - action]))
    snapshot = game.snapshot(1)
    continued = [game.step(torch.tensor([0, action])) for action in scripted(6, 60, seed=1)]
    other = make("atari:Pong", 2)
    other.reset(seed=[5, 6])
    other.restore(0, snapshot)
    for action, expected in zip(scripted(6, 60, seed=1), continued, strict=True):
        step = other.step(torch.tensor([action, 0]))
        assert torch.equal(step.observation[0], expected.observation[1]) and step.reward[0] == expected.reward[1]
    first = game.reset(where=torch.tensor([False, True]))[1]
    assert torch.equal(other.reset(where=torch.tensor([True, False]))[0], first)  # the generator of the starts, too


def test_a_snapshot_that_is_none():
    game = make("atari:Pong", 1)
    with pytest.raises(GameError, match="copy 0 of atari:Pong has no state yet"):
        game.snapshot(0)
    game.reset(seed=[0])
    snapshot = game.snapshot(0)
    for damaged in (snapshot["system"][:100], torch.zeros_like(snapshot["system"])):
        with pytest.raises(CannotSnapshot, match="the snapshot's bytes are no state of pong"):
            game.restore(0, {**snapshot, "system": damaged})
    with pytest.raises(CannotSnapshot, match="a snapshot of atari:Pong was given to atari:Breakout"):
        make("atari:Breakout", 1).restore(0, snapshot)


@pytest.mark.parametrize("rom", HIDDEN)
def test_the_score_is_black_and_the_rest_is_as_it_was(rom: str):
    address = CHRISTIANO[rom].partition("?")[0]
    shown, hidden = make(address, 1), make(f"{address}?hide_score=1", 1)
    shown.reset(seed=[1])
    hidden.reset(seed=[1])
    covered = np.zeros((210, 160), np.bool_)
    for top, bottom, left, right in HIDDEN[rom]:
        covered[top:bottom, left:right] = True
    screen, black, told = shown._seats[0].screens, hidden._seats[0].screens, False
    for action in scripted(shown.action_space.n, 120):  # Q*bert shows its score after some seconds
        full, less = shown.step(torch.tensor([action])), hidden.step(torch.tensor([action]))
        assert torch.equal(full.reward, less.reward)
        assert not black[:, covered].any() and np.array_equal(black[:, ~covered], screen[:, ~covered])
        told = told or screen[:, covered].any()
        if full.boundary.any():
            break
    assert told, "the score must show, or this shows nothing"
    picture, original = hidden.render(0, width=160, height=210), shown.render(0, width=160, height=210)
    assert not picture[covered].any() and np.array_equal(picture[~covered], original[~covered])


@pytest.mark.parametrize(("title", "address"), [("Pong", 13), ("Pong", 14), ("Breakout", 77)])
def test_another_score_looks_the_same(title: str, address: int):
    """address: of the console's memory where the game keeps its score (Anand et al. 2019, arXiv 1906.08226, for Pong)."""

    def observe(query: str, score: int) -> torch.Tensor:
        game = make(f"atari:{title}{query}", 1)
        game.reset(seed=[1])
        game._seats[0].console.setRAM(address, score)
        return game.step(torch.tensor([0])).observation[0, -1]

    assert not torch.equal(observe("", 1), observe("", 4)), "the score must show, or this shows nothing"
    assert torch.equal(observe("?hide_score=1", 1), observe("?hide_score=1", 4))


def test_endless_games_follow_one_another_and_each_end_is_paid_for():
    rules = "endless=1&noop_max=0&max_frames=12000"
    game, single = make(f"atari:Breakout?{rules}&end_penalty=2.5", 1), make("atari:Breakout?noop_max=0", 1)
    game.reset(seed=[0])
    single.reset(seed=[0])
    lost = 0
    for action in [*scripted(4, 1500), *scripted(4, 1500, seed=1)]:
        step, expected = game.step(torch.tensor([action])), single.step(torch.tensor([action]))
        assert not step.terminated.any()
        if expected.boundary.any():
            lost += 1
            assert float(step.reward) == float(expected.reward) - 2.5
            single.reset(where=expected.boundary)
            assert torch.equal(step.observation[0, -1], single._observation()[0, -1]), "the next game's first picture comes last"
            assert not torch.equal(step.observation[0, 0], step.observation[0, -1]), "the pictures before it are of the game that ended"
        else:
            assert float(step.reward) == float(expected.reward)
        if step.boundary.any():
            break
    assert lost >= 2 and step.boundary.all(), "the limit counts the frames of all games"
    with pytest.raises(GameError, match="stepped outside an episode"):
        game.step(torch.tensor([0]))
    assert game.reset().shape == (1, 4, 84, 84) and not game.step(torch.tensor([0])).boundary.any()


def test_a_snapshot_of_an_endless_episode_knows_the_games_before():
    game = make("atari:Breakout?endless=1&max_frames=4000", 1)
    game.reset(seed=[0])
    seat = game._seats[0]
    script = iter(scripted(4, 2000))
    while not seat.past_frames:
        game.step(torch.tensor([next(script)]))
    snapshot, rest = game.snapshot(0), list(script)
    other = make("atari:Breakout?endless=1&max_frames=4000", 1)
    other.restore(0, snapshot)
    ended = False
    for action in rest:
        step, again = game.step(torch.tensor([action])), other.step(torch.tensor([action]))
        assert torch.equal(step.observation, again.observation) and torch.equal(step.boundary, again.boundary)
        if ended := bool(step.boundary):
            break
    assert ended


def test_the_seven_games_of_christiano():
    assert set(CHRISTIANO) == {"beam_rider", "breakout", "pong", "qbert", "seaquest", "space_invaders", "enduro"}
    assert ["end_penalty" in address for rom, address in CHRISTIANO.items() if rom in ("pong", "qbert")] == [False, True]
    game = make(CHRISTIANO["enduro"], 1)
    game.reset(seed=[0])
    assert game._seats[0].rules.endless and game._seats[0].rules.hide_score and game._seats[0].rules.end_penalty == 1.0
    assert not game.step(torch.tensor([1])).boundary.any()


def test_pictures_are_in_color_and_fit():
    game = make("atari:Pong", 1)
    game.reset(seed=[0])
    picture = game.render(0, width=200, height=100)
    assert picture.shape == (100, 200, 3) and picture.dtype == np.uint8
    assert not picture[:, :60].any() and not picture[:, 140:].any()  # 160 x 210 fits 76 x 100
    assert (picture[:, 70:130].std(-1) > 0).any()


@pytest.mark.parametrize(
    ("address", "actions", "sentence"),
    [
        ("atari:Pnog", None, r"there is no game atari:Pnog; did you mean atari:Pong\?"),
        ("atari:Pong?skip=3", None, "atari:Pong has no option skip; it has frame_skip, "),
        ("atari:Pong?frame_skip=many", None, "atari:Pong: frame_skip=many was given; a number was expected"),
        ("atari:Pong?frame_skip=0", None, "frame_skip=0 was given; an Atari game needs at least 1"),
        ("atari:Pong?noop_max=-1", None, "noop_max=-1 was given; it cannot be negative"),
        ("atari:Alien?hide_score=1", None, "atari:Alien: where its screen shows the score is not known, .*; known are BeamRider, "),
        ("atari:Pong?endless=1&life_loss_ends=1", None, "endless and life_loss_ends were given together"),
        ("atari:Pong?end_penalty=1", None, "end_penalty=1.0 was given without endless"),
        ("atari:Pong?endless=1&end_penalty=-1", None, "end_penalty=-1.0 was given; points to take off, 0 or more, were expected"),
        ("atari:Pong?endless=1&end_penalty=nan", None, "end_penalty=nan was given; points to take off"),
        ("atari:Pong", torch.tensor([6]), r"atari:Pong was given the action \[6\], which is outside Discrete\(n=6\)"),
        ("atari:Pong", torch.tensor([0.0]), r"atari:Pong was given actions of torch.float32 \(1,\); 1 whole numbers were expected"),
    ],
)
def test_bad_input_gets_one_sentence(address: str, actions: Any, sentence: str):
    with pytest.raises(GameError, match=sentence):
        game = make(address, 1)
        game.reset(seed=[0])
        game.step(actions)


def test_the_first_reset_needs_seeds():
    game = make("atari:Pong", 2)
    with pytest.raises(GameError, match="copy 0 of atari:Pong was reset without a seed"):
        game.reset()
    with pytest.raises(GameError, match="was given 1 seeds for 2 copies"):
        game.reset(seed=[0])


def test_titles_are_listed():
    assert {"atari:Pong", "atari:SpaceInvaders", "atari:MontezumaRevenge"} <= set(addresses.known_games())
