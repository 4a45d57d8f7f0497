"""A language of twelve words, a net of a few hundred weights, and texts to learn from."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Generator
from transformers import PreTrainedTokenizerFast

from tutelage.experience.text import Encoded, encoded
from tutelage.experience.trees import pack, unpack
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


def gradient_of(learner: Any, update: Callable[[], Any] | None = None) -> torch.Tensor:
    """What an update would move the weights along: all gradients, flat, before any step."""
    learner.descent.step = lambda *ignored: {}
    (update or learner.update)()
    weights = learner.descent.weights.values()
    return torch.cat([weight.grad.flatten() if weight.grad is not None else torch.zeros(weight.numel()) for weight in weights]).clone()


def weights_of(*nets: torch.nn.Module) -> torch.Tensor:
    """All weights, flat."""
    return torch.cat([weight.detach().flatten() for net in nets for weight in net.parameters()]).clone()


def same_bits_after_resuming(make: Callable[[], Any], before: int = 2, after: int = 2) -> None:
    """A fresh learner that takes over what another has saved goes on as that one does, and equal seeds give equal learners."""
    learner, other = make(), make()
    for _ in range(before):
        assert learner.update() == other.update()
    tensors, text = pack(learner.state())
    third = make()
    third.load(unpack(tensors, text))
    for _ in range(after):
        assert learner.update() == third.update()
    mine, theirs = (weights_of(*own.nets().values()) for own in (learner, third))
    assert torch.equal(mine, theirs)
