"""Rows as tokens: where prompts and answers end, with and without a template, and what is too long."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from tutelage.experience.text import Encoded, TextError, pack, pad_right
from tutelage.experience.text_encoding import TextEncoder, TooLong, TooLongError
from tutelage.experience.text_rows import Demonstration, Message, Pair, Prompt, Ranked
from tutelage.experience.tokenizers import PLAIN_TEMPLATE, train_bpe, word_tokenizer
from tutelage.nets.language import make_model

WORDS = [f"w{i}" for i in range(20)]
TOKENIZER = word_tokenizer(WORDS)  # w0 is 3
TALK = (Message("user", "How are you?"), Message("assistant", "Well."), Message("user", "Why?"))
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def bpe(template: str | None = None, **special: str | None) -> Any:
    made = train_bpe(["How are you? Well. Why? Because."], 270)
    made.chat_template = template
    for name, token in special.items():
        setattr(made, name, token)
    return made


def learned(text: Encoded, tokenizer: Any) -> str:
    return tokenizer.decode([token for token, own in zip(text.tokens, text.response, strict=True) if own])


def test_an_answer_ends_in_one_eos_that_is_learned():
    encoder = TextEncoder(TOKENIZER, 16)
    for answer in ("w1 w2", "w1 w2 <eos>"):
        ((text,), cut) = encoder.encode(Demonstration(prompt="<bos> w0", answer=answer))
        assert (text.tokens, text.response, cut) == ((1, 3, 4, 5, 2), (False, False, True, True, True), False)
    ((text,), _) = encoder.encode(Demonstration(prompt="<bos> w0", answer=""))
    assert text.tokens == (1, 3, 2) and text.response == (False, False, True)
    with pytest.raises(TextError, match="the answer holds EOS before its end, and 'w2' behind it"):
        encoder.answer("", "w1 <eos> w2")


def test_a_text_without_a_prompt_begins_with_bos():
    ((text,), _) = TextEncoder(TOKENIZER, 16).encode(Demonstration(prompt="", answer="w1 w2"))
    assert text.tokens == (1, 4, 5, 2) and text.response == (False, True, True, True)
    ((text,), _) = TextEncoder(bpe(bos_token=None), 99).encode(Demonstration(prompt="", answer="Why?"))
    assert text.tokens[0] == text.tokens[-1] == 2  # as GPT-2, whose BOS is EOS


def test_the_prompts_of_a_pair_are_the_same_tokens():
    tokenizer = bpe(CHATML)
    encoder = TextEncoder(tokenizer, 10_000)
    (chosen, rejected), _ = encoder.encode(Pair(prompt=TALK, chosen="Because.", rejected="e"))
    prompt = encoder.prompt(TALK)
    assert chosen.tokens[: len(prompt)] == rejected.tokens[: len(prompt)] == tuple(prompt)
    assert learned(chosen, tokenizer) == "Because.<eos>" and learned(rejected, tokenizer) == "e<eos>"


@pytest.mark.parametrize("template", [CHATML, PLAIN_TEMPLATE, None])
def test_a_conversation_is_what_its_template_writes(template: str | None):
    tokenizer = bpe(template)
    encoder = TextEncoder(tokenizer, 10_000, learned="assistant")
    ((text,), _) = encoder.encode(Demonstration(prompt=TALK, answer="Because."))
    messages = [{"role": turn.role, "content": turn.content} for turn in (*TALK, Message("assistant", "Because."))]
    whole = tokenizer.apply_chat_template(messages, tokenize=False, chat_template=template or PLAIN_TEMPLATE)
    assert tokenizer.decode(text.tokens) == whole.rstrip() == encoder.text(TALK, "Because.").rstrip()
    turns = [part.strip() for part in learned(text, tokenizer).split("<eos>")]
    assert turns == ["Well.", "Because.", ""]  # the turns of the assistant with their EOS, and nothing of what stands around them
    # A conversation that grows keeps its tokens: the first answer was sampled behind exactly these.
    first = encoder.prompt(TALK[:1])
    assert text.tokens[: len(first)] == tuple(first)
    ((text,), _) = TextEncoder(tokenizer, 10_000, learned="everything").encode(Demonstration(prompt=TALK, answer="Because."))
    assert text.response == (False, *[True] * (len(text) - 1))


def test_bos_is_there_once():
    from tokenizers.processors import TemplateProcessing

    tokenizer = bpe("{{ bos_token }}" + CHATML)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    encoder = TextEncoder(tokenizer, 10_000)
    assert encoder.special.begins
    assert encoder.prompt("Why?").count(1) == encoder.prompt("<bos>Why?").count(1) == encoder.prompt(TALK).count(1) == 1


LONG = Ranked(prompt="<bos> w0 w1 w2", texts=("w3", "w4 w5 w6"), ranks=(1, 2), where="f", number=3)


@pytest.mark.parametrize(
    ("too_long", "context", "texts"),
    [
        ("cut_prompt", 8, [(1, 3, 4, 5, 6, 2), (1, 3, 4, 5, 7, 8, 9, 2)]),  # it fits
        ("cut_prompt", 7, [(1, 4, 5, 6, 2), (1, 4, 5, 7, 8, 9, 2)]),  # BOS stays, the end stays, both prompts are the same
        ("cut_prompt", 5, [(5, 6, 2), (5, 7, 8, 9, 2)]),
        ("cut_prompt", 4, None),
        ("cut", 9, [(1, 4, 5, 6, 2), (1, 4, 5, 7, 8, 9, 2)]),  # any prompt has room for any answer: a third and two thirds
        ("cut", 4, [(5, 6, 2), (5, 7, 8, 9)]),
        ("cut", 12, [(1, 3, 4, 5, 6, 2), (1, 3, 4, 5, 7, 8, 9, 2)]),
        ("cut_answer", 6, [(1, 3, 4, 5, 6, 2), (1, 3, 4, 5, 7, 8)]),  # the longer one has lost its EOS
        ("cut_answer", 4, None),
        ("drop", 7, None),
        ("refuse", 7, None),
    ],
)
def test_what_the_context_does_not_hold(too_long: TooLong, context: int, texts: list[tuple[int, ...]] | None):
    encoder = TextEncoder(TOKENIZER, context, too_long)
    if texts is None:
        with pytest.raises(TooLongError, match=f"a prompt of 4 tokens and an answer of 4 were given; the context holds {context}"):
            encoder.encode(LONG)
        return
    found, cut = encoder.encode(LONG)
    assert [text.tokens for text in found] == texts and cut == (found[1].tokens != (1, 3, 4, 5, 7, 8, 9, 2))
    prompt = len(found[0]) - 2  # its answer is one word and EOS
    assert [text.response.index(True) for text in found] == [prompt, prompt]  # never an empty mask


def test_nothing_is_missing_in_silence():
    rows = [Pair(prompt="<bos> w0", chosen="w1", rejected=" ".join(["w2"] * n), number=n) for n in (1, 9, 2, 12)]
    encoded = TextEncoder(TOKENIZER, 8).encode_all(rows)
    assert [row.number for row in encoded.rows] == [1, 2] and len(encoded.texts) == 2
    assert encoded.told() == "2 of 4 rows did not fit into the context and were dropped (rows 9, 12)"
    cut = TextEncoder(TOKENIZER, 8, "cut_answer").encode_all(rows)
    assert len(cut.rows) == 4 and cut.told() == "2 of 4 rows did not fit into the context and were cut (rows 9, 12)"
    assert TextEncoder(TOKENIZER, 80).encode_all(rows).told() == ""
    alike = [Pair(prompt="<bos> w0", chosen="w1 " * n + "w2", rejected="w1 " * n + "w3", number=n) for n in (1, 9)]
    cut = TextEncoder(TOKENIZER, 8, "cut_answer").encode_all(alike)
    assert [row.number for row in cut.rows] == [1] and cut.told() == "1 of 2 rows did not fit into the context and were dropped (row 9)"
    with pytest.raises(TooLongError, match="^row 9: a prompt of 2 tokens and an answer of 10 were given; the context holds 8$"):
        TextEncoder(TOKENIZER, 8, "refuse").encode_all(rows)
    with pytest.raises(TooLongError, match="^all 4 rows are longer than the context of 3 tokens; none is left to learn from$"):
        TextEncoder(TOKENIZER, 3).encode_all(rows)


def test_prompts_to_sample_from():
    rows = [Prompt(prompt="<bos> " + " ".join(["w0"] * n), number=n, where="f") for n in (1, 5, 2)]
    kept, tokens, dropped, cut = TextEncoder(TOKENIZER, 16).prompts(rows, longest=4)
    assert [row.number for row in kept] == [1, 2] and tokens == [[1, 3], [1, 3, 3]] and [row.number for row in dropped] == [5] and not cut
    kept, tokens, dropped, cut = TextEncoder(TOKENIZER, 16, "cut_prompt").prompts(rows, longest=4)
    assert tokens[1] == [1, 3, 3, 3] and len(kept) == 3 and not dropped and [row.number for row in cut] == [5]
    with pytest.raises(TooLongError, match="^f, row 5: the prompt has 6 tokens; 4 leave room for an answer$"):
        TextEncoder(TOKENIZER, 16, "refuse").prompts(rows, longest=4)
    with pytest.raises(TooLongError, match="^all 3 prompts are longer than 1 tokens; none is left to answer$"):
        TextEncoder(TOKENIZER, 16).prompts(rows, longest=1)


def test_bad_input_is_one_sentence():
    with pytest.raises(TextError, match="^f, row 7: the tokenizer cannot write 'nobody knows it'"):
        TextEncoder(TOKENIZER, 16).encode_all([Demonstration(prompt="nobody knows it", answer="", where="f", number=7)])
    with pytest.raises(TextError, match="the tokenizer has no EOS token"):
        TextEncoder(bpe(eos_token=None), 16)
    with pytest.raises(TextError, match="a context of 1 tokens was given"):
        TextEncoder(TOKENIZER, 1)
    with pytest.raises(TextError, match=r"the chat template refuses this conversation \(users only\)"):
        TextEncoder(bpe("{{ raise_exception('users only') }}"), 16).prompt(TALK)
    with pytest.raises(TextError, match="writes the prompt in another way once an answer follows"):
        TextEncoder(bpe("{{ messages | length }}"), 16).answer(TALK, "a")


CHAT = bpe(CHATML)


@settings(max_examples=60, deadline=None)
@given(asked=st.text(max_size=20), chosen=st.text(max_size=20), rejected=st.text(max_size=20), talk=st.booleans())
def test_any_text_is_tokens_or_a_sentence(asked: str, chosen: str, rejected: str, talk: bool):
    encoder = TextEncoder(CHAT, 10_000)
    prompt = (Message("user", asked),) if talk else asked
    try:
        first, second = encoder.encode(Pair(prompt=prompt, chosen=chosen, rejected=rejected))[0]
    except TextError as error:
        assert any(special in asked + chosen + rejected for special in CHAT.all_special_tokens) and str(error)
        return
    tokens = tuple(encoder.prompt(prompt))
    for text, answer in ((first, chosen), (second, rejected)):
        assert text.tokens[: len(tokens)] == tokens and text.tokens[-1] == 2 and text.response.index(True) == len(tokens)
        assert CHAT.decode(text.tokens[len(tokens) : -1]).strip() == answer.strip() or any(s in answer for s in CHAT.all_special_tokens)


def test_packed_texts_have_the_log_probabilities_of_single_ones():
    model = make_model("gpt2?layers=2&width=16&heads=2&context=32", Generator().manual_seed(0), TOKENIZER)
    rows = [Demonstration(prompt="<bos> " + " ".join(WORDS[:n]), answer=" ".join(WORDS[n : 2 * n])) for n in (1, 3, 5, 2, 4)]
    texts = [own[0] for own in TextEncoder(TOKENIZER, 32).encode_all(rows).texts]
    packed, single = pack(texts, 24, pad=2), pad_right(texts, pad=2)
    with torch.no_grad():
        together = model.log_probs(packed.tokens, packed.visible, packed.response, positions=packed.positions)
        alone = model.log_probs(single.tokens, single.attention, single.response)
    assert len(packed) < len(texts)
    torch.testing.assert_close(together[packed.response].sort().values, alone[single.response].sort().values, atol=1e-5, rtol=1e-5)
