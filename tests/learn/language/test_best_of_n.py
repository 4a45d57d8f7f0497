"""Best of n, soups and rounds."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.learn.language.conftest import ADDRESS, EOS, generator, gradient_of, same_bits_after_resuming, weights_of
from tests.learn.language.test_ppo_lm import PROMPTS, SMALL, CountsGood
from tutelage.learn.language import reward_model
from tutelage.learn.language.best_of_n import BestOfN, Config, best_of
from tutelage.learn.language.descent import Optimization, TrainingError
from tutelage.learn.language.rounds import Config as RoundsConfig
from tutelage.learn.language.rounds import Rounds
from tutelage.learn.language.soups import front, soup
from tutelage.learn.language.writing import Sampling
from tutelage.nets.language import ScoreModel, make_model

STEADY = Optimization(schedule="constant")
SETTINGS: dict[str, Any] = dict(n=4, iterations=9, prompts=6, batch_size=4, learning_rate=1e-2, sampling=Sampling(max_new_tokens=6))


def test_the_best_is_found_and_of_equal_ones_the_first():
    assert best_of(torch.tensor([[0.0, 2.0, 1.0], [5.0, 5.0, 4.0]])).tolist() == [1, 3]


def test_best_of_n_in_pieces_resumed_and_learning(model, tokenizer):
    def gradient(microbatch: int | None) -> torch.Tensor:
        model.zero_grad()
        return gradient_of(
            BestOfN(Config(**SETTINGS | {"batch_size": 6, "microbatch": microbatch}), model, CountsGood(), PROMPTS, EOS, generator(3))
        )

    assert torch.allclose(gradient(None), gradient(2), atol=1e-6)
    make = lambda: BestOfN(Config(**SETTINGS), make_model(ADDRESS, generator(), tokenizer), CountsGood(), PROMPTS, EOS, generator(3))
    same_bits_after_resuming(make)
    taught = BestOfN(
        Config(**SETTINGS | {"iterations": 15, "prompts": 16, "batch_size": 16, "learning_rate": 2e-2, "optimizer": STEADY}),
        model, CountsGood(), PROMPTS, EOS, generator(3),
    )  # fmt: skip
    metrics = [taught.update() for _ in range(15)]
    assert metrics[-1]["score"] > metrics[0]["score"] + 1.0 and metrics[0]["kl/bound"] == pytest.approx(math.log(4) - 0.75)
    assert metrics[0]["score/best"] > metrics[0]["score"]


def test_a_soup_is_the_mean_of_weights(tokenizer):
    one, two = (make_model(ADDRESS, generator(i), tokenizer) for i in range(2))
    mixed = soup([one, two], [0.25, 0.75])
    assert torch.allclose(weights_of(mixed), 0.25 * weights_of(one) + 0.75 * weights_of(two), atol=1e-7)
    ends = list(front([one, two], 3))
    assert [share for share, _ in ends] == [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)]
    assert torch.equal(weights_of(ends[0][1]), weights_of(one)) and torch.equal(weights_of(ends[2][1]), weights_of(two))
    with pytest.raises(TrainingError, match="add up to 1.5"):
        soup([one, two], [1.0, 0.5])
    with pytest.raises(TrainingError, match="the models differ in"):
        soup([one, make_model(ADDRESS.replace("16", "8"), generator(), tokenizer)], [0.5, 0.5])


ROUNDS: dict[str, Any] = dict(
    ppo=replace(SMALL, episodes=6, epochs=1),
    reward_model=reward_model.Config(members=2, batch_size=4, learning_rate=1e-2),
    rounds=3,
    prompts=4,
    samples=3,
)


@pytest.mark.parametrize("settings", [dict(every=2), dict(trigger="kl", kl=0.01), dict(trigger="disagreement", disagreement=0.5)])
def test_rounds_go_back_to_the_rater_and_resume_to_the_same_bits(tokenizer, settings):
    def make() -> Rounds:
        base = make_model(ADDRESS, generator(), tokenizer)
        models = [ScoreModel.of(base, generator(i)) for i in range(2)]
        return Rounds(RoundsConfig(**ROUNDS, **settings), base, models, CountsGood(), PROMPTS, EOS, generator(3))

    if "every" in settings:
        same_bits_after_resuming(make, before=1, after=2)
    learner = make()
    counts = [(metrics["rounds"], metrics["labels"]) for metrics in (learner.update() for _ in range(4))]
    assert counts[0] == (1.0, 4.0) and counts[-1][0] in (2.0, 3.0) and counts[-1][1] == 4.0 * counts[-1][0]


def test_one_member_cannot_disagree(model, score_model):
    with pytest.raises(TrainingError, match='trigger "disagreement" was given with 1 reward model'):
        Rounds(RoundsConfig(trigger="disagreement"), model, [score_model], CountsGood(), PROMPTS, EOS, generator())
