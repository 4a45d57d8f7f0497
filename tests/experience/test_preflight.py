"""Preflight against data that is broken on purpose: each defect is one sentence with its rows, and sound data has none."""

import json
from pathlib import Path
from typing import Any

import pytest

from tutelage import cli
from tutelage.experience.preflight import Finding, ModelFacts, Preflight, preflight
from tutelage.experience.text import TextError
from tutelage.experience.text_data import read_text, rows_of
from tutelage.experience.text_encoding import TooLong
from tutelage.experience.tokenizers import BOS, PLAIN_TEMPLATE, train_bpe, word_tokenizer

MODEL = ModelFacts(context=256)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<eos>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SOUND = [{"prompt": f"Question {i}?", "chosen": f" Yes, {i}." + " Really." * (i % 2), "rejected": f" No, {i}." + " Really." * (~i % 2)}
         for i in range(8)]  # fmt: skip
TALKS = [{"messages": [{"role": "user", "content": f"Question {i}?"}, {"role": "assistant", "content": f"Answer {i}."}]} for i in range(4)]


def tokenizer(template: str | None = PLAIN_TEMPLATE, **special: str | None) -> Any:
    made = train_bpe(["Question? Answer. Yes, no. Really."], 280)
    made.chat_template = template
    for name, token in special.items():
        setattr(made, name, token)
    return made


def look(rows: list[Any], model: ModelFacts = MODEL, with_tokenizer: Any = None, sample: int = 2000) -> Preflight:
    return preflight(rows_of(rows, "data.jsonl"), with_tokenizer or tokenizer(), model, sample)


def changed(row: int, **values: Any) -> list[Any]:
    """The sound rows with one of them, counted from 1, changed."""
    return [own | values if i == row else own for i, own in enumerate(SOUND, start=1)]


def only(found: Preflight, *levels: str) -> Finding:
    (finding,) = [finding for finding in found.findings if finding.level in (levels or ("refuse", "warn"))]
    assert "\n" not in finding.sentence
    return finding


def test_sound_data_has_nothing_against_it():
    for rows in (SOUND, TALKS):
        found = look(rows)
        assert not found.refused and all(finding.level == "note" for finding in found.findings)
        assert found.rows == found.sampled == len(rows)


@pytest.mark.parametrize(
    ("rows", "level", "check", "sentence", "numbers"),
    [
        (changed(3, chosen=""), "warn", "empty answers", "1 of 8 rows teach to say nothing: the answer to be imitated or", (3,)),
        (changed(3, rejected=" \n"), "warn", "empty answers", "1 of 8 rows have an empty answer beside one that is not (row 3)", (3,)),
        (changed(3, chosen=" No, 2. Really."), "warn", "same answers", "1 of 8 rows compare an answer with itself", (3,)),
        (changed(4, chosen=7), "refuse", "rows", "data.jsonl, row 4: chosen is 7; a list of messages was expected", (4,)),
        ([*SOUND, ["no object"]], "refuse", "rows", "data.jsonl, row 9: a JSON object was expected, not ['no object']", (9,)),
        (
            changed(2, chosen="Question 1? Yes, 1.", rejected="Question 1? No, 1."),
            "refuse", "prompts", "1 of 8 rows repeat the prompt at the beginning of an answer: the model would read it twice (row 2)", (2,),
        ),
        (changed(5, chosen=" Yes.\n\nHuman: And?\n\nAssistant: No."), "warn", "prompts", "1 of 8 rows have prompts that differ", (5,)),
        (changed(5, chosen="Yes."), "warn", "spaces", None, None),
        (changed(5, prompt="Question 4: "), "warn", "spaces", "1 of 8 rows have a space at the end of the prompt and another", (5,)),
        (changed(5, prompt="Question 4", chosen="Yes."), "warn", "spaces", "1 of 8 rows glue the first word of an answer", (5,)),
        ([*SOUND, SOUND[1]], "warn", "repetitions", "1 of 9 rows repeat an earlier row: a part that is held out would", (9,)),
        (
            [*SOUND, SOUND[1] | {"chosen": SOUND[1]["rejected"], "rejected": SOUND[1]["chosen"]}],
            "warn", "contradictions", "1 of 9 rows prefer what an earlier row rejects (row 9)", (9,),
        ),
        (changed(6, chosen=" Yes.<eos> Still here."), "refuse", "tokens", "data.jsonl, row 6: the answer holds EOS before its end", (6,)),
        (changed(7, prompt="Why?" * 100), "warn", "context", "1 of 8 rows have a prompt that fills the context of 256 tokens", (7,)),
        (changed(7, chosen=" Because." * 100), "warn", "context", "1 of 8 rows do not fit into the context of 256 tokens", (7,)),
        ([{"chosen": "yes", "rejected": "no"}, *({"chosen": "Q: a", "rejected": "Q: b" * n} for n in (1, 2))],
         "warn", "prompts", "1 of 3 rows are pairs without a prompt in common (row 1)", (1,)),
        ([{"prompt": "p:", "completions": [" a", " b"], "ranks": [1, 1]}, {"prompt": "p:", "completions": [" a", " b"], "ranks": [1, 2]}],
         "warn", "ties", "1 of 2 rows are rankings in which all answers are tied: they give no pair (row 1)", (1,)),
        ([{"prompt": f"{i}:", "completion": " a", "label": True} for i in range(3)],
         "refuse", "labels", "all 3 labels are true; both kinds are needed to tell them apart", ()),
        ([{"prompt": f"{i}:", "completion": " a", "label": i == 0} for i in range(5)],
         "warn", "labels", "1 of 5 labels are true; KTO's weights are to bring true and false to between 1 : 1 and 3 : 2", ()),
    ],
)  # fmt: skip
def test_each_defect_of_the_data(rows: list[Any], level: str, check: str, sentence: str | None, numbers: tuple[int, ...] | None):
    if sentence is None:  # a prompt that ends in a mark needs no space
        assert not [finding for finding in look(rows).findings if finding.check == check]
        return
    finding = only(look(rows))
    assert (finding.level, finding.check, finding.rows) == (level, check, numbers)
    assert finding.sentence.startswith(sentence)


