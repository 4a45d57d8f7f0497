"""Pendulum-v1 taught by comparisons: `python -m tutelage.recipes.pendulum demo`, or `table` for every variant.

The demo teaches three stacked seeds with 100 answers each, while SAC learns from the true reward beside them, and ends in a
report. The table adds fewer labels, wrong labels, coin flips as the control, and a lesson that the game's own reward does
not contain: spin at six radians per second.
"""

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from rich.console import Console
from torch import Tensor

from tutelage.experiment.config import RunConfig
from tutelage.learn.deep import sac
from tutelage.learn.preference import pebble
from tutelage.recipes.rows import RESULTS, add_rows, train_or_resume
from tutelage.rewards import learned

GAME = "gym:Pendulum-v1"
SPIN = "py:tutelage.recipes.pendulum:spin"
Variant = Literal["pebble-100", "pebble-50", "pebble-flips", "pebble-coin", "sac", "spin-pebble-100", "spin-sac"]
VARIANTS: tuple[Variant, ...] = ("pebble-100", "pebble-50", "pebble-flips", "pebble-coin", "sac", "spin-pebble-100", "spin-sac")

# Chosen on seeds 10 to 21, which no row of the table has.
LEARNER = sac.Config(
    hidden=(64, 64), batch_size=128, learning_rate=1e-3, temperature_learning_rate=1e-3, initial_temperature=0.2, random_steps=100,
    updates_per_step=2, target_rate=0.015,  # the reward becomes right late; at 0.005 the critics need all that is left to follow it
)  # fmt: skip
REWARD_MODEL = learned.Config(
    hidden=(64, 64), learning_rate=1e-3, weight_decay=0.01, batch_size=32, epochs=1_000, first_max_steps=60, max_steps=50,
    target_accuracy=1.0,  # never stop early: on so few labels 0.97 is reached before the new ones have taught anything
    bounded=False, standardize_inputs=True, target_std=1.0,
)  # fmt: skip
STUDENT = pebble.Config(
    labels=100, first_session_labels=40, session_labels=10, session_every=500, entropy_every=20,
    pretraining_steps=1_500,  # after 800 one seed in four has never been slow near the top, and no question can be about it
    sac=LEARNER, reward_model=REWARD_MODEL,
)  # fmt: skip


def spin(observation: Tensor, action: Tensor) -> Tensor:
    """A lesson of one's own: turn at six radians per second, either way. observation `[..., 3]` -> `[...]`, at most 0."""
    return -(observation[..., 2].abs() - 6.0).abs()


@dataclass(frozen=True)
class Demo:
    """Teach three seeds with 100 answers each, SAC beside them, and write the report."""

    out: Path = Path("runs/demo")
    """Where the runs go: one folder each for the lesson and for SAC."""
    scale: float = 1.0
    """Shrinks steps and labels, to try it."""


@dataclass(frozen=True)
class Table:
    """Every variant, six seeds each; rows are added to benchmarks/results/pendulum.jsonl. Interrupted, it goes on where it stopped."""

    variants: tuple[Variant, ...] = VARIANTS
    """Which ones."""
    seeds: int = 6
    """Stacked in one run."""
    seed: int = 0
    """The first."""
    scale: float = 1.0
    """Shrinks steps and labels, to try it; rows then go where `results` says only if it is given."""
    out: Path = Path("runs/pendulum")
    """Where the runs lie."""
    results: Path | None = None
    """The file that rows are added to. None: benchmarks/results/pendulum.jsonl, at scale 1 only."""


def configuration(variant: Variant, seeds: int, seed: int, scale: float = 1.0) -> RunConfig:
    """What a variant runs."""
    student, teacher = STUDENT, "oracle"
    if variant == "pebble-50":
        student = replace(student, labels=50, first_session_labels=20, session_labels=5)
    if variant == "pebble-flips":
        # Wrong answers are memorized by a model that is fitted for long: the likelihood knows of them, and the fit is short.
        model = replace(REWARD_MODEL, rater_error=0.1, first_max_steps=30, max_steps=30)
        student, teacher = replace(student, reward_model=model), "mistake"
    if variant == "pebble-coin":
        teacher = "coin"
    if scale != 1.0:
        few = max(round(student.labels * scale), 4)
        student = replace(
            student, labels=few, first_session_labels=few // 2, session_labels=max(few // 4, 1), session_every=max(round(500 * scale), 1),
            pretraining_steps=round(1_500 * scale), segment_length=10, sac=replace(LEARNER, random_steps=max(round(100 * scale), 20)),
            reward_model=replace(student.reward_model, first_max_steps=20, max_steps=10), updates_after_reset=10,
        )  # fmt: skip
    steps = round(7_000 * scale)
    # SAC on the true reward has nothing to catch up with: it gets the paper's rate, with which it does better.
    return RunConfig(
        algorithm=replace(student.sac, target_rate=0.005) if variant.endswith("sac") else student,
        game=GAME, steps=steps, seeds=seeds, seed=seed, teacher=teacher,
        true_reward=SPIN if variant.startswith("spin") else "game",
        evaluate_every=steps // 7 if scale == 1.0 else steps, evaluation_episodes=20 if scale == 1.0 else 1,
        checkpoint_every=max(steps // 7, 1), log_every=max(steps // 70, 1), clips=3 if scale == 1.0 else 0,
    )  # fmt: skip


def demo(options: Demo) -> None:
    """Run the lesson, with SAC in a process of its own beside it."""
    lesson, beside = options.out / "lesson", options.out / "sac"
    arguments = [sys.executable, "-m", "tutelage.recipes.pendulum", "beside", "--out", str(beside), "--scale", str(options.scale)]
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL) as process:
        train_or_resume(configuration("pebble-100", 3, 0, options.scale), lesson, Console())
        if process.wait() != 0:
            raise SystemExit(f"SAC on the true reward ended with code {process.returncode}; its log is in {beside}")
    from tutelage.experiment.report import write_report

    Console().print(f"report, with SAC on the true reward beside it: {write_report(lesson, [beside])}", highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Beside:
    """SAC on the true reward, as the demo runs it."""

    out: Path
    """The run directory."""
    scale: float = 1.0
    """As the demo's."""


def table(options: Table) -> None:
    """Run or resume every variant and add its rows."""
    results = options.results or (RESULTS / "pendulum.jsonl" if options.scale == 1.0 else None)
    for variant in options.variants:
        config = configuration(variant, options.seeds, options.seed, options.scale)
        task = f"{GAME}/spin" if variant.startswith("spin") else GAME
        method = variant.removeprefix("spin-")
        out = options.out / f"{variant}-{config.seed}"
        add_rows(config, out, task, method, results, 100 if options.scale == 1.0 else 2, Console())


def main(
    what: Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Table, tyro.conf.subcommand("table")]
    | Annotated[Beside, tyro.conf.subcommand("beside")],
) -> None:
    """One of the three."""
    torch.set_num_threads(1)
    if isinstance(what, Demo):
        demo(what)
    elif isinstance(what, Table):
        table(what)
    else:
        train_or_resume(configuration("sac", 3, 0, what.scale), what.out, Console())


if __name__ == "__main__":
    tyro.cli(main, description=__doc__, config=(tyro.conf.OmitArgPrefixes,))
