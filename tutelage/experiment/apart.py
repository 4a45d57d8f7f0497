"""Christiano's three processes: the policy is the run itself; here are the rater and the reward model, and who keeps them alive.

`tutelage train christiano --asynchronous` starts all three. Each can be killed and started again at any moment
(`python -m tutelage.experiment.apart rater RUN`, or `reward RUN`): what was asked and answered lies in the label store, what was learned
in the newest published model, and a question that was asked is never asked again. No bits are promised, because nobody waits.
"""

import contextlib
import fcntl
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from tutelage.equations.preferences import preference_probability
from tutelage.experience.segments import SegmentArchive, StoredSegment, segment_hash
from tutelage.experiment.log import EVENTS, EventLog, read_events
from tutelage.experiment.processor import prepare
from tutelage.experiment.randomness import generator
from tutelage.experiment.run import RunError, groups_of, read_config, reward_source
from tutelage.feedback.query import Judgement, Query, SegmentRecord, new_query
from tutelage.feedback.raters import TEACHERS, Rater, StoreRater, teacher_answers, teacher_thresholds
from tutelage.feedback.samplers import SAMPLERS
from tutelage.feedback.store import Store, file_url
from tutelage.games.make import make
from tutelage.learn.preference.christiano import labels_due
from tutelage.learn.preference.lesson import Lesson
from tutelage.learn.preference.meeting import Meeting
from tutelage.learn.preference.session import answered
from tutelage.rewards.fitting import fit
from tutelage.rewards.learned import RewardEnsemble, reward_inputs

PAUSE = 0.2  # seconds between two looks at what the others have done
RESTARTS = 100  # of companions in one life of a run, after which something must be wrong with them
RETURNS = 10  # of training episodes, by whose mean a teacher's thresholds are measured


class Apart:
    """What both processes know of the run."""

    def __init__(self, run: Path) -> None:
        self.run, self.config = run, read_config(run)
        prepare(self.config.threads)
        self.algorithm = self.config.algorithm
        self.meeting = Meeting(run)
        self.groups = self.meeting.names(groups_of(self.config, run))
        self.store = Store(self.config.store or file_url(run / "feedback.sqlite"))
        self.archive = SegmentArchive(run / "segments")
        self.parent = os.getppid()

    @property
    def over(self) -> bool:
        """Whether the policy has taken its last step, or the process that started this one is gone."""
        if os.getppid() != self.parent:
            return True
        with (self.run / EVENTS).open("rb") as file:  # the end alone: a long run's log takes a second to read
            file.seek(-min(file.seek(0, os.SEEK_END), 4096), os.SEEK_END)
            return b'{"event": "end"' in file.read()

    def ensemble(self) -> RewardEnsemble:
        """Of all seeds, fresh."""
        with contextlib.closing(make(self.config.game, 1)) as game:
            widths = reward_inputs(game.observation_space, game.action_space)
        seeds = [self.config.seed + i for i in range(self.config.seeds)]
        return RewardEnsemble(self.algorithm.reward_model, *widths, [generator(s, "reward") for s in seeds])


