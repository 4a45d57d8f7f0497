"""A language of twelve words, a net of a few hundred weights, and texts to learn from."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Generator
from transformers import PreTrainedTokenizerFast

from tutelage.experience.text import Encoded, encoded
from tutelage.nets.language import LanguageModel, ScoreModel, make_model

WORDS = ["<pad>", "<bos>", "<eos>", "the", "cat", "dog", "is", "good", "bad", "and", "big", "."]
BOS, EOS = 1, 2
ADDRESS = "gpt2?layers=1&width=16&heads=2&context=32"


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")


@pytest.fixture
def model(tokenizer: PreTrainedTokenizerFast) -> LanguageModel:
    return make_model(ADDRESS, generator(), tokenizer)


@pytest.fixture
def score_model(model: LanguageModel) -> ScoreModel:
    return ScoreModel.of(model, generator(7))


def texts(count: int, seed: int = 1, longest: int = 6) -> list[Encoded]:
    """Prompts of two or three words, answers of one to `longest` words and EOS."""
    g = generator(seed)
    draw = lambda low, high: int(torch.randint(low, high, (), generator=g))
    return [
        encoded([BOS, *(draw(3, 12) for _ in range(draw(1, 3)))], [*(draw(3, 12) for _ in range(draw(1, longest + 1))), EOS])
        for _ in range(count)
    ]


def pairs(count: int, seed: int = 1) -> list[tuple[Encoded, Encoded]]:
    """Two answers to each prompt."""
    g = generator(seed)
    draw = lambda low, high: int(torch.randint(low, high, (), generator=g))
    found: list[tuple[Encoded, Encoded]] = []
    for _ in range(count):
        prompt = [BOS, *(draw(3, 12) for _ in range(draw(1, 3)))]
        chosen, rejected = ([*(draw(3, 12) for _ in range(draw(1, 6))), EOS] for _ in range(2))
        found.append((encoded(prompt, chosen), encoded(prompt, rejected)))
    return found
