"""Atari 2600 games through the Arcade Learning Environment, with the preprocessing that published scores were measured under.

Mnih et al. 2015 (Nature 518), methods: every action is repeated for 4 frames; the observation is the maximum of the last two,
gray, 84 x 84, and the newest four of those are stacked; an episode begins with 1 to 30 frames without action. No action is
sticky: Machado et al. 2018 (arXiv 1709.06009) advise it, but a snapshot cannot hold which action the emulator repeats. Rewards stay the
game's points; a limit of 108,000 frames is a boundary, not a termination.

Where we depart from gymnasium.wrappers.AtariPreprocessing, to which everything else is equal to the bit
- The observation at the end of an episode shows the frames of that end; there it repeats those of the step before.
- Where the first action after NOOP is FIRE, it is pressed once after a reset (Baselines; without it Breakout never begins).
- With `life_loss_ends` the next episode goes on with the next life, as in Baselines; there only a game over can be reset.

Three options make of the game what Christiano et al. 2017 (arXiv 1706.03741, appendix A) teach from preferences, so that neither the
score on the screen nor the end of an episode tells what is wanted: `hide_score`, `endless` and `end_penalty`. `CHRISTIANO` has the
addresses of the paper's seven games with them.
"""

import dataclasses
import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from tutelage.games.snapshots import get_generator, set_generator
from tutelage.games.spec import Box, CannotSnapshot, Discrete, Game, GameError, Nested, Snapshot, Step

try:
    # Any: compiled, with types that are partly missing and partly wrong.
    ale: Any = importlib.import_module("ale_py")
    cv2: Any = importlib.import_module("cv2")
except ImportError as error:
    raise GameError("Atari's emulator or OpenCV is not installed, and this game needs both; run: pip install 'tutelage[atari]'") from error

# Threads cost more than they give on pictures of 84 x 84.
cv2.setNumThreads(1)
ale.ALEInterface.setLoggerMode(ale.LoggerMode.Error)


HIDDEN: dict[str, tuple[tuple[int, int, int, int], ...]] = {
    "beam_rider": ((9, 19, 60, 108), (31, 42, 16, 34)),  # score; enemies still to shoot
    "breakout": ((5, 15, 36, 80),),  # score; the lives beside it stay, as in every game
    "enduro": ((161, 191, 48, 112),),  # the instrument panel: speedometer, day, and cars still to pass, which are the score
    "pong": ((0, 22, 0, 160),),  # both scores
    "qbert": ((5, 15, 33, 72),),  # score
    "seaquest": ((7, 20, 48, 108),),  # score, up to six digits
    "space_invaders": ((9, 21, 0, 160),),  # both scores; the mother ship flies in these rows, and is hidden with them
}
"""What `hide_score` blacks out, by ROM: top, bottom, left, right on the console's screen of 210 x 160, the second of each exclusive.

The paper (appendix A.2) hides the score in all seven games, BeamRider's count of enemies and Enduro's speedometer, and gives no
coordinates; these were read off the emulator's screen.
"""


@dataclass(frozen=True)
class Preprocessing:
    """What lies between the console and whoever plays."""

    frame_skip: int = 4
    """Frames for which an action is repeated."""
    noop_max: int = 30
    """An episode begins with 1 to so many frames without action; 0: none."""
    screen_size: int = 84
    """Height and width of an observation."""
    stack: int = 4
    """Newest frames in an observation."""
    fire_reset: bool = True
    """Press FIRE after a reset where it is the first action after NOOP."""
    life_loss_ends: bool = False
    """A lost life terminates the episode. For training only: scores count whole games."""
    max_frames: int = 108_000
    """Frames after which an episode is cut off: half an hour of play."""
    hide_score: bool = False
    """Black out the score and what else tells it (`HIDDEN`), in observations and in pictures."""
    endless: bool = False
    """A game that ends is followed by the next within the same episode: no termination is seen. Only `max_frames` cuts, over all games."""
    end_penalty: float = 0.0
    """Points taken off the reward where a game ends, with `endless`. The paper has such a penalty in every game but Pong and gives no size;
    `CHRISTIANO` takes one point, as much as any reward counts for a learner that clips to 1."""

    def __post_init__(self) -> None:
        for name in ("frame_skip", "screen_size", "stack", "max_frames"):
            if getattr(self, name) < 1:
                raise GameError(f"{name}={getattr(self, name)} was given; an Atari game needs at least 1")
        if self.noop_max < 0:
            raise GameError(f"noop_max={self.noop_max} was given; it cannot be negative")
        if self.endless and self.life_loss_ends:
            raise GameError("endless and life_loss_ends were given together; an endless episode has no end at a lost life")
        if not (math.isfinite(self.end_penalty) and self.end_penalty >= 0):
            raise GameError(f"end_penalty={self.end_penalty} was given; points to take off, 0 or more, were expected")
        if self.end_penalty and not self.endless:
            raise GameError(f"end_penalty={self.end_penalty} was given without endless, which it belongs to")


