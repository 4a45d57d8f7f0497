"""The reward model: one prompt is one element, whatever it ranks; gradients against sums written out; the shift."""

import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.learn.language.conftest import ADDRESS, BOS, EOS, generator, gradient_of, pairs, same_bits_after_resuming, texts, weights_of
from tutelage.experience.text import encoded
from tutelage.learn.language.descent import TrainingError
from tutelage.learn.language.reward_model import Config, Ranking, RewardModel, in_pairs, reward_model_loss, score_rankings
from tutelage.nets.language import ScoreModel, make_model

VARIANTS = [
    Config(),
    Config(loss="plackett-luce"),
    Config(ties="half"),
    Config(ties="half", rater_error=0.1),
    Config(ties="weak", tie_threshold=0.3),
    Config(center=0.05),
]


def rankings(count: int = 6, seed: int = 2) -> list[Ranking]:
    """Two to four answers each, now and then a tie."""
    found: list[Ranking] = []
    for i in range(count):
        K = 2 + i % 3
        ranks = [1, 2, 2, 3][:K] if i % 2 else list(range(1, K + 1))
        found.append(Ranking(tuple(texts(K, seed + i)), tuple(ranks), 0.2 if K == 2 else 0.0))
    return found


def of(score: list[list[float]], rank: list[list[int]], config: Config, margin: float = 0.0) -> Tensor:
    K = max(map(len, rank))
    pad = lambda rows, fill: torch.tensor([[*row, *[fill] * (K - len(row))] for row in rows])
    mask = torch.tensor([[i < len(row) for i in range(K)] for row in rank])
    return reward_model_loss(pad(score, 9.0), pad(rank, 0), mask, torch.full((len(rank),), margin), config)


def test_golden_values_and_which_mean_is_meant():
    loss = of([[1.0, 0.5, 0.0, -1.0], [0.0, 0.2]], [[1, 2, 3, 4], [1, 2]], Config())
    assert loss.tolist() == pytest.approx([0.3171698, 0.7981389], abs=1e-6)
    assert float(loss.mean()) == pytest.approx(0.5576543, abs=1e-6)  # of prompts; the seven pairs together would give 0.3858796
    plackett = of([[1.0, 0.5, 0.0, -1.0]], [[1, 2, 3, 4]], Config(loss="plackett-luce"))
    assert float(plackett) == pytest.approx(1.6639596, abs=1e-6)


@pytest.mark.parametrize("config", VARIANTS)
def test_order_of_the_answers_and_a_constant_change_nothing(config):
    score, rank = [0.3, -1.0, 2.0], [2, 1, 3]
    turned = of([[2.0, 0.3, -1.0]], [[3, 2, 1]], config)
    shifted = of([[x + 5.0 for x in score]], [rank], replace(config, center=0.0))
    assert torch.allclose(of([score], [rank], config), turned, atol=1e-6)
    assert torch.allclose(of([score], [rank], replace(config, center=0.0)), shifted, atol=1e-5)


def test_ties_are_no_pair_and_make_the_divisor_smaller():
    loss = of([[1.0, 0.0, 0.5]], [[1, 2, 1]], Config())
    slow = (math.log1p(math.exp(-1.0)) + math.log1p(math.exp(-0.5))) / 2
    assert float(loss) == pytest.approx(slow, abs=1e-6)


def test_a_margin_is_taken_off_the_gap():
    assert float(of([[1.0, 0.0]], [[1, 2]], Config(), margin=0.4)) == pytest.approx(math.log1p(math.exp(-0.6)), abs=1e-6)


def slow_loss(score: list[float], rank: list[int], margin: float, config: Config) -> float:
    """As the papers write it, pair by pair, in Python's numbers."""
    sigma = lambda x: 1.0 / (1.0 + math.exp(-x))
    best, worst = min(rank), max(rank)
    s = [x - margin if r == best else x for x, r in zip(score, rank, strict=True)]
    if config.loss == "plackett-luce":
        total = -sum(s[k] - math.log(sum(math.exp(s[j]) for j in range(len(s)) if rank[j] >= rank[k])) for k in range(len(s)))
    else:
        terms: list[float] = []
        for i, j in combinations(range(len(s)), 2):
            w, l = (i, j) if rank[i] <= rank[j] else (j, i)
            m, d, e = s[w] - s[l], config.tie_threshold, config.rater_error if config.ties == "half" else 0.0
            believed = lambda x, e=e: math.log((1 - e) * sigma(x) + e / 2)
            if rank[i] != rank[j]:
                terms.append(-math.log(sigma(m - d)) if config.ties == "weak" else -believed(m))
            elif config.ties == "half":
                terms.append(-0.5 * believed(m) - 0.5 * believed(-m))
            elif config.ties == "weak":
                terms.append(-math.log((math.exp(2 * d) - 1) * sigma(m - d) * sigma(-m - d)))
        total = sum(terms) / len(terms)
    if config.center:
        ends = [[x for x, r in zip(score, rank, strict=True) if r == end] for end in (best, worst)]
        total += config.center * sum(sum(own) / len(own) for own in ends) ** 2
    return total


@pytest.mark.parametrize("config", VARIANTS)
@pytest.mark.parametrize("rank", [[1, 2, 3, 4], [2, 1, 2, 3], [1, 2]])
def test_every_variant_and_its_gradient_against_a_slow_version(config, rank):
    score = [0.4, -0.3, 1.1, 0.2][: len(rank)]
    margin = 0.3 if len(rank) == 2 else 0.0
    x = torch.tensor([score], dtype=torch.float64, requires_grad=True)
    loss = reward_model_loss(x, torch.tensor([rank]), torch.ones(1, len(rank), dtype=torch.bool), torch.tensor([margin]).double(), config)
    loss.sum().backward()
    assert x.grad is not None and float(loss.detach()) == pytest.approx(slow_loss(score, rank, margin, config), abs=1e-6)
    for i in range(len(score)):
        up, down = ([*score[:i], score[i] + h, *score[i + 1 :]] for h in (1e-5, -1e-5))
        slope = (slow_loss(up, rank, margin, config) - slow_loss(down, rank, margin, config)) / 2e-5
        assert float(x.grad[0, i]) == pytest.approx(slope, abs=1e-6)


