"""RLOO, GRPO and online DPO: advantages among answers to one prompt, losses against sums written out, and learning."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.learn.language.conftest import ADDRESS, EOS, generator, gradient_of, same_bits_after_resuming
from tests.learn.language.test_ppo_lm import PROMPTS, CountsGood
from tutelage.experience.text import TextBatch
from tutelage.learn.language import online_dpo
from tutelage.learn.language.descent import Optimization, TrainingError
from tutelage.learn.language.groups import GRPO, Config, Groups, advantages, groups_loss
from tutelage.learn.language.online_dpo import OnlineDPO, best_and_worst
from tutelage.learn.language.writing import Sampling
from tutelage.nets.language import make_model
from tutelage.rewards.text import TextReward

FREE = Optimization(schedule="constant", betas=(0.9, 0.999))
BASE: dict[str, Any] = dict(iterations=9, prompts=3, samples=4, batch_size=6, learning_rate=1e-2, sampling=Sampling(max_new_tokens=6))
VARIANTS = [
    Config(**BASE),
    Config(**BASE, kl_loss_coefficient=0.1),
    GRPO(**BASE),
    GRPO(**BASE, normalization="token"),
    GRPO(**BASE, baseline="centered", normalization="constant"),
]
NAMES = ["rloo", "rloo-k3", "grpo", "dapo", "dr-grpo"]


def test_golden_advantages():
    score = torch.tensor([[1.0, 2.0, 4.0, 1.0]])
    assert advantages(score, Config())[0].tolist() == pytest.approx([-1.3333, 0, 2.6667, -1.3333], abs=5e-5)
    assert advantages(score, GRPO())[0].tolist() == pytest.approx([-0.7071, 0, 1.4141, -0.7071], abs=5e-4)
    assert advantages(score, GRPO(baseline="centered"))[0].tolist() == [-1, 0, 2, -1]


@pytest.mark.parametrize("config", VARIANTS, ids=NAMES)
def test_the_loss_and_its_gradient_against_a_slow_version(config):
    g = generator(1)
    draw = lambda: -torch.rand(3, 5, generator=g, dtype=torch.float64)
    logp, old, reference, gain = draw().requires_grad_(), draw(), draw(), torch.tensor([1.0, -0.5, 0.3]).double()
    response = torch.tensor([[0, 1, 1, 1, 0], [0, 1, 0, 0, 0], [0, 1, 1, 1, 1]]).bool()
    logp.data[~response], old[~response], reference[~response] = 0.0, 0.0, 0.0
    loss = groups_loss(logp, old, reference, gain, response, config, 3, 8)
    loss.backward()

    def slow(x: list[list[float]]) -> float:
        total = 0.0
        for b in range(3):
            tokens = [t for t in range(5) if response[b, t]]
            k3 = [math.exp(float(reference[b, t]) - x[b][t]) - 1 - (float(reference[b, t]) - x[b][t]) for t in tokens]
            surrogate = lambda r, b=b: min(r * float(gain[b]), min(max(r, 0.8), 1.2) * float(gain[b]))
            if config.ratio == "text":
                ratio = math.exp(sum(x[b][t] - float(old[b, t]) for t in tokens))
                total += (config.kl_loss_coefficient * sum(k3) - surrogate(ratio)) / 3
                continue
            each = [
                config.kl_loss_coefficient * k - surrogate(math.exp(x[b][t] - float(old[b, t]))) for k, t in zip(k3, tokens, strict=True)
            ]
            total += sum(each) / {"text": 3 * len(tokens), "token": 8, "constant": 18}[config.normalization]
        return total

    x = logp.detach().tolist()
    assert float(loss.detach()) == pytest.approx(slow(x), abs=1e-9)
    for b, t in response.nonzero().tolist():
        up, down = ([[v + h * ((i, j) == (b, t)) for j, v in enumerate(own)] for i, own in enumerate(x)] for h in (1e-6, -1e-6))
        assert float(logp.grad[b, t]) == pytest.approx((slow(up) - slow(down)) / 2e-6, abs=1e-6)  # type: ignore[index]


@pytest.mark.parametrize("config", VARIANTS, ids=NAMES)
def test_gradients_of_pieces_are_that_of_the_batch(model, config):
    def gradient(microbatch: int | None) -> Tensor:
        model.zero_grad()
        own = Groups(
            type(config)(**{**config.__dict__, "batch_size": 12, "microbatch": microbatch}), model, CountsGood(), PROMPTS, EOS, generator(3)
        )
        return gradient_of(own)

    assert torch.allclose(gradient(None), gradient(5), atol=1e-6)


@pytest.mark.parametrize("config", VARIANTS[:3], ids=NAMES[:3])
def test_the_same_bits_from_the_same_seed_and_after_resuming(tokenizer, config):
    same_bits_after_resuming(lambda: Groups(config, make_model(ADDRESS, generator(), tokenizer), CountsGood(), PROMPTS, EOS, generator(3)))


@pytest.mark.parametrize("config", [Config, GRPO])
def test_they_learn_to_be_paid(model, config):
    settings: dict[str, Any] = dict(iterations=15, prompts=8, samples=4, batch_size=32, learning_rate=1e-2, optimizer=FREE)
    own = Groups(config(**settings, sampling=Sampling(max_new_tokens=6)), model, CountsGood(), PROMPTS, EOS, generator(3))
    scores = [own.update()["score"] for _ in range(15)]
    assert sum(scores[-3:]) / 3 > scores[0] + 1.0


def test_groups_of_equal_score_are_counted_and_teach_nothing(model):
    class Same(TextReward):
        def scores(self, texts: TextBatch, columns: object = ()) -> Tensor:
            return torch.ones(len(texts))

    own = Groups(Config(**BASE), model, Same(), PROMPTS, EOS, generator(3), model.copy())
    own.config = Config(**BASE | {"kl_coefficient": 0.0})  # type: ignore[arg-type]
    assert own.update()["equal_groups"] == 1.0 and own.update()["gradient_norm"] < 1e-6
    dpo = OnlineDPO(online_dpo.Config(prompts=3, sampling=Sampling(max_new_tokens=6)), model, Same(), PROMPTS, EOS, generator(3))
    assert dpo.update()["pairs"] == 0.0 and dpo.updates == 1


def test_groups_of_equal_score_are_counted_before_the_price_of_distance(model, tokenizer):
    class Tenth(TextReward):
        def scores(self, texts: TextBatch, columns: object = ()) -> Tensor:
            return torch.full((len(texts),), 0.1)

    away = make_model(ADDRESS, generator(9), tokenizer).copy()
    assert Groups(Config(**BASE), model, Tenth(), PROMPTS, EOS, generator(3), away).update()["equal_groups"] == 1.0


def test_a_group_of_one_is_refused(model):
    with pytest.raises(TrainingError, match="samples=1 was given; an answer is judged against others"):
        Groups(Config(samples=1), model, CountsGood(), PROMPTS, EOS, generator())
    with pytest.raises(TrainingError, match="samples=1 was given; a pair needs 2"):
        OnlineDPO(online_dpo.Config(samples=1), model, CountsGood(), PROMPTS, EOS, generator())


def test_the_best_and_the_worst_make_the_pair():
    chosen, rejected = best_and_worst(torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 0.0], [5.0, 4.0, 6.0]]))
    assert chosen.tolist() == [1, 8] and rejected.tolist() == [0, 7]


def test_online_dpo_in_pieces_resumed_and_learning(model, tokenizer):
    settings: dict[str, Any] = dict(iterations=20, prompts=16, learning_rate=1e-2, optimizer=FREE, sampling=Sampling(max_new_tokens=6))

    def gradient(microbatch: int | None) -> Tensor:
        model.zero_grad()
        return gradient_of(OnlineDPO(online_dpo.Config(**settings, microbatch=microbatch), model, CountsGood(), PROMPTS, EOS, generator(3)))

    assert torch.allclose(gradient(None), gradient(3), atol=1e-6)
    make = lambda: OnlineDPO(
        online_dpo.Config(**settings), make_model(ADDRESS, generator(), tokenizer), CountsGood(), PROMPTS, EOS, generator(3)
    )
    same_bits_after_resuming(make)
    own = make()
    scores = [own.update()["score"] for _ in range(20)]
    assert sum(scores[-3:]) / 3 > scores[0] + 1.0