class _Seat:
    """One console, its last frames and the generator of its random starts."""

    def __init__(self, rom: str, rules: Preprocessing) -> None:
        self.rom, self.rules = rom, rules
        self.hidden = HIDDEN[rom] if rules.hide_score else ()
        self.console = ale.ALEInterface()
        self.console.setFloat("repeat_action_probability", 0.0)
        self.console.setInt("max_num_frames_per_episode", rules.max_frames)
        self.console.loadROM(ale.roms.get_rom_path(rom))
        self.actions = self.console.getMinimalActionSet()
        self.fires: bool = rules.fire_reset and len(self.actions) > 2 and self.actions[1] == ale.Action.FIRE
        self.generator: np.random.Generator | None = None
        self.screens = np.zeros((2, *self.console.getScreenDims()), np.uint8)
        self.observation = np.zeros((rules.stack, rules.screen_size, rules.screen_size), np.uint8)
        self.lives: int = 0
        self.past_frames: int = 0
        """Of the games of this episode before the present one."""
        self.playing: bool = False

    def reset(self, seed: int | None) -> None:
        """Begin an episode: a new game, or with `life_loss_ends` the next life of the same one."""
        if seed is not None:
            # As ale_py.AtariEnv does, so that both begin alike.
            own, seed_of_console = np.random.SeedSequence(seed).generate_state(2)
            self.generator = np.random.default_rng(int(own))
            self.console.setInt("random_seed", int(np.int32(np.uint32(seed_of_console))))
            self.console.loadROM(ale.roms.get_rom_path(self.rom))
        self._begin(goes_on=seed is None and self.rules.life_loss_ends and not self._is_over())
        self.observation[:] = self._picture()
        self.past_frames, self.playing = 0, True

    def step(self, action: int) -> tuple[float, bool, bool]:
        """Reward, whether the game (or the life) is over, and whether the episode is."""
        reward, lost = self._repeat(action)
        terminated = self.console.game_over(with_truncation=False) or (self.rules.life_loss_ends and lost)
        cut = self.past_frames + self.console.getEpisodeFrameNumber() >= self.rules.max_frames
        if self.rules.endless and terminated:
            reward, terminated = reward - self.rules.end_penalty, False
            if not cut:
                self.past_frames += self.console.getEpisodeFrameNumber()
                self._begin(goes_on=False)
        self.playing = not (terminated or cut)
        self.observation[:-1] = self.observation[1:]
        self.observation[-1] = self._picture()
        return reward, terminated, not self.playing

    def snapshot(self) -> dict[str, Any]:
        """The console with its generator, and what this class remembers."""
        system: bytes = self.console.cloneSystemState().__getstate__()
        return {
            "system": torch.frombuffer(bytearray(system), dtype=torch.uint8),
            "observation": torch.tensor(self.observation),
            "generator": get_generator(self.generator, self.rom),
            "lives": self.lives,
            "past_frames": self.past_frames,
            "playing": self.playing,
        }

    def restore(self, snapshot: Snapshot) -> None:
        """The inverse of `snapshot`. Raises CannotSnapshot for bytes that are no console."""
        state = ale.ALEState.__new__(ale.ALEState)
        try:
            state.__setstate__(torch.as_tensor(snapshot["system"]).numpy().tobytes())
            self.console.restoreSystemState(state)
        except SystemError as error:  # the emulator reads its own format and throws where it is another
            raise CannotSnapshot(f"the snapshot's bytes are no state of {self.rom}") from error
        self.generator = self.generator or np.random.default_rng(0)
        set_generator(self.generator, snapshot["generator"])
        self.observation[:] = torch.as_tensor(snapshot["observation"]).numpy()
        self.lives, self.playing = int(snapshot["lives"]), bool(snapshot["playing"])
        self.past_frames = int(snapshot.get("past_frames", 0))  # snapshots of before there were endless episodes have none

    def picture(self) -> UInt8[np.ndarray, "210 160 3"]:
        """The console's screen in color, less what is hidden."""
        screen = self.console.getScreenRGB()
        for top, bottom, left, right in self.hidden:
            screen[top:bottom, left:right] = 0
        return screen

    def _is_over(self) -> bool:
        return self.console.game_over(with_truncation=False) or self.console.game_truncated()

    def _begin(self, goes_on: bool) -> None:
        """Bring the console to the first screen that is played: of a new game, or of the same one where it goes on."""
        if goes_on:
            self._repeat(0)
        else:
            self._restart()
        if self._is_over():
            self._restart()
        if self.fires:
            self._repeat(1)
            if self._is_over():
                self._restart()
        self.lives = self.console.lives()

    def _look(self, slot: int) -> None:
        self.console.getScreenGrayscale(self.screens[slot])
        for top, bottom, left, right in self.hidden:
            self.screens[slot, top:bottom, left:right] = 0

    def _restart(self) -> None:
        self.console.reset_game()
        assert self.generator is not None
        for _ in range(int(self.generator.integers(1, self.rules.noop_max + 1)) if self.rules.noop_max else 0):
            self.console.act(self.actions[0])
            if self._is_over():
                self.console.reset_game()
        self._look(0)
        self.screens[1] = self.screens[0]
        self.lives = self.console.lives()

    def _repeat(self, action: int) -> tuple[float, bool]:
        """Reward of the frames that one action lasts, and whether a life was lost; `screens` holds the last two of them."""
        reward, lost = 0.0, False
        for frames_left in reversed(range(self.rules.frame_skip)):
            reward += self.console.act(self.actions[action])
            lives = self.console.lives()
            lost, self.lives = lost or lives < self.lives, lives
            ends = self._is_over() or (self.rules.life_loss_ends and lost)
            if frames_left == 1 or frames_left == 0 or ends:
                self._look(0 if frames_left == 1 and not ends else 1)
            if (ends and frames_left) or self.rules.frame_skip == 1:
                self.screens[0] = self.screens[1]  # the frame before is that of another action, or was not kept
            if ends:
                break
        return reward, lost

    def _picture(self) -> np.ndarray:
        side = (self.rules.screen_size, self.rules.screen_size)
        return cv2.resize(np.maximum(self.screens[0], self.screens[1]), side, interpolation=cv2.INTER_AREA)