def test_gradients_of_pieces_are_that_of_the_batch(model):
    make = lambda size: RewardModel(Config(batch_size=6, microbatch=size), [ScoreModel.of(model, generator(7))], rankings(), generator())

    def gradient(size: int | None) -> Tensor:
        learner = make(size)
        learner.descent = learner.descents[0]  # type: ignore[attr-defined]
        return gradient_of(learner)

    assert torch.allclose(gradient(None), gradient(2), atol=1e-6)


def test_the_answers_of_a_prompt_are_scored_once(model):
    score, _, mask, margin = score_rankings(ScoreModel.of(model, generator(7)), rankings())
    assert mask.sum(1).tolist() == [2, 3, 4, 2, 3, 4] and margin.tolist() == pytest.approx([0.2, 0, 0, 0.2, 0, 0])
    one = ScoreModel.of(model, generator(7))
    text = rankings()[1].texts[2]
    alone = one.scores(torch.tensor([text.tokens]), torch.ones(1, len(text), dtype=torch.bool))
    assert torch.allclose(score[1, 2], alone[0], atol=1e-5) and not score[0, 2:].any()


def test_shuffled_pairs_are_elements_of_their_own(model):
    apart = in_pairs(rankings())
    assert len(apart) == sum(len([1 for i, j in combinations(r.ranks, 2) if i != j]) for r in rankings())
    learner = RewardModel(Config(shuffled_pairs=True, batch_size=4), [ScoreModel.of(model, generator(7))], rankings(), generator())
    assert learner.total == -(-len(apart) // 4)
    assert learner.rankings == list(rankings())  # what a shift to the best answers is made from


def test_orders_of_ties_alone_have_no_accuracy(score_model):
    tied = [Ranking(pair, (1, 1)) for pair in pairs(3)]
    found = RewardModel(Config(ties="half"), [score_model], tied, generator()).evaluate(tied)
    assert "accuracy" not in found and "margin" not in found and all(math.isfinite(value) for value in found.values())


def test_the_shift_is_only_a_shift_and_is_saved(model, tmp_path: Path):
    learner = RewardModel(Config(), [ScoreModel.of(model, generator(7))], rankings(), generator())
    before, demonstrations = learner.evaluate(rankings()), texts(9, seed=8)
    shift = learner.shift_to(demonstrations)
    after = learner.evaluate(rankings())
    assert (before["accuracy"], before["loss"]) == pytest.approx((after["accuracy"], after["loss"]), abs=1e-6)
    mean = lambda net: float(score_rankings(net, [Ranking(tuple(demonstrations), tuple(range(9)))])[0].mean())
    assert abs(mean(learner.models[0])) < 1e-6 and shift[0] == pytest.approx(before["score/mean"] - after["score/mean"], abs=1e-5)
    learner.nets()["model"].save(tmp_path)
    assert abs(mean(ScoreModel.load(tmp_path))) < 1e-6


def test_members_are_models_of_their_own(tokenizer):
    make = lambda E: [ScoreModel.of(make_model(ADDRESS, generator(), tokenizer), generator(i)) for i in range(E)]
    three = RewardModel(Config(members=3, batch_size=2), make(3), rankings(), generator())
    three.update()
    flat = [weights_of(model) for model in three.models]
    assert not torch.equal(flat[0], flat[1]) and set(three.nets()) == {"model-0", "model-1", "model-2"}
    with pytest.raises(TrainingError, match="2 models were given for members=3"):
        RewardModel(Config(members=3), make(2), rankings(), generator())


@pytest.mark.parametrize("settings", [dict(), dict(members=2, bootstrap=True)])
def test_the_same_bits_from_the_same_seed_and_after_resuming(tokenizer, settings):
    config = Config(epochs=9, batch_size=4, learning_rate=1e-2, **settings)

    def make() -> RewardModel:
        base = make_model(ADDRESS, generator(), tokenizer)
        return RewardModel(config, [ScoreModel.of(base, generator(i)) for i in range(config.members)], rankings(), generator(3))

    same_bits_after_resuming(make, before=3)


def test_it_learns_what_raters_like(model):
    """The longer answer is preferred."""
    rows = [
        Ranking((long, short), (1, 2))
        for long, short in ((encoded([BOS, 3], [4] * (2 + i % 3) + [EOS]), encoded([BOS, 3], [4, EOS])) for i in range(24))
    ]
    learner = RewardModel(Config(epochs=10, batch_size=8, learning_rate=1e-2), [ScoreModel.of(model, generator(7))], rows, generator())
    while learner.updates < learner.total:
        learner.update()
    assert learner.evaluate(rows)["accuracy"] == 1.0


def test_prompts_that_order_nothing_are_named(model, score_model):
    with pytest.raises(TrainingError, match="prompt 0 has only answers that are ranked alike"):
        RewardModel(Config(), [score_model], [Ranking(tuple(texts(2)), (1, 1))], generator())
    with pytest.raises(TrainingError, match="prompt 1 has 1 answers and 1 ranks"):
        RewardModel(Config(), [score_model], [Ranking(pairs(1)[0], (1, 2)), Ranking(tuple(texts(1)), (1,))], generator())