class AskingRater(Apart):
    """Chooses among the clips on offer, asks, and, where the teacher is scripted, answers, one question at a time."""

    def __init__(self, run: Path) -> None:
        super().__init__(run)
        self.asked: list[dict[str, Query]] = [{} for _ in self.groups]
        self.answered: set[str] = set()
        self.cursor = 0
        self.version, self.model = -1, self.ensemble()
        self.generators = [generator(self.config.seed + i, f"asking/{os.getpid()}") for i in range(len(self.groups))]

    def step(self) -> bool:
        """Ask what is due and answer one question; whether there was anything to do."""
        head = self.store.head()
        for seed, group in enumerate(self.groups):
            self.asked[seed] |= {query.id: query for query in self.store.queries(group, self.cursor, head)}
            self.answered |= {judgement.query for judgement in self.store.judgements(group, self.cursor, head)}
        self.cursor = head
        busy = [self._ask(seed) for seed in range(len(self.groups))]
        if self.config.rater == "oracle":
            busy += [self._answer(seed) for seed in range(len(self.groups))]
        return any(busy)

    def _ask(self, seed: int) -> bool:
        config, algorithm = self.config, self.algorithm
        step = self.meeting.step
        since = step - algorithm.initial_steps
        if since < 0:
            return False
        count = labels_due(algorithm, since, config.steps, config.copies) - len(self.asked[seed])
        if config.most_awaited is not None:
            count = min(count, config.most_awaited - len(self.asked[seed].keys() - self.answered))
        clips = self.meeting.offered(seed) if count > 0 else []
        if len(clips) < 2:
            return False
        known = {frozenset(query.items) for query in self.asked[seed].values()}
        draws = [torch.randperm(len(clips), generator=self.generators[seed])[:2].tolist() for _ in range(algorithm.candidates * count)]
        names = [segment_hash(clip.observation, clip.action) for clip in clips]
        pairs = {frozenset((names[i], names[j])): (clips[i], clips[j]) for i, j in draws if names[i] != names[j]}
        pairs = [pair for items, pair in pairs.items() if items not in known]
        queries: list[Query] = []
        for number in self._chosen(seed, pairs, min(count, len(pairs))):
            items = [self.archive.put(clip) for clip in pairs[number]]
            queries.append(new_query("pair", items, self.groups[seed], algorithm.sampler, step))
        items = dict.fromkeys(item for query in queries for item in query.items)
        self.archive.sync()
        places = [SegmentRecord(item, f"segments/{item}.safetensors", config.game, algorithm.segment_length) for item in items]
        self.store.add([*places, *queries])
        return bool(queries)

    def _chosen(self, seed: int, pairs: list[tuple[StoredSegment, StoredSegment]], count: int) -> list[int]:
        """Indices of the pairs to ask about: those of the sampler, once there is a model that can have an opinion of them."""
        newest = self.meeting.published(self.version)
        if newest is not None and pairs:
            self.version, tree = newest
            self.model.load(tree)
        if not pairs or not self.model.fits[seed]:
            return torch.randperm(len(pairs), generator=self.generators[seed])[:count].tolist()
        sides = [tuple(torch.stack([getattr(pair[i], part) for pair in pairs]) for part in ("observation", "action")) for i in (0, 1)]
        left, right = ((seen.expand(len(self.groups), *seen.shape), done.expand(len(self.groups), *done.shape)) for seen, done in sides)
        probabilities = preference_probability(self.model.logits(left, right), self.model.config.rater_error)[seed]
        features = torch.cat([seen for seen, _ in sides], 1).flatten(1).float()
        inputs = {"candidates": len(pairs), "generator": self.generators[seed], "probabilities": probabilities}
        inputs |= {"features": features, "labeled": None}
        sampler = SAMPLERS[self.algorithm.sampler]
        return sampler.choose(count=count, **{name: inputs[name] for name in sampler.inputs}).tolist()

    def _answer(self, seed: int) -> bool:
        waiting = [query for query in self.asked[seed].values() if query.id not in self.answered]
        if not waiting:
            return False
        query, teacher, shown = waiting[0], TEACHERS[self.config.teacher], time.time()
        time.sleep(self.config.answer_seconds)
        rewards: list[torch.Tensor] = []
        for item in query.items:
            clip = self.archive.get(item)
            rewards.append(clip.reward[None])  # as the teacher sees it: the policy has seen to that
        thresholds = (0.0, 0.0)
        if teacher.skip or teacher.equal:
            recent = [e for e in read_events(self.run / EVENTS) if e["event"] == "episode" and e["seed"] == self.config.seed + seed][
                -RETURNS:
            ]
            per_step = sum(event["return"] for event in recent) / max(sum(event["length"] for event in recent), 1)
            thresholds = teacher_thresholds(teacher, per_step, len(rewards[0][0]), 1, session=0)
        # By the question's name, so that whoever answers it again after a kill says the same.
        draws = torch.Generator().manual_seed(int(query.id[:12], 16))
        [answer] = teacher_answers(teacher, rewards[0], rewards[1], thresholds, draws)
        self.store.add([Judgement(f"oracle:{query.id}", query.id, "oracle", answer, (0, 1), shown, time.time())])
        self.answered.add(query.id)
        return True