def test_prompts_that_differ_within_a_pair():
    ask = lambda text: {"role": "user", "content": text}
    say = lambda text: {"role": "assistant", "content": text}
    pair = {"chosen": [ask("Hi"), say("a")], "rejected": [ask("Hi"), say("b")]}
    finding = only(look([pair, {"chosen": [ask("Hi"), say("a")], "rejected": [ask("Ho"), say("b")]}]))
    assert finding == Finding(
        "refuse", "rows", "data.jsonl, row 2: the prompts differ within the pair: turn 1 is 'Hi' for chosen and 'Ho' for rejected", (2,)
    )


def test_a_template_that_was_applied_before():
    chat = tokenizer(CHATML)
    once = chat.apply_chat_template(TALKS[1]["messages"][:1], tokenize=False, add_generation_prompt=True)
    twice = [TALKS[0], {"messages": [{"role": "user", "content": once}, {"role": "assistant", "content": "Answer."}]}]
    finding = only(look(twice, with_tokenizer=chat))
    assert finding == Finding(
        "refuse", "template", "1 of 2 rows hold the marks of a chat template inside of a turn: it would be applied twice (row 2)", (2,)
    )
    transcript = [
        TALKS[0],
        {"messages": [{"role": "user", "content": "\n\nHuman: Hi\n\nAssistant:"}, {"role": "assistant", "content": "a"}]},
    ]
    assert only(look(transcript)).rows == (2,)
    # Plain text in which it stands once is how other libraries keep it; twice is one time too many.
    plain = [{"prompt": once, "completion": "Answer.<eos>"}, {"prompt": "<|im_start|>user\n" + once, "completion": "Answer."}]
    assert only(look(plain, with_tokenizer=chat)).rows == (2,)


def test_bos_that_is_brought_twice():
    chat = tokenizer("{{ bos_token }}{{ bos_token }}" + CHATML)
    assert only(look(TALKS, with_tokenizer=chat)).sentence == (
        "4 of 4 rows begin with BOS twice: the data and the template both bring it (rows 1, 2, 3, 4)"
    )


def test_a_template_that_ends_turns_with_another_token():
    finding = only(look(TALKS, with_tokenizer=tokenizer(CHATML.replace("<eos>", "<|im_end|>"))))
    assert (finding.level, finding.check) == ("warn", "eos")
    assert finding.sentence.startswith("the chat template ends an answer with '<|im_end|>' and EOS is '<eos>': answers end with both")
    found = look(TALKS, with_tokenizer=tokenizer(None))
    assert [str(finding) for finding in found.findings] == [
        'note: the tokenizer has no chat template: turns are written after "Human:" and "Assistant:"'
    ]
    refusing = look(TALKS, with_tokenizer=tokenizer("{{ raise_exception('no') }}"))
    assert refusing.findings[0].sentence == "the chat template refuses this conversation (no)"


