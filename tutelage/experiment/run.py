"""A run: one state machine from a configuration to a directory that holds everything."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tutelage.evaluate.clips import ClipError, encode, record_episode
from tutelage.evaluate.episodes import evaluate_members
from tutelage.evaluate.policy import MemberPolicy, StackedPolicy
from tutelage.experience.files import write_whole
from tutelage.experience.rollout import Rollout
from tutelage.experience.segments import SegmentArchive
from tutelage.experiment.checkpoint import CheckpointError, Checkpoints, Loaded
from tutelage.experiment.config import ALGORITHMS, ConfigError, Configuration, PlanConfig, RunConfig, TextRunConfig, from_json, to_json
from tutelage.experiment.fingerprint import fingerprint
from tutelage.experiment.log import EVENTS, EventLog, read_events
from tutelage.experiment.processor import prepare
from tutelage.experiment.randomness import generator, seed_of
from tutelage.feedback.raters import TEACHERS, OracleRater, Rater, StoreRater
from tutelage.games.alone import Alone
from tutelage.games.make import make
from tutelage.games.program import load_function
from tutelage.games.spec import CannotSnapshot, Game, GameError, players_to_json, space_to_json
from tutelage.learn.learner import Learner, Progress
from tutelage.learn.preference.lesson import Lesson
from tutelage.learn.preference.meeting import Meeting
from tutelage.rewards.source import GameReward, RewardSource, SignReward, WrittenReward

EVALUATION_SEED = 20_000_000  # far from the seeds of training: what is judged was never trained on
FILMED_STEPS = 200
FILMED_RATE = 30
STATE = {"learner", "rollout", "experience", "returns", "seconds", "accuracy", "next_log", "frozen", "spaces", "players"}
LEFTOVERS = ("clips/.*.mp4", "segments/*.partial-*")  # of a killed process; whoever writes them renames them when they are whole
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
RETURNS_REMEMBERED = 10  # B-Pref's teachers measure their thresholds by the mean of so many training episodes


class RunError(ValueError):
    """A run directory that cannot be used as asked; one sentence."""


class Experiment:
    """`step` until `finished`; `save` and `restore` at any step between."""

    def __init__(self, config: RunConfig, out: Path, raters: Callable[[int], Rater] | None = None) -> None:
        """raters: makes the rater of a seed, where neither a scripted teacher nor the store is meant.

        Raises RunError when another process uses `out`, GameError or ConfigError for what cannot be played or learned.
        """
        prepare(config.threads)
        with contextlib.ExitStack() as opened:
            opened.enter_context(hold(out))
            self._open(config, out, raters, opened)
            self._opened = opened.pop_all()

    def _open(self, config: RunConfig, out: Path, raters: Callable[[int], Rater] | None, opened: contextlib.ExitStack) -> None:
        self._opened = opened
        self._store: Any = None
        self._frozen: dict[str, Tensor] = {}
        self.config, self.out, self._custom_raters = config, out, raters
        self.seeds = [config.seed + i for i in range(config.seeds)]
        game = play(config, config.seeds * config.copies)
        opened.callback(game.close)
        reset_seeds = [seed_of(seed, f"game/{copy}") % 2**31 for seed in self.seeds for copy in range(config.copies)]
        self.game = game
        game.reset(seed=reset_seeds)
        draws = ALGORITHMS[config.name].taught and _can_snapshot(game)
        self.rollout = Rollout(game, config.seeds, reset_seeds, config.anchor_every if draws else 0)
        self.true_reward = reward_source(config.true_reward)
        self.returns: list[deque[tuple[float, int]]] = [deque(maxlen=RETURNS_REMEMBERED) for _ in self.seeds]
        self.lesson: Lesson | None = None
        self.learner = self._make_learner()
        if config.asynchronous:
            self.learner.meeting = Meeting(out)  # type: ignore[attr-defined]  # RunConfig has seen to it that it has one
        self.experience = self.learner.experience(config.steps, config.copies)
        self.checkpoints = Checkpoints(out, config.checkpoints_kept)
        self.seconds = 0.0
        self._next_log = config.log_every
        self.accuracy: float | None = None
        """Share of the labels that the reward model agreed with at the last fit."""
        self._evaluation_game: Game | None = None
        self._ended = False
        if not (out / EVENTS).exists():  # where there is a log, there is a configuration: `resume` needs both
            write_whole(out / "config.json", json.dumps(to_json(config), indent=1).encode(), out / f".config.json.{os.getpid()}")
        self.log = EventLog(out / EVENTS)

    def _make_learner(self) -> Learner:
        config = self.config

        def spawn(path: str) -> list[torch.Generator]:
            return [generator(seed, path) for seed in self.seeds]

        algorithm, spaces = ALGORITHMS[config.name], (self.game.observation_space, self.game.action_space)
        if algorithm.many:
            return algorithm.learner(config.algorithm, self.game.players, spawn("learner"), config.device)
        if not algorithm.taught:
            return algorithm.learner(config.algorithm, *spaces, spawn("learner"), config.device)
        archive = SegmentArchive(self.out / "segments")
        groups = groups_of(config, self.out)
        raters = [self._make_rater(i, groups[i], archive) for i in range(len(self.seeds))]
        self.lesson = Lesson(
            raters, groups, spawn("queries"), archive, self.rollout.anchors, self.true_reward, config.game,
            config.weigh_raters, config.most_awaited,
        )  # fmt: skip
        return algorithm.learner(config.algorithm, *spaces, spawn("learner"), spawn("reward"), self.lesson, config.device)

    def _make_rater(self, index: int, group: str, archive: SegmentArchive) -> Rater:
        config, seed = self.config, self.seeds[index]
        if self._custom_raters is not None:
            return self._custom_raters(seed)
        if config.rater != "oracle":
            return StoreRater(self.store, group)
        if config.teacher not in TEACHERS:
            raise ConfigError(f'teacher "{config.teacher}" is none of {", ".join(TEACHERS)}')

        def reward_per_step() -> float:
            return sum(total for total, _ in self.returns[index]) / max(sum(length for _, length in self.returns[index]), 1)

        # Thresholds need R / T, the mean return over the length of an episode; episodes may differ in length.
        return OracleRater(
            TEACHERS[config.teacher], lambda item: archive.get(item).reward, generator(seed, "teacher"), reward_per_step,
            episode_length=1, clock=lambda: 0.0,
        )  # fmt: skip

    @property
    def store(self) -> Any:
        """The label store of this run, opened when it is first needed."""
        if self._store is None:
            from tutelage.feedback.store import Store, file_url

            self._store = Store(self.config.store or file_url(self.out / "feedback.sqlite"))
            self._opened.callback(self._store.close)
        return self._store

    @property
    def steps(self) -> int:
        """Environment steps taken per copy."""
        return self.rollout.steps

    @property
    def finished(self) -> bool:
        """Whether every step has been taken."""
        return self.steps >= self.config.steps

    def begin(self) -> None:
        """Write the first events, judge and film the untrained policy, and save. Raises RunError when the disk is full."""
        with self._room():
            self.log.append(
                "start",
                0,
                config=to_json(self.config) | {"method": self.method},
                fingerprint=fingerprint(self.config.device, self.config.threads),
                seeds=self.seeds,
            )
            self.evaluate(policy="untrained")
            self.film("before")
            self.save()

    @property
    def label_budget(self) -> int:
        """Answers that this run may ask for, all seeds together."""
        return self.config.algorithm.labels * len(self.seeds) if ALGORITHMS[self.config.name].taught else 0

    @property
    def method(self) -> str:
        """As result rows name it: the algorithm, with the number of labels where there are any."""
        taught = ALGORITHMS[self.config.name].taught
        return f"{self.config.name}-{self.config.algorithm.labels}" if taught else self.config.name

    def step(self) -> None:
        """One environment step of every copy, what is learned from it, and whatever else is due. Raises RunError when the disk is full."""
        with self._room():
            self._step()

    def _step(self) -> None:
        began = time.perf_counter()
        rollout, config = self.rollout, self.config
        action = self.learner.behave(rollout.observation, rollout.starts, rollout.legal, Progress(self.steps, config.steps))
        transition = rollout.step(action)
        source = self.learner if isinstance(self.learner, RewardSource) else self.true_reward
        self.experience.add(transition, source.reward(transition.observation, transition.action, transition.reward))
        metrics = self.learner.update(self.experience, Progress(self.steps, config.steps))
        self._log_step(metrics)
        self.seconds += time.perf_counter() - began
        if self.steps % config.evaluate_every == 0 or self.finished:
            self.evaluate()
        if config.clips > 1 and not self.finished and self.steps % -(-config.steps // (config.clips - 1)) == 0:
            self.film("during")
        if self.finished and config.clips:
            self.film("after")
        if self.steps % config.checkpoint_every == 0 or self.finished:
            self.save()

    def _log_step(self, metrics: dict[str, Tensor]) -> None:
        step = self.steps
        for episode in self.rollout.episodes:
            self.returns[episode.seed].append((episode.total, episode.length))
            held = self.lesson is not None and episode.length <= len(self.experience)
            learned = self.experience.paid(episode.seed, episode.copy, episode.length) if held else None
            self.log.append(
                "episode", step, seed=self.seeds[episode.seed], length=episode.length, learned_return=learned, **{"return": episode.total}
            )
        self.rollout.episodes.clear()
        if self.lesson is not None:
            for event in self.lesson.events:
                self.accuracy = event.get("accuracy", self.accuracy)
                fields = {k: v for k, v in event.items() if k not in ("event", "step", "seed")}
                self.log.append(event["event"], event["step"], seed=self.seeds[event["seed"]], **fields)
            self.lesson.events.clear()
        if metrics and step >= self._next_log:  # the first update after a multiple: a window may never end on one
            self._next_log = (step // self.config.log_every + 1) * self.config.log_every
            for i, seed in enumerate(self.seeds):
                self.log.append("update", step, seed=seed, **{name: float(value[i]) for name, value in metrics.items()})
        if step % self.config.log_every == 0 or self.finished:
            for what, members in self.frozen().items():
                for i in (members & ~self._frozen.get(what, torch.zeros_like(members))).nonzero().flatten().tolist():
                    self.log.append("frozen_member", step, seed=self.seeds[i], what=what)
                self._frozen[what] = members

    def frozen(self) -> dict[str, Tensor]:
        """Which seeds have a net that stopped at its last finite weights, by net: `[R]` bool each."""
        return {what: members.cpu().clone() for what, members in self.learner.frozen().items()}

    def evaluate(self, policy: str = "learned", episodes: int | None = None) -> list[list[float]]:
        """Noise-free episodes of every seed, each with the same starts; returns `[R][episodes]`, which are logged."""
        config = self.config
        episodes = episodes or config.evaluation_episodes
        game = self._game_for_evaluation(min(episodes, 10))
        policy_now = StackedPolicy(self.learner, config.seeds, game.observation_space, game.action_space)
        results = evaluate_members(policy_now, game, config.seeds, episodes, EVALUATION_SEED, reward=judging(self.true_reward))
        for seed, result in zip(self.seeds, results, strict=True):
            more: dict[str, Any] = {} if result.each is None else {"mean_of_each": result.each.mean(0)}
            if result.success_rate is not None:
                more["success_rate"] = result.success_rate
            self.log.append(
                "evaluation", self.steps, seed=seed, returns=result.returns, mean=result.mean, policy=policy, seconds=self.seconds, **more
            )
        return [result.returns.tolist() for result in results]

    def _game_for_evaluation(self, copies: int) -> Game:
        if self._evaluation_game is None or self._evaluation_game.copies != copies * self.config.seeds:
            if self._evaluation_game is not None:
                self._evaluation_game.close()
            self._evaluation_game = play(self.config, copies * self.config.seeds)
        return self._evaluation_game

    def film(self, moment: str) -> None:
        """Film one noise-free episode of the first seed; where that cannot be done, say why in the log and go on."""
        if not self.config.clips:
            return
        path = Path("clips") / f"{moment}-{self.steps:09d}.mp4"
        try:
            game = play(self.config, 1)
            policy = MemberPolicy(self.learner, self.config.seeds, 0, game.observation_space, game.action_space)
            frames = record_episode(policy, game, EVALUATION_SEED, max_steps=FILMED_STEPS)
            encode(frames, self.out / path, fps=FILMED_RATE)
            game.close()
        except (GameError, ClipError) as reason:
            self.log.append("warning", self.steps, message=f"no clip was made: {reason}")
            return
        self.log.append(
            "clip", self.steps, seed=self.seeds[0], file=str(path), caption=f"{moment.capitalize()}, after {self.steps:,} steps"
        )

    def save(self) -> Path:
        """A checkpoint of everything; the log and the clips that it speaks of are on the disk before it counts."""
        self.log.sync()
        if self.lesson is not None:
            self.lesson.archive.sync()
        state = {
            "learner": self.learner.state(),
            "rollout": self.rollout.state(),
            "experience": self.experience.state(),
            "returns": [[list(pair) for pair in own] for own in self.returns],
            "seconds": self.seconds,
            "accuracy": self.accuracy,
            "next_log": self._next_log,
            "frozen": self._frozen,
            "spaces": {"observation": space_to_json(self.game.observation_space), "action": space_to_json(self.game.action_space)},
            "players": None if self.game.players is None else players_to_json(self.game.players),
        }
        return self.checkpoints.save(self.steps, state, self.experience)

    def restore(self) -> list[str]:
        """Continue from the newest valid checkpoint; returns what was restored and what was not, in sentences.

        A run that was interrupted before its first checkpoint has lost nothing and begins again. Raises CheckpointError when
        checkpoints were written and none is valid or fits this run: training is never silently started again.
        """
        for leftover in (path for pattern in LEFTOVERS for path in self.out.glob(pattern)):
            leftover.unlink(missing_ok=True)
        before = read_events(self.out / EVENTS)
        if not self.checkpoints.all() and all(event["step"] == 0 for event in before):
            return self._begin_again()
        loaded = self.checkpoints.load_newest()
        with misfit(loaded.step):
            fresh = self._load(loaded)
        self._ended = any(event["event"] == "end" and event["step"] <= loaded.step for event in before)
        heard = self._hear_again(before, loaded.step)
        sentences = [
            *loaded.passed_over,
            f"restored learner, {len(self.experience):,} steps of experience, generators and game at step {loaded.step:,}",
        ]
        if fresh:
            reason = loaded.state["rollout"]["snapshots"][fresh[0]]["cannot_snapshot"]
            which = f"copies {', '.join(map(str, fresh))}" if len(fresh) > 1 else f"copy {fresh[0]}"
            sentences.append(f"{which} of the game started a fresh episode: {reason}")
        if (erased := self._erased()) > 0:
            sentences.append(
                f"{erased} answers to this run's queries were deleted at the wish of whoever gave them; it goes on without them and can "
                "no longer be repeated exactly"
            )
        if not self._ended:  # a run that has ended does not go on, and its log and report stay as they are
            self.log.append("resumed", loaded.step, restored=sentences, **({"heard": heard} if any(heard) else {}))
        return sentences

    def _begin_again(self) -> list[str]:
        self.log.close()
        (self.out / EVENTS).unlink()
        self.log = EventLog(self.out / EVENTS)
        self.begin()
        sentences = ["the run was interrupted before its first checkpoint, at step 0, and has begun again"]
        self.log.append("resumed", 0, restored=sentences)
        return sentences

    def _load(self, loaded: Loaded) -> list[int]:
        """Take over a checkpoint; returns the copies of the game that had to start a fresh episode."""
        state = loaded.state
        _check_fields(state, STATE, "the checkpoint")
        for name, own in (("learner", self.learner.state()), ("rollout", self.rollout.state()), ("experience", self.experience.state())):
            _check_tree(state[name], own, name)
        self.learner.load(state["learner"])
        fresh = self.rollout.load(state["rollout"])
        self.experience.load(state["experience"], loaded.chunks, loaded.slots_per_chunk)
        self.experience.interrupt(fresh)
        for own, saved in zip(self.returns, state["returns"], strict=True):
            own.extend((float(total), int(length)) for total, length in saved)
        self.seconds, self.accuracy, self._next_log = float(state["seconds"]), state["accuracy"], int(state["next_log"])
        self._frozen = {what: members.clone() for what, members in state["frozen"].items()}
        return fresh

    def _hear_again(self, before: list[dict[str, Any]], step: int) -> list[list[list[int]]]:
        """Let the lesson hear, after `step`, what earlier lives of this run heard there and nothing that was answered since.

        Returns the same for the log, per seed as [step, cursor] pairs: the next life may end before it has heard all of it.
        """
        if self.lesson is None:
            return []
        lived = max((event["step"] for event in before), default=0)
        for index, (seed, rater) in enumerate(zip(self.seeds, self.lesson.raters, strict=True)):
            known: dict[int, int] = {}
            for event in before:
                if event["event"] == "resumed" and event.get("heard"):
                    known |= {at: cursor for at, cursor in event["heard"][index] if at > step}
                elif event["event"] == "heard" and event["seed"] == seed and event["step"] > step:
                    known[event["step"]] = event["cursor"]
            if lived > step and isinstance(rater, StoreRater):
                # To where the log proves that the run had come: what was not heard by then had not been answered.
                known.setdefault(max([lived, *known]), max([rater.cursor, *known.values()]))
            self.lesson.heard_before[index] = known
        return [sorted([at, cursor] for at, cursor in known.items()) for known in self.lesson.heard_before]

    def _erased(self) -> int:
        """How many answers to this run's queries are gone from the store."""
        raters = [] if self.lesson is None else self.lesson.raters
        return sum(len(rater.store.erasures(rater.group)) for rater in raters if isinstance(rater, StoreRater))

    def finish(self) -> None:
        """The last event; the report and the command line build on it. A run ends once, however often it is resumed."""
        with self._room():
            if not self._ended:
                self.log.append("end", self.steps, seconds=self.seconds)
                self._ended = True
            self.log.sync()

    def close(self) -> None:
        """Let go of the directory, the game and the store."""
        with contextlib.suppress(OSError):  # what the log could not write, it has said when it was asked to
            self.log.close()
        if self._evaluation_game is not None:
            self._evaluation_game.close()
        self._opened.close()

    def _room(self) -> contextlib.AbstractContextManager[None]:
        return room_in(self.out, lambda: f"step {self.steps:,}")

    def __enter__(self) -> "Experiment":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def room_in(out: Path, place: Callable[[], str]) -> Iterator[None]:
    """A full disk is one RunError that names the run and how far it came (place: asked when it happens); other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise RunError(
            f"{out} could not be written to at {place()} ({error.strerror}); "
            "once there is room, `resume` continues from the newest checkpoint"
        ) from error


def play(config: RunConfig, copies: int) -> Game:
    """The game of a run as its algorithm plays it. Raises GameError for a game of many agents where the algorithm learns for one."""
    game = make(config.game, copies)
    many = ALGORITHMS[config.name].many
    if many and game.players is None:
        return Alone(game)
    if not many and game.players is not None:
        game.close()
        those = ", ".join(name for name, algorithm in ALGORITHMS.items() if algorithm.many)
        raise GameError(f"{config.name} learns for one agent, and {config.game} has {len(game.players.names)}; for many there are {those}")
    return game


def _can_snapshot(game: Game) -> bool:
    try:
        game.snapshot(0)
    except CannotSnapshot:
        return False
    return True


def judging(source: RewardSource) -> RewardSource | None:
    """What policies are judged by that learn from `source`; None: the game's own reward, which signs only rescale."""
    return None if isinstance(source, GameReward | SignReward) else source


