"""Behavior that no game pays for, taught over the rating room's own HTTP queue: `python -m tutelage.recipes.novel_behavior`.

Christiano et al. 2017 (arXiv 1706.03741), section 3.2: a hopper's back-flip from 900 comparisons, a cheetah on one leg from 800, a car
that keeps pace with the others of Enduro from 1,300. Here a script gives the answers: it opens the room's link as a person would, leases
pairs, looks at both clips and says which is better by a comparison written by hand. The learner knows nothing but the answers.
`--errors 0.1 --ties 0.2` makes the script as unreliable as people.

The back-flip's comparison is OpenAI's published one: backward spin, more for height and for what the motors add to it, less when
travelling backward. The scores are full backward rotations per evaluation episode, and for the others the hand-written reward itself:
of Enduro (enduro.py) at most 4,500, one for each step at the others' speed. Its learner is the paper's, A2C on pictures with 16 copies,
and takes many hours; the other two are PEBBLE's.
"""

import math
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tyro
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from tutelage.evaluate.episodes import Playing
from tutelage.evaluate.policy import MemberPolicy
from tutelage.experience.segments import SegmentArchive
from tutelage.experiment.config import RunConfig
from tutelage.experiment.log import EVENTS
from tutelage.experiment.run import EVALUATION_SEED, Experiment, play
from tutelage.experiment.train import resume, train
from tutelage.feedback.client import Client
from tutelage.feedback.queue import chance
from tutelage.learn.deep import sac
from tutelage.learn.preference import christiano, pebble
from tutelage.recipes.preferences import shrunk
from tutelage.recipes.preferences_long import ATARI_COPIES, LONG
from tutelage.recipes.rows import RESULTS, Row, add_rows, judged, seed_rows
from tutelage.rewards import learned


class Novel(NamedTuple):
    """Something to teach."""

    game: str
    labels: int
    """Comparisons (Christiano's)."""
    steps: int
    """Of all copies together."""
    copies: int = 1
    reward: str = "game"
    """What is written by hand: a function, or what the game itself pays."""


HERE = "py:tutelage.recipes.novel_behavior"
WORLDS = {
    "backflip": Novel("gym:tutelage.recipes.endless_worlds:EndlessHopper-v0", 900, 500_000, reward=f"{HERE}:backflip"),
    "one-leg": Novel("gym:HalfCheetah-v5", 800, 500_000, reward=f"{HERE}:one_leg"),
    "enduro": Novel("py:tutelage.recipes.enduro:PacedEnduro", 1_300, 1_000_000, ATARI_COPIES),
}
SESSIONS = 20
LIFTED = 0.15
"""Meters above the floor from which the middle of the cheetah's front foot counts as off the ground; standing, it is at 0.1."""


def backflip(observation: Float[Tensor, "*N D"], action: Float[Tensor, "*N A"]) -> Float[Tensor, "*N"]:
    """b (1 + 0.3 h + 0.1 v + 0.05 s),   b: backward spin -o_7, h: height o_0, v: power of the motors a . o_8..10, s: -o_5.

    The comparison of OpenAI's announcement of Christiano et al. 2017, as the RIME authors use it (ICML 2024), for Hopper's
    observation without the x-position.
    """
    power = (action * observation[..., 8:11]).sum(-1)
    return -observation[..., 7] * (1.0 + 0.3 * observation[..., 0] + 0.1 * power - 0.05 * observation[..., 5])


def one_leg(observation: Float[Tensor, "*N D"], action: Float[Tensor, "*N A"]) -> Float[Tensor, "*N"]:
    """Forward speed while the front foot is off the ground, else 0."""
    return observation[..., 8] * (front_foot_height(observation) > LIFTED)


