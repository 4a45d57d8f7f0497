"""kill -9 of a run that people teach: labels that came after its death do not change what it lives through again."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tutelage.feedback.query import Judgement
from tutelage.feedback.store import Store

KILLS = int(os.environ.get("TUTELAGE_KILLS", "3"))
HERE = Path(__file__).parent
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])}
INTERVAL, POLL = 50, 10


class Report(NamedTuple):
    step: int
    digest: str
    """Of all that has been learned and stored."""
    fits: int
    labels: int
    """Heard so far."""


class Life:
    """A process that learns; `steps` says where it is."""

    def __init__(self, verb: str, run: Path) -> None:
        command = [sys.executable, str(HERE / "student.py"), verb, str(run), "store", "1000000"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
        assert self.process.stdout is not None
        self.output = self.process.stdout
        self.began = int(self.output.readline().split()[1])

    def steps(self) -> Iterator[Report]:
        for line in self.output:
            if line.endswith("\n"):
                _, step, digest, fits, labels = line.split()
                yield Report(int(step), digest, int(fits), int(labels))

    def kill(self) -> list[Report]:
        self.process.send_signal(signal.SIGKILL)
        rest = list(self.steps())
        assert self.process.wait(30) == -signal.SIGKILL
        return rest


class Memory:
    """What the first life to reach a step was there."""

    def __init__(self) -> None:
        self.seen: dict[int, Report] = {}
        self.differed: set[int] = set()

    @property
    def furthest(self) -> int:
        return max(self.seen, default=0)

    def record(self, report: Report) -> None:
        if self.seen.setdefault(report.step, report) != report:
            self.differed.add(report.step)

    def fits_since_checkpoint(self, step: int) -> int:
        """Fits up to a step that the checkpoint before it does not hold."""
        before = self.seen.get((step - 1) // INTERVAL * INTERVAL)
        return self.seen[step].fits - (before.fits if before else 0)


def answer_two(store: Store) -> int:
    """Two questions that the teacher has left open; returns how many there were."""
    known = {judgement.query for judgement in store.judgements()}
    still_open = [query for query in store.queries() if query.id not in known]
    return store.add(Judgement(f"late-{q.id}", q.id, "bob", "left", (0, 1), 0.0, 1.0) for q in still_open[:2])


def test_what_is_answered_after_a_death_is_not_heard_before_it(tmp_path: Path, record_property: Callable[[str, object], None]):
    run, chance, memory = tmp_path / "run", random.Random(4), Memory()
    life = Life("begin", run)
    url = f"sqlite:///{run / 'feedback.sqlite'}"
    counts = dict.fromkeys(("bit_equal", "started_past_zero", "repeated_at_most_one_interval", "fit_repeated", "labels_after_death"), 0)
    for kill in range(KILLS):
        teacher = subprocess.Popen([sys.executable, str(HERE / "teacher.py"), url], env=ENVIRONMENT)
        # Most lives end after a session of their own and a fit that no checkpoint holds; every third while it still repeats.
        known = memory.furthest
        early = chance.randrange(life.began + 1, known) if kill % 3 == 2 and known > life.began + 1 else None
        last, enough = life.began, known + chance.randrange(31, 45)
        for report in life.steps():
            memory.record(report)
            last = report.step
            if last == early or (early is None and last >= enough and memory.fits_since_checkpoint(last)):
                break
        for report in life.kill():
            memory.record(report)
            last = report.step
        teacher.kill()
        teacher.wait(30)
        with Store(url) as store:
            counts["labels_after_death"] += answer_two(store)

        life = Life("resume", run)
        counts["started_past_zero"] += life.began > 0
        counts["repeated_at_most_one_interval"] += last - life.began <= INTERVAL
        counts["fit_repeated"] += memory.fits_since_checkpoint(last) > 0 and last > life.began
    known = memory.furthest
    heard = 0
    for report in life.steps():
        memory.record(report)
        heard = report.labels
        if report.step >= known + 2 * POLL:
            break
    with Store(url) as store:
        answered = len(store.judgements())
    life.kill()
    # A life that differs from the one before shows it at every later step, so the steps say which kills were repaired.
    counts["bit_equal"] = KILLS if not memory.differed else 0
    for name, value in {"kills": KILLS, **counts, "steps": known, "steps_that_differed": len(memory.differed)}.items():
        record_property(name, value)
    assert not memory.differed
    assert counts["repeated_at_most_one_interval"] == KILLS
    assert counts["fit_repeated"] >= KILLS // 2 and counts["labels_after_death"] >= KILLS
    assert heard == answered, "a label was lost, or heard twice"
