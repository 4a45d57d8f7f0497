"""PPO on a language model beside TRL 1.12's: advantages, first losses and gradients from equal nets and answers (trl_ppo_case.py).

Deliberate differences that the test arranges for: we whiten by the variance of a population and TRL by that of a sample; and where an
answer ends before the limit, TRL pays its score one place behind EOS and lets the critic learn there too, so that its advantages are ours
of an answer that is one token longer.
"""

import json
import math
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from tests.parity.trl_ppo_case import (
    ANSWERS,
    CLIP,
    DISCOUNT,
    EOS,
    FILE,
    KL,
    LAMBDA,
    PAD,
    PROMPTS,
    TEMPERATURE,
    VALUE_CLIP,
    VALUE_COEFFICIENT,
    policies,
    scorers,
)
from tutelage.experience.text import TextBatch
from tutelage.learn.language.ppo_lm import PPOLM, Config, advantages
from tutelage.learn.language.writing import Asked, Sampling, Written
from tutelage.nets.language import LanguageModel, ScoreModel
from tutelage.rewards.text import LearnedTextReward, kl_rewards

THEIRS = json.loads(FILE.read_text())
WIDTH = max(len(prompt) for prompt in PROMPTS)
CONFIG = Config(
    episodes=len(PROMPTS), batch_size=len(PROMPTS), epochs=1, kl_coefficient=KL, clip_range=CLIP, value_clip_range=VALUE_CLIP,
    value_coefficient=VALUE_COEFFICIENT, discount=DISCOUNT, gae_lambda=LAMBDA,
    sampling=Sampling(max_new_tokens=len(ANSWERS["to the limit"][0]), sampling_temperature=TEMPERATURE),
)  # fmt: skip


def score_model(net: Any) -> ScoreModel:
    model = ScoreModel(net.transformer)
    with torch.no_grad():
        model.weight.copy_(net.score.weight[0])
    return model


def learner_and_written(case: str) -> tuple[Any, Written]:
    """The learner, and what is said to have been written."""
    (policy, wrote, reference), (critic, reward) = (tuple(map(LanguageModel, policies())), tuple(map(score_model, scorers())))
    answers = torch.tensor(ANSWERS[case])
    prompts = torch.tensor([[PAD] * (WIDTH - len(prompt)) + prompt for prompt in PROMPTS])
    real = answers != PAD
    tokens, attention = torch.cat([prompts, answers], 1), torch.cat([prompts != PAD, real], 1)
    text = TextBatch(tokens, attention, torch.cat([torch.zeros_like(prompts, dtype=torch.bool), real], 1))
    learner = PPOLM(CONFIG, policy, critic, LearnedTextReward([reward]), [Asked((1,))], EOS, Generator().manual_seed(0), reference)
    with torch.no_grad():
        logp, reference_logp = (one.log_probs(text.tokens, text.attention, text.response, TEMPERATURE) for one in (wrote, reference))
        score = reward.scores(text.tokens, text.attention)
    return learner, Written(text, logp, reference_logp, score, (answers == EOS).any(1))


def whitened_as_theirs(advantage: Tensor, response: Tensor) -> Tensor:
    count = int(response.sum())
    return advantage * math.sqrt((count - 1) / count)


def close(found: Tensor, expected: object) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_answers_that_reach_the_limit_agree_to_the_gradient():
    theirs = THEIRS["to the limit"]
    learner, written = learner_and_written("to the limit")
    old, _ = learner.estimate(written)
    close((old.target - old.old_value)[:, WIDTH:], theirs["advantage"])
    advantage = whitened_as_theirs(old.advantage, written.text.response)
    close(advantage[:, WIDTH:], theirs["whitened"])

    learner.descent.step = learner.critic_descent.step = lambda *ignored: {"gradient_norm": 0.0}
    metrics = learner._improve(written.text, old._replace(advantage=advantage), torch.arange(len(PROMPTS)))
    assert metrics["loss/policy"] == pytest.approx(theirs["policy_loss"], abs=1e-5)
    policy = {name: float(weight.grad.norm()) for name, weight in learner.policy.module.named_parameters() if weight.grad is not None}
    assert policy == pytest.approx(theirs["gradients"]["policy"], abs=1e-5)
    critic = {f"transformer.{name}": weight.grad for name, weight in learner.critic.backbone.named_parameters()}
    norms = {name: float(gradient.norm()) for name, gradient in critic.items() if gradient is not None}
    norms["score.weight"] = float(learner.critic.weight.grad.norm())
    assert norms == pytest.approx(theirs["gradients"]["critic"], abs=1e-5)
    assert min(max(part.values()) for part in theirs["gradients"].values()) > 0.01


def test_answers_that_end_before_differ_by_the_place_of_the_score_alone():
    theirs = THEIRS["some end before"]
    learner, written = learner_and_written("some end before")
    own, _ = learner.estimate(written)
    response = written.text.response
    longer = response | torch.nn.functional.pad(response[:, :-1], (1, 0))  # one place behind EOS, where there is one
    longer[:, :WIDTH] = False
    with torch.no_grad():
        value = learner.critic.values(written.text.tokens, torch.ones_like(longer).where(longer, written.text.attention))
    price = kl_rewards(torch.zeros(len(PROMPTS)), written.logp, written.reference_logp, response, KL)
    reward = price + kl_rewards(written.score, written.logp, written.logp, longer, 0.0)
    close(advantages(reward, value, longer, DISCOUNT, LAMBDA)[:, WIDTH:].where(response[:, WIDTH:], 0.0),
          torch.tensor(theirs["advantage"]).where(response[:, WIDTH:], 0.0).tolist())  # fmt: skip
    whole = [row for row, answer in enumerate(ANSWERS["some end before"]) if PAD not in answer]
    ours, others = (own.target - own.old_value)[:, WIDTH:], torch.tensor(theirs["advantage"])
    close(ours[whole], others[whole].tolist())
    assert all(float((ours - others)[row].abs().max()) > 1e-3 for row in range(len(PROMPTS)) if row not in whole)
