"""The run of a single-file edition: the loop of `Experiment` without its directory, evaluations and films.

`tutelage show NAME` prints it below the algorithm; with equal settings both learn the same bits.
"""

import argparse
import ast
import hashlib
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from tutelage.experience.rollout import Rollout
from tutelage.experience.segments import SegmentArchive
from tutelage.experience.trees import pack
from tutelage.experiment.processor import prepare
from tutelage.experiment.randomness import generator, seed_of
from tutelage.feedback.raters import TEACHERS, OracleRater
from tutelage.games.gymnasium import make_gymnasium
from tutelage.games.particle.address import make_particle
from tutelage.games.spec import Game, GameError
from tutelage.games.worlds import World, make_world
from tutelage.learn.learner import Learner, Progress
from tutelage.learn.preference.lesson import Lesson
from tutelage.learn.tabular.sweeps import Planner
from tutelage.rewards.source import GameReward, RewardSource


def main(config: Any, make_learner: Callable[..., Learner], make_lesson: Callable[..., Any] | None = None) -> None:
    """Train on the game that the command line names; print returns, and at the end a digest of all that was learned.

    make_learner is called as (config, observation space, action space, generators); make_lesson gives more arguments for it.
    """

    def begin(config: Any, rollout: Rollout, returns: Sequence[tuple[float, int]], seed: int, address: str) -> Learner:
        more = make_lesson(rollout, returns, seed, address) if make_lesson else ()
        return make_learner(config, rollout.game.observation_space, rollout.game.action_space, [generator(seed, "learner")], *more)

    _play(config, "gym", "an environment of Gymnasium's registry, such as gym:CartPole-v1", make_gymnasium, begin)


def main_of_many(config: Any, make_learner: Callable[..., Learner]) -> None:
    """As `main`, for many agents, in a particle world; make_learner is called as (config, players, generators)."""

    def begin(config: Any, rollout: Rollout, returns: Sequence[tuple[float, int]], seed: int, address: str) -> Learner:
        return make_learner(config, rollout.game.players, [generator(seed, "learner")])

    def make(name: str, copies: int) -> Game:
        return make_particle(f"particle:{name}", copies, {})

    _play(config, "particle", "a particle world, such as particle:simple_spread?agents=2", make, begin)


def _play(config: Any, scheme: str, games: str, make: Callable[[str, int], Game], begin: Callable[..., Learner]) -> None:
    parser = _parser(config, games)
    parser.add_argument("--steps", type=int, required=True, help="of every copy of the game")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--copies", type=int, default=1, help="of the game, played side by side")
    given = parser.parse_args()
    config = _configured(config, parser, given.set)
    prepare(given.threads)
    own, _, name = given.game.partition(":")
    if own != scheme:
        parser.error(f"--game {given.game} was given; this edition plays {games}")
    try:
        game = make(name, given.copies)
        rollout = Rollout(game, 1, [seed_of(given.seed, f"game/{copy}") % 2**31 for copy in range(given.copies)])
        returns: deque[tuple[float, int]] = deque(maxlen=10)
        train(begin(config, rollout, returns, given.seed, given.game), rollout, returns, given.steps)
    except GameError as mistake:
        parser.error(str(mistake))


def plan(config: Any, make_planner: Callable[[Any, World], Planner]) -> None:
    """Sweep over the world that the command line names until the values have settled; print them, and a digest."""
    parser = _parser(config, "a finite world, such as grid:lecture, mdp:random?states=8 or gym:FrozenLake-v1")
    parser.add_argument("--max-sweeps", type=int, default=100_000, help="end there, though values still change")
    given = parser.parse_args()
    config = _configured(config, parser, given.set)
    prepare(given.threads)
    try:
        planner = make_planner(config, make_world(given.game))
        while not planner.finished and planner.sweeps < given.max_sweeps:
            planner.sweep()
    except GameError as mistake:
        parser.error(str(mistake))
    print(f"after {planner.sweeps} sweeps: {planner.value}")
    print(f"learned {digest(planner)}")


def _parser(config: Any, games: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--game", required=True, help=games)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help=f"NAME is one of {', '.join(names_of(config))}")
    return parser


def _configured(config: Any, parser: argparse.ArgumentParser, settings: Sequence[str]) -> Any:
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name not in names_of(config):
            parser.error(f"--set {setting} was given; NAME=VALUE with one of these names was expected: {', '.join(names_of(config))}")
        config = with_setting(config, name, value)
    return config


def train(learner: Learner, rollout: Rollout, returns: deque[tuple[float, int]], steps: int) -> None:
    """One seed, from the first step to the last."""
    experience = learner.experience(steps, rollout.copies)
    while rollout.steps < steps:
        action = learner.behave(rollout.observation, rollout.starts, rollout.legal, Progress(rollout.steps, steps))
        transition = rollout.step(action)
        reward = learner.reward(transition.observation, transition.action, transition.reward) if isinstance(learner, RewardSource) else None
        experience.add(transition, reward)
        learner.update(experience, Progress(rollout.steps, steps))
        returns.extend((episode.total, episode.length) for episode in rollout.episodes)
        if rollout.episodes and returns:
            print(f"step {rollout.steps}: mean return {mean(total for total, _ in returns):.1f} over the last {len(returns)} episodes")
        rollout.episodes.clear()
    print(f"learned {digest(learner)}")


def digest(learner: Learner | Planner) -> str:
    """SHA-256 over every tensor that a learner or a planner keeps: weights, moments, generators, values."""
    tensors, _ = pack(learner.state())
    held = hashlib.sha256()
    for name in sorted(tensors):
        held.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        held.update(tensors[name].numpy().tobytes())
    return held.hexdigest()


def with_setting(config: Any, name: str, text: str) -> Any:
    """The configuration with one field set from a text; a dot leads into a configuration inside it."""
    field, _, inner = name.partition(".")
    if inner:
        return replace(config, **{field: with_setting(getattr(config, field), inner, text)})
    try:
        return replace(config, **{field: ast.literal_eval(text)})
    except (SyntaxError, ValueError):  # a word
        return replace(config, **{field: text})


def names_of(config: Any, prefix: str = "") -> list[str]:
    """The fields of a configuration and, after a dot, of those inside it."""
    names: list[str] = []
    for field in fields(config):
        value = getattr(config, field.name)
        names += names_of(value, f"{prefix}{field.name}.") if is_dataclass(value) else [prefix + field.name]
    return names


def oracle_lesson(rollout: Rollout, returns: Sequence[tuple[float, int]], seed: int, address: str) -> tuple[Any, Lesson]:
    """What PEBBLE takes beside its spaces: the reward model's generators, and a teacher who looks at the true reward."""
    archive = SegmentArchive(Path(tempfile.mkdtemp(prefix="segments-")))

    def reward_per_step() -> float:
        return sum(total for total, _ in returns) / max(sum(length for _, length in returns), 1)

    rater = OracleRater(
        TEACHERS["oracle"], lambda item: archive.get(item).reward, generator(seed, "teacher"), reward_per_step,
        episode_length=1, clock=lambda: 0.0,
    )  # fmt: skip
    lesson = Lesson([rater], [f"edition/seed-{seed}"], [generator(seed, "queries")], archive, rollout.anchors, GameReward(), address)
    return [generator(seed, "reward")], lesson
