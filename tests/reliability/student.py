"""A small PEBBLE run in a process of its own, which says where it is: `student.py begin|resume DIRECTORY oracle|store STEPS`.

After each step it prints `at STEP DIGEST FITS LABELS`: the hash of all that has been learned and stored, fits so far, and
labels heard. With the store as rater the hash is worth its price; with the oracle it is left out.
"""

import hashlib
import sys
from pathlib import Path

from tutelage.experience.trees import pack
from tutelage.experiment.config import RunConfig
from tutelage.experiment.run import Experiment, read_config
from tutelage.learn.deep import sac
from tutelage.learn.preference import pebble
from tutelage.rewards import learned


def config(rater: str, steps: int) -> RunConfig:
    algorithm = pebble.Config(
        labels=24 if rater == "oracle" else 100_000,
        session_labels=6,
        session_every=60 if rater == "oracle" else 30,
        pretraining_steps=40,
        entropy_every=20,
        poll_every=10,
        fit_labels=3,
        segment_length=10,
        candidates=3,
        updates_after_reset=5,
        sac=sac.Config(hidden=(16, 16), batch_size=16, random_steps=40),
        reward_model=learned.Config(
            hidden=(16, 16), members=2, batch_size=8, epochs=10, max_steps=20, standardize_inputs=True, target_std=1.0
        ),
    )
    assert rater in ("oracle", "store")
    return RunConfig(
        algorithm, "gym:Pendulum-v1", steps, seed=5, seeds=2, rater=rater, checkpoint_every=50, evaluate_every=100,
        evaluation_episodes=1, log_every=20, anchor_every=50, clips=0,
    )  # fmt: skip


def digest(experiment: Experiment) -> str:
    tensors, text = pack(
        {"learner": experiment.learner.state(), "rollout": experiment.rollout.state(), "reward": experiment.experience.reward}
    )
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        found.update(tensors[name].numpy().tobytes())
    return found.hexdigest()[:16]


def live(verb: str, out: Path, rater: str, steps: int) -> None:
    with Experiment(config(rater, steps) if verb == "begin" else read_config(out), out) as experiment:
        if verb == "begin":
            experiment.begin()
        else:
            experiment.restore()
        print("from", experiment.steps, flush=True)
        learner, lesson = experiment.learner, experiment.lesson
        assert isinstance(learner, pebble.Pebble) and lesson is not None
        while not experiment.finished:
            experiment.step()
            seen = digest(experiment) if rater == "store" else "-"
            print("at", experiment.steps, seen, int(learner.ensemble.fits.sum()), sum(map(len, lesson.judgements)), flush=True)
        experiment.finish()


if __name__ == "__main__":
    live(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