class RewardTrainer(Apart):
    """Fits the ensemble whenever answers have come in, and publishes it."""

    def __init__(self, run: Path) -> None:
        super().__init__(run)
        raters: list[Rater] = [StoreRater(self.store, group) for group in self.groups]
        generators = [generator(self.config.seed + i, "queries") for i in range(len(self.groups))]
        anchors: list[list[Any]] = [[] for _ in self.groups]
        self.lesson = Lesson(
            raters, self.groups, generators, self.archive, anchors, reward_source(self.config.true_reward), self.config.game,
            self.config.weigh_raters,
        )  # fmt: skip
        self.log = EventLog(run / "models" / EVENTS)
        self.model = self.ensemble()
        self.number, self.heard = 0, 0
        newest = self.meeting.published()
        if newest is not None:
            self.number, tree = newest
            self.model.load(tree)

    def step(self) -> bool:
        """Hear what was answered, fit and publish; whether there was anything to do."""
        head = self.store.head()
        for seed, group in enumerate(self.groups):
            self.lesson.queries[seed] |= {query.id: query for query in self.store.queries(group, self.heard, head)}
        self.heard = head
        # Not beyond `head`: an answer to a question that is not known yet would be passed over for good.
        ready, comparisons = answered(self.lesson, head, self.algorithm.fit_labels, self.algorithm.labels_kept, until=head)
        self.lesson.events.clear()  # that it has looked is no news: nobody has to hear the same again
        if comparisons is None:
            return False
        fresh = ready & (self.model.fits == 0)
        for seed in fresh.nonzero().flatten().tolist():  # of the clips that were shown: experience lies with the policy
            used, chosen = comparisons.weight[seed] > 0, torch.arange(len(fresh)) == seed
            seen, done = (
                x[seed, used].flatten(0, 2)[None].expand(len(fresh), *[-1] * (x.dim() - 3))
                for x in (comparisons.observation, comparisons.action)
            )
            self.model.measure_inputs(seen, done, chosen)
        fitted = fit(self.model, comparisons)
        self.lesson.report(ready, comparisons, self.model, fitted, max(self.meeting.step, 0))
        for event in self.lesson.events:
            about = {"seed": self.config.seed + event.pop("seed")}
            self.log.append(event.pop("event"), event.pop("step"), **about, **event)
        self.lesson.events.clear()
        self.number += 1
        self.meeting.publish(self.number, self.model.state())
        return True


ROLES: dict[str, Callable[[Path], AskingRater | RewardTrainer]] = {"rater": AskingRater, "reward": RewardTrainer}


@contextlib.contextmanager
def _alone(run: Path, role: str) -> Iterator[None]:
    """One process per role and run. Raises RunError when another one has it."""
    with (run / f"{role}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{run} has a {role} already; one run has one process for each role") from None
        yield


def work(role: str, run: Path) -> None:
    """Do a role's work until the policy has ended and nothing is left to do. Raises RunError for an unknown role or one that is taken."""
    if role not in ROLES:
        raise RunError(f'role "{role}" is none of {", ".join(ROLES)}')
    with _alone(run, role):
        worker = ROLES[role](run)
        while True:
            over = worker.over
            if worker.step():
                continue
            if over:
                return
            time.sleep(PAUSE)


class Companions:
    """Rater and reward model as processes beside the policy; started again when they die."""

    def __init__(self, run: Path) -> None:
        self.run, self.context = run, multiprocessing.get_context("spawn")
        self.processes: dict[str, Any] = {}
        self.restarts = 0

    def __enter__(self) -> "Companions":
        self.keep_alive()
        self.restarts = 0
        return self

    def keep_alive(self) -> None:
        """Start whoever does not live."""
        for role in ROLES:
            process = self.processes.get(role)
            if process is None or not process.is_alive():
                self.restarts += 1
                if self.restarts > RESTARTS:
                    by_hand = f"python -m tutelage.experiment.apart {role} {self.run}"
                    raise RunError(f"the {role} of {self.run} has died {RESTARTS} times; `{by_hand}` says why")
                self.processes[role] = self.context.Process(target=work, args=(role, self.run), daemon=True)
                self.processes[role].start()

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.join(timeout=10.0)
            if process.is_alive():
                process.terminate()
                process.join()


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]))
