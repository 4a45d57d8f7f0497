"""A lesson: what counts of what was answered, and what the fit is given."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from tutelage.experience.replay import Replay
from tutelage.experience.segments import SegmentArchive
from tutelage.experience.trajectory import Transition
from tutelage.experience.trees import pack, unpack
from tutelage.feedback.query import Judgement, Query
from tutelage.feedback.raters import Rater
from tutelage.learn.preference.lesson import Lesson
from tutelage.learn.preference.session import ask
from tutelage.rewards.comparisons import Comparisons
from tutelage.rewards.learned import Config, RewardEnsemble
from tutelage.rewards.source import GameReward, RewardSource, WrittenReward

R, H, D, A = 2, 4, 3, 1


class Scripted(Rater):
    """Answers what the test puts into `answers`."""

    def __init__(self) -> None:
        self.submitted: list[Query] = []
        self.answers: list[Judgement] = []

    def submit(self, queries: Sequence[Query]) -> list[str]:
        self.submitted += queries
        return [query.id for query in queries]

    def poll(self) -> list[Judgement]:
        answered, self.answers = self.answers, []
        return answered

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: Any) -> None:
        pass

    def say(self, number: int, answer: str, name: str | None = None, supersedes: str | None = None, rater: str = "ann") -> None:
        query = self.submitted[number].id
        self.answers.append(Judgement(name or f"{rater}:{query}", query, rater, answer, supersedes=supersedes))


def replay(steps: int = 60) -> Replay:
    made, g = Replay(100, R, 1, (D,), A), Generator().manual_seed(0)
    observation = torch.randn(R, 1, D, generator=g)
    for t in range(steps):
        following = torch.randn(R, 1, D, generator=g)
        end = torch.full((R, 1), t % 20 == 19)
        made.add(
            Transition(
                observation, torch.randn(R, 1, A, generator=g), observation[..., 0], following, following, end & False, end, ~(end & False)
            )
        )
        observation = following
    return made


def lesson(folder, true_reward: RewardSource | None = None) -> Lesson:
    raters = [Scripted() for _ in range(R)]
    generators = [Generator().manual_seed(i) for i in range(R)]
    return Lesson(
        raters, ["a", "b"], generators, SegmentArchive(folder), [[] for _ in range(R)], true_reward or GameReward(), "gym:Pendulum-v1"
    )


def asked(made: Lesson, count: int = 3, seeds: Sequence[int] = (0, 1)) -> tuple[Lesson, list[Scripted]]:
    held = replay()
    pairs = made.candidates(held, 12, H, 10)
    for seed in seeds:
        made.ask(seed, pairs, torch.rand(3, 12, generator=Generator().manual_seed(1)), count, "disagreement", held)
    return made, [rater for rater in made.raters if isinstance(rater, Scripted)]


BOTH = torch.tensor([True, True])


def used(made: Lesson, ready: Tensor) -> Comparisons | None:
    """What a fit would be given, and counted as heard by it."""
    comparisons = made.comparisons(ready)
    made.count_as_heard(ready)
    return comparisons


def labels(comparisons: Comparisons | None, seed: int) -> list[float]:
    assert comparisons is not None
    return comparisons.label[seed][comparisons.weight[seed] > 0].tolist()


def test_the_most_wanted_candidates_are_asked_and_their_clips_kept(tmp_path):
    made, held = lesson(tmp_path), replay()
    left, right = made.candidates(held, 12, H, 10)
    assert left.observation.shape == (R, 12, H, D) and not torch.equal(left.observation, right.observation)
    probabilities = torch.full((2, 12), 0.5)
    probabilities[:, 7], probabilities[:, 2] = torch.tensor([0.0, 1.0]), torch.tensor([0.1, 0.8])
    made.ask(1, (left, right), probabilities, 2, "disagreement", held)
    assert made.asked == [0, 2] and made.awaited == [0, 2]
    rater = made.raters[1]
    assert isinstance(rater, Scripted)
    for query, number in zip(rater.submitted, (7, 2), strict=True):
        clips = [SegmentArchive(tmp_path).get(item) for item in query.items]
        for clip, side in zip(clips, (left, right), strict=True):
            assert torch.equal(clip.observation, side.observation[1, number]) and torch.equal(clip.reward, side.reward[1, number])
        assert (query.group, query.sampler, query.policy_step) == ("b", "disagreement", 60)


def test_a_scripted_teacher_sees_the_true_reward_and_not_what_the_learner_is_paid(tmp_path):
    held = replay()
    held.relabel(lambda observation, action: torch.full(observation.shape[:-1], 77.0))
    left, _ = lesson(tmp_path).candidates(held, 5, H, 10)
    assert torch.equal(left.reward, left.observation[..., 0])
    written = WrittenReward(lambda observation, action: observation[..., 1] + action[..., 0])
    left, _ = lesson(tmp_path, written).candidates(held, 5, H, 10)
    assert torch.equal(left.reward, left.observation[..., 1] + left.action[..., 0])


def test_answers_become_labels_of_the_right_clips_and_pads_weigh_nothing(tmp_path):
    made, (first, second) = asked(lesson(tmp_path))
    for number, answer in enumerate(("left", "right", "tie")):
        first.say(number, answer)
    second.say(2, "right")
    made.listen(60)
    assert made.unheard == [3, 1] and made.awaited == [0, 2]
    comparisons = used(made, BOTH)
    assert comparisons is not None and made.unheard == [0, 0]
    assert comparisons.label.tolist() == [[1.0, 0.0, 0.5], [0.0, 0.0, 0.0]] and comparisons.weight.tolist() == [[1.0] * 3, [1.0, 0.0, 0.0]]
    for seed, rater, numbers in ((0, first, (0, 1, 2)), (1, second, (2,))):
        for row, number in enumerate(numbers):
            for side, item in enumerate(rater.submitted[number].items):
                clip = made.archive.get(item)
                assert torch.equal(comparisons.side(side)[0][seed, row], clip.observation)
                assert torch.equal(comparisons.side(side)[1][seed, row], clip.action)
                assert comparisons.true_return[seed, row, side] == clip.reward.sum()


def test_unknown_is_paid_for_and_teaches_nothing(tmp_path):
    made, (first, _) = asked(lesson(tmp_path))
    first.say(0, "unknown")
    made.listen(60)
    assert made.unheard == [1, 0] and made.awaited == [2, 3] and made.asked == [3, 3]
    assert used(made, BOTH) is None and made.unheard == [0, 0]


def test_a_judgement_that_supersedes_takes_the_place_of_the_one_it_names(tmp_path):
    made, (first, _) = asked(lesson(tmp_path))
    first.say(0, "left", "j1")
    first.say(1, "left", "j2")
    made.listen(60)
    assert labels(used(made, BOTH), 0) == [1.0, 1.0]
    first.say(0, "right", "j3", supersedes="j1")
    made.listen(70)
    assert made.unheard[0] == 1 and sorted(labels(used(made, BOTH), 0)) == [0.0, 1.0]
    first.say(0, "tie", "j4", supersedes="j3")
    first.say(1, "unknown", "j5", supersedes="j2")  # taken back
    made.listen(80)
    assert labels(used(made, BOTH), 0) == [0.5]
    assert made.awaited[0] == 1  # taken back is answered all the same


def test_two_raters_of_one_pair_count_once_each(tmp_path):
    made, (first, _) = asked(lesson(tmp_path))
    first.say(0, "left", rater="ann")
    first.say(0, "right", rater="bob")
    made.listen(60)
    assert labels(used(made, BOTH), 0) == [1.0, 0.0] and made.awaited[0] == 2


def test_answers_to_questions_that_nobody_asked_are_not_heard(tmp_path):
    made, (first, _) = asked(lesson(tmp_path))
    first.answers.append(Judgement("x", "another run's", "ann", "left"))
    made.listen(60)
    assert made.unheard == [0, 0] and used(made, BOTH) is None


def test_only_the_ready_seeds_are_heard(tmp_path):
    made, (first, second) = asked(lesson(tmp_path))
    first.say(0, "left")
    second.say(0, "left")
    made.listen(60)
    comparisons = used(made, torch.tensor([False, True]))
    assert comparisons is not None and comparisons.weight.tolist() == [[0.0], [1.0]] and made.unheard == [1, 0]


def test_the_report_has_the_metrics_and_the_correlation(tmp_path):
    made, (first, second) = asked(lesson(tmp_path), 6)
    for rater in (first, second):
        for number in range(6):
            rater.say(number, "left")
    made.listen(60)
    comparisons = used(made, BOTH)
    assert comparisons is not None
    ensemble = RewardEnsemble(Config(hidden=(4,)), D, A, [Generator().manual_seed(i) for i in range(R)])
    made.events.clear()
    made.report(torch.tensor([False, True]), comparisons, ensemble, {"loss": torch.tensor([1.0, 2.0])}, 60)
    session, scatter = made.events
    assert (session["seed"], session["labels"], session["queries"], session["usable"], session["loss"]) == (1, 6, 6, 6, 2.0)
    learned = ensemble.reward(comparisons.observation, comparisons.action).sum(-1)[1].flatten()
    assert scatter["learned"] == pytest.approx(learned.tolist()) and len(scatter["true"]) == 12
    both = torch.stack([comparisons.true_return[1].flatten(), learned])
    assert session["correlation"] == pytest.approx(torch.corrcoef(both)[0, 1].item(), abs=1e-5)


def test_saved_and_loaded_it_hears_and_asks_the_same(tmp_path):
    made, (first, _) = asked(lesson(tmp_path))
    first.say(0, "left", "j1")
    made.listen(60)
    again = lesson(tmp_path)
    again.load(unpack(*pack(made.state())))
    for rater in (first, *(r for r in again.raters[:1] if isinstance(r, Scripted))):
        rater.submitted = first.submitted
        rater.say(0, "right", "j2", supersedes="j1")
        rater.say(1, "tie", "j3")
    for one in (made, again):
        one.listen(70)
    comparisons = [used(one, BOTH) for one in (made, again)]
    assert labels(comparisons[0], 0) == labels(comparisons[1], 0) == [0.0, 0.5]
    assert made.asked == again.asked and made.awaited == again.awaited
    drawn: list[Tensor] = [one.candidates(replay(), 4, H, 10)[0].observation for one in (made, again)]
    assert torch.equal(drawn[0], drawn[1])


def test_only_fresh_answers_are_foretold_and_only_where_there_is_a_model(tmp_path):
    made, (first, second) = asked(lesson(tmp_path))
    first.say(0, "left")
    second.say(0, "right")
    made.listen(60)
    comparisons = used(made, BOTH)
    assert comparisons is not None and comparisons.fresh.tolist() == [[True], [True]]
    made.foretell(comparisons, torch.tensor([[0.9], [0.8]]), torch.tensor([False, True]))
    first.say(1, "tie")
    made.listen(61)
    comparisons = used(made, BOTH)
    assert comparisons is not None and comparisons.fresh.tolist() == [[False, True], [False, False]]
    made.foretell(comparisons, torch.tensor([[0.1, 0.6], [0.3, 0.5]]), BOTH)
    assert made.foretold == [[(pytest.approx(0.6), 0.5)], [(pytest.approx(0.8), 0.0)]]
    again = lesson(tmp_path)
    again.load(unpack(*pack(made.state())))
    assert again.foretold == made.foretold and again.fresh == [[], []]


def test_a_fit_logs_its_calibration_once_something_was_foretold(tmp_path):
    made, (first, _) = asked(lesson(tmp_path))
    first.say(0, "left")
    made.listen(60)
    comparisons = used(made, BOTH)
    assert comparisons is not None
    generators = [Generator().manual_seed(seed) for seed in range(R)]
    ensemble = RewardEnsemble(Config(hidden=(8,)), D, A, generators)
    fitted = {"loss": torch.zeros(R), "accuracy": torch.ones(R), "fit_steps": torch.ones(R)}
    made.events.clear()
    made.report(torch.tensor([True, False]), comparisons, ensemble, fitted, 60)
    assert [event["event"] for event in made.events] == ["session", "scatter"]
    made.foretell(comparisons, torch.tensor([[0.7], [0.5]]), BOTH)
    made.events.clear()
    made.report(torch.tensor([True, False]), comparisons, ensemble, fitted, 60)
    found = made.events[-1]
    assert (found["event"], found["seed"], found["step"]) == ("calibration", 0, 60)
    assert found["probability"] == [pytest.approx(0.7)] and found["frequency"] == [1.0] and found["count"] == [1.0]


def test_an_answer_counts_by_how_reliable_its_rater_seems(tmp_path):
    made, raters = asked(lesson(tmp_path), 12, seeds=(0,))
    answers = ["left", "right"] * 6
    for number, answer in enumerate(answers):
        for rater in ("ann", "ben", "cleo"):
            raters[0].say(number, answer, rater=rater)
        raters[0].say(number, "right" if answer == "left" else "left", rater="dan")  # who errs whenever the others do not
    made.listen(60)
    alike = made.comparisons(torch.tensor([True, False]))
    made.weigh_raters = True
    weighed = made.comparisons(torch.tensor([True, False]))
    assert alike is not None and weighed is not None
    assert alike.weight[0].tolist() == [1.0] * 48
    own = {j.rater: float(w) for w, j in zip(weighed.weight[0], made.judgements[0].values(), strict=True)}
    # One error in ten is counted beforehand: (1 + 0) / (10 + 12) of Ann's answers are wrong, but for the odds that the other three err
    # in one and the same answer; and Dan, at 1/2, is not heard at all.
    assert own["ann"] == pytest.approx(1.0 - 2.0 / 22.0, abs=1e-3)
    assert own["dan"] == 0.0


def test_no_more_is_asked_than_may_lie_unanswered(tmp_path):
    made = lesson(tmp_path)
    made.most_awaited = 4
    ensemble = RewardEnsemble(Config(hidden=(8,)), D, A, [Generator().manual_seed(i) for i in range(R)])
    session = lambda: ask(made, ensemble, replay(), [3, 3], ["uniform", "uniform"], H, 2, 10)
    session()
    session()
    assert made.asked == [4, 4]
    rater = made.raters[0]
    assert isinstance(rater, Scripted)
    rater.say(0, "left")
    rater.say(1, "right")
    made.listen(60)
    session()
    assert made.asked == [6, 4]
