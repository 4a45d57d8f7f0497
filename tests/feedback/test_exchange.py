import json
from pathlib import Path

import pytest

from tutelage.feedback.exchange import ImportReport, export_labels, import_labels
from tutelage.feedback.query import Judgement, Query, SegmentRecord
from tutelage.feedback.store import Store

ROWS = [
    SegmentRecord("a", "segments/a.safetensors", "gym:Pendulum-v1", 50),
    Query("q", "pair", ("a", "b"), "run", "uniform", 7),
    Query("r", "pair", ("b", "c"), "other", "entropy", 8),
    Judgement("1", "q", "Ann \u2028 Önal", "left", (1, 0), 1.5, 0.1 + 0.2),
    Judgement("2", "r", "bob", "tie"),
    Judgement("3", "q", "Ann \u2028 Önal", "unknown", (0, 1), 2.5, 3.5, "1"),
]


def line(**row: object) -> str:
    return json.dumps(row)


GOOD_QUERY = line(type="query", id="q", kind="pair", items=["a", "b"], group="run", sampler="uniform", policy_step=7)
GOOD_JUDGEMENT = line(type="judgement", id="1", query="q", rater="ann", answer="left")


@pytest.fixture
def store(tmp_path: Path):
    with Store(f"sqlite:///{tmp_path}/feedback.sqlite") as store:
        yield store


def test_round_trip(url: str, tmp_path: Path):
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    with Store(url) as store:
        store.add(ROWS)
        assert export_labels(store, first) == 6
    with Store(f"sqlite:///{tmp_path}/elsewhere.sqlite") as elsewhere:
        report = import_labels(first, elsewhere)
        assert report == ImportReport(new=6, known=0, errors=())
        assert (elsewhere.segments(["a"]), elsewhere.queries(), elsewhere.judgements()) == (ROWS[:1], ROWS[1:3], ROWS[3:])
        assert export_labels(elsewhere, second) == 6
    assert first.read_bytes() == second.read_bytes()


def test_importing_twice_adds_nothing(store: Store, tmp_path: Path):
    store.add(ROWS)
    export_labels(store, tmp_path / "labels.jsonl")
    report = import_labels(tmp_path / "labels.jsonl", store)
    assert report == ImportReport(new=0, known=6, errors=())
    assert str(report) == "6 valid rows were imported (6 of them were there already)"


def test_a_group_is_exported_alone_and_stands_on_its_own(store: Store, tmp_path: Path):
    store.add(ROWS)
    assert export_labels(store, tmp_path / "labels.jsonl", groups=["run"]) == 4
    with Store(f"sqlite:///{tmp_path}/elsewhere.sqlite") as elsewhere:
        assert import_labels(tmp_path / "labels.jsonl", elsewhere).errors == ()
        assert [j.id for j in elsewhere.judgements()] == ["1", "3"]


def test_the_order_of_types_does_not_matter(store: Store, tmp_path: Path):
    file = tmp_path / "labels.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + f"{GOOD_JUDGEMENT}\r\n\r\n{GOOD_QUERY}".encode())
    assert import_labels(file, store) == ImportReport(new=2, known=0, errors=())


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (line(type="judgement", id="2", query="q", rater="ann", answer="lef"), 'answer "lef" is none of left, right, tie, unknown'),
        (
            line(type="judgement", id="2", query="p", rater="ann", answer="left"),
            'judgement "2" answers query "p", which the store does not hold',
        ),
        (line(type="judgement", id="2", query="q", rater="ann"), 'the field "answer" of a Judgement is missing'),
        (line(type="judgement", id="2", query="q", rater="ann", anser="left"), 'a Judgement has no field "anser"; the nearest is "answer"'),
        (line(type="judgement", id="2", query="q", rater=None, answer="left"), "rater is None; text was expected"),
        (line(type="label", id="2"), 'type "label" is none of segment, text, query, judgement'),
        (line(id="2"), "type null is none of segment, text, query, judgement"),
        (line(type=["query"]), 'type ["query"] is none of segment, text, query, judgement'),
        ('{"type": "judgement",', "this is no JSON (Expecting property name enclosed in double quotes: line 1 column 22 (char 21))"),
        ('{"type": "segment", "length": NaN}', "this is no JSON (NaN is not a number of JSON)"),
        ("[" * 100_000, "this is no JSON (nested too deeply)"),
        ("[1, 2]", "a JSON object was expected, not a list"),
        ("\x80", None),
        ("1" * 5000, None),
    ],
)
def test_a_malformed_row_is_named_and_the_others_kept(store: Store, tmp_path: Path, row: str, sentence: str | None):
    file = tmp_path / "labels.jsonl"
    file.write_bytes(b"\n".join([GOOD_QUERY.encode(), row.encode("latin-1"), GOOD_JUDGEMENT.encode()]))
    report = import_labels(file, store)
    assert (report.new, len(report.errors)) == (2, 1)
    if sentence is None:
        assert report.errors[0].startswith("labels.jsonl, row 2: ")
    else:
        assert str(report) == f"labels.jsonl, row 2: {sentence}; 2 valid rows were imported"
    assert [j.id for j in store.judgements()] == ["1"]


def test_the_same_id_with_another_content_is_named(store: Store, tmp_path: Path):
    file = tmp_path / "labels.jsonl"
    file.write_text("\n".join([GOOD_QUERY, GOOD_JUDGEMENT, GOOD_JUDGEMENT.replace("left", "tie")]))
    report = import_labels(file, store)
    assert report.errors == (
        "labels.jsonl, row 3: Judgement \"1\" is in the store with answer 'left', not 'tie'; an id names one content for ever",
    )


def test_many_errors_are_counted_and_not_all_printed(store: Store, tmp_path: Path):
    (tmp_path / "labels.jsonl").write_text("{}\n" * 50)
    report = import_labels(tmp_path / "labels.jsonl", store)
    assert len(report.errors) == 50
    assert "row 20:" in str(report) and "row 21:" not in str(report)
    assert str(report).endswith("and 30 more malformed rows; 0 valid rows were imported")


def test_a_failed_export_leaves_nothing_half_written(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store.add(ROWS)
    target = tmp_path / "labels.jsonl"
    target.write_text("the old one")

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(OSError, match="No space left"):
        export_labels(store, target)
    assert target.read_text() == "the old one"
    assert {path.name for path in tmp_path.iterdir()} == before
