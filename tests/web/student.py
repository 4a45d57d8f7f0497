"""A Pendulum lesson in a process of its own, as unhurried as a person: `student.py DIRECTORY LABELS`.

It practices until all of its questions are answered, then a little more, and ends as every run does.
"""

import sys
import time
from pathlib import Path

from tutelage.experiment.config import RunConfig
from tutelage.experiment.run import Experiment
from tutelage.learn.deep import sac
from tutelage.learn.preference import pebble
from tutelage.rewards import learned


def config(labels: int) -> RunConfig:
    algorithm = pebble.Config(
        labels=labels,
        session_labels=labels // 2,
        session_every=100,
        pretraining_steps=60,
        entropy_every=50,
        poll_every=10,
        fit_labels=3,
        segment_length=30,
        candidates=3,
        updates_after_reset=5,
        sac=sac.Config(hidden=(16, 16), batch_size=16, random_steps=60),
        reward_model=learned.Config(
            hidden=(16, 16), members=2, batch_size=8, epochs=10, max_steps=20, standardize_inputs=True, target_std=1.0
        ),
    )
    return RunConfig(
        algorithm, "gym:Pendulum-v1", 1_000_000, rater="human", checkpoint_every=100_000, evaluate_every=200, evaluation_episodes=2,
        log_every=50, anchor_every=50, clips=1,
    )  # fmt: skip


if __name__ == "__main__":
    labels = int(sys.argv[2])
    with Experiment(config(labels), Path(sys.argv[1])) as experiment:
        experiment.begin()
        lesson = experiment.lesson
        assert lesson is not None
        last = sys.maxsize
        while experiment.steps < last:
            experiment.step()
            time.sleep(0.005)
            if last == sys.maxsize and lesson.asked[0] >= labels and lesson.awaited[0] == 0:
                last = experiment.steps + 50
        experiment.finish()
