"""Readers: every format gives typed rows, every damage one sentence with its row, any bytes either."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tutelage.experience.text import TextError
from tutelage.experience.text_data import common_prompt, load_text, parse_row, read_text, rows_of
from tutelage.experience.text_rows import (
    Demonstration,
    Labeled,
    Message,
    Pair,
    Prompt,
    Ranked,
    demonstrations,
    fingerprint,
    labeled,
    pairs,
    prompts,
    rankings,
)

USER, ASSISTANT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}
OTHER = {"role": "assistant", "content": "Go."}
HI = (Message("user", "Hi"),)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"text": "Once"}, Demonstration(prompt="", answer="Once")),
        ({"messages": [USER, ASSISTANT]}, Demonstration(prompt=HI, answer="Hello.")),
        ({"prompt": "Hi", "completion": " Hello."}, Demonstration(prompt="Hi", answer=" Hello.")),
        ({"prompt": [USER], "completion": [ASSISTANT]}, Demonstration(prompt=HI, answer="Hello.")),
        ({"prompt": "Hi", "chosen": " a", "rejected": " b"}, Pair(prompt="Hi", chosen=" a", rejected=" b")),
        ({"prompt": [USER], "chosen": [ASSISTANT], "rejected": [OTHER]}, Pair(prompt=HI, chosen="Hello.", rejected="Go.")),
        ({"prompt": [USER], "chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]}, Pair(prompt=HI, chosen="Hello.", rejected="Go.")),
        ({"prompt": "Hi", "chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]}, Pair(prompt=HI, chosen="Hello.", rejected="Go.")),
        ({"chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]}, Pair(prompt=HI, chosen="Hello.", rejected="Go.")),
        ({"chosen": "The sky is blue.", "rejected": "The sky is green."}, Pair(prompt="The sky is", chosen=" blue.", rejected=" green.")),
        ({"prompt": "Hi", "chosen": "a", "rejected": "b", "margin": 2}, Pair(prompt="Hi", chosen="a", rejected="b", margin=2.0)),
        ({"prompt": "Hi", "completion": "a", "label": False}, Labeled(prompt="Hi", answer="a", desirable=False)),
        ({"messages": [USER, ASSISTANT], "label": 1}, Labeled(prompt=HI, answer="Hello.", desirable=True)),
        ({"prompt": "Hi", "completions": ["a", "b", "c"], "ranks": [2, 1, 2]}, Ranked(prompt="Hi", texts=("a", "b", "c"), ranks=(2, 1, 2))),
        (
            {"prompt": [USER], "completions": [[ASSISTANT], [OTHER]], "ranks": [1, 2]},
            Ranked(prompt=HI, texts=("Hello.", "Go."), ranks=(1, 2)),
        ),
        ({"prompt": "Hi"}, Prompt(prompt="Hi")),
        ({"prompt": [USER], "solution": 7}, Prompt(prompt=HI, columns={"solution": 7})),
        (
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}], "system": "Be kind."},
            Demonstration(prompt=(Message("system", "Be kind."), *HI), answer="Hello."),
        ),
        (
            {"conversations": [{"from": "human", "value": "Hi"}], "chosen": {"from": "gpt", "value": "a"},
             "rejected": {"from": "gpt", "value": "b"}},
            Pair(prompt=HI, chosen="a", rejected="b"),
        ),
        (
            {"prompt": "Hi", "prompt_id": "7", "chosen": [USER, ASSISTANT], "rejected": [USER, OTHER], "messages": [USER, ASSISTANT]},
            Pair(prompt=HI, chosen="Hello.", rejected="Go.", columns={"prompt_id": "7", "messages": [USER, ASSISTANT]}),
        ),
        ({"prompt": "Hi", "completion": "a", "label": None}, Demonstration(prompt="Hi", answer="a")),  # null: no such column
    ],
)  # fmt: skip
def test_what_the_columns_say(record: dict[str, Any], expected: object):
    assert parse_row(record) == expected


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        (["a"], "a JSON object was expected, not ['a']"),
        ({}, "the columns are none, which is no kind of row; known are conversations and chosen and rejected; prompt and chosen"),
        ({"question": "a"}, "the columns are question, which is no kind of row"),
        ({"prompt": "Hi", "choosen": "a", "rejected": "b"}, "the column 'choosen' is unknown; 'chosen' seems to be meant"),
        ({"prompt": "Hi", "chosen": 3, "rejected": "b"}, "chosen is 3; a list of messages was expected"),
        ({"prompt": "Hi", "chosen": "a\ud800", "rejected": "b"}, "chosen holds half of a surrogate pair"),
        ({"prompt": "Hi", "chosen": "a", "rejected": "b", "margin": "big"}, "margin is 'big'; a finite number was expected"),
        ({"prompt": "Hi", "completion": "a", "label": "good"}, "label is 'good'; true or false was expected"),
        ({"messages": [USER]}, "the last turn of messages is by the user; an answer of the assistant was expected"),
        ({"messages": []}, "messages is []; a list of messages was expected"),
        ({"messages": [{"role": "narrator", "content": ""}]}, "message 1 of messages is by 'narrator'; one of system, developer, user"),
        ({"messages": [USER, {"role": "assistant", "content": [1]}]}, "the content of message 2 of messages is [1]; text was expected"),
        ({"messages": [USER, "Hello"]}, "message 2 of messages is 'Hello'; an object with role and content (or from and value)"),
        ({"prompt": "Hi", "completions": ["a", "b"], "ranks": [1]}, "2 answers with 1 ranks were given; as many, and two at least"),
        ({"prompt": "Hi", "completions": ["a"], "ranks": [1]}, "1 answers with 1 ranks were given; as many, and two at least"),
        ({"prompt": "Hi", "completions": ["a", "b"], "ranks": ["1", 2]}, "ranks are ['1', 2]; integers were expected, 1 for the best"),
        ({"prompt": "Hi", "completions": "ab", "ranks": [1, 2]}, "completions are 'ab' and ranks [1, 2]; two lists were expected"),
        ({"prompt": "Hi", "completions": ["a"], "labels": [True]}, "completions with labels judge the steps of one answer"),
        ({"chosen": [USER, ASSISTANT], "rejected": [{"role": "user", "content": "Ho"}, OTHER]},
         "the prompts differ within the pair: turn 1 is 'Hi' for chosen and 'Ho' for rejected"),
        ({"chosen": [USER, ASSISTANT], "rejected": [OTHER]}, "the prompts differ within the pair: turn 1 is 'Hi' for chosen and nothing"),
        ({"prompt": [USER], "chosen": [{"role": "user", "content": "Ho"}, ASSISTANT], "rejected": [OTHER]},
         "chosen is a whole conversation whose prompt differs from the column prompt, 'Ho'"),
        ({"chosen": "\n\nHuman: A?\n\nAssistant: a", "rejected": "\n\nHuman: B?\n\nAssistant: b"},
         "the prompts differ within the pair: it begins 'Human: A?' for chosen and 'Human: B?' for rejected"),
        ({"conversations": [{"from": "gpt", "value": "a"}], "chosen": "b", "rejected": "c"}, "the last turn of conversations is by the"),
        ({"prompt": [USER], "chosen": [USER], "rejected": [OTHER]}, "chosen has the turns user; one of the assistant was expected"),
    ],
)  # fmt: skip
def test_what_the_columns_do_not_say(record: Any, sentence: str):
    with pytest.raises(TextError) as error:
        parse_row(record)
    assert sentence in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("The sky is blue.", "The sky is green.", "The sky is"),
        ("The sky is", "The sky is not.", "The sky"),  # one is the beginning of the other: neither answer is empty
        ("same words", "same words", "same"),
        ("a", "b", ""),
        ("", "b", ""),
        ("\n\nHuman: Hi\n\nAssistant: Yes.", "\n\nHuman: Hi\n\nAssistant: Yes, no.", "\n\nHuman: Hi\n\nAssistant:"),
        # Behind the last "Assistant:" of each the prompts would differ; the common prefix ends at an earlier one.
        (
            "\n\nHuman: Hi\n\nAssistant: A\n\nHuman: q\n\nAssistant: x",
            "\n\nHuman: Hi\n\nAssistant: A\n\nHuman: r\n\nAssistant: y",
            "\n\nHuman: Hi\n\nAssistant:",
        ),
        ("\n\nHuman: Hi\n\nAssistant:", "\n\nHuman: Hi\n\nAssistant: y", "\n\nHuman: Hi\n\nAssistant:"),
    ],
)
def test_the_prompt_of_two_texts_that_contain_it(chosen: str, rejected: str, prompt: str):
    assert common_prompt(chosen, rejected) == prompt


@given(st.text(alphabet="ab \n"), st.text(alphabet="ab \n"))
def test_a_common_prompt_is_a_prefix_of_both(chosen: str, rejected: str):
    prompt = common_prompt(chosen, rejected)
    assert chosen.startswith(prompt) and rejected.startswith(prompt)
    assert prompt == common_prompt(rejected, chosen)


ROWS = [{"prompt": f"p{i}", "chosen": f" a{i}", "rejected": f" b{i}"} for i in range(5)]


def write(folder: Path, form: str) -> Path:
    """The five rows in one of the formats."""
    path = folder / f"data.{form}"
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    if form == "json":
        path.write_text(json.dumps(ROWS, indent=1))
    elif form == "jsonl":
        path.write_text("\ufeff" + lines.replace("\n", "\r\n"))
    elif form == "jsonl.gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        import datasets

        made = datasets.Dataset.from_list(ROWS)
        if form == "parquet":
            made.to_parquet(path)
        else:
            (datasets.DatasetDict({"train": made, "test": made.select([0])}) if form == "splits" else made).save_to_disk(path)
    return path


@pytest.mark.parametrize("form", ["json", "jsonl", "jsonl.gz", "parquet", "folder", "splits"])
def test_every_format_gives_the_same_rows(form: str, tmp_path: Path):
    path = write(tmp_path, form)
    rows = load_text(path)
    assert [(row.prompt, row.answers, row.number, row.place) for row in rows] == [
        (f"p{i}", (f" a{i}", f" b{i}"), i + 1, f"data.{form}, row {i + 1}") for i in range(5)
    ]
    assert fingerprint(rows) == fingerprint(rows_of(ROWS).rows)
    if form == "splits":
        assert len(load_text(path, "test")) == 1
        with pytest.raises(TextError, match="has the splits train, test; 'valid' was asked for"):
            load_text(path, "valid")
    else:
        with pytest.raises(TextError, match="has no splits; 'train' was asked for"):
            load_text(path, "train")


def test_a_dataset_in_memory():
    import datasets

    assert rows_of(datasets.Dataset.from_list(ROWS)).rows == rows_of(ROWS).rows


def test_paragraphs_of_plain_text(tmp_path: Path):
    path = tmp_path / "tale.txt"
    path.write_text("Once\r\nupon a time.\r\n\r\n\r\nThe end.\n")
    assert [row.answers for row in load_text(path)] == [("Once\nupon a time.",), ("The end.",)]


def test_a_corrupt_row_is_named_and_the_others_are_read(tmp_path: Path):
    path = tmp_path / "data.jsonl"
    lines = [json.dumps(row) for row in ROWS]
    path.write_text("\n".join([lines[0], lines[1][:-4], "", lines[2], '{"prompt": "p", "chosen": "a"}', '{"prompt": "p"}', "NaN"]))
    data = read_text(path)
    assert [row.number for row in data.rows] == [1, 4]
    assert data.refused[0].startswith("data.jsonl, row 2: this is no JSON (")
    assert data.refused[1:] == (
        "data.jsonl, row 5: there is a column chosen and none of the name rejected",
        "data.jsonl, row 6: this is a Prompt and row 1 is a Pair; one kind was expected",
        "data.jsonl, row 7: this is no JSON (NaN is not a number of JSON)",
    )
    with pytest.raises(TextError, match=r"^4 rows of data.jsonl were refused, 2 can be read:\ndata.jsonl, row 2: this is no JSON"):
        load_text(path)


def test_rows_of_two_kinds(tmp_path: Path):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps({"text": "Once"}) + "\n")
    assert read_text(path).refused == ("data.jsonl, row 2: this is a Demonstration and row 1 is a Pair; one kind was expected",)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "holds no row"),
        (b"[", r"this is no JSON \("),
        (b"[1, 2]", "2 rows of data.json were refused, 0 can be read:\ndata.json, row 1: a JSON object was expected, not 1"),
        (b"\xff\xfe", r"row 1: this is no UTF-8 \(byte 0 is ff\)"),
        (b"[" * 100_000, "nested too deeply"),
        (b"PAR1 and nothing else", "begins as Parquet does and cannot be read"),
        (b"\x1f\x8b\x08 and nothing else", "cannot be read: "),
    ],
)
def test_files_that_hold_nothing(content: bytes, sentence: str, tmp_path: Path):
    (tmp_path / "data.json").write_bytes(content)
    with pytest.raises(TextError, match=sentence):
        load_text(tmp_path / "data.json")


def test_folders_that_hold_nothing(tmp_path: Path):
    with pytest.raises(TextError, match="is no folder that `datasets` has saved"):
        load_text(tmp_path)
    with pytest.raises(TextError, match="nowhere cannot be read: No such file or directory"):
        load_text(tmp_path / "nowhere")
    folder = write(tmp_path, "folder")
    next(folder.glob("*.arrow")).write_bytes(b"nothing")
    with pytest.raises(TextError, match="cannot be read as a folder of `datasets`"):
        load_text(folder)


NAMES = "prompt chosen rejected messages role content from value label completion completions ranks conversations text margin system"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES.split()) | st.text(max_size=3), inner, max_size=5),
    max_leaves=12,
)


@settings(max_examples=300)
@given(JSON)
def test_any_record_is_a_row_or_a_sentence(record: Any):
    try:
        assert parse_row(record).answers is not None
    except TextError as error:
        assert str(error) and len(str(error)) < 1000


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=200) | st.binary(max_size=50).map(lambda b: b"PAR1" + b) | st.binary(max_size=50).map(lambda b: b"[{" + b),
    suffix=st.sampled_from(["json", "jsonl", "txt", "parquet"]),
)
def test_any_bytes_are_rows_or_a_sentence(content: bytes, suffix: str, tmp_path: Path):
    path = tmp_path / f"data.{suffix}"
    path.write_bytes(content)
    try:
        data = read_text(path)
        assert all(row.number for row in data.rows) and all(data.refused)
    except TextError as error:
        assert str(error)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(4, 2000), damage=st.binary(min_size=1, max_size=4))
def test_a_damaged_parquet_file_is_rows_or_a_sentence(at: int, damage: bytes, tmp_path: Path):
    whole = write(tmp_path, "parquet").read_bytes()
    at %= len(whole)
    (tmp_path / "damaged.parquet").write_bytes(whole[:at] + damage + whole[at + len(damage) :])
    try:
        assert read_text(tmp_path / "damaged.parquet") is not None
    except TextError as error:
        assert str(error)


# --- from one kind to another ----------------------------------------------------------------------------------------------

PAIR = Pair(prompt="p", chosen="a", rejected="b", margin=1.5, where="f", number=7, columns={"rater": "anna"})
RANKED = Ranked(prompt="p", texts=("a", "b", "c"), ranks=(2, 1, 2), number=3)


def test_what_can_be_imitated():
    thumbs = [Labeled(prompt="p", answer="up", desirable=True), Labeled(prompt="p", answer="down", desirable=False)]
    assert [row.answer for row in demonstrations([PAIR, RANKED, *thumbs])] == ["a", "b", "up"]
    assert demonstrations([PAIR])[0].place == "f, row 7" and demonstrations([PAIR])[0].columns == {"rater": "anna"}


def test_comparisons():
    assert [(row.chosen, row.rejected) for row in pairs([PAIR, RANKED])] == [("a", "b"), ("b", "a"), ("b", "c")]
    assert [(row.texts, row.ranks) for row in rankings([PAIR, RANKED])] == [(("a", "b"), (1, 2)), (RANKED.texts, RANKED.ranks)]
    assert rankings([PAIR])[0].columns == {"rater": "anna", "margin": 1.5}
    assert [(row.answer, row.desirable) for row in labeled([PAIR])] == [("a", True), ("b", False)]
    assert [(row.answer, row.desirable) for row in labeled([RANKED])] == [("b", True), ("a", False)]
    assert labeled([Ranked(prompt="p", texts=("a", "b"), ranks=(1, 1))]) == []
    assert [row.prompt for row in prompts([PAIR, RANKED, Prompt(prompt="q")])] == ["p", "q"]


@pytest.mark.parametrize(("convert", "needed"), [(demonstrations, "an answer"), (pairs, "two answers"), (rankings, "answers in an order")])
def test_rows_that_do_not_hold_what_is_needed(convert: Any, needed: str):
    with pytest.raises(TextError, match=f"^f, row 3 is a Prompt; a row with {needed}"):
        convert([Prompt(prompt="p", where="f", number=3)])


def test_a_fingerprint_is_of_what_is_said():
    assert fingerprint([PAIR]) == fingerprint([Pair(prompt="p", chosen="a", rejected="b", margin=1.5)])
    others = [Pair(prompt="p", chosen="a", rejected="b"), Pair(prompt="p", chosen="b", rejected="a", margin=1.5), RANKED]
    assert len({fingerprint([row]) for row in [PAIR, *others]}) == 4
    assert fingerprint([PAIR, RANKED]) != fingerprint([RANKED, PAIR])
    by = [Prompt(prompt="p", columns={"target": target}) for target in (1, 2)]  # a reward function reads it, a duplicate has it or not
    assert fingerprint(by[:1]) == fingerprint(by[1:]) and fingerprint(by[:1], columns=True) != fingerprint(by[1:], columns=True)


# --- data that people made -------------------------------------------------------------------------------------------------


def test_the_two_demonstration_files(data: Path):
    compared, thumbs = load_text(data / "preferences_demo_300.json"), load_text(data / "unpaired_demo_300.json")
    assert len(compared) == len(thumbs) == 300
    assert all(isinstance(row, Pair) and not isinstance(row.prompt, str) and row.prompt[-1].role == "user" for row in compared)
    assert sum(row.desirable for row in thumbs if isinstance(row, Labeled)) == 150
    assert sum(len(row.chosen) > len(row.rejected) for row in compared if isinstance(row, Pair)) == 131