class AtariGame(Game):
    """A list of consoles, stepped one after the other. Observations are images `[stack, size, size]`, the newest frame last."""

    def __init__(self, rom: str, copies: int, name: str, rules: Preprocessing) -> None:
        self.copies, self.name = copies, name
        self._seats = [_Seat(rom, rules) for _ in range(copies)]
        shape = self._seats[0].observation.shape
        self.observation_space = Box(shape, np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8), "uint8")
        self.action_names: tuple[str, ...] = tuple(action.name for action in self._seats[0].actions)
        """What each action does on the console: NOOP, FIRE, UPRIGHT, LEFTFIRE, ..."""
        self._choices = len(self.action_names)
        self.action_space = Discrete(self._choices)

    def reset(self, seed: Sequence[int] | None = None, where: Bool[Tensor, "B"] | None = None) -> Nested:
        """As Game.reset. Raises GameError when a copy would start without ever having been seeded."""
        if seed is not None and len(seed) != self.copies:
            raise GameError(f"{self.name} was given {len(seed)} seeds for {self.copies} copies; one per copy is needed")
        for b in range(self.copies) if where is None else np.flatnonzero(where.cpu()):
            if seed is None and self._seats[b].generator is None:
                raise GameError(f"copy {b} of {self.name} was reset without a seed; the first reset needs one per copy")
            self._seats[b].reset(None if seed is None else int(seed[b]))
        return self._observation()

    def step(self, actions: Nested) -> Step:
        """As Game.step. Raises GameError for an action that is none of the game's and for a copy that awaits its reset."""
        for b, seat in enumerate(self._seats):
            if not seat.playing:
                raise GameError(f"copy {b} of {self.name} was stepped outside an episode; reset it first")
        if not isinstance(actions, Tensor) or actions.shape != (self.copies,) or actions.is_floating_point():
            given = f"{actions.dtype} {tuple(actions.shape)}" if isinstance(actions, Tensor) else type(actions).__name__
            raise GameError(f"{self.name} was given actions of {given}; {self.copies} whole numbers were expected")
        chosen: list[int] = actions.numpy().tolist()
        if min(chosen) < 0 or max(chosen) >= self._choices:
            raise GameError(f"{self.name} was given the action {chosen}, which is outside {self.action_space}")
        reward = np.empty(self.copies, np.float32)
        flags = np.ones((3, self.copies), np.bool_)
        for b, seat in enumerate(self._seats):
            reward[b], flags[0, b], flags[1, b] = seat.step(chosen[b])
        terminated, boundary, mask = torch.as_tensor(flags).unbind()
        return Step(self._observation(), torch.as_tensor(reward), terminated, boundary, mask)

    def snapshot(self, copy: int) -> Snapshot:
        """As Game.snapshot."""
        if self._seats[copy].generator is None:
            raise GameError(f"copy {copy} of {self.name} has no state yet; reset it first")
        return {"game": self.name, **self._seats[copy].snapshot()}

    def restore(self, copy: int, snapshot: Snapshot) -> Nested:
        """As Game.restore, also into a game that has never been reset."""
        if snapshot["game"] != self.name:
            raise CannotSnapshot(f"a snapshot of {snapshot['game']} was given to {self.name}")
        self._seats[copy].restore(snapshot)
        return torch.tensor(self._seats[copy].observation)

    def render(self, copy: int, width: int = 256, height: int = 256) -> UInt8[np.ndarray, "height width 3"]:
        """The console's screen in color, scaled to fit, its aspect kept, on black."""
        screen = self._seats[copy].picture()
        scale = min(width / screen.shape[1], height / screen.shape[0])
        size = (max(1, round(screen.shape[1] * scale)), max(1, round(screen.shape[0] * scale)))
        picture = np.zeros((height, width, 3), np.uint8)
        left, top = (width - size[0]) // 2, (height - size[1]) // 2
        picture[top : top + size[1], left : left + size[0]] = cv2.resize(screen, size, interpolation=cv2.INTER_AREA)
        return picture

    def memory(self, copy: int) -> UInt8[np.ndarray, "128"]:
        """What the console remembers, where a reward that is written by hand can look for what no picture shows."""
        return self._seats[copy].console.getRAM()

    def _observation(self) -> Tensor:
        return torch.as_tensor(np.stack([seat.observation for seat in self._seats]))


