"""Texts that people rank, and the rows that come back."""

from pathlib import Path

import pytest

from tutelage.experience.text_rows import Message
from tutelage.feedback.query import FeedbackError, Judgement, TextRecord, new_query, text_hash
from tutelage.feedback.store import Store, file_url
from tutelage.feedback.texts import ask, ranked_rows, shown_words, thumb_rows

TALK = (Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello."), Message("user", "Why?"))


@pytest.fixture
def store(tmp_path: Path):
    with Store(file_url(tmp_path / "feedback.sqlite")) as opened:
        yield opened


def answer(store: Store, query: str, text: str, number: int, **more: object) -> None:
    store.add([Judgement(f"j{number}", query, "anna", text, **more)])  # type: ignore[arg-type]


def test_rankings_come_back_as_they_were_given(store: Store):
    four, two = ask(store, [("Say a letter.", "abcd"), (TALK, ["yes", "no"])], "lesson", "random", 7)
    assert (four.kind, two.kind) == ("rank", "pair")
    answer(store, four.id, "2>0=1>3", 0, confidence=8)
    answer(store, two.id, "right", 1)
    first, second = ranked_rows(store, "lesson", prompts=[TALK])
    assert (first.prompt, first.texts, first.ranks) == ("Say a letter.", ("a", "b", "c", "d"), (2, 2, 1, 3))
    assert first.columns == {"rater": "anna", "query": four.id, "confidence": 8}
    assert sorted(first.preferences()) == [(0, 3), (1, 3), (2, 0), (2, 1), (2, 3)]
    assert (second.prompt, second.texts, second.ranks) == (TALK, ("yes", "no"), (2, 1))
    (without,) = [row for row in ranked_rows(store) if len(row.texts) == 2]
    assert without.prompt == shown_words(TALK) == "System: Be brief.\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?"
    assert ranked_rows(store, "another lesson") == []


def test_what_was_taken_back_or_not_known_or_tied(store: Store):
    (query,) = ask(store, [("p", ["x", "y"])], "lesson", "random", 0)
    answer(store, query.id, "left", 0)
    head = store.head()
    answer(store, query.id, "unknown", 1, supersedes="j0")
    assert ranked_rows(store) == []
    assert [row.ranks for row in ranked_rows(store, until=head)] == [(1, 2)]  # as a run heard it that ended before
    answer(store, query.id, "tie", 2, supersedes="j1")
    assert [(row.ranks, row.preferences()) for row in ranked_rows(store)] == [((1, 1), [])]


def test_asking_again_is_the_same_question(store: Store):
    groups = [("p", ["x", "y", "z", "u"])]
    assert ask(store, groups, "lesson", "random", 3) == ask(store, groups, "lesson", "random", 3)
    assert len(store.queries()) == 1


def test_thumbs(store: Store):
    text = TextRecord(text_hash("an answer"), "an answer")
    query = new_query("rate", [text.id], "lesson", "random", 0)
    store.add([text, query])
    answer(store, query.id, "up", 0)
    store.add([Judgement("j1", query.id, "ben", "down"), Judgement("j2", query.id, "cleo", "5")])
    assert [(row.prompt, row.answer, row.desirable, row.columns["rater"]) for row in thumb_rows(store)] == [
        ("", "an answer", True, "anna"),
        ("", "an answer", False, "ben"),
    ]


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        (["a", "b", "a"], "'a' and its 2 rivals are not all different"),
        (["a", "b", "c"], "a rank has 4 to 9 items"),
        (["a", ""], "text of 1 to 100000 characters was expected"),
    ],
)
def test_groups_that_nobody_can_rank(store: Store, answers: list[str], sentence: str):
    with pytest.raises(FeedbackError, match=sentence):
        ask(store, [("p", answers)], "lesson", "random", 0)
    assert store.queries() == []
