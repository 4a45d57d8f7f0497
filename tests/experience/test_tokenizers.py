"""Tokenizers made here, and the three special tokens."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tutelage.experience.text import TextError
from tutelage.experience.tokenizers import BOS, EOS, PAD, special_tokens, train_bpe, word_tokenizer

TEXTS = ["the dog was happy.", "the cat was tall and calm.", "a dog and a cat."] * 5
BPE = train_bpe(TEXTS, 300)


def test_words_are_numbered_behind_the_special_tokens(tmp_path: Path):
    tokenizer = word_tokenizer(["dog", "was", "happy", "."])
    assert tokenizer.convert_tokens_to_ids([PAD, BOS, EOS, "dog", "."]) == [0, 1, 2, 3, 6]
    assert tokenizer("<bos> dog was happy . <eos>")["input_ids"] == [1, 3, 4, 5, 6, 2]
    assert tokenizer.decode([1, 3, 4, 5, 6, 2], skip_special_tokens=True) == "dog was happy ."
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again("dog . <eos>")["input_ids"] == [3, 6, 2] and again.chat_template == tokenizer.chat_template


@pytest.mark.parametrize("words", [["dog", "dog"], ["two words"], [""], [EOS]])
def test_words_that_are_no_vocabulary(words: list[str]):
    with pytest.raises(TextError, match="each stands there once beside PAD, BOS and EOS"):
        word_tokenizer(words)


@settings(max_examples=100)
@given(st.text())
def test_every_text_can_be_written_in_bytes(text: str):
    tokens = BPE(text, add_special_tokens=False)["input_ids"]
    if not any(special in text for special in (PAD, BOS, EOS)):
        assert BPE.decode(tokens) == text and not {0, 1, 2} & set(tokens)


def test_training_finds_pairs_and_is_the_same_twice(tmp_path: Path):
    assert len(BPE) <= 300
    assert len(BPE("the dog was happy.")["input_ids"]) < 8
    again = train_bpe(TEXTS, 300)
    assert again.get_vocab() == BPE.get_vocab() and again.backend_tokenizer.to_str() == BPE.backend_tokenizer.to_str()
    with pytest.raises(TextError, match="a vocabulary of 258 was asked for; 256 bytes and three special tokens need 259"):
        train_bpe(TEXTS, 258)


def test_the_three_special_tokens():
    assert special_tokens(BPE).eos == 2 and special_tokens(BPE).pad == 0 and special_tokens(BPE).bos == 1
    assert not special_tokens(BPE).begins
    without = train_bpe(TEXTS, 300)
    without.pad_token = None
    assert special_tokens(without).pad == 2  # EOS fills; masks come from lengths
    without.eos_token = None
    with pytest.raises(TextError, match="the tokenizer has no EOS token, so that no answer can end"):
        special_tokens(without)