@pytest.mark.parametrize(
    ("special", "sentences"),
    [
        ({"eos_token": None}, ["refuse: the tokenizer has no EOS token, so that no answer can end; set tokenizer.eos_token and save"]),
        ({"pad_token": None}, ["warn: the tokenizer has no PAD token: batches are filled with EOS, which is right here, where masks"]),
        (
            {"pad_token": "<eos>"},
            [
                "warn: PAD is EOS (both are id 2): masks come from lengths here, so that EOS is learned, but a library that masks by id",
                "warn: 8 of 8 rows end in the id of PAD: scores are read at EOS here, and a token too early where the last token that is",
            ],
        ),
    ],
)  # fmt: skip
def test_special_tokens_that_are_missing_or_the_same(special: dict[str, str | None], sentences: list[str]):
    found = look(SOUND, with_tokenizer=tokenizer(**special))
    told = [str(finding) for finding in found.findings if finding.level != "note"]
    assert len(told) == len(sentences) and all(text.startswith(start) for text, start in zip(told, sentences, strict=True))
    assert found.refused == ("eos_token" in special)


def test_a_model_that_does_not_fit():
    dropout = look(SOUND, ModelFacts(256, 300, {"attn_pdrop": 0.1}))
    says = "note: the model's config has dropout (attn_pdrop 0.1); it is switched off here unless SFT is asked for it"
    assert str(dropout.findings[0]).startswith(says) and not dropout.refused
    small = only(look(SOUND, ModelFacts(256, 100)))
    assert small.sentence == f"the tokenizer has {len(tokenizer())} tokens and the model 100; they do not belong together"
    short = look(SOUND, ModelFacts(4))
    assert short.refused and only(short).sentence.startswith("8 of 8 rows have a prompt that fills the context of 4 tokens")
    long = only(look(SOUND, ModelFacts(12)))
    assert long.level == "refuse" and long.sentence.startswith("8 of 8 rows do not fit into the context of 12 tokens with their answers")


def test_a_cut_that_eats_the_eos():
    rows = changed(7, chosen=" Because." * 100)
    cuts: list[tuple[TooLong, str, str]] = [
        ("cut_answer", "warn", "lose the EOS of an answer to the context of 256 tokens: no end is learned there, and scores are read"),
        ("cut", "warn", "lose the EOS of an answer to the context of 256 tokens"),
        ("cut_prompt", "warn", "do not fit into the context of 256 tokens with their answers: they are dropped"),
        ("refuse", "warn", "do not fit into the context of 256 tokens with their answers: that stops training"),
    ]
    for too_long, level, says in cuts:
        finding = only(preflight(rows_of(rows), tokenizer(), MODEL, too_long=too_long))
        assert (finding.level, finding.rows) == (level, (7,)) and finding.sentence.startswith(f"1 of 8 rows {says}")
    found = preflight(rows_of(changed(7, prompt="Why?" * 100)), tokenizer(), MODEL, too_long="cut_prompt")
    assert not found.refused and found.numbers["share that fits"] == 0.875
    assert "note: 1 of 8 rows lose the beginning of the prompt to the context of 256 tokens (row 7)" in found.told()


def test_words_that_the_tokenizer_does_not_know():
    words = word_tokenizer(["yes", "no"])
    found = look(
        [{"prompt": f"{BOS} yes", "completion": "no"}, {"prompt": f"{BOS} yes", "completion": "maybe"}], with_tokenizer=words
    )  # words need no space
    assert only(found).sentence.startswith("data.jsonl, row 2: the tokenizer cannot write 'maybe'")


def test_length_bias_is_measured_with_its_interval():
    long = [{"prompt": f"{i}:", "chosen": "z" * (1 + 4 * (i % 10 != 0)), "rejected": "zz"} for i in range(100)]
    finding = only(look(long))
    assert finding.sentence.startswith('"prefer the longer" is right in 90.0% of 100 comparisons of unequal length (82.6% to 94.5%)')
    assert look(long).numbers["share of longer preferred answers"] == 0.9
    short = only(look([{"prompt": row["prompt"], "chosen": row["rejected"], "rejected": row["chosen"]} for row in long]))
    assert short.sentence.startswith('"prefer the shorter" is right in 90.0%')
    note = only(look(SOUND), "note")
    assert note.sentence.startswith('"prefer the longer" is right in 50.0% of 8 comparisons')


