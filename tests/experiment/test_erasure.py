"""A rater who asks for deletion is forgotten by the runs that were taught, too."""

from pathlib import Path

from tests.web.student import config
from tutelage.experiment.run import Experiment
from tutelage.feedback.query import Judgement


def test_a_lesson_goes_on_without_a_deleted_raters_answers_and_says_so(tmp_path: Path):
    with Experiment(config(12), tmp_path / "run") as experiment:
        experiment.begin()
        lesson = experiment.lesson
        assert lesson is not None
        while lesson.asked[0] == 0:
            experiment.step()
        queries = list(lesson.queries[0].values())
        for number, query in enumerate(queries):
            rater = "ann" if number % 2 else "bob"
            experiment.store.add([Judgement(f"j{number}", query.id, rater, "left", (0, 1), 1.0, 2.0)])
        while len(lesson.judgements[0]) < len(queries):
            experiment.step()
        experiment.save()
        assert experiment.store.erase("ann", at=3.0) == len(queries) // 2
    with Experiment(config(12), tmp_path / "run") as experiment:
        said = experiment.restore()
        assert f"{len(queries) // 2} answers to this run's queries were deleted" in said[-1]
        lesson = experiment.lesson
        assert lesson is not None
        for _ in range(20):
            experiment.step()
        usable = [judgement for judgement in lesson.judgements[0].values() if judgement.answer != "unknown"]
        assert {judgement.rater for judgement in usable} == {"bob"} and len(usable) == len(queries) - len(queries) // 2
