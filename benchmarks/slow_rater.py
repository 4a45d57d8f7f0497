"""What a slow rater costs training: `python benchmarks/slow_rater.py [--row]`, about eight minutes, with nothing else on the machine.

Christiano's three processes on Reacher, 700 labels, ten seconds of thought per label. Once a reward model is there, the policy takes
turns: now rater and reward model work beside it, on another core, now both are stopped. Steps per second of the turns beside them against
those alone. With --row the result is appended to benchmarks/results/speed.jsonl.
"""

import argparse
import json
import os
import signal
import statistics
import tempfile
import time
from pathlib import Path

from measures import append

from tutelage.experiment.apart import Companions
from tutelage.experiment.config import RunConfig, to_json
from tutelage.experiment.fingerprint import commit
from tutelage.experiment.run import Experiment, groups_of
from tutelage.feedback.store import Store, file_url
from tutelage.recipes.preferences import COPIES, TABLE

TASK = "christiano:reacher"
RESULTS = Path(__file__).resolve().parent / "results" / "speed.jsonl"


def configuration(answer_seconds: float) -> RunConfig:
    """The recipe's, of one seed, that never stops to evaluate or save."""
    algorithm = TABLE[TASK, "christiano-700"].algorithm
    never = 10**9
    return RunConfig(
        algorithm, TASK, 500_000, copies=COPIES, asynchronous=True, answer_seconds=answer_seconds, evaluate_every=never,
        checkpoint_every=never, log_every=never, clips=0,
    )  # fmt: skip


def speed(experiment: Experiment, seconds: float) -> float:
    """Steps per second, of whole windows of PPO: between two of them it plays and does not learn."""
    window = experiment.config.algorithm.ppo.window
    began, first = time.perf_counter(), experiment.steps
    while time.perf_counter() - began < seconds or experiment.steps % window:
        experiment.step()
    return (experiment.steps - first) / (time.perf_counter() - began)


def answers(experiment: Experiment, run: Path) -> int:
    """So far, on disk."""
    with Store(file_url(run / "feedback.sqlite")) as store:
        return sum(len(store.judgements(group)) for group in groups_of(experiment.config, run))


def send(others: Companions, what: signal.Signals) -> None:
    """A signal to rater and reward model."""
    for process in others.processes.values():
        os.kill(process.pid, what)


def main() -> None:
    """Measure, print and with --row append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answer-seconds", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=20.0, help="of a turn")
    parser.add_argument("--turns", type=int, default=10, help="of each kind")
    parser.add_argument("--row", action="store_true", help="append the result to benchmarks/results/speed.jsonl")
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder, Experiment(configuration(0.0), Path(folder) / "run") as experiment:
        run = Path(folder) / "run"
        experiment.begin()
        os.sched_setaffinity(0, {cores[-1]})
        with Companions(run):
            os.sched_setaffinity(0, {cores[0]})
            while not experiment.learner.learned.all():  # pyright: ignore[reportAttributeAccessIssue]
                experiment.step()
        (run / "config.json").write_text(json.dumps(to_json(configuration(given.answer_seconds))))
        os.sched_setaffinity(0, {cores[-1]})
        with Companions(run) as others:
            os.sched_setaffinity(0, {cores[0]})
            before, found = answers(experiment, run), {"alone": [], "slow rater": []}
            for turn in range(given.turns):
                for kind in sorted(found, reverse=bool(turn % 2)):
                    send(others, signal.SIGSTOP if kind == "alone" else signal.SIGCONT)
                    found[kind].append(speed(experiment, given.seconds))
            send(others, signal.SIGCONT)
            heard = answers(experiment, run) - before
            send(others, signal.SIGTERM)
    alone, beside = (statistics.median(found[kind]) for kind in ("alone", "slow rater"))
    row = {"measure": "slow-rater", "library": "tutelage", "unit": "steps/s", "threads": 1, "hardware": f"{len(cores)} cores"}
    row |= {"commit": commit(), "answers": heard}
    for variant, value in (("alone", alone), ("slow-rater", beside)):
        told = row | {"variant": variant, "value": round(value, 1), "ratio": round(value / alone, 3)}
        print(json.dumps(told))
        if given.row:
            append(RESULTS, [told])


if __name__ == "__main__":
    main()
