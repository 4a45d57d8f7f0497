"""PPO on a language model: which token is paid, ratios of 1, the gradient with ptx, the average of weights, and learning."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.learn.language.conftest import ADDRESS, BOS, EOS, generator, gradient_of, same_bits_after_resuming, texts, weights_of
from tutelage.equations.schedules import adaptive_kl_coefficient
from tutelage.experience.text import TextBatch, pad_right
from tutelage.learn.language.descent import Optimization, TrainingError
from tutelage.learn.language.ppo_lm import PPOLM, Config, Estimated, advantages, ppo_lm_loss
from tutelage.learn.language.writing import Asked, Sampling, Writer
from tutelage.nets.language import LanguageModel, LoRA, ScoreModel, make_model
from tutelage.rewards.text import LearnedTextReward, TextReward, kl_rewards, last_of

PROMPTS = [Asked((BOS, 3), {"name": "one"}), Asked((BOS, 3, 4)), Asked((BOS, 5))]
GOOD = 7
SMALL = Config(iterations=9, episodes=12, batch_size=6, epochs=2, learning_rate=1e-2, sampling=Sampling(max_new_tokens=6))


class CountsGood(TextReward):
    """One for each time that "good" is said."""

    def scores(self, texts: TextBatch, columns: object = ()) -> Tensor:
        return ((texts.tokens == GOOD) & texts.response).sum(1).float()


def learner(model: LanguageModel, config: Config = SMALL, **more: object) -> PPOLM:
    return PPOLM(config, model, ScoreModel.of(model, generator(9)), CountsGood(), PROMPTS, EOS, generator(3), **more)  # type: ignore[arg-type]


def row(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


def test_golden_advantages():
    """Facts of a text of four tokens behind a prompt of one, with padding behind: the score lies at the last token."""
    response = torch.tensor([[False, True, True, True, True, False]])
    reward, value = row(0, -0.05, 0.02, -0.01, 1, 0), row(9, 0.1, 0.2, 0.3, 0.4, 9)
    found = advantages(reward, value, response, 1.0, 0.95)
    assert found[0].tolist() == pytest.approx([0, 0.7596, 0.7470, 0.6600, 0.6000, 0], abs=5e-5)
    whole = advantages(row(0, 0, 0, 0, 2.5, 0), value, response, 1.0, 1.0)
    assert (whole + value)[0, 1:5].tolist() == pytest.approx([2.5] * 4)  # lambda 1: every return is the score


def test_the_score_is_paid_at_the_last_token_and_distance_at_every_one():
    """The worked example: tokens a b EOS x x. Three tokens count; nothing behind EOS does."""
    response = torch.tensor([[True, True, True, False, False]])
    logp, reference = row(-1, -2, -0.5, 7, 7).float(), row(-1.2, -1.5, -0.6, -7, -7).float()
    reward = kl_rewards(torch.tensor([3.0]), logp, reference, response, 0.1)
    assert reward[0].tolist() == pytest.approx([-0.02, 0.05, 3.0 - 0.01, 0, 0]) and last_of(response)[0].tolist() == [0, 0, 1, 0, 0]
    assert not kl_rewards(torch.tensor([3.0]), logp, reference, torch.zeros_like(response), 0.1).any()


def test_the_loss_is_ppos_and_a_piece_counts_by_its_tokens():
    ratios, gains = row(1.5, 0.7, 1.1, 0.9), row(1, -1, 2, -0.5)
    old = Estimated(torch.zeros(1, 4).double(), torch.zeros(1, 4).double(), gains, torch.zeros(1, 4).double())
    every = torch.ones(1, 4, dtype=torch.bool)
    config = Config(value_coefficient=0.0)
    assert float(ppo_lm_loss(ratios.log(), ratios * 0, old, every, config, 4)) == pytest.approx(-0.5375)
    first, rest = (torch.tensor([[x, x, not x, not x]]) for x in (True, False))
    pieces = [float(ppo_lm_loss(ratios.log(), ratios * 0, old, part, config, 4)) for part in (first, rest)]
    assert sum(pieces) == pytest.approx(-0.5375)
    clipped = old._replace(old_value=row(0.5, 0.1, 0, 0), target=row(0.8, 0.5, 0, 0), advantage=row(0, 0, 0, 0))
    only = ppo_lm_loss(
        row(0, 0, 0, 0), row(1, 0, 0, 0), clipped, torch.tensor([[True, True, False, False]]), Config(value_coefficient=1.0), 2
    )
    assert float(only) == pytest.approx(0.0725)


def test_the_first_minibatch_has_ratios_of_one_and_the_first_texts_no_distance(model):
    config = replace(SMALL, sampling=Sampling(max_new_tokens=6, rescore=True, sampling_temperature=0.7))
    own = learner(model, config)
    written = own.writer.write(12)
    assert torch.equal(written.kl, torch.zeros(12)) and not written.text.response[:, : written.text.response.int().argmax(1).min()].any()
    again = own.writer.logp(own.policy, written.text)
    assert float((again - written.logp).exp().sub(1.0).abs().max()) <= 1e-6
    sampled = learner(model).writer.write(12)
    assert torch.allclose(learner(model).writer.logp(model, sampled.text), sampled.logp, atol=1e-5) and float(sampled.kl.abs().max()) < 1e-5


def test_gradients_of_pieces_are_that_of_the_minibatch(model):
    def gradient(microbatch: int | None) -> Tensor:
        config = replace(SMALL, epochs=1, batch_size=12, microbatch=microbatch)
        model.zero_grad()
        own = learner(model, config)
        own.critic_descent.step = lambda *ignored: {"gradient_norm": 0.0}  # type: ignore[method-assign]
        found = gradient_of(own)
        return torch.cat([found, *(weight.grad.flatten() for weight in own.critic.parameters() if weight.grad is not None)])

    assert torch.allclose(gradient(None), gradient(5), atol=1e-6)


def test_the_gradient_of_policy_and_critic_against_a_slow_version(model):
    own = learner(model, replace(SMALL, epochs=1, batch_size=12, whiten_advantage=False))
    written = own.writer.write(12)
    old, _ = own.estimate(written)
    policy, critic, tokens = torch.tensor(0.0), torch.tensor(0.0), int(written.text.response.sum())
    for b, text in enumerate(written.text.rows()):
        x, ones = torch.tensor([text.tokens]), torch.ones(1, len(text), dtype=torch.bool)
        logp = model.logits(x, ones)[0].log_softmax(-1)
        values = own.critic.values(x, ones)[0]
        shift = int(written.text.attention[b].int().argmax())
        for t in [t for t, mine in enumerate(text.response) if mine]:
            ratio = (logp[t - 1, text.tokens[t]] - old.old_logp[b, t + shift]).exp()
            gain, v = old.advantage[b, t + shift], values[t]
            policy = policy - torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain) / tokens
            before, target = old.old_value[b, t + shift], old.target[b, t + shift]
            clipped = before + (v - before).clamp(-0.2, 0.2)
            critic = critic + 0.1 * 0.5 * torch.maximum((v - target) ** 2, (clipped - target) ** 2) / tokens
    slow = torch.autograd.grad(policy + critic, [*model.parameters(), *own.critic.parameters()], allow_unused=True)
    own.critic_descent.step = lambda *ignored: {"gradient_norm": 0.0}  # type: ignore[method-assign]
    gradient_of(own, lambda: own._improve(written.text, old, torch.arange(12)))
    for weight, expected in zip([*model.parameters(), *own.critic.parameters()], slow, strict=True):
        got = torch.zeros_like(weight) if weight.grad is None else weight.grad
        assert torch.allclose(got, torch.zeros_like(weight) if expected is None else expected, atol=1e-5)


@pytest.mark.parametrize("unit", ["token", "text"])
def test_ptx_adds_its_gradient_before_the_step(model, unit):
    rows = texts(5)
    more = {"ptx_coefficient": 2.5, "ptx_ratio": 5 / 12, "ptx_unit": unit}

    def gradient(**settings: object) -> Tensor:
        model.zero_grad()
        return gradient_of(learner(model, replace(SMALL, epochs=1, batch_size=12, **settings), pretraining=rows))

    batch = pad_right(rows, 0)
    model.zero_grad()
    logp = model.log_probs(batch.tokens, batch.attention, batch.response)
    (-2.5 * logp.sum() / (batch.response.sum() if unit == "token" else 5)).backward()
    modeling = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    assert torch.allclose(gradient(**more), gradient() + modeling, atol=1e-5)


def test_the_average_follows_as_its_formula_says(model):
    own = learner(model, replace(SMALL, learning_rate=0.0, ema=0.992))
    assert own.average is not None
    before = weights_of(own.average)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 1.0
    after = weights_of(model)
    for _ in range(3):
        own.update()
    n = own.steps
    assert n == 12 and torch.allclose(weights_of(own.average), before * 0.992**n + after * (1 - 0.992**n), atol=1e-5)
    assert own.nets()["model"] is own.average


def test_what_stands_behind_the_end_changes_nothing(model):
    own = learner(model)
    written = own.writer.write(12)
    rows = (~written.text.attention).nonzero()
    assert len(rows)  # some answer is shorter than another
    tokens = torch.where(written.text.attention, written.text.tokens, 7)
    other = type(written)(TextBatch(tokens, written.text.attention, written.text.response), *list(written.__dict__.values())[1:])
    for one, two in zip(own.estimate(written)[0], own.estimate(other)[0], strict=True):
        assert torch.equal(one, two)
    assert torch.equal(own.writer.reference_logp(written.text), own.writer.reference_logp(other.text))


@pytest.mark.parametrize(("rule", "expected"), [("keep", 5.0), ("replace", -3.0), ("subtract", 2.0)])
def test_an_answer_without_an_end(model, rule, expected):
    how = Sampling(max_new_tokens=2, missing_eos=rule, missing_eos_score=-3.0)

    class Five(TextReward):
        def scores(self, texts: TextBatch, columns: object = ()) -> Tensor:
            return torch.full((len(texts),), 5.0)

    written = Writer(how, model, model.copy(), Five(), PROMPTS, EOS, generator(2)).write(16)
    assert 0 < int(written.finished.sum()) < 16
    assert set(written.score[~written.finished].tolist()) == {expected} and set(written.score[written.finished].tolist()) == {5.0}


def test_the_price_adapts_and_a_limit_ends_training(model):
    own = learner(model, replace(SMALL, kl_target=1e-9, kl_horizon=120))
    expected = 0.05
    for _ in range(2):
        expected = adaptive_kl_coefficient(expected, own.update()["kl"], 1e-9, 12, 120)
    assert own.kl_coefficient == expected != 0.05
    stopped = learner(model, replace(SMALL, kl_limit=-1.0))
    stopped.update()
    assert stopped.updates == stopped.total == 1


@pytest.mark.parametrize("settings", [dict(), dict(ema=0.9, ptx_coefficient=0.5, kl_target=2.0, whiten_reward=True, microbatch=4)])
def test_the_same_bits_from_the_same_seed_and_after_resuming(tokenizer, settings):
    config = replace(SMALL, **settings)
    same_bits_after_resuming(lambda: learner(make_model(ADDRESS, generator(), tokenizer), config, pretraining=texts(7)))


def test_a_policy_of_adapters_is_its_own_reference(tokenizer):
    own = learner(make_model(ADDRESS, generator(), tokenizer, lora=LoRA(rank=2)))
    assert own.writer.reference is None
    metrics = [own.update() for _ in range(3)]
    assert abs(metrics[0]["kl"]) < 1e-5 < abs(metrics[2]["kl"])


def test_it_learns_to_be_paid(model):
    config = Config(iterations=12, episodes=32, batch_size=32, epochs=4, learning_rate=1e-2, kl_coefficient=0.02,
                    optimizer=Optimization(schedule="constant", betas=(0.9, 0.999)), sampling=Sampling(max_new_tokens=6))  # fmt: skip
    own = learner(model, config)
    scores = [own.update()["score"] for _ in range(12)]
    assert scores[0] < 1.5 and sum(scores[-3:]) / 3 > 2.5


def test_a_prompt_that_leaves_no_room_and_other_mistakes_are_named(model, score_model):
    with pytest.raises(TrainingError, match="prompt 1 has 30 tokens and its answer may have 6; the model's context is 32"):
        PPOLM(SMALL, model, score_model, CountsGood(), [PROMPTS[0], Asked((3,) * 30)], EOS, generator())
    with pytest.raises(TrainingError, match="prompt 0 has no token"):
        PPOLM(SMALL, model, score_model, CountsGood(), [Asked(())], EOS, generator())
    with pytest.raises(TrainingError, match="ptx_coefficient=1.0 was given and no texts for it"):
        PPOLM(Config(ptx_coefficient=1.0), model, score_model, CountsGood(), PROMPTS, EOS, generator())


def test_the_reward_model_may_be_the_reward_and_the_critic(model, score_model):
    own = PPOLM(SMALL, model, score_model.copy(), LearnedTextReward([score_model]), PROMPTS, EOS, generator())
    before = weights_of(score_model)
    own.update()
    assert torch.equal(before, weights_of(score_model)) and not torch.equal(before, weights_of(own.critic))