def reward_source(address: str) -> RewardSource:
    """The game's reward, its sign, or the function at py:module:function. Raises ConfigError when the address leads to none."""
    if address in ("game", "sign"):
        return GameReward() if address == "game" else SignReward()
    try:  # what the function answers is checked at every call
        return WrittenReward(load_function(address, "true_reward", '"game", "sign" or py:module:function'))
    except GameError as error:
        raise ConfigError(str(error)) from None


@contextlib.contextmanager
def hold(out: Path) -> Iterator[None]:
    """An exclusive hold on the run directory, which ends with this process. One that fails to start leaves no directory behind."""
    new = not out.exists()
    descriptor = _lock(out)
    try:
        yield
    except BaseException:
        if new:
            shutil.rmtree(out, ignore_errors=True)
        raise
    finally:
        os.close(descriptor)


def _lock(out: Path) -> int:
    while True:
        try:
            out.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(out / "lock", os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise RunError(f"{out} cannot hold a run: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(out / "lock")):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise RunError(f"{out} is in use by another process; one run has one directory and one process") from None
        except FileNotFoundError:
            pass  # whoever held it failed to start and took the directory away: try once more
        os.close(descriptor)


@contextlib.contextmanager
def misfit(step: int) -> Iterator[None]:
    """A checkpoint may be whole and yet another run's: whatever loading it raises becomes one sentence."""
    try:
        yield
    except CheckpointError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"the checkpoint at step {step} does not fit this run: {type(error).__name__}: {reason}") from error


def _check_fields(given: Any, expected: set[str], where: str) -> None:
    if not isinstance(given, dict):
        raise CheckpointError(f"{where} is a {type(given).__name__}; the fields {', '.join(sorted(expected))} were expected")
    unknown, missing = sorted(given.keys() - expected), sorted(expected - given.keys())
    if unknown or missing:
        what = f"an unknown field {unknown[0]!r}" if unknown else f"no field {missing[0]!r}"
        raise CheckpointError(f"{where} has {what}; this version knows {', '.join(sorted(expected))}")


def _check_tree(given: Any, own: Any, where: str) -> None:
    """The fields of a saved tree are those that this version would save, on every level that has fixed ones."""
    if isinstance(own, Mapping):
        _check_fields(given, set(own), where)
        for name, value in own.items():
            _check_tree(given[name], value, f"{where}.{name}")


def groups_of(config: RunConfig, out: Path) -> list[str]:
    """Under which names the seeds of a run ask in a label store."""
    return [f"{out.resolve().name}/seed-{config.seed + i}" for i in range(config.seeds)]


def read_config(out: Path) -> RunConfig:
    """The configuration of a run directory. Raises RunError when there is none, or when it holds a plan."""
    config = read_any_config(out)
    if isinstance(config, PlanConfig):
        raise RunError(f"{out} holds a plan of {config.name}; this needs a run that learned by playing")
    if isinstance(config, TextRunConfig):
        raise RunError(f"{out} holds a language model ({config.name}); this needs a run that learned by playing")
    return config


def read_any_config(out: Path) -> Configuration:
    """The configuration of a run, a plan or a run of a language model. Raises RunError when there is none."""
    try:
        return from_json(json.loads((out / "config.json").read_text()))
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{out} is no run: it has no config.json") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{out / 'config.json'} cannot be read: {error}") from None
