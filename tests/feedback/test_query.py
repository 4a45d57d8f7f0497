import math
from typing import Any

import pytest

from tutelage.feedback.query import (
    FeedbackError,
    Judgement,
    Query,
    SegmentRecord,
    TextRecord,
    check_answer,
    from_row,
    label_of,
    new_query,
    ranked_pairs,
    text_hash,
    to_row,
)

QUERY = Query("q", "pair", ("a", "b"), "run", "uniform", 7)


def test_labels_are_the_probability_that_the_first_item_is_preferred():
    assert [label_of(answer) for answer in ("left", "right", "tie", "unknown")] == [1.0, 0.0, 0.5, None]
    with pytest.raises(FeedbackError, match='answer "lef" is none of left, right, tie, unknown'):
        label_of("lef")


def test_an_id_is_derived_from_all_of_the_content():
    base: dict[str, Any] = dict(kind="pair", items=["a", "b"], group="run", sampler="uniform", policy_step=7)
    changes: list[dict[str, Any]] = [
        {},
        dict(items=["b", "a"]),
        dict(items=["a", "c"]),
        dict(group="run2"),
        dict(sampler="entropy"),
        dict(policy_step=8),
        dict(repeat=1),
    ]
    ids = [new_query(**(base | change)).id for change in changes]
    assert len(set(ids)) == len(changes)
    assert new_query(**base) == new_query(**base)


def test_rows_are_plain_json_and_come_back_equal():
    rows = [
        QUERY,
        SegmentRecord("a", "segments/a.safetensors", "gym:Pendulum-v1", 50),
        Judgement("j", "q", "ann", "tie", (1, 0), 1.5, 2.0, "i"),
        Judgement("j", "q", "ann", "left"),
    ]
    for row in rows:
        assert from_row(type(row), to_row(row)) == row
    assert to_row(QUERY)["items"] == ["a", "b"]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (dict(id=""), "id is ''; text of 1 to 1000 characters"),
        (dict(id=3), "id is 3; text was expected"),
        (dict(id="a\0b"), "text of 1 to 1000"),
        (dict(id="\ud800"), "text of 1 to 1000"),
        (dict(id="x" * 1001), r"id is 'xxx.*\.\.\.; text"),
        (dict(kind="pear"), 'kind "pear" is none of pair, rank, rate, flag, in query "q"'),
        (dict(items=["a"]), r"a pair has 2 items, in query"),
        (dict(items=["a", ""]), "an item is ''; text of 1 to 1000"),
        (dict(items=["a", 2]), "items is .'a', 2.; a list of texts was expected"),
        (dict(items="ab"), "items is 'ab'; a list of texts was expected"),
        (dict(policy_step=-1), "policy_step is -1; an integer from 0 to 9223372036854775807 was expected"),
        (dict(policy_step=True), "policy_step is True; an integer"),
        (dict(policy_step=2**63), "an integer from 0"),
        (dict(polisy_step=1), 'a Query has no field "polisy_step"; the nearest is "policy_step"'),
    ],
)
def test_bad_queries_get_one_sentence(row: dict[str, object], sentence: str):
    with pytest.raises(FeedbackError, match=sentence):
        from_row(Query, to_row(QUERY) | row)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (dict(answered_at=math.nan), "answered_at is nan; finite Unix seconds"),
        (dict(answered_at=10**400), r"answered_at is 10+\.\.\.; a number of Unix seconds, or null, was expected"),
        (dict(shown_at="noon"), "shown_at is 'noon'; a number of Unix seconds, or null,"),
        (dict(shown_order=["0", "1"]), "a list of indices, or null,"),
        (dict(shown_order=5), "a list of indices, or null,"),
        (dict(supersedes="j"), "supersedes itself"),
        (dict(supersedes=""), "supersedes is ''"),
    ],
)
def test_bad_judgements_get_one_sentence(row: dict[str, object], sentence: str):
    with pytest.raises(FeedbackError, match=sentence):
        from_row(Judgement, to_row(Judgement("j", "q", "ann", "left")) | row)


def test_whole_seconds_are_seconds():
    assert from_row(Judgement, dict(id="j", query="q", rater="ann", answer="left", answered_at=2)).answered_at == 2.0


def test_a_missing_field_is_named():
    with pytest.raises(FeedbackError, match='the field "rater" of a Judgement is missing'):
        from_row(Judgement, {"id": "j", "query": "q", "answer": "left"})


def test_an_answer_must_fit_its_query():
    check_answer(Judgement("j", "q", "ann", "unknown", (1, 0)), QUERY)
    with pytest.raises(FeedbackError, match='"both" is none of left, right, tie, unknown'):
        check_answer(Judgement("j", "q", "ann", "both"), QUERY)
    for order in [(0, 0), (0,), (1, 2)]:
        with pytest.raises(FeedbackError, match="an order of the 2 items"):
            check_answer(Judgement("j", "q", "ann", "left", order), QUERY)


@pytest.mark.parametrize(
    ("kind", "items", "good", "bad"),
    [
        ("rank", 4, ("2>0=1>3", "0=1=2=3", "unknown"), ("2>0=1", "0>0>1>2", "0>1>2>4", ">0>1>2>3", "left", "0>1>2>3>")),
        ("rate", 1, ("1", "7", "up", "down", "unknown"), ("0", "8", "left", "")),
        ("flag", 1, ("fine", "never@0", "never@49", "unknown"), ("never", "never@-1", "never@1.5", "never@", "up")),
    ],
)
def test_each_kind_has_answers_of_its_own(kind: str, items: int, good: tuple[str, ...], bad: tuple[str, ...]):
    asked = Query("q", kind, tuple("abcdefghi"[:items]), "run", "uniform", 7)
    for answer in good:
        check_answer(Judgement("j", "q", "ann", answer), asked)
    for answer in filter(None, bad):
        with pytest.raises(FeedbackError, match="is none of"):
            check_answer(Judgement("j", "q", "ann", answer), asked)


def test_a_ranking_is_all_its_pairs():
    # best first: 2, then 0 and 1 as equals, then 3
    assert ranked_pairs("2>0=1>3", 4) == [(0, 1, 0.5), (0, 2, 0.0), (0, 3, 1.0), (1, 2, 0.0), (1, 3, 1.0), (2, 3, 1.0)]
    assert ranked_pairs("unknown", 4) == []
    assert len(ranked_pairs(">".join("876543210"), 9)) == math.comb(9, 2)
    with pytest.raises(FeedbackError, match='answer "1>0" is no order of 4 items; one such as 0>1>2>3'):
        ranked_pairs("1>0", 4)


def test_a_text_is_known_by_its_content():
    assert TextRecord(text_hash("so"), "so").text == "so"
    with pytest.raises(FeedbackError, match='text "a" is not what its id says'):
        TextRecord("a", "so")
    with pytest.raises(FeedbackError, match="text of 1 to 100000 characters"):
        TextRecord("a", "x" * 100_001)


@pytest.mark.parametrize("row", [dict(confidence=0), dict(confidence=10), dict(confidence=True), dict(note=""), dict(note="x" * 1001)])
def test_confidence_and_notes_have_bounds(row: dict[str, object]):
    with pytest.raises(FeedbackError, match="was expected"):
        from_row(Judgement, dict(id="j", query="q", rater="ann", answer="left") | row)
