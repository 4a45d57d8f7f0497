"""Playing a game oneself before judging those who learn it: five minutes at the keyboard, as raters of Atari are asked to.

Each player has a process of its own, so that a simulator that crashes ends one play and not the room.
"""

import contextlib
import io
import multiprocessing
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict

from tutelage.feedback.query import FeedbackError
from tutelage.games.make import make
from tutelage.games.spec import GameError
from tutelage.web.clips import be_nice

PLAY_SECONDS = 300
IDLE_SECONDS = 30.0
MOST_PLAYERS = 8
PATIENCE = 30.0
"""Seconds for the first picture; loading a simulator takes some."""
SIZE = 320

Key = Literal["left", "right", "up", "down", "fire"]
MOVES: dict[str, dict[str, int]] = {
    "gym:CartPole-v1": {"left": 0, "right": 1},
    "gym:MountainCar-v0": {"left": 0, "": 1, "right": 2},
    "gym:Acrobot-v1": {"left": 0, "": 1, "right": 2},
    "gym:LunarLander-v3": {"": 0, "left": 1, "up": 2, "fire": 2, "right": 3},
}
"""What a key does where the game has no words for its actions. Without "" the last action goes on."""
PLAYABLE = ("atari:Breakout", "atari:Pong", "atari:Enduro", *MOVES)


class PlayError(FeedbackError):
    """A game that cannot be played now; one sentence."""


class Move(BaseModel):
    """What a player holds down."""

    model_config = ConfigDict(extra="forbid")

    game: str
    keys: list[Key] = []
    fresh: bool = False
    """Begin again."""


@dataclass(frozen=True)
class Frame:
    """What a player sees next."""

    picture: bytes
    """JPEG."""
    score: float
    over: bool


def playable(game: str) -> bool:
    """Whether keys mean something in this game."""
    return game in MOVES or game.startswith("atari:")


def action_of(names: tuple[str, ...], keys: frozenset[str]) -> int:
    """Among an Atari game's actions the one that does most of what is held down; opposite keys cancel."""
    vertical = {frozenset({"up"}): "UP", frozenset({"down"}): "DOWN"}.get(keys & {"up", "down"}, "")
    horizontal = {frozenset({"left"}): "LEFT", frozenset({"right"}): "RIGHT"}.get(keys & {"left", "right"}, "")
    fire = "FIRE" if "fire" in keys else ""
    wanted = (vertical + horizontal + fire, horizontal + fire, vertical + fire, horizontal, vertical, fire)
    return next((names.index(name) for name in wanted if name in names), 0)


_table: dict[str, Any] = {}
"""Of a player's process: the game, its address, the score so far, the last action."""


def advance(address: str, keys: frozenset[str], fresh: bool, seed: int) -> Frame:
    """Runs in the player's process: one step of the game, or its first picture. Raises PlayError where it cannot be played."""
    try:
        if _table.get("address") != address:
            if _table:
                _table["game"].close()
            _table.clear()
            _table.update(address=address, game=make(address, 1), fresh=True)
        game = _table["game"]
        over = False
        if fresh or _table["fresh"]:
            game.reset(seed=[seed])
            _table.update(score=0.0, action=0, fresh=False)
        else:
            names = getattr(game, "action_names", None)
            if names is not None:
                action = action_of(names, keys)
            else:
                pressed = next((key for key in MOVES[address] if key in keys), "")
                action = MOVES[address].get(pressed, _table["action"])
            step = game.step(torch.tensor([action]))
            over = bool(step.boundary[0])
            _table.update(score=_table["score"] + float(step.reward[0]), action=action, fresh=over)
        picture = io.BytesIO()
        Image.fromarray(game.render(0, SIZE, SIZE)).save(picture, "JPEG", quality=85)
    except GameError as error:
        raise PlayError(str(error)) from None
    return Frame(picture.getvalue(), _table["score"], over)


@dataclass
class _Seat:
    pool: ProcessPoolExecutor
    used_at: float


class Seats:
    """Who plays just now."""

    def __init__(self) -> None:
        self._seats: dict[str, _Seat] = {}
        self._turn = threading.Lock()

    def advance(self, player: str, game: str, keys: frozenset[str], fresh: bool) -> Frame:
        """The next picture of this player's game. Raises PlayError where every seat is taken or the game fails."""
        seat = self._seat(player)
        try:
            return seat.pool.submit(advance, game, keys, fresh, time.time_ns() % 2**31).result(PATIENCE)
        except (BrokenProcessPool, TimeoutError) as error:
            self._leave(player)
            raise PlayError(f"{game} ended unexpectedly; begin again") from error

    def close(self) -> None:
        """Everybody goes home."""
        for player in list(self._seats):
            self._leave(player)

    def _seat(self, player: str) -> _Seat:
        now = time.monotonic()
        with self._turn:
            for name in [name for name, seat in self._seats.items() if now - seat.used_at > IDLE_SECONDS and name != player]:
                self._leave(name)
            if player not in self._seats:
                if len(self._seats) >= MOST_PLAYERS:
                    raise PlayError(f"{MOST_PLAYERS} people play already; come back in a few minutes")
                self._seats[player] = _Seat(ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), be_nice), now)
            self._seats[player].used_at = now
            return self._seats[player]

    def _leave(self, player: str) -> None:
        seat = self._seats.pop(player, None)
        if seat is not None:
            with contextlib.suppress(OSError):
                seat.pool.shutdown(wait=False, cancel_futures=True)