def front_foot_height(observation: Float[Tensor, "*N D"]) -> Float[Tensor, "*N"]:
    """Of the middle of the cheetah's front foot above the floor, in meters: the chain of its front leg from torso to toe."""
    height, pitch, thigh, shin, foot = (observation[..., index] for index in (0, 1, 5, 6, 7))
    z, angle = 0.7 + height, pitch
    for (dx, dz), joint in zip(((0.5, 0.0), (-0.14, -0.24), (0.13, -0.18), (0.045, -0.07)), (thigh, shin, foot, None), strict=True):
        z = z - dx * angle.sin() + dz * angle.cos()  # a positive pitch turns the nose down
        angle = angle if joint is None else angle + joint
    return z


@dataclass(frozen=True)
class Recipe:
    """One behavior, taught over HTTP."""

    task: Literal["backflip", "one-leg", "enduro"] = "backflip"
    """What to teach."""
    taught: bool = True
    """From answers; or (the reference) from the hand-written reward itself."""
    errors: float = 0.0
    """Share of answers that are wrong."""
    ties: float = 0.0
    """Share of answers that are ties though one clip is better."""
    seed: int = 0
    """One run has one seed: its pairs are one rater's work."""
    scale: float = 1.0
    """Shrinks steps, labels and nets, to try the recipe; rows then go where `results` says only if it is given."""
    out: Path = Path("runs/novel_behavior")
    """Where the runs lie."""
    results: Path | None = None
    """The file that rows are added to. None: benchmarks/results/novel_behavior.jsonl, at scale 1 only."""
    threads: int = 1
    """Of torch."""


