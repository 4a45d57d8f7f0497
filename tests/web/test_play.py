"""Raters play a game before they judge it."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.web.conftest import Lab
from tutelage.web import play
from tutelage.web.play import MOVES, PLAYABLE, PlayError, Seats, action_of, advance, playable

PONG = ("NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE")
ALL = ("NOOP", "FIRE", "UP", "RIGHT", "LEFT", "DOWN", "UPRIGHT", "UPLEFT", "DOWNRIGHT", "DOWNLEFT", "UPFIRE", "UPRIGHTFIRE")


@pytest.mark.parametrize(
    ("names", "keys", "action"),
    [
        (PONG, "", "NOOP"),
        (PONG, "left", "LEFT"),
        (PONG, "left fire", "LEFTFIRE"),
        (PONG, "up", "NOOP"),
        (PONG, "up right", "RIGHT"),
        (PONG, "left right fire", "FIRE"),
        (ALL, "up right fire", "UPRIGHTFIRE"),
        (ALL, "down fire", "FIRE"),
        (ALL, "up down left", "LEFT"),
    ],
)
def test_what_is_held_down_becomes_the_nearest_action(names: tuple[str, ...], keys: str, action: str):
    assert names[action_of(names, frozenset(keys.split()))] == action


def pixels(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("L"), dtype=int)


@pytest.mark.parametrize("game", ["atari:Breakout", *MOVES])
def test_keys_move_the_game(game: str):
    first = advance(game, frozenset(), True, seed=1)
    assert (first.score, first.over) == (0.0, False) and pixels(first.picture).shape == (320, 320)
    frames = [advance(game, frozenset({"right"}), False, seed=1) for _ in range(8)]
    assert (pixels(frames[-1].picture) != pixels(first.picture)).any()
    again = advance(game, frozenset(), True, seed=1)
    assert again.score == 0.0 and again.picture == first.picture
    play._table.clear()


def test_a_game_that_is_over_begins_again():
    advance("gym:CartPole-v1", frozenset(), True, seed=1)
    while not (frame := advance("gym:CartPole-v1", frozenset({"left"}), False, seed=1)).over:
        pass
    assert frame.score > 5 and advance("gym:CartPole-v1", frozenset(), False, seed=1).score == 0.0
    play._table.clear()


def test_only_listed_games_and_only_so_many_players(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    ann = lab.enter("ann")
    assert all(game in ann.get("/play").text for game in PLAYABLE)
    for game in ("py:os:system", "gym:Pendulum-v1", "atari:Absent", ""):
        assert ann.post("/play/step", json={"game": game}).status_code == 404
    assert ann.post("/play/step", json={"game": "gym:CartPole-v1", "keys": ["jump"]}).status_code == 422
    assert playable("atari:Seaquest") and not playable("gym:Pendulum-v1")
    monkeypatch.setattr(play, "MOST_PLAYERS", 0)
    with pytest.raises(PlayError, match="0 people play already"):
        Seats().advance("ann", "gym:CartPole-v1", frozenset(), False)


def test_a_picture_comes_from_a_process_of_its_own(lab: Lab):
    answer = lab.enter("ann").post("/play/step", json={"game": "gym:CartPole-v1", "fresh": True})
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/jpeg" and answer.headers["x-score"] == "0"
    assert pixels(answer.content).std() > 1