def test_a_sample_is_spread_over_the_rows():
    rows = [{"prompt": f"{i}:", "completion": " a"} for i in range(1000)]
    rows[0]["completion"] = rows[500]["completion"] = rows[501]["completion"] = " a<eos>b"
    found = look(rows, sample=10)
    assert found.sampled == 10 and [finding.rows for finding in found.findings if finding.check == "tokens"] == [(1,), (501,)]
    with pytest.raises(TextError, match="a sample of 0 rows was asked for"):
        look(rows, sample=0)


def test_many_refused_rows_are_summed_up():
    found = look([*SOUND, *["x"] * 50])
    assert sum(finding.check == "rows" for finding in found.findings) == 21
    assert found.findings[20].sentence == "data.jsonl: 30 more rows cannot be read"
    assert only(look([])).sentence == "data.jsonl holds no row that can be read"


# --- the verb --------------------------------------------------------------------------------------------------------------

ADDRESS = "gpt2?layers=1&width=8&heads=1&context=64"


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tokenizer().save_pretrained(tmp_path / "tokenizer")
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in changed(3, chosen="")))
    command = ["preflight", str(data), "--model", ADDRESS, "--tokenizer", str(tmp_path / "tokenizer")]
    assert cli.main(command) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "data.jsonl: 8 rows, each a Pair; 8 of them were put into tokens"
    assert told[2].startswith("warn: 1 of 8 rows teach to say nothing") and told[-1] == "0 refused, 1 warned of, 1 noted"
    assert cli.main(["preflight", str(data), "--model", ADDRESS, "--tokenizer", "bpe:300"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "0 refused, 1 warned of, 1 noted"
    with data.open("a") as file:
        file.write("{")
    assert cli.main([*command, "--json"]) == 1
    read = json.loads(capsys.readouterr().out)
    assert read["refused"] and read["findings"][0]["rows"] == [9] and read["numbers"]["share that fits"] == 1.0


def test_the_verb_with_a_model_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from transformers import GPT2Config

    made = tokenizer(pad_token=None)
    made.save_pretrained(tmp_path / "model")
    GPT2Config(vocab_size=len(made), n_positions=64).save_pretrained(tmp_path / "model")
    data = tmp_path / "data.json"
    data.write_text(json.dumps(SOUND))
    assert cli.main(["preflight", str(data), "--model", str(tmp_path / "model"), "--context", "32"]) == 0
    told = capsys.readouterr().out
    assert "warn: the tokenizer has no PAD token" in told
    assert "note: the model's config has dropout (resid_pdrop 0.1, embd_pdrop 0.1, attn_pdrop 0.1" in told


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["DATA", "--model", ADDRESS],
            f"{ADDRESS} is a kind of model with its sizes and brings no tokenizer; --tokenizer names one, or bpe:SIZE",
        ),
        (["DATA", "--model", "NOWHERE"], "a folder or a hub name with a tokenizer was expected"),
        (["NOWHERE", "--model", "TOKENIZER"], "nowhere cannot be read: No such file or directory"),
        (["DATA", "--model", "TOKENIZER"], "a folder or a hub name with a causal model was expected"),
        (["DATA", "--model", ADDRESS, "--tokenizer", "TOKENIZER", "--context", "65"], "a context of 65 tokens was asked for; gpt2"),
        (["DATA", "--modle", ADDRESS], "tutelage preflight has no option --modle; did you mean --model?"),
        (["DATA", "--model", ADDRESS, "--tokenizer", "TOKENIZER", "--split", "test"], "data.json is a file and has no splits"),
    ],
)
def test_the_verb_with_what_is_not_there(arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                         monkeypatch: pytest.MonkeyPatch):  # fmt: skip
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "data.json").write_text(json.dumps(SOUND))
    tokenizer().save_pretrained(tmp_path / "tokenizer")
    places = {"DATA": "data.json", "NOWHERE": "nowhere", "TOKENIZER": "tokenizer"}
    assert cli.main(["preflight", *(str(tmp_path / places[word]) if word in places else word for word in arguments)]) == 2
    told = capsys.readouterr().err
    assert sentence in told and told.count("\n") == 1


def test_the_two_demonstration_files(data: Path):
    for name, kind in (("preferences_demo_300.json", "Pair"), ("unpaired_demo_300.json", "Labeled")):
        found = preflight(read_text(data / name), tokenizer(), ModelFacts(100_000), sample=30)
        assert (found.rows, found.kind, found.refused) == (300, kind, False)
        told = {finding.check: finding.rows for finding in found.findings}
        if kind == "Pair":
            assert told["repetitions"] == (158, 187, 231, 249, 276)
            assert "share of longer preferred answers" in found.numbers
