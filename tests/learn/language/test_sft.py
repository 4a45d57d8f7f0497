"""Supervised fine-tuning: whose log-probabilities count, however a batch goes through the net."""

import math
from dataclasses import replace

import pytest
import torch

from tests.learn.language.conftest import ADDRESS, BOS, EOS, generator, gradient_of, same_bits_after_resuming, texts
from tutelage.experience.text import Encoded, TextBatch, encoded, pad_right
from tutelage.learn.language import sft
from tutelage.learn.language.descent import TrainingError, spawned
from tutelage.learn.language.sft import SFT, Config, sft_loss
from tutelage.nets.language import make_model


def test_the_loss_by_hand():
    logp = torch.tensor([[0.0, -1.0, -2.0, -9.0]])
    response = torch.tensor([[False, True, True, False]])
    assert sft_loss(logp, response) == 1.5 and sft_loss(logp, response, tokens=6) == 0.5


def test_the_loss_against_a_slow_version(model):
    batch = pad_right(texts(5), 0)
    total, count = 0.0, 0
    for text in texts(5):
        logits = model.logits(torch.tensor([text.tokens]), torch.ones(1, len(text), dtype=torch.bool))[0].log_softmax(-1)
        for t in range(1, len(text)):
            if text.response[t]:
                total -= float(logits.detach()[t - 1, text.tokens[t]])
                count += 1
    loss = sft_loss(model.log_probs(batch.tokens, batch.attention, batch.response), batch.response)
    assert float(loss) == pytest.approx(total / count, abs=1e-5)


def test_eos_counts_also_where_padding_has_its_id(model):
    plain, same = pad_right(texts(5), 0), pad_right(texts(5), EOS)
    losses = [sft_loss(model.log_probs(b.tokens, b.attention, b.response), b.response) for b in (plain, same)]
    assert torch.allclose(losses[0], losses[1], atol=1e-6)
    without = TextBatch(same.tokens, same.attention, same.response & (same.tokens != EOS))
    assert not torch.allclose(sft_loss(model.log_probs(without.tokens, without.attention, without.response), without.response), losses[0])


def test_what_stands_behind_the_end_changes_nothing(model):
    batch = pad_right(texts(5), 0)
    other = TextBatch(torch.where(batch.attention, batch.tokens, 7), batch.attention, batch.response)
    one, two = (model.log_probs(b.tokens, b.attention, b.response) for b in (batch, other))
    assert torch.equal(one, two)


@pytest.mark.parametrize("settings", [dict(microbatch=1), dict(microbatch=3), dict(packing=32), dict(packing=32, microbatch=1)])
def test_gradients_of_pieces_and_of_packed_rows_are_that_of_the_batch(model, settings):
    whole = gradient_of(SFT(Config(batch_size=8), model, texts(8), generator()))
    model.zero_grad()
    parts = gradient_of(SFT(Config(batch_size=8, **settings), model, texts(8), generator()))
    assert torch.allclose(whole, parts, atol=1e-6)


def test_prompts_are_learned_only_when_asked(model):
    learner = SFT(Config(prompt_loss=True), model, texts(4), generator())
    assert all(sum(text.response) == len(text) - 1 for text in learner.texts)
    whole = [replace(text, response=(False,) + (True,) * (len(text) - 1)) for text in texts(4)]
    one, two = (gradient_of(SFT(Config(prompt_loss=own), model, rows, generator())) for own, rows in ((True, texts(4)), (False, whole)))
    model.zero_grad()
    assert float(one.norm()) > 0.0 and torch.allclose(two, 2.0 * one)  # the second came on top of the first


@pytest.mark.parametrize("settings", [dict(), dict(bucketed=True), dict(packing=32), dict(dropout=0.1)])
def test_the_same_bits_from_the_same_seed_and_after_resuming(tokenizer, settings):
    config = Config(epochs=4, batch_size=8, learning_rate=1e-2, **settings)
    same_bits_after_resuming(lambda: SFT(config, make_model(ADDRESS, generator(), tokenizer), texts(20), generator(5)), before=4)


def test_dropout_is_on_while_it_learns_and_off_while_it_is_judged(model):
    rows = texts(8)
    learner = SFT(Config(dropout=0.5, batch_size=8), model, rows, generator())
    plain = SFT(Config(batch_size=8), make_model_like(model), rows, generator())
    assert learner.update()["loss"] != plain.update()["loss"]
    assert learner.evaluate(rows) == learner.evaluate(rows)


def make_model_like(model):
    other = model.copy().requires_grad_(True)
    return other.train()


def test_it_learns_a_language(model):
    rows = [encoded([BOS, 3], [4 + i % 2, 6, 7, EOS]) for i in range(32)]  # "the cat is good" or "the dog is good"
    learner = SFT(Config(epochs=80, batch_size=32, learning_rate=2e-2), model, rows, generator())
    while learner.updates < learner.total:
        learner.update()
    assert learner.evaluate(rows)["loss"] == pytest.approx(math.log(2) / 4, abs=0.03)  # one bit of four tokens cannot be known


def test_a_text_without_an_answer_is_named(model):
    with pytest.raises(TrainingError, match="text 1 has no token to learn from"):
        SFT(Config(), model, [texts(1)[0], Encoded((BOS, 3), (False, False))], generator())


def test_rows_that_are_narrower_than_a_text_are_refused_at_once(model):
    with pytest.raises(TrainingError, match=r"text \d+ has \d+ tokens; rows of packing=4 do not hold it"):
        SFT(Config(packing=4), model, texts(8), generator())


def test_dropout_is_drawn_where_the_net_is(model, monkeypatch: pytest.MonkeyPatch):
    places: list[object] = []
    monkeypatch.setattr(sft, "spawned", lambda parent, device="nowhere": places.append(device) or spawned(parent))
    SFT(Config(), model, texts(2), generator())
    assert places == ["nowhere", model.device]  # that of the order, then that of the dropout