def known_titles() -> dict[str, str]:
    """Title -> name of the ROM, for the games that come with the Arcade Learning Environment: SpaceInvaders -> space_invaders."""
    return {rom.title().replace("_", ""): rom for rom in sorted(ale.roms.get_all_rom_ids())}


def make_atari(title: str, copies: int, options: Mapping[str, Any]) -> AtariGame:
    """The game of this title; options are fields of Preprocessing. Raises GameError for one that it does not have."""
    known: dict[str, Any] = {field.name: type(field.default) for field in dataclasses.fields(Preprocessing)}
    values: dict[str, Any] = {}
    for option, value in options.items():
        if option not in known:
            raise GameError(f"atari:{title} has no option {option}; it has {', '.join(known)}")
        try:
            values[option] = known[option](int(value) if known[option] is bool else value)
        except (TypeError, ValueError):
            raise GameError(f"atari:{title}: {option}={value} was given; a number was expected (0 or 1 for no or yes)") from None
    if values.get("hide_score") and known_titles()[title] not in HIDDEN:
        told = ", ".join(name for name, rom in known_titles().items() if rom in HIDDEN)
        raise GameError(f"atari:{title}: where its screen shows the score is not known, so hide_score cannot hide it; known are {told}")
    name = f"atari:{title}" + ("?" + "&".join(f"{option}={value}" for option, value in sorted(options.items())) if options else "")
    return AtariGame(known_titles()[title], copies, name, Preprocessing(**values))


CHRISTIANO: dict[str, str] = {
    rom: f"atari:{title}?endless=1&hide_score=1" + ("" if rom == "pong" else "&end_penalty=1")
    for title, rom in known_titles().items()
    if rom in HIDDEN
}
"""ROM -> address: the seven games of Christiano et al. 2017 as they are taught there."""