def configuration(recipe: Recipe) -> RunConfig:
    """What the recipe runs."""
    novel, whole = WORLDS[recipe.task], recipe.scale == 1.0
    copies = novel.copies if whole else min(novel.copies, 4)
    steps = max(round(novel.steps * recipe.scale) // copies, 100)
    algorithm = _on_pictures(recipe) if recipe.task == "enduro" else _on_a_robot(recipe)
    if not recipe.taught:
        algorithm = algorithm.played_by[2]
    game = novel.game if whole or recipe.task != "enduro" else f"{novel.game}?max_frames=400"
    return RunConfig(
        algorithm if whole else shrunk(algorithm, recipe.scale), game, steps, seed=recipe.seed, copies=copies, threads=recipe.threads,
        rater="store", true_reward=novel.reward,
        evaluate_every=max(steps // 10, 1) if whole else steps, evaluation_episodes=5 if whole else 1,
        checkpoint_every=max(steps // 15, 1), log_every=max(steps // 300, 1), clips=3 if whole else 0,
    )  # fmt: skip


def _on_a_robot(recipe: Recipe) -> pebble.Config:
    """PEBBLE, twenty sessions over the first two thirds of the run."""
    novel = WORLDS[recipe.task]
    return pebble.Config(
        labels=novel.labels, session_labels=novel.labels // SESSIONS, session_every=novel.steps * 2 // 3 // SESSIONS,
        sac=sac.Config(initial_temperature=0.1, random_steps=1_000),
        reward_model=learned.Config(standardize_inputs=True, rater_error=recipe.errors),
    )  # fmt: skip


def _on_pictures(recipe: Recipe) -> christiano.Config:
    """The paper's for Atari, its first questions a quarter of all as in MuJoCo, for its 500 would be more than a third."""
    whole = LONG["atari:enduro", "christiano-5500"].algorithm
    model = replace(whole.reward_model, rater_error=max(recipe.errors, whole.reward_model.rater_error))
    return replace(whole, labels=WORLDS[recipe.task].labels, initial_share=0.25, reward_model=model)


class ScriptedRater(threading.Thread):
    """Opens the room's page of a run and answers whatever it asks, until it is told to stop."""

    def __init__(self, out: Path, recipe: Recipe) -> None:
        super().__init__(name="scripted rater", daemon=True)
        self.archive, self.recipe = SegmentArchive(out / "segments"), recipe
        command = [sys.executable, "-m", "tutelage.cli", "rate", str(out), "--no-browser", "--port", "0"]
        self.page = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.page.stdout is not None
        try:  # before the first step: a short run would be over before the page is open
            self.client = Client.by_link(self.page.stdout.readline().split()[-1])
        except BaseException:
            self.page.kill()
            raise
        self.stopping = threading.Event()
        self.answered = 0
        self.failure: Exception | None = None

    def run(self) -> None:
        """Until `leave`."""
        try:
            while not self.stopping.wait(0.1):
                self.answered += self.client.work(self._preference)
        except Exception as error:
            self.failure = error  # told by `leave`: a thread has nobody to raise to

    def leave(self) -> None:
        """Closes the page. Raises what went wrong, if anything did."""
        self.stopping.set()
        self.join(60)
        self.client.close()
        self.page.terminate()
        self.page.wait(30)
        if self.failure is not None:
            raise self.failure

    def _preference(self, first: Mapping[str, Any], second: Mapping[str, Any]) -> float:
        """1 where the first clip is better by the comparison written by hand, which lies with every clip as its true reward."""
        left, right = (float(self.archive.get(item["id"]).reward.sum()) for item in (first, second))
        draw = chance(*sorted((first["id"], second["id"])))  # the same whichever of the two is asked about first
        if left == right or draw < self.recipe.ties:
            return 0.5
        return float((left > right) != (draw < self.recipe.ties + self.recipe.errors))


def rotations(experiment: Experiment, episodes: int) -> list[int]:
    """Full backward rotations of the torso in each of some noise-free episodes of the first seed."""
    game = play(experiment.config, 1)
    policy = MemberPolicy(experiment.learner, experiment.config.seeds, 0, game.observation_space, game.action_space)
    counted: list[int] = []
    for episode in range(episodes):
        playing = Playing(policy, game, EVALUATION_SEED + episode)
        observation: Any = playing.observation
        start = float(observation[0, 1])
        furthest = ended = 0.0
        while not ended:
            step = playing.step(playing.act())
            observation = step.observation
            furthest = max(furthest, start - float(observation[0, 1]))
            ended = float(step.boundary[0])
        counted.append(math.floor(furthest / (2.0 * math.pi)))
    game.close()
    return counted


def judge(experiment: Experiment, task: str, method: str, episodes: int) -> list[Row]:
    """Rows whose score is the mean number of full rotations."""
    counted = rotations(experiment, episodes)
    experiment.log.append("rotations", experiment.steps, counted=counted)
    return seed_rows(experiment, task, method, [sum(counted) / len(counted)])


def main(recipe: Recipe, console: Console | None = None) -> None:
    """Run or resume beside a scripted rater, then judge the final policy and add its row."""
    config, console = configuration(recipe), console or Console()
    noise = f"-errors{recipe.errors:g}-ties{recipe.ties:g}" if recipe.errors or recipe.ties else ""
    method = f"{config.name}-{config.algorithm.labels}{noise.replace('.', '')}" if recipe.taught else config.name
    out = recipe.out / f"{recipe.task}-{method}-{config.seed}"
    results = recipe.results or (RESULTS / "novel_behavior.jsonl" if recipe.scale == 1.0 else None)
    raters: list[ScriptedRater] = []

    def begun(directory: Path) -> None:
        if recipe.taught:
            raters.append(ScriptedRater(directory, recipe))
            raters[0].start()

    try:
        if (out / EVENTS).exists():
            resume(out, console=console, begun=begun)
        else:
            train(config, out, console=console, begun=begun)
    finally:
        for rater in raters:
            rater.leave()
            console.print(f"the script gave {rater.answered} answers over HTTP", highlight=False)
    counting = judge if recipe.task == "backflip" else judged
    episodes = 20 if recipe.scale == 1.0 else 2
    add_rows(config, out, f"{recipe.task}/hidden", method, results, episodes, console, counting)


if __name__ == "__main__":
    main(tyro.cli(Recipe, description=__doc__))
