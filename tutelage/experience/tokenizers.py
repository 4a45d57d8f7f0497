"""Tokenizers made here: whole words for small worlds, byte-level BPE for real text; and the three special tokens of any tokenizer.

BOS begins a text, EOS ends an answer, PAD fills a batch: three tokens with three ids, so that nothing that looks for one finds
another. What is made here is an ordinary tokenizer of transformers and is saved and loaded as one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.experience.text import TextError

PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + eos_token + '\n\n' }}"
    "{% else %}{{ 'Human: ' + message['content'] + '\n\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""How turns are written for a model that brings no chat template of its own."""


@dataclass(frozen=True)
class SpecialTokens:
    """Ids."""

    bos: int | None
    """None where texts begin with nothing."""
    eos: int
    pad: int
    """What batches are filled with: EOS where the tokenizer has none, for masks come from lengths."""
    begins: bool
    """Whether the tokenizer itself puts BOS before a text."""


def special_tokens(tokenizer: Any) -> SpecialTokens:
    """Those of any tokenizer. Raises TextError where there is no EOS: no answer could end."""
    if tokenizer.eos_token_id is None:
        raise TextError("the tokenizer has no EOS token, so that no answer can end; one such as tokenizer.eos_token = '<eos>' is needed")
    bos, eos, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    begins = bos is not None and tokenizer("", add_special_tokens=True)["input_ids"][:1] == [bos]
    return SpecialTokens(bos, eos, eos if pad is None else pad, begins)


def word_tokenizer(words: Sequence[str]) -> Any:
    """One token for each word, found between white space; PAD, BOS and EOS are ids 0, 1 and 2.

    A word that it does not know is an error and no token, for a world's own texts hold none.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = [PAD, BOS, EOS, *words]
    if len(set(vocabulary)) < len(vocabulary) or any(not word or word.split() != [word] for word in words):
        raise TextError("the words of a vocabulary are not empty, hold no white space, and each stands there once beside PAD, BOS and EOS")
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _wrapped(tokenizer)


def train_bpe(texts: Iterable[str], size: int) -> Any:
    """Byte-level BPE: `size` tokens, of which 256 are the bytes, so that every text can be written and none is unknown.

    Sennrich et al. 2016 (arXiv 1508.07909), on bytes as in Radford et al. 2019 (GPT-2). Fewer tokens come out where the texts
    do not hold as many pairs. The same texts in the same order give the same tokenizer.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if size < 256 + 3:
        raise TextError(f"a vocabulary of {size} was asked for; 256 bytes and three special tokens need {256 + 3}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[PAD, BOS, EOS], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return _wrapped(tokenizer)


def _wrapped(tokenizer: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, clean_up_tokenization_spaces=False
    )
    made.chat_template = PLAIN_TEMPLATE
    return made
