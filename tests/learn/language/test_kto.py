"""KTO: golden values, the reference point, pieces, and learning."""

import pytest
import torch

from tests.learn.language.conftest import ADDRESS, BOS, EOS, generator, gradient_of, same_bits_after_resuming, texts
from tutelage.experience.text import Encoded, encoded
from tutelage.learn.language.descent import Optimization, TrainingError
from tutelage.learn.language.kto import KTO, Config, kto_loss, mismatched
from tutelage.learn.language.reference import text_logp
from tutelage.nets.language import make_model


def rows(count: int) -> list[tuple[Encoded, bool]]:
    return [(text, i % 3 != 0) for i, text in enumerate(texts(count))]


def test_golden_values():
    logp, reference = torch.tensor([-12.0, -15.0]), torch.tensor([-13.0, -14.5])
    loss = kto_loss(logp, reference, torch.tensor([True, False]), torch.tensor(0.2), Config())
    assert loss.tolist() == pytest.approx([0.4800107, 0.4825071], abs=1e-6)
    weighted = kto_loss(
        logp, reference, torch.tensor([True, False]), torch.tensor(0.2), Config(desirable_weight=2.0, undesirable_weight=3.0)
    )
    assert weighted.tolist() == pytest.approx([2 * 0.4800107, 3 * 0.4825071], abs=1e-6)


def test_prompts_meet_the_answer_of_the_row_that_follows():
    some = [(encoded([BOS, 3], [4, EOS]), True), (encoded([BOS], [5, 6, EOS]), False), (encoded([BOS, 7], [8, EOS]), True)]
    assert [text.tokens for text in mismatched(some, 32)] == [(BOS, 3, 5, 6, EOS), (BOS, 8, EOS), (BOS, 7, 4, EOS)]
    assert [text.tokens for text in mismatched(some, 4)] == [(BOS, 3, 5, 6), (BOS, 8, EOS), (BOS, 7, 4, EOS)]
    good, bad = (encoded([BOS, 3], [word, EOS]) for word in (7, 8))  # of one prompt, as they lie in a file
    assert [text.tokens for text in mismatched([(good, True), (bad, False), some[2]], 32)] == [(BOS, 3, 8, EOS)] * 2 + [(BOS, 7, 7, EOS)]


def test_before_the_first_step_the_loss_is_a_half(model):
    learner = KTO(Config(batch_size=8), model, rows(8), generator())
    metrics = learner.update()
    assert metrics["loss"] == pytest.approx(0.5, abs=1e-6) and metrics["z_0"] == 0.0


def test_the_gradient_against_a_slow_version_and_in_pieces(model):
    reference = make_like(model)
    found = [
        gradient_of(KTO(Config(batch_size=6, microbatch=size, beta=0.7), model, rows(6), generator(), reference)) for size in (None, 1)
    ]
    found[1] = found[1] - found[0]  # they add up on the weights
    assert torch.allclose(found[0], found[1], atol=1e-6)
    model.zero_grad()
    learner = KTO(Config(batch_size=6, beta=0.7), model, rows(6), generator(), reference)
    batch = [learner.rows[i] for i in learner.passes.take()]
    others = mismatched(batch, 32)
    z_0 = (text_logp(model, others) - text_logp(reference, others)).mean().clamp(min=0.0)
    total = torch.tensor(0.0)
    for text, up in batch:
        x = [torch.tensor([text.tokens]), torch.ones(1, len(text)).bool(), torch.tensor([text.response])]
        gain = 0.7 * (model.log_probs(*x).sum() - reference.log_probs(*x).sum().detach() - z_0)
        total = total + (1 - torch.sigmoid(gain if up else -gain)) / 6
    total.backward()
    slow = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    assert torch.allclose(found[0], slow, atol=1e-6)


def make_like(model):
    other = model.copy()
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(0.9)
    return other


def test_the_same_bits_from_the_same_seed_and_after_resuming(tokenizer):
    config = Config(epochs=9, batch_size=4, learning_rate=1e-2)
    same_bits_after_resuming(lambda: KTO(config, make_model(ADDRESS, generator(), tokenizer), rows(9), generator(3)), before=3)


def test_it_learns_what_is_liked(model):
    some = [(encoded([BOS, 3], [4, 7 + i % 2, EOS]), i % 2 == 0) for i in range(16)]
    optimizer = Optimization(schedule="constant")
    learner = KTO(Config(epochs=20, batch_size=16, learning_rate=1e-2, optimizer=optimizer), model, some, generator())
    while learner.updates < learner.total:
        learner.update()
    assert learner.evaluate(some)["accuracy"] == 1.0


def test_mistakes_are_named(model):
    with pytest.raises(TrainingError, match="batches of 1 were asked for; KTO compares"):
        KTO(Config(batch_size=1), model, rows(4), generator())
    with pytest.raises(TrainingError, match="row 0: its answer has no token"):
        KTO(Config(), model, [(Encoded((BOS, 3), (False, False)), True)] * 2, generator())


def test_a_last_batch_of_one_row_is_no_step(model):
    assert KTO(Config(batch_size=4, epochs=3), model, rows(9), generator()).total == 6
    assert KTO(Config(batch_size=4, epochs=3), model, rows(10), generator()).total == 9


def test_a_long_prompt_meets_a_long_answer(model):
    some = [(encoded([BOS] * 20, [EOS]), True), (encoded([BOS], [3] * 20 + [EOS]), False)]  # together more than the context
    assert KTO(Config(), model, some, generator()).update()["loss"] == pytest.approx(0.5, abs=1e-6)
