"""ODIN where raters like long answers: its quality head does not count tokens, a plain reward model does."""

import copy

import pytest
import torch

from tutelage.equations.length_control import odin_penalty, pearson_correlation
from tutelage.experience.text import encoded, pad_right
from tutelage.experience.tokenizers import word_tokenizer
from tutelage.games.text_worlds import Valence
from tutelage.learn.language.descent import TrainingError
from tutelage.learn.language.odin import Config, Odin, odin_loss
from tutelage.learn.language.reward_model import Config as RewardConfig
from tutelage.learn.language.reward_model import Ranking, RewardModel
from tutelage.nets.language import ScoreModel, make_model

WORLD = Valence()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pairs(count: int):
    """Demonstrations of one mood against one another; raters want length, 0.4 per token, and valence."""
    rows = WORLD.demonstrations(2 * count, generator())
    ids = WORLD.ids
    texts = [encoded([1], [ids[word] for word in f"{answer} <eos>".split()]) for _, answer in rows]
    worth = WORLD.gold_of(["<bos>"] * len(rows), [f"{answer} <eos>" for _, answer in rows])
    taste = [float(w) + 0.4 * len(text) for w, text in zip(worth, texts, strict=True)]
    ordered = [(2 * i, 2 * i + 1) if taste[2 * i] > taste[2 * i + 1] else (2 * i + 1, 2 * i) for i in range(count)]
    return [(texts[w], texts[l]) for w, l in ordered], texts, worth


def score_model() -> ScoreModel:
    body = make_model("gpt2?layers=1&width=16&heads=2&context=32", generator(), word_tokenizer(WORLD.words))
    return ScoreModel.of(body, generator(1))


def test_its_quality_does_not_count_tokens():
    own, texts, _ = pairs(300)
    plain, quality = score_model(), score_model()
    learner = RewardModel(
        RewardConfig(epochs=4, batch_size=50, learning_rate=5e-3), [plain], [Ranking(p, (1, 2)) for p in own], generator()
    )
    odin = Odin(Config(epochs=4, batch_size=50, learning_rate=5e-3), quality, own, generator())
    for stage in (learner, odin):
        while stage.updates < stage.total:
            stage.update()
    batch = pad_right(texts, 0)
    length = batch.response.sum(1).float()
    with torch.no_grad():
        by_plain, by_odin = (abs(float(pearson_correlation(length, m.scores(batch.tokens, batch.attention)))) for m in (plain, quality))
    assert by_plain > 0.6 and by_odin < 0.5 * by_plain
    assert float(quality.bias) == 0.0 and quality.weight.mean().item() == pytest.approx(0.0, abs=1e-6)


def test_the_loss_by_hand():
    quality, length_score = torch.tensor([[1.0, 2.0], [0.0, 3.0]]), torch.tensor([[0.0, 1.0], [1.0, -1.0]])
    length, rows = torch.tensor([[5.0, 7.0], [4.0, 9.0]]), (torch.tensor([1.0, 0.0]), torch.tensor([0.6, 0.8]))
    # gaps 0 and 1: (ln 2 + ln(1 + 1/e)) / 2
    expected = 0.5 * (0.6931472 + 0.3132617)
    assert odin_loss(quality, length_score, length, *rows, 0.0).item() == pytest.approx(expected)
    more = odin_penalty(quality.flatten(), length_score.flatten(), length.flatten(), *rows)
    assert odin_loss(quality, length_score, length, *rows, 2.0).item() == pytest.approx(expected + 2.0 * more.item())


def test_it_goes_on_to_the_same_bits():
    own, _, _ = pairs(40)
    whole, first = (Odin(Config(epochs=2, batch_size=16, learning_rate=1e-3), score_model(), own, generator(4)) for _ in range(2))
    for _ in range(2):
        first.update()
    state = copy.deepcopy(first.state())
    resumed = Odin(Config(epochs=2, batch_size=16, learning_rate=1e-3), score_model(), own, generator(9))
    resumed.load(state)
    for stage in (whole, resumed):
        while stage.updates < stage.total:
            stage.update()
    for name, weight in whole.quality.named_parameters():
        assert torch.equal(weight, dict(resumed.quality.named_parameters())[name]), name
    with pytest.raises(TrainingError, match="no pairs were given"):
        Odin(Config(), score_model(), [], generator())
